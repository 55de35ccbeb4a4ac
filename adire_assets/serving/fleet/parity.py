"""Whether a release answers the evaluated requests as it was evaluated.

`compare_on_scratch_server` loads the release on a Triton of its own, which no user's request can
reach; `compare_at` asks a Triton that runs. How many requests are repeated, and how far an answer
may differ, the family says.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.serving import release
from adire_assets.serving.client import ask
from adire_assets.serving.fleet.scratch import scratch_server
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.slot_server import kind_speaking

LOAD_SECONDS = 600.0


def compare_on_scratch_server(
    project: Project, record: ReleaseRecord, device: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """{passed, explanation, device, software}, and what else the family measures, as JSON.

    `software` is what the release says that it answers with (see `gates.compatibility`).
    `device` is "cpu", "cuda" or "auto". UserError when the release does not load, or refuses an
    evaluated request.
    """

    def fill(slot: Path) -> str:
        release.install(project, record, slot)
        return record.model

    progress(f"loading release {record.number} of {record.model} on a scratch Triton")
    kind = kind_speaking(release.family_of_release(project, record).protocols)
    with scratch_server(project, kind, device, fill, LOAD_SECONDS) as address:
        return compare_at(project, record, address, progress)


def compare_at(
    project: Project, record: ReleaseRecord, address: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The same, asked of the Triton at `address` that has the release loaded."""
    store, plug = Store(project), release.family_of_release(project, record)
    evaluation, served = store.open(record.evaluation), plug.serve.functions
    count = served.repeated(store.open(record.repository).json("serving.json"))
    requests = served.requests(evaluation.path)[:count]
    progress(
        f"asking release {record.number} of {record.model} for {len(requests)} evaluated "
        f"{plug.answer}s"
    )
    answers = [ask(address, plug, record.model, one, record.number) for one in requests]
    told = answers[-1].provenance if answers else {}
    served_on = told.get("device", "cpu")
    evaluated_on = evaluation.manifest["recipe"]["environment"].get("device", "cpu")
    facts = served.parity(evaluation.path, answers, evaluated_on == served_on == "cpu")
    return {**facts, "device": served_on, "software": told.get("software")}
