"""The asset `evaluation_report`: an adapter's answers, beside the bare base's, in numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import device_class, load_fleet
from adire_assets.core.family import family
from adire_assets.core.gate import number_at
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store, read_json, write_json
from adire_assets.core.worker import RunWorker
from adire_assets.gates import measurements
from adire_assets.gates.measurements import TIMINGS
from adire_assets.line.generate import evaluation_images
from adire_assets.line.job_recipe import job_recipe, references
from adire_assets.line.step_cost import step_cost
from adire_assets.tracking.dvc import versions
from adire_assets.tracking.runs import Tracked

REPORT = "report.json"  # scores, base_scores and whatever else the family measures


def evaluation_report(
    project: Project,
    dataset: Artifact,
    base_weights: Artifact,
    adapter: Artifact,
    config: Artifact,
    run_worker: RunWorker,
    tracked: Tracked,
    write_metrics: bool = True,
) -> Built:
    """Answers, scores and latency of this adapter, beside those of the bare base.

    The answers are artifacts of their own, made when the store does not hold them.

    `write_metrics`: show the scores as the model's in metrics/, for `dvc metrics`.
    """
    costs, settings = load_fleet(project).costs, config.json("config.json")
    evaluation = settings["evaluation"]
    plug, device = family(settings["family"]), device_class(project)
    drawing = plug.drawing.functions.drawing_of(evaluation, dataset.path)
    made = {
        name: evaluation_images(project, plug, base_weights, lora, drawing, run_worker)
        for name, lora in (("base_images", None), ("adapter_images", adapter))
    }
    drawn = {name: one.artifact for name, one in made.items()}
    made_from = {
        "dataset": dataset,
        "base_model": base_weights,
        "lora_weights": adapter,
        "judge": Store(project).open(settings["judge"]),
        **drawn,
    }
    recipe = job_recipe(
        project, plug, plug.evaluate, "evaluation_report", made_from, evaluation, device
    )
    shared = {name: recipe.inputs[name] for name in ("dataset", "judge", "base_images")}
    of_base = replace(recipe, kind="base_statistics", inputs=shared)

    def make(folder: Path) -> dict[str, Any]:
        with tracked(adapter.key) as run:
            run_worker(
                plug.evaluate.job("score"),
                dataset=dataset.path,
                adapter_images=drawn["adapter_images"].path,
                base_images=drawn["base_images"].path,
                judge=made_from["judge"].path,
                evaluation=evaluation,
                output=folder,
                device=device,
                # Costs time only when it is empty.
                base_statistics=project.home / "cache" / of_base.kind / of_base.key,
            )
            cost = step_cost(project, costs, device)
            drew = [one.artifact.manifest.get("cost") for one in made.values() if not one.reused]
            amounts = [one["amount"] for one in (cost, *drew) if one]
            spent = {"evaluation_cost": sum(amounts)} if amounts else {}
            run.log_metrics({**numbers(folder), **spent})
            shown = (one.content for one in plug.shows.functions.of_evaluation(folder))
            files = [path for path in shown if isinstance(path, Path)]
            for path in (folder / REPORT, folder / TIMINGS, *files):
                run.log_artifact(str(path), "evaluation")
        return {**references(made_from), "cost": cost}

    built = Store(project).build(recipe, make)
    # Another evaluation of this adapter may have had it measured since.
    timings = measurements.timings_of(project, built.artifact)
    if timings != built.artifact.json(TIMINGS):
        write_json(built.artifact.path / TIMINGS, timings)
    if not write_metrics:
        return built
    report = built.artifact.json(REPORT)
    scores = {name: value for name, value in report.items() if isinstance(value, int | float)}
    groups = {name: report[name] for name in ("scores", "base_scores")}
    versions.write_metrics(project, dataset.model, scores | groups, adapter.path / "loss.csv")
    return built


def numbers(folder: Path) -> dict[str, float]:
    """The finite scores and timings of an evaluation, by name; `<metric>_base` is the base's."""
    report = read_json(folder / REPORT)
    of_base = {f"{name}_base": value for name, value in report["base_scores"].items()}
    told = {**report["scores"], **of_base, **report, **read_json(folder / TIMINGS)}
    return {name: value for name in told if (value := number_at(told, name)) is not None}
