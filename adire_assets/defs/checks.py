"""What the blocking checks of a model's assets show: gates, a release, its deployment."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import dagster as dg

from adire_assets.core.gate import Gate
from adire_assets.core.project import Project
from adire_assets.defs.approvals import APPROVAL_CHECK, approved
from adire_assets.defs.rollouts import ROLLOUT_CHECK, STEP_CHECK, outcome
from adire_assets.gates import promotion, upgrades
from adire_assets.serving import release
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord

GATE_FACTS = ("value", "threshold", "margin", "comparison", "unit")
PARITY_CHECK = "serves_what_was_evaluated"
TOLD_ELSEWHERE = {"passed", "explanation", "software"}  # of the facts that it rests on
COMPATIBILITY_CHECK = "compatibility"
RELEASE_CHECKS = {
    PARITY_CHECK: "A scratch server answers as it was evaluated.",
    COMPATIBILITY_CHECK: "The libraries that trained, evaluated and serve it go together.",
}
DEPLOYMENT_CHECKS = {
    APPROVAL_CHECK: "A person let it go live, where gates.human_approval asks for one.",
    ROLLOUT_CHECK: "The release is live at the end of its rollout.",
    STEP_CHECK: "Each decision on the way, with what it rests on.",
}


def of_gates(gates: Iterable[Gate]) -> list[dg.AssetCheckResult]:
    """A check for each gate of a verdict."""
    return [
        dg.AssetCheckResult(
            check_name=gate.name,
            passed=gate.passed,
            description=gate.explanation,
            metadata={
                name: value for name in GATE_FACTS if (value := getattr(gate, name)) is not None
            },
        )
        for gate in gates
    ]


def of_release(
    project: Project, model: str, number: int, gates: Any, tell: Callable[[str], None]
) -> list[dg.AssetCheckResult]:
    """Whether release `number` answers as it was evaluated, with software that goes together;
    `gates` are its model's."""
    parity = promotion.parity_report(project, model, number, tell).artifact
    facts = parity.json("parity.json")
    record = release.read_record(project, model, number)
    software = upgrades.compatibility(project, record, facts["software"], gates.compatibility)
    return [
        dg.AssetCheckResult(
            check_name=PARITY_CHECK,
            passed=facts["passed"],
            description=facts["explanation"],
            metadata={name: facts[name] for name in facts.keys() - TOLD_ELSEWHERE},
        ),
        dg.AssetCheckResult(
            check_name=COMPATIBILITY_CHECK,
            passed=software.compatible,
            description=software.sentence(),
            metadata={"versions": software.versions},
        ),
    ]


def deployed(
    project: Project, wanted: ReleaseRecord, records: Sequence[DeploymentRecord]
) -> dg.MaterializeResult:
    """How a release's rollout ended; sent back, the asset is new and its checks fail."""
    live, sentence, metadata = outcome(wanted.number, records)
    return dg.MaterializeResult(
        value=wanted.repository,
        data_version=dg.DataVersion(wanted.repository["content_hash"] if live else sentence),
        check_results=[
            approved(project, wanted),
            *(
                dg.AssetCheckResult(check_name=check, passed=live, description=sentence)
                for check in (ROLLOUT_CHECK, STEP_CHECK)
            ),
        ],
        metadata={"release": wanted.number, **metadata},
    )
