"""The asset check that makes a release's golden answers again when the software is another.

It is a step of its own: it runs with every materialization of `triton_repository`, and the UI or
`dg launch` can run it alone, as after an upgrade. It warns and blocks nothing: what is live stays
live, and whether the change is wanted is for a person to say.
"""

import dagster as dg

from adire_assets.core.project import Project
from adire_assets.core.store import Artifact
from adire_assets.defs.resources import ChildProcesses, answered
from adire_assets.gates import upgrades
from adire_assets.serving import release

GOLDEN_CHECK = "reproduces_golden_set"


def golden_check(project: Project, model: str) -> dg.AssetChecksDefinition:
    """`<model>/triton_repository: reproduces_golden_set`."""

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
