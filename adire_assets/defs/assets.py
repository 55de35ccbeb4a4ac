"""The asset graph of one model: ten thin assets around the functions of `line`."""

import base64
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from adire_assets.config.model import family_of
from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built
from adire_assets.defs.approvals import APPROVAL_CHECK, Deployment, approved, held
from adire_assets.defs.mlflow_resource import MlflowTracking
from adire_assets.defs.resources import ChildProcesses, answered
from adire_assets.defs.rollouts import ROLLOUT_CHECK, STEP_CHECK, outcome, reporter
from adire_assets.defs.sensors import require_committed
from adire_assets.gates import approvals, policy, policy_comparison, promotion, upgrades
from adire_assets.gates.clean_commit import file_list
from adire_assets.gates.report import pages
from adire_assets.gates.verdict import Verdict
from adire_assets.gates.verdict import checks as gate_checks
from adire_assets.line import deploy, sources
from adire_assets.line.dataset import build as build_dataset
from adire_assets.line.evaluate import evaluation_report as make_evaluation_report
from adire_assets.line.evaluate import numbers
from adire_assets.line.release import RELEASE_MODULES
from adire_assets.line.release import triton_repository as make_triton_repository
from adire_assets.line.train import lora_weights as make_lora_weights
from adire_assets.line.verdict import promotion_verdict as make_promotion_verdict
from adire_assets.serving import release

GATE_FACTS = ("value", "threshold", "margin", "comparison", "unit")
SHOWN_STEPS = 12
PARITY_CHECK = "serves_what_was_evaluated"
COMPATIBILITY_CHECK = "compatibility"
RELEASE_CHECKS = {
    PARITY_CHECK: "A scratch Triton draws the evaluated images again.",
    COMPATIBILITY_CHECK: "The libraries that trained, evaluated and serve it go together.",
}
DEPLOYMENT_CHECKS = {
    APPROVAL_CHECK: "A person let it go live, where gates.human_approval asks for one.",
    ROLLOUT_CHECK: "The release is live at the end of its rollout.",
    STEP_CHECK: "Each decision on the way, with what it rests on.",
}


