"""What another software does to a release: versions compared by rule, golden answers made again.

`compatibility` decides whether a release may go live; `golden_report` measures whether the software
of now still makes what the release was evaluated with. `adire golden indigo@3` asks for the latter.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adire_assets.config.fleet import load_fleet
from adire_assets.config.gates import CompatibilityConfig
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, Step
from adire_assets.core.lineage import Recipe
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.core.worker import Progress
from adire_assets.gates import compatibility as rule
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment

if TYPE_CHECKING:
    from adire_assets.core.worker import RunWorker


def compatibility(
    project: Project,
    record: ReleaseRecord,
    serving: rule.Software | None,
    policy: CompatibilityConfig,
) -> rule.Compatibility:
    """How the software of a release's training, evaluation and serving goes together.

    `serving` is what its answers tell of themselves (`parity.json`'s `software`).
    """
    store = Store(project)
    training, evaluation = store.recall(record.adapter), store.recall(record.evaluation)
    return rule.compare(
        rule.of_manifest(training.manifest),
        rule.of_manifest(evaluation.manifest),
        serving,
        policy.allow.model_dump(),
    )


def refusal(project: Project, record: ReleaseRecord, serving: rule.Software | None) -> str | None:
    """Why a release must not serve with this software by today's policy, None when it may."""
    policy = load_model(project, record.model).evaluation.gates.compatibility
    found = compatibility(project, record, serving, policy)
    if found.compatible:
        return None
    return f"release {record.number} of {record.model}: {found.sentence()}"


def golden_set(project: Project, family: Family, evaluation: Artifact) -> release.Reference | None:
    """What the release of this evaluation answered when it was evaluated; None in a family that
    keeps nothing of it."""
    if (step := family.golden) is None:
        return None
    recipe = Recipe(
        kind="golden_set",
        model=evaluation.model,
        modules=step.modules,
        # Equal answers may have been made on other software: that is in the key alone.
        inputs={"evaluation": evaluation.content_hash, "evaluation_recipe": evaluation.key},
    )

    def make(folder: Path) -> None:
        step.functions.write_evaluated(evaluation, folder)

    return Store(project).build(recipe, make).artifact.reference()


def same_conditions(project: Project, record: ReleaseRecord) -> bool:
    """Whether software and machine are still those that made the golden set."""
    return _conditions(project, record, _golden_set(project, record))[1]


def golden_report(project: Project, record: ReleaseRecord, run_worker: "RunWorker") -> Built:
    """comparison.json: the golden set made again by the software of now, and how it differs.

    Once for each release, software and machine, by the release's own files and base.
    """
    store = Store(project)
    step, kept = _step(project, record), _golden_set(project, record)
    content, base = store.open(record.repository), store.open(record.base_model)
    store.verify(kept)
    now = _conditions(project, record, kept)[0]
    recipe = Recipe(
        kind="golden_report",
        model=record.model,
        modules=step.modules,
        inputs={
            "golden_set": kept.content_hash,
            "triton_repository": content.content_hash,
            "base_model": base.content_hash,
        },
        environment={name: value or "absent" for name, value in now.items()},
        facts=project.placement.facts(),
    )

    def make(folder: Path) -> dict[str, Any]:
        run_worker(
            step.job("redraw"),
            golden=kept.path,
            release=content.path,
            base=base.path,
            device=now["device"],
            now=now,
            output=folder,
        )
        return {"golden_set": kept.reference()}

    return store.build(recipe, make)


def golden(project: Project, name: str, progress: Progress) -> tuple[str, Any]:
    """(sentence, comparison) of `model@N`, or of the live release of `model`; the comparison is of
    the family's class `golden.Comparison`."""
    record = deployment.resolve_release(project, load_fleet(project), name)
    named = f"{record.model}@{record.number}"

    def run(function: str, **arguments: Any) -> dict[str, Any]:
        threads = _golden_set(project, record).json("golden.json")["threads"]
        return run_step(project, function, arguments, threads=threads, progress=progress)

    built = golden_report(project, record, run)
    if built.reused:
        progress(f"{named}: made again before with this software, on this machine")
    comparison = compared(project, record, built)
    return f"golden: {named} {comparison.sentence()}", comparison


def compared(project: Project, record: ReleaseRecord, report: Built) -> Any:
    """The content of a golden report, as the family's class `golden.Comparison`."""
    golden = _step(project, record).functions
    return golden.Comparison.from_dict(report.artifact.json("comparison.json"))


def _step(project: Project, record: ReleaseRecord) -> Step:
    plug = release.family_of_release(project, record)
    if plug.golden is None:
        raise UserError(
            f"release {record.number} of {record.model} has no golden set: the family {plug.name} "
            "keeps none"
        )
    return plug.golden


def _golden_set(project: Project, record: ReleaseRecord) -> Artifact:
    _step(project, record)
    if record.golden is None:
        raise UserError(
            f"release {record.number} of {record.model} was made before golden sets were kept; "
            f"materialize {record.model}/triton_repository to give it one"
        )
    return Store(project).open(record.golden)


def _conditions(
    project: Project, record: ReleaseRecord, kept: Artifact
) -> tuple[dict[str, str | None], bool]:
    """(what decides the bits of an answer here, whether that is what the golden set records)."""
    settings: Mapping[str, Any] = kept.json("golden.json")
    facts = project.placement.facts()
    device = facts.device_class(load_fleet(project).device)
    family = release.family_of_release(project, record)
    environment = facts.environment(*family.packages, device=device)
    conditions = _step(project, record).functions.conditions
    now = conditions(environment, facts.hardware, settings["threads"])
    return now, now == settings["conditions"]
