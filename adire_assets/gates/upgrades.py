"""What other software does to a release: versions compared by rule, golden answers made again.

`compatibility` decides whether a release may go live, by the pure rule `compare`: training,
evaluation and serving ran on software that belongs together.

    a family's packages        the same major.minor everywhere; a version that nobody recorded is a
                               difference too
    cuda                       the same major.minor wherever a GPU computed; null on the CPU, which
                               is compared with nothing
    driver, device, threads    told, never refused: a driver runs what was built for older ones, and
                               whether another device or thread count gives the same answers is
                               measured (`serving.fleet.parity`)

`evaluation.gates.compatibility.allow` has a key for each package, and for cuda: the versions
between which it may differ, as a PEP 440 range such as ">=0.42,<0.44", "*" for any, or null.

`golden_report` measures whether the installed software still makes the answers that the release
was evaluated with. `adire golden indigo@3` asks for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from adire_assets.config.fleet import load_fleet
from adire_assets.config.gates import CompatibilityConfig
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, Step
from adire_assets.core.lineage import Recipe
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.core.worker import Progress, RunWorker
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment

# Of one side, version by name, as above: `of_manifest` reads it from what an artifact recorded, and
# a release's answers carry it as `provenance["software"]`.
Software = Mapping[str, str | None]
CUDA = "cuda"
TOLD = ("driver", "device", "threads")
ANY = "*"


@dataclass(frozen=True)
class Compatibility:
    """`refused` and `told`: a clause for each difference; `versions`: {name: {side: version}}."""

    refused: tuple[str, ...]
    told: tuple[str, ...]
    versions: dict[str, dict[str, str | None]]

    @property
    def compatible(self) -> bool:
        return not self.refused

    def sentence(self) -> str:
        """One line for people."""
        told = f" ({'; '.join(self.told)})" if self.told else ""
        if self.compatible:
            *packages, cuda = (name for name in self.versions if name not in TOLD)
            named = f"{', '.join(packages)} and {cuda}" if packages else cuda
            return f"compatibility: training, evaluation and serving agree on {named}{told}"
        return (
            f"compatibility: {'; '.join(self.refused)}{told}; install the same minor versions on "
            "all sides and materialize again, or name the versions that may differ under "
            "evaluation.gates.compatibility.allow"
        )


def compatibility(
    project: Project, record: ReleaseRecord, serving: Software | None, policy: CompatibilityConfig
) -> Compatibility:
    """Whether the software of a release's training, evaluation and serving goes together.

    `serving` is what its answers tell of themselves (`parity.json`'s `software`).
    """
    store = Store(project)
    steps = (store.recall(record.adapter), store.recall(record.evaluation))
    training, evaluation = (of_manifest(step.manifest) for step in steps)
    return compare(training, evaluation, serving, policy.allow.model_dump())


def refusal(project: Project, record: ReleaseRecord, serving: Software | None) -> str | None:
    """Why today's policy refuses to serve a release with this software; None when it does not."""
    policy = load_model(project, record.model).evaluation.gates.compatibility
    found = compatibility(project, record, serving, policy)
    if found.compatible:
        return None
    return f"release {record.number} of {record.model}: {found.sentence()}"


def compare(
    training: Software,
    evaluation: Software,
    serving: Software | None,
    allow: Mapping[str, str | None],
) -> Compatibility:
    """The rule above, for the names in `allow`. `serving` is None when the release does not tell
    what it runs on."""
    sides = {"training": training, "evaluation": evaluation, "serving": serving or {}}
    names = (*(name for name in allow if name != CUDA), CUDA, *TOLD)
    versions = {
        name: {side: software.get(name) for side, software in sides.items()} for name in names
    }
    found = {name: _difference(name, versions[name], allow.get(name)) for name in names}
    refused, told = (
        tuple(text for name, text in found.items() if text and (name in TOLD) is only_told)
        for only_told in (False, True)
    )
    return Compatibility(refused, told, versions)


def of_manifest(manifest: Mapping[str, Any]) -> dict[str, str | None]:
    """What the step behind an artifact's manifest ran on."""
    found = dict(manifest["recipe"]["environment"])
    if found.get("device") == CUDA:
        found["driver"] = manifest["hardware"].get("driver")
    return found


def _difference(name: str, versions: Mapping[str, str | None], allowed: str | None) -> str | None:
    """How the sides differ in `name`, as a clause; None when they may."""
    known = {side: version for side, version in versions.items() if version is not None}
    unknown = [side for side in versions if side not in known]
    if allowed == ANY:
        return None
    if unknown and name not in (CUDA, *TOLD):
        return f"nothing tells which {name} {' and '.join(unknown)} ran with"
    if allowed is not None:
        outside = {side: v for side, v in known.items() if not _within(v, allowed)}
        return f"{_told(name, outside)}, allowed is {allowed}" if outside else None
    groups = {version if name in TOLD else _minor(version) for version in known.values()}
    return _told(name, known) if len(groups) > 1 else None


def _told(name: str, versions: Mapping[str, str]) -> str:
    """Such as "peft is 0.21.0 at training and evaluation, 0.22.1 at serving"."""
    sides: dict[str, list[str]] = {}
    for side, version in versions.items():
        sides.setdefault(version, []).append(side)
    parts = [f"{version} at {' and '.join(where)}" for version, where in sides.items()]
    return f"{name} {'are' if name == 'threads' else 'is'} {', '.join(parts)}"


def _minor(version: str) -> tuple[int, ...] | str:
    try:
        return (*Version(version).release, 0)[:2]
    except InvalidVersion:
        return version


def _within(version: str, allowed: str) -> bool:
    try:
        return SpecifierSet(allowed).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


# --- golden answers ----------------------------------------------------------------------------


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

    make = partial(step.functions.write_evaluated, evaluation)
    return Store(project).build(recipe, make).artifact.reference()


def same_conditions(project: Project, record: ReleaseRecord) -> bool:
    """Whether software and machine are still those that made the golden set."""
    kept = _golden_set(project, record)
    return bool(_conditions(project, record, kept) == kept.json("golden.json")["conditions"])


def golden_report(project: Project, record: ReleaseRecord, run_worker: RunWorker) -> Built:
    """comparison.json: how the golden set differs when the installed software makes it again.

    Made once for each release, software and machine, by the release's own files and base.
    """
    store = Store(project)
    step, kept = _step(project, record), _golden_set(project, record)
    content, base = store.open(record.repository), store.open(record.base_model)
    store.verify(kept)
    now = _conditions(project, record, kept)
    made_from = {"golden_set": kept, "triton_repository": content, "base_model": base}
    recipe = Recipe(
        kind="golden_report",
        model=record.model,
        modules=step.modules,
        inputs={name: one.content_hash for name, one in made_from.items()},
        environment={name: value or "absent" for name, value in now.items()},
        facts=project.placement.facts(),
    )

    def make(folder: Path) -> dict[str, Any]:
        files: dict[str, Any] = {"golden": kept.path, "release": content.path, "base": base.path}
        run_worker(step.job("redraw"), **files, device=now["device"], now=now, output=folder)
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


def _conditions(project: Project, record: ReleaseRecord, kept: Artifact) -> dict[str, str | None]:
    """What decides the bits of an answer here."""
    facts, family = project.placement.facts(), release.family_of_release(project, record)
    device = facts.device_class(load_fleet(project).device)
    environment = facts.environment(*family.packages, device=device)
    threads = kept.json("golden.json")["threads"]
    return _step(project, record).functions.conditions(environment, facts.hardware, threads)