def model_assets(project: Project, model: str) -> list[dg.AssetsDefinition]:
    """The assets `<model>/...` in the order of the graph."""
    family = family_of(project, model)
    gate_config = family.gate_config()

    def asset(*modules: str, checks: Mapping[str, str] | None = None, **keywords: Any) -> Any:
        """`dg.asset` with what all assets of a model share."""

        def decorate(function: Any) -> dg.AssetsDefinition:
            key = dg.AssetKey([model, function.__name__])
            # Dagster would take it for the type of the value, which is a reference.
            del function.__annotations__["return"]
            specs = [
                dg.AssetCheckSpec(name, asset=key, blocking=True, description=description)
                for name, description in (checks or {}).items()
            ]
            return dg.asset(
                key_prefix=[model],
                group_name=model,
                code_version=lineage.code_hash(modules)[:16] if modules else "1",
                check_specs=specs,
                io_manager_key="references",
                **keywords,
            )(function)

        return decorate

    @asset(kinds={"dvc"})
    def training_data(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The images and captions that data.dvc names for this model."""
        with answered():
            built = sources.training_data(project, model)
        files = built.artifact.json("files.json")
        return _result(
            context, built, dvc_hash=built.artifact.manifest["dvc_hash"], files=len(files)
        )

    @asset(kinds={"yaml"})
    def training_config(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The resolved hyperparameters of configs/models."""
        with answered():
            built = sources.training_config(project, model)
        return _result(context, built, config=built.artifact.json("config.json"))

    @asset(kinds={"huggingface"})
    def base_model(
        context: dg.AssetExecutionContext, children: ChildProcesses
    ) -> dg.MaterializeResult:
        """The weights that the adapter is trained on."""
        with answered():
            built = sources.base_model(project, model, children.runner(context))
        facts = built.artifact.manifest
        pinned = facts["recipe"]["inputs"]["weights"]
        left_out = facts.get("left_out")
        return _result(context, built, source=facts["source"], weights=pinned, left_out=left_out)

    @asset(kinds={"yaml"})
    def evaluation_config(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """How adapters are evaluated, gated and served, and the judge's weights."""
        with answered():
            built = sources.evaluation_config(project, model)
        return _result(context, built, config=built.artifact.json("config.json"))

    @asset(*family.dataset.modules)
    def dataset(context: dg.AssetExecutionContext, training_data: Artifact) -> dg.MaterializeResult:
        """Validated, captioned, de-duplicated images, split into train, validation and held-out."""
        with answered():
            built = build_dataset(project, training_data)
        summary = built.artifact.json("summary.json")
        files: dict[str, Any] = {
            kind: dg.MetadataValue.md(_table(("file", "reason"), summary[kind]) or "none")
            for kind in ("rejected", "unused")
        }
        result = _result(
            context,
            built,
            images=_image(built.artifact, "dataset_sheet.png"),
            train=summary["train"],
            validation=summary["validation"],
            held_out=summary["held_out"],
            own_captions=summary["own_captions"],
            **files,
        )
        context.log.info(f"{model}: {family.dataset_summary.functions.summary_sentence(summary)}")
        return result

    @asset(*family.train.modules, kinds={"pytorch", "mlflow"}, pool="device")
    def lora_weights(
        context: dg.AssetExecutionContext,
        dataset: Artifact,
        base_model: Artifact,
        training_config: Artifact,
        children: ChildProcesses,
        mlflow: MlflowTracking,
    ) -> dg.MaterializeResult:
        """The adapter, trained in a child process."""
        with answered():
            built = make_lora_weights(
                project,
                dataset,
                base_model,
                training_config,
                children.runner(context),
                mlflow.runner(context, model),
            )
        return _result(
            context,
            built,
            validation=_image(built.artifact, "validation/00.png"),
            validation_history=_validation_history(built.artifact),
            training=built.artifact.json("training.json"),
            mlflow_run=built.artifact.manifest["mlflow_run_id"],
        )

    @asset(
        *family.generate.modules,
        *family.evaluate.modules,
        kinds={"pytorch", "mlflow"},
        pool="device",
    )
    def evaluation_report(
        context: dg.AssetExecutionContext,
        dataset: Artifact,
        base_model: Artifact,
        lora_weights: Artifact,
        evaluation_config: Artifact,
        children: ChildProcesses,
        mlflow: MlflowTracking,
    ) -> dg.MaterializeResult:
        """Images, scores and latency of the adapter, beside those of the bare base."""
        with answered():
            built = make_evaluation_report(
                project,
                dataset,
                base_model,
                lora_weights,
                evaluation_config,
                children.runner(context),
                mlflow.runner(context, model),
            )
        return _result(
            context,
            built,
            contact_sheet=_image(built.artifact, "contact_sheet.png"),
            report=dg.MetadataValue.md((built.artifact.path / "report.md").read_text()),
            scores=numbers(built.artifact.path),
        )

    @asset(
        *promotion.verdict_modules(gate_config),
        checks=gate_checks(gate_config),
        kinds={"pytorch", "mlflow"},
        pool="device",
    )
    def promotion_verdict(
        context: dg.AssetExecutionContext,
        evaluation_report: Artifact,
        evaluation_config: Artifact,
        children: ChildProcesses,
        mlflow: MlflowTracking,
    ) -> dg.MaterializeResult:
        """The decision of the quality gates; each is a blocking check."""
        with answered():
            built = make_promotion_verdict(
                project,
                evaluation_report,
                evaluation_config,
                children.runner(context),
                mlflow.runner(context, model),
            )
        verdict = Verdict.from_dict(built.artifact.json("verdict.json"))
        context.log.info(f"{model}: {verdict.sentence()}")
        if uncommitted := policy_comparison.uncommitted(project, model):
            context.log.info(f"{model}: not committed: {file_list(uncommitted)}")
        checks = [
            dg.AssetCheckResult(
                check_name=gate.name,
                passed=gate.passed,
                description=gate.explanation,
                metadata={
                    name: value
                    for name, value in asdict(gate).items()
                    if name in GATE_FACTS and value is not None
                },
            )
            for gate in verdict.checks(gate_config)
        ]
        return _result(
            context,
            built,
            checks=checks,
            passed=verdict.passed,
            verdict=verdict.sentence(),
            weakened=[policy.change_text(one) for one in verdict.weakened] or None,
            weaker_than=verdict.weaker_than if verdict.weakened else None,
            uncommitted=uncommitted or None,
            refused_before=built.artifact.manifest.get("refused_before") or None,
            report=dg.MetadataValue.path(str(pages.page_path(project, built.artifact))),
        )

    @asset(*RELEASE_MODULES, *family.release.modules, checks=RELEASE_CHECKS, kinds={"mlflow"})
    def triton_repository(
        context: dg.AssetExecutionContext,
        lora_weights: Artifact,
        base_model: Artifact,
        promotion_verdict: Artifact,
        evaluation_config: Artifact,
    ) -> dg.MaterializeResult:
        """Release N: the Triton version directory, checked on a scratch server."""
        with answered():
            built, number = make_triton_repository(
                project, lora_weights, base_model, promotion_verdict, evaluation_config
            )
            parity = promotion.parity_report(project, model, number, context.log.info).artifact
            facts = parity.json("parity.json")
            gates = gate_config(**evaluation_config.json("config.json")["gates"])
            record = release.read_record(project, model, number)
            software = upgrades.compatibility(
                project, record, facts["software"], gates.compatibility
            )
        same_images = dg.AssetCheckResult(
            check_name=PARITY_CHECK,
            passed=facts["passed"],
            description=facts["explanation"],
            metadata={name: facts[name] for name in ("images", "largest_difference")},
        )
        same_software = dg.AssetCheckResult(
            check_name=COMPATIBILITY_CHECK,
            passed=software.compatible,
            description=software.sentence(),
            metadata={"versions": software.versions},
        )
        return _result(context, built, checks=[same_images, same_software], release=number)

    @asset(
        "adire_assets.serving.rollout.rollout",
        checks=DEPLOYMENT_CHECKS,
        kinds={"triton"},
        output_required=False,  # what waits for an approval is not materialized, and nothing failed
    )
    def deployed_model(
        context: dg.AssetExecutionContext, config: Deployment, triton_repository: Artifact
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """The release that is live, by the deployment records, after its rollout."""
        with answered():
            require_committed(project, model, context.run)
            try:
                wanted, records = deploy.deployed_model(
                    project,
                    triton_repository,
                    context.log.info,
                    reporter(context, model),
                    config.release,
                )
            except approvals.Waiting as waits:
                context.log.info(str(waits))
                yield from held(str(waits))
                return
        live, sentence, metadata = outcome(wanted.number, records)
        content = wanted.repository["content_hash"]
        yield dg.MaterializeResult(
            value=wanted.repository,
            data_version=dg.DataVersion(content if live else sentence),
            check_results=[
                approved(project, wanted),
                *(
                    dg.AssetCheckResult(check_name=check, passed=live, description=sentence)
                    for check in (ROLLOUT_CHECK, STEP_CHECK)
                ),
            ],
            metadata={"release": wanted.number, **metadata},
        )

    return [
        training_data,
        training_config,
        base_model,
        evaluation_config,
        dataset,
        lora_weights,
        evaluation_report,
        promotion_verdict,
        triton_repository,
        deployed_model,
    ]


def _result(
    context: dg.AssetExecutionContext,
    built: Built,
    *,
    checks: Sequence[dg.AssetCheckResult] = (),
    **metadata: Any,
) -> dg.MaterializeResult:
    artifact = built.artifact
    name = context.asset_key.to_user_string()
    context.log.info(f"{name}: {'reused' if built.reused else 'made'} {artifact.key[:12]}")
    shown = {name: value for name, value in metadata.items() if value is not None}
    return dg.MaterializeResult(
        value=artifact.reference(),
        data_version=dg.DataVersion(artifact.content_hash),
        check_results=checks,
        metadata={
            "reused": built.reused,
            "recipe_key": artifact.key,
            "content_hash": artifact.content_hash,
            "path": dg.MetadataValue.path(str(artifact.path)),
            "code": artifact.manifest["code"],
            **shown,
        },
    )


def _image(artifact: Artifact, name: str) -> dg.MarkdownMetadataValue | None:
    """A picture that Dagster's UI shows inline."""
    path = artifact.path / name
    if not path.is_file():
        return None
    data = base64.b64encode(path.read_bytes()).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{data})")


def _validation_history(adapter: Artifact) -> dg.MarkdownMetadataValue | None:
    """The validation losses by step, each with a picture of then where one was drawn."""
    with (adapter.path / "validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: math.ceil(len(rows) / SHOWN_STEPS) or 1]
    for row in rows:
        picture = _image(adapter, f"validation/step-{int(row['step']):06}/00.png")
        row["picture"] = picture.md_str or "" if picture else ""
    shown = _table(("step", "validation_loss", "picture"), rows)
    return dg.MetadataValue.md(shown) if shown else None


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [columns, tuple("---" for _ in columns), *(tuple(r[c] for c in columns) for r in rows)]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
