"""The asset graph of one model: ten thin assets around the functions of `line`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from adire_assets.config.model import family_of
from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.core.shown import Shown
from adire_assets.core.store import Artifact, Built
from adire_assets.core.worker import RunWorker
from adire_assets.defs import checks
from adire_assets.defs.resources import answered
from adire_assets.defs.rollouts import reporter
from adire_assets.defs.sensors import Deployment, require_committed
from adire_assets.gates import approvals, policy, policy_comparison, promotion
from adire_assets.gates.clean_commit import file_list
from adire_assets.gates.report import pages
from adire_assets.gates.verdict import Verdict
from adire_assets.gates.verdict import checks as gate_checks
from adire_assets.line import dataset as datasets
from adire_assets.line import deploy, evaluate, release, sources, train, verdict
from adire_assets.tracking.runs import Tracked

Context = dg.AssetExecutionContext


def model_assets(project: Project, model: str) -> list[dg.AssetsDefinition]:
    """The assets `<model>/...` in the order of the graph."""
    family = family_of(project, model)
    shows, gate_config = family.shows, family.gate_config()
    made: list[dg.AssetsDefinition] = []

    def asset(*modules: str, specs: Mapping[str, str] | None = None, **keywords: Any) -> Any:
        """`dg.asset` with what all assets of a model share."""

        def decorate(function: Any) -> None:
            key = dg.AssetKey([model, function.__name__])
            # Dagster would take it for the type of the value, which is a reference.
            del function.__annotations__["return"]
            definition = dg.asset(
                key_prefix=[model],
                group_name=model,
                code_version=lineage.code_hash(modules)[:16] if modules else "1",
                check_specs=[
                    dg.AssetCheckSpec(name, asset=key, blocking=True, description=description)
                    for name, description in (specs or {}).items()
                ],
                io_manager_key="references",
                required_resource_keys={"children", "mlflow"},
                **keywords,
            )(answered()(function))
            made.append(definition)

        return decorate

    @asset(kinds={"dvc"})
    def training_data(context: Context) -> dg.MaterializeResult:
        """The files that data.dvc names for this model."""
        built = sources.training_data(project, model)
        files = len(built.artifact.json("files.json"))
        return _result(context, built, dvc_hash=built.artifact.manifest["dvc_hash"], files=files)

    @asset(kinds={"yaml"})
    def training_config(context: Context) -> dg.MaterializeResult:
        """The resolved hyperparameters of configs/models."""
        built = sources.training_config(project, model)
        return _result(context, built, config=built.artifact.json("config.json"))

    @asset()
    def base_model(context: Context) -> dg.MaterializeResult:
        """The weights that the adapter is trained on."""
        built = sources.base_model(project, model, _tools(context)[0])
        facts = built.artifact.manifest
        pinned = facts["recipe"]["inputs"]["weights"]
        left_out = facts.get("left_out")
        return _result(context, built, source=facts["source"], weights=pinned, left_out=left_out)

    @asset(kinds={"yaml"})
    def evaluation_config(context: Context) -> dg.MaterializeResult:
        """How adapters are evaluated, gated and served, and the judge's weights."""
        built = sources.evaluation_config(project, model)
        return _result(context, built, config=built.artifact.json("config.json"))

    @asset(*family.dataset.modules)
    def dataset(context: Context, training_data: Artifact) -> dg.MaterializeResult:
        """The data, validated and split into train, validation and held-out."""
        built = datasets.build(project, training_data)
        return _result(context, built, shows.functions.of_dataset(built.artifact.path))

    @asset(*family.train.modules, kinds={"mlflow"}, pool="device")
    def lora_weights(
        context: Context, dataset: Artifact, base_model: Artifact, training_config: Artifact
    ) -> dg.MaterializeResult:
        """The adapter, trained in a child process."""
        made_from = dataset, base_model, training_config
        built = train.lora_weights(project, *made_from, *_tools(context))
        shown = shows.functions.of_adapter(built.artifact.path)
        return _result(context, built, shown, mlflow_run=built.artifact.manifest["mlflow_run_id"])

    @asset(*family.generate.modules, *family.evaluate.modules, kinds={"mlflow"}, pool="device")
    def evaluation_report(
        context: Context,
        dataset: Artifact,
        base_model: Artifact,
        lora_weights: Artifact,
        evaluation_config: Artifact,
    ) -> dg.MaterializeResult:
        """Answers, scores and latency of the adapter, beside those of the bare base."""
        made_from = dataset, base_model, lora_weights, evaluation_config
        built = evaluate.evaluation_report(project, *made_from, *_tools(context))
        shown = shows.functions.of_evaluation(built.artifact.path)
        return _result(context, built, shown, scores=evaluate.numbers(built.artifact.path))

    @asset(
        *promotion.verdict_modules(gate_config),
        specs=gate_checks(gate_config),
        kinds={"mlflow"},
        pool="device",
    )
    def promotion_verdict(
        context: Context, evaluation_report: Artifact, evaluation_config: Artifact
    ) -> dg.MaterializeResult:
        """The decision of the quality gates; each is a blocking check."""
        made_from = evaluation_report, evaluation_config
        built = verdict.promotion_verdict(project, *made_from, *_tools(context))
        decision = Verdict.from_dict(built.artifact.json("verdict.json"))
        context.log.info(f"{model}: {decision.sentence()}")
        if uncommitted := policy_comparison.uncommitted(project, model):
            context.log.info(f"{model}: not committed: {file_list(uncommitted)}")
        return _result(
            context,
            built,
            checks=checks.of_gates(decision.checks(gate_config)),
            uncommitted=uncommitted or None,
            report=dg.MetadataValue.path(str(pages.page_path(project, built.artifact))),
            refused_before=built.artifact.manifest.get("refused_before") or None,
            **_decision(decision),
        )

    @asset(
        *release.RELEASE_MODULES,
        *family.release.modules,
        specs=checks.RELEASE_CHECKS,
        kinds={"mlflow"},
    )
    def triton_repository(
        context: Context,
        lora_weights: Artifact,
        base_model: Artifact,
        promotion_verdict: Artifact,
        evaluation_config: Artifact,
    ) -> dg.MaterializeResult:
        """Release N: the Triton version directory, checked on a scratch server."""
        made_from = lora_weights, base_model, promotion_verdict, evaluation_config
        built, number = release.triton_repository(project, *made_from)
        gates = gate_config(**evaluation_config.json("config.json")["gates"])
        found = checks.of_release(project, model, number, gates, context.log.info)
        return _result(context, built, checks=found, release=number)

    @asset(
        "adire_assets.serving.rollout.rollout",
        specs=checks.DEPLOYMENT_CHECKS,
        kinds={"triton"},
        output_required=False,  # what waits for an approval is not materialized, and nothing failed
    )
    def deployed_model(
        context: Context, config: Deployment, triton_repository: Artifact
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """The release that is live, by the deployment records, after its rollout."""
        told = context.log.info, reporter(context, model)
        with answered():
            require_committed(project, model, context.run)
            try:
                ended = deploy.deployed_model(project, triton_repository, *told, config.release)
            except approvals.Waiting as waits:
                context.log.info(str(waits))
                yield from checks.held(str(waits))
                return
        yield checks.deployed(project, *ended)

    return made


def _tools(context: Context) -> tuple[RunWorker, Tracked]:
    """What runs a step in a child process, and what tells MLflow of it."""
    resources, model = context.resources, context.asset_key.path[0]
    return resources.children.runner(context), resources.mlflow.runner(context, model)


def _result(
    context: Context,
    built: Built,
    shown: Sequence[Shown] = (),
    *,
    checks: Sequence[dg.AssetCheckResult] = (),
    **metadata: Any,
) -> dg.MaterializeResult:
    """What an asset gives: a reference, facts, and what the family shows of the artifact."""
    artifact = built.artifact
    cost = artifact.manifest.get("cost") or {}
    name = context.asset_key.to_user_string()
    context.log.info(f"{name}: {'reused' if built.reused else 'made'} {artifact.key[:12]}")
    for one in shown:
        if one.kind == "text":
            context.log.info(f"{artifact.model}: {one.content}")
        plain = one.kind in ("text", "value")
        metadata[one.name] = one.content if plain else dg.MetadataValue.md(one.markdown())
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
            **({"cost": cost["amount"], "currency": cost["currency"]} if cost else {}),
            **{name: value for name, value in metadata.items() if value is not None},
        },
    )


def _decision(verdict: Verdict) -> dict[str, Any]:
    """The metadata of a verdict."""
    weakened = [policy.change_text(one) for one in verdict.weakened]
    return {
        "passed": verdict.passed,
        "verdict": verdict.sentence(),
        "weakened": weakened or None,
        "weaker_than": verdict.weaker_than if weakened else None,
    }
