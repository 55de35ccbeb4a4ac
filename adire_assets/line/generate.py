"""The artifact `evaluation_images`: an adapter's answers, or its bare base's, for an evaluation.

Its recipe knows neither judge nor metric nor threshold, only what the answers depend on: so all
releases on one base share the base's answers, and scoring is free to change.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adire_assets.config.fleet import device_class, load_fleet
from adire_assets.config.model import family_of
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store, read_json, write_json
from adire_assets.gates import measurements
from adire_assets.gates.measurements import TIMINGS
from adire_assets.line.job_recipe import job_recipe, references
from adire_assets.line.step_cost import step_cost

if TYPE_CHECKING:
    from adire_assets.core.worker import RunWorker


def evaluation_images(
    project: Project,
    family: Family,
    base_weights: Artifact,
    adapter: Artifact | None,
    drawing: Mapping[str, Any],
    run_worker: "RunWorker",
) -> Built:
    """The answers of `adapter` on the base, or of the bare base, made in a child process."""
    costs, device = load_fleet(project).costs, device_class(project)
    made_from = {"base_model": base_weights, **({"lora_weights": adapter} if adapter else {})}
    recipe = job_recipe(
        project, family, family.generate, "evaluation_images", made_from, drawing, device
    )

    def make(folder: Path) -> dict[str, Any]:
        run_worker(
            family.generate.job("draw"),
            base_model=base_weights.path,
            adapter=adapter.path if adapter else None,
            drawing=dict(drawing),
            output=folder,
            device=device,
        )
        if adapter and (timings := read_json(folder / TIMINGS)):
            measurements.add(project, recipe.model, recipe.as_dict(), timings)
        cost = step_cost(project, costs, device)
        return {**references(made_from), "cost": cost}

    return Store(project).build(recipe, make)


def measure_again(
    project: Project, evaluation: Artifact, run_worker: "RunWorker"
) -> dict[str, Any]:
    """Time an evaluation's answers once more; its timings.json from now on.

    Earlier measurements still count (see `gates.measurements`). Scores and answers stay, since
    timings are no content; the next verdict uses the new ones. UserError when the answers were made
    with other code, libraries, threads or on another device than would be measured now.
    """
    store = Store(project)
    images, adapter, base_weights = (
        store.open(evaluation.manifest[name])
        for name in ("adapter_images", "lora_weights", "base_model")
    )
    family, device = family_of(project, images.model), device_class(project)
    _require_same_way(project, images, family, device)
    drawing = images.manifest["recipe"]
    first = measurements.of_images(project, images)
    timings = run_worker(
        family.generate.job("measure"),
        base_model=base_weights.path,
        adapter=adapter.path,
        drawing=drawing["config"],
        device=device,
    )
    if not measurements.kept(project, images):
        for one in first:  # drawn before measurements were kept
            measurements.add(project, images.model, drawing, one)
    measurements.add(project, images.model, drawing, timings)
    write_json(evaluation.path / TIMINGS, measurements.timings_of(project, evaluation))
    return timings


def _require_same_way(project: Project, images: Artifact, family: Family, device: str) -> None:
    """UserError when measuring now would time something else than what made `images`."""
    recipe = images.manifest["recipe"]
    libraries = {*family.packages, *lineage.libraries(family.generate.modules)}
    now = project.placement.facts().environment(*sorted(libraries), device=device)
    then = recipe["environment"]
    other = [
        f"{name} {then.get(name)}, now {now.get(name)}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    if lineage.code_hash(family.generate.modules) != recipe["code"]:
        other.append(f"other code of {family.generate.modules[0]}")
    if other:
        raise UserError(
            f"{images.model}: its {family.answer}s were made with {'; '.join(other)}; measure as "
            f"they were made, or materialize {images.model}/evaluation_report, which makes and "
            "times them as it is now"
        )
