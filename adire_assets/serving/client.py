"""Asking a served model over KServe's gRPC, and where a kept answer comes from.

    answer = ask("127.0.0.1:8080", family("diffusion"), "indigo", {"prompt": "circles", "seed": 7})

What goes in and what comes out is the family's; each answer says its release and its provenance.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family, family_names
from adire_assets.serving.connection import Endpoint, connect


def ask(
    endpoint: Endpoint | str,
    plug: Family,
    model: str,
    request: Mapping[str, Any],
    release: int | None = None,
    timeout: float = 600.0,
) -> Answer:
    """The answer of the gateway or Triton at `endpoint`; None leaves a choice to the server.

    `release` asks for one release, otherwise the live one answers; `timeout` in seconds.
    `Unanswered` with the server's own sentence when it refuses, with address and hint when nobody
    answers; UserError when the answer is not one of a release.
    """
    from tritonclient.grpc import InferInput
    from tritonclient.utils import np_to_triton_dtype

    given = {name: value for name, value in request.items() if value is not None}
    inputs = []
    for name, value in plug.serve.functions.inputs(given).items():
        tensor = InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    with connect(endpoint) as client:
        answer = client.infer(
            model,
            inputs,
            model_version=str(release or ""),
            client_timeout=timeout,
            headers=endpoint.headers,
        )
    try:
        outputs = {one.name: answer.as_numpy(one.name) for one in answer.get_response().outputs}
        return Answer(
            release=int(outputs["release"].reshape(-1)[0]),
            provenance=json.loads(outputs["provenance"].reshape(-1)[0]),
            content=plug.serve.functions.content(outputs),
        )
    except KeyError as error:
        wrong = f"it lacks {error}"
    except (TypeError, AttributeError, IndexError, ValueError) as error:  # empty, or no JSON
        wrong = str(error)
    raise UserError(
        f"{model} at {endpoint.address} gave an answer that no release of this project gives "
        f"({wrong}); `adire status` shows what is served there"
    )


def read_provenance(path: Path) -> tuple[dict[str, Any], Family]:
    """(the provenance inside the file of an answer, the family whose it is). UserError when there
    is none."""
    refused: list[tuple[bool, UserError]] = []
    for name in family_names():
        try:
            plug = family(name)
        except UserError:
            continue  # a family that cannot be loaded reads nothing
        try:
            return plug.answers.functions.read_provenance(path), plug
        except UserError as error:
            refused.append((path.suffix == plug.served.suffix, error))
    if not refused:
        raise UserError(f"{path}: no family is installed that could read it")
    raise max(refused, key=lambda one: one[0])[1]
