"""The asset `triton_repository`: release N of an adapter, which a Triton serves."""

from pathlib import Path

from adire_assets.config.model import engine_of
from adire_assets.core.family import family
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.gates import promotion, upgrades
from adire_assets.gates.verdict import Verdict
from adire_assets.line.card import model_card
from adire_assets.serving import release
from adire_assets.tracking import registry, runs

RELEASE_MODULES = ("adire_assets.serving.release",)  # and those of the family


def triton_repository(
    project: Project, adapter: Artifact, base_weights: Artifact, verdict: Artifact, config: Artifact
) -> tuple[Built, int]:
    """Release N of this adapter: (its Triton version directory, N). Refuses what did not pass."""
    store = Store(project)
    evaluation = store.open(verdict.manifest["evaluation"])
    promotion.require_passed(verdict)
    promotion.require_evaluation_of(evaluation, adapter.content_hash, base_weights.content_hash)
    store.verify(adapter)
    settings = config.json("config.json")
    serving = settings["serving"]
    plug = family(settings["family"]).served_by(engine_of(serving))
    made_from = {"lora_weights": adapter.content_hash, "base_model": base_weights.content_hash}
    recipe = Recipe(
        kind="triton_repository",
        model=adapter.model,
        modules=(*RELEASE_MODULES, *plug.release.modules),
        inputs=made_from | {"backend": release.backend_hash(project, plug)},
        config=serving,
    )

    def make(folder: Path) -> None:
        release.write_release(
            project,
            plug,
            folder,
            model=adapter.model,
            adapter=adapter.path,
            base=base_weights,
            serving=serving,
        )

    built = store.build(recipe, make)
    run_id = runs.find_run(project, adapter.model, adapter.key)
    number = registry.register_release(
        project,
        adapter.model,
        content_hash=built.artifact.content_hash,
        run_id=run_id,
        source=built.artifact.path,
        tags={"adire.recipe_key": adapter.key},
    )
    provenance = promotion.provenance(adapter, base_weights, evaluation)
    release.write_record(
        project,
        release.ReleaseRecord(
            model=adapter.model,
            number=number,
            repository=built.artifact.reference(),
            adapter=adapter.reference(),
            base_model=base_weights.reference(),
            evaluation=evaluation.reference(),
            verdict=verdict.reference(),
            mlflow_run_id=run_id,
            provenance={
                **provenance,
                "policy": promotion.policy_facts(project, verdict, number),
            },
            golden=upgrades.golden_set(project, plug, evaluation),
            family=plug.name,
            engine=engine_of(serving),
            streams=release.has_streams(built.artifact),
        ),
    )
    promotion.challenge(project, adapter.model, number)
    dataset = store.recall(adapter.manifest["dataset"])
    shown = plug.shows.functions.of_dataset(dataset.path) if store.holds(dataset) else []
    said = Verdict.from_dict(verdict.json("verdict.json")).sentence()
    card = model_card(number, provenance, shown, evaluation.json("report.json"), said)
    registry.describe_release(project, adapter.model, number, card)
    return built, number
