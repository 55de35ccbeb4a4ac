"""The results of the checks of a model's assets: gates, a release, its deployment."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import dagster as dg

from adire_assets.core.gate import Gate
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact
from adire_assets.defs.resources import ChildProcesses, answered
from adire_assets.defs.rollouts import STEP_CHECK, outcome
from adire_assets.gates import approvals, promotion, upgrades
from adire_assets.line.changes import ROLLOUT_CHECK
from adire_assets.serving import release
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord

GATE_FACTS = ("value", "threshold", "margin", "comparison", "unit")
TOLD_ELSEWHERE = {"passed", "explanation", "software"}  # of the facts that parity rests on
PARITY_CHECK, COMPATIBILITY_CHECK = "serves_what_was_evaluated", "compatibility"
APPROVAL_CHECK, GOLDEN_CHECK = "human_approval", "reproduces_golden_set"
RELEASE_CHECKS = {
    PARITY_CHECK: "A scratch server answers as it was evaluated.",
    COMPATIBILITY_CHECK: "The libraries that trained, evaluated and serve it go together.",
}
DEPLOYMENT_CHECKS = {
    APPROVAL_CHECK: "A person let it go live, where gates.human_approval asks for one.",
    ROLLOUT_CHECK: "The release is live at the end of its rollout.",
    STEP_CHECK: "Each decision on the way, with what it rests on.",
}


def _check(name: str, passed: bool, said: str, **more: Any) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=passed, description=said, **more)


def of_gates(gates: Iterable[Gate]) -> list[dg.AssetCheckResult]:
    """A check for each gate of a verdict."""

    def facts(gate: Gate) -> dict[str, Any]:
        return {name: one for name in GATE_FACTS if (one := getattr(gate, name)) is not None}

    return [
        _check(gate.name, gate.passed, gate.explanation, metadata=facts(gate)) for gate in gates
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
    told = {name: facts[name] for name in facts.keys() - TOLD_ELSEWHERE}
    return [
        _check(PARITY_CHECK, facts["passed"], facts["explanation"], metadata=told),
        _check(
            *(COMPATIBILITY_CHECK, software.compatible, software.sentence()),
            metadata={"versions": software.versions},
        ),
    ]


def held(sentence: str) -> Iterator[dg.AssetCheckResult]:
    """Warnings, which stop nothing. Dagster wants a result for each check of the asset."""
    for name in DEPLOYMENT_CHECKS:
        yield _check(name, False, sentence, severity=dg.AssetCheckSeverity.WARN)


def deployed(
    project: Project, wanted: ReleaseRecord, records: Sequence[DeploymentRecord]
) -> dg.MaterializeResult:
    """How a release's rollout ended; sent back, the asset is new and its checks fail."""
    live, sentence, metadata = outcome(wanted.number, records)
    found = approvals.approval(project, wanted)
    approved = f"approved {found.entry.told()}" if found else "no approval was needed"
    return dg.MaterializeResult(
        value=wanted.repository,
        data_version=dg.DataVersion(wanted.repository["content_hash"] if live else sentence),
        check_results=[
            _check(APPROVAL_CHECK, True, approved),
            *(_check(name, live, sentence) for name in (ROLLOUT_CHECK, STEP_CHECK)),
        ],
        metadata={"release": wanted.number, **metadata},
    )


def golden_check(project: Project, model: str) -> dg.AssetChecksDefinition:
    """`<model>/triton_repository: reproduces_golden_set`: a release's golden answers made again.

    It is a step of its own: it runs with every materialization of `triton_repository`, and the UI
    or `dg launch` can run it alone, as after an upgrade. It warns and blocks nothing: what is live
    stays live, and whether the change is wanted is for a person to say.
    """

    @dg.asset_check(
        asset=dg.AssetKey([model, "triton_repository"]), name=GOLDEN_CHECK, pool="device"
    )
    def check(
        context: dg.AssetCheckExecutionContext,
        triton_repository: Artifact,
        children: ChildProcesses,
    ) -> dg.AssetCheckResult:
        """Whether the software of now still answers as the release was evaluated.

        Nothing is made while software and machine are those of the evaluation.
        """
        with answered():
            record = release.record_of(project, triton_repository)
            if upgrades.same_conditions(project, record):
                return dg.AssetCheckResult(
                    passed=True,
                    severity=dg.AssetCheckSeverity.WARN,
                    description="software and machine are still those of the golden answers; "
                    f"`adire golden {model}@{record.number}` makes them again all the same",
                )
            built = upgrades.golden_report(
                project, record, children.runner(context.op_execution_context)
            )
        comparison = upgrades.compared(project, record, built)
        return dg.AssetCheckResult(
            passed=not comparison.changed,
            severity=dg.AssetCheckSeverity.WARN,
            description=comparison.sentence(),
            metadata={
                "answers": comparison.sentences(),
                "path": dg.MetadataValue.path(str(built.artifact.path)),
            },
        )

    return check
