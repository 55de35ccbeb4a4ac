"""`serve` for releases that a Triton serves: the same questions, as inputs of its backend.

An answer comes in pieces, each with its outputs (see `serving/fleet/triton_path/vllm/model.py`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adire_assets.families.causal_lm import serve
from adire_assets.families.causal_lm.serve import again as again
from adire_assets.families.causal_lm.serve import expected as expected
from adire_assets.families.causal_lm.serve import parity as parity
from adire_assets.families.causal_lm.serve import probe as probe
from adire_assets.families.causal_lm.serve import repeated as repeated
from adire_assets.families.causal_lm.serve import requests as requests


def inputs(request: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{input of the backend: [1]}."""
    settings = serve.inputs(request)
    messages = settings.pop("messages")
    texts = {"messages": messages, "sampling_parameters": settings}
    found = {name: np.array([_json(one)], np.object_) for name, one in texts.items()}
    return {**found, "stream": np.array([True])}


def prompt(asked: Mapping[str, np.ndarray]) -> str:
    """What the user said last. KeyError, ValueError or the like without a text."""
    return serve.prompt({"messages": json.loads(asked["messages"].reshape(-1)[0])})


def piece(outputs: Mapping[str, np.ndarray]) -> str:
    """The text in a piece of an answer. KeyError, ValueError or the like when there is none."""
    return bytes(outputs["text_output"].reshape(-1)[0]).decode("utf-8")


def content(pieces: Sequence[Mapping[str, np.ndarray]]) -> str:
    """The text of an answer."""
    return "".join(map(piece, pieces))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
