"""The state of a project that a run of the line is for, and the tags that a run carries.

A sensor and the studio start the same runs: the job `line_job`, with `run_tags`.
"""

import time
from dataclasses import dataclass
from typing import Any

from adire_assets.config.model import family_of
from adire_assets.core import lineage
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.gates import policy_comparison, promotion
from adire_assets.line.release import RELEASE_MODULES
from adire_assets.line.sources import source_keys
from adire_assets.serving import release, slot_server

STATE_TAG, MODEL_TAG = "adire/state", "adire/model"
WHY_TAG, POLICY_TAG = "adire/why", "adire/policy"
ROLLOUT_CHECK = "rollout"  # how a rollout ended
LOCKED_WITHIN_SECONDS = 60  # a run takes its lock a little after it counts as started


@dataclass(frozen=True)
class State:
    """The working tree as a run of the line sees it: the keys of the sources, and a digest of these
    with code and libraries."""

    sources: dict[str, str]
    digest: str


def state_of(project: Project, model: str) -> State:
    """The state of the working tree now."""
    sources = source_keys(project, model)
    others = code_and_libraries(project, family_of(project, model))
    return State(sources, lineage.digest({**sources, **others})[:32])


def line_job(model: str) -> str:
    """The name of the Dagster job that brings a model from its data to live."""
    return f"{model}_line"


def deployment_job(model: str) -> str:
    """The name of the Dagster job that deploys a release which exists."""
    return f"{model}_deployment"


def was_killed(project: Project, run_id: str, since: float) -> bool:
    """Whether the process of a run is gone that Dagster calls started; `since` then, in seconds
    since 1970."""
    return time.time() - since >= LOCKED_WITHIN_SECONDS and not project.locks.is_held(
        f"run-{run_id}"
    )


def run_tags(project: Project, model: str, state: State, why: str) -> dict[str, str]:
    """The tags of a run for this state; one tells of a policy that is weaker than the live one."""
    tags = {STATE_TAG: state.digest, MODEL_TAG: model, WHY_TAG: why}
    weaker = policy_comparison.current_sentence(project, model)
    return {**tags, POLICY_TAG: weaker} if weaker else tags


def code_and_libraries(project: Project, family: Family) -> dict[str, Any]:
    """What besides the sources makes a line of this family run again: the steps' code and the
    libraries."""
    lineage.clear_caches()
    steps = (
        family.dataset.modules,
        family.train.modules,
        family.generate.modules,
        family.evaluate.modules,
        promotion.verdict_modules(family.gate_config()),
        (*RELEASE_MODULES, *family.release.modules),
    )
    libraries = {name for modules in steps for name in lineage.libraries(modules)}
    server = slot_server.server_named(slot_server.kind_speaking(family.protocols))
    versions = server.versions(project.root / family.backend)
    return {
        "code": [lineage.code_hash(modules) for modules in steps],
        "backend": release.backend_hash(project, family),
        "libraries": project.placement.facts().environment(*sorted(libraries)) | versions,
    }
