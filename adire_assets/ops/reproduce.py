"""A release's adapter made again, from what was recorded when it was made: equal bits, or why not.

    reproduce(project, "indigo@3", print)     a release
    reproduce(project, "out.png", print)      the release that gave an answer

What was recorded is all that is used: the sources that ran (`recipe/sources` of the artifact, laid
out as a package of its own, so that the code of today does not count), the job they were given
(`job` in the manifest: function, arguments, launcher, threads) and the hashes of what they read.
The dataset and the base model come from the store; a dataset that is gone is made again in the same
way from the data that DVC holds at the recorded hash. Nothing in the store, the working tree or DVC
changes; the work is done in <home>/work/reproduce-<model>-<release> and removed.

`UserError` with one sentence when the same bits cannot come out here or something is not to be had.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adire_assets.config.model import family_of
from adire_assets.core import job_folder, lineage
from adire_assets.core.errors import UserError
from adire_assets.core.folders import scratch_folder
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import NOT_CONTENT, Artifact, Store
from adire_assets.core.worker import Progress
from adire_assets.serving import client, release
from adire_assets.serving.release import ReleaseRecord

RELEASE = re.compile(r"([a-z][a-z0-9_]*)@([0-9]+)")
SHOWN_FILES = 5
Facts = Mapping[str, Any]  # a manifest, or the job in it


@dataclass(frozen=True)
class Reproduction:
    """`sha256` is that of the adapter's file made here; no `difference` means equal."""

    name: str  # model@number
    sha256: str
    difference: str | None = None

    def sentence(self) -> str:
        told = f"different: {self.difference}" if self.difference else f"equal sha256={self.sha256}"
        return f"reproduce: {self.name} {told}"


def reproduce(project: Project, what: str, progress: Progress) -> Reproduction:
    """Make the adapter of a release again and compare it with the recorded one.

    `what` is a release, `model@number`, or the path of an answer's file.
    """
    record = _release_of(project, what)
    name = f"{record.model}@{record.number}"
    store = Store(project)
    adapter = store.recall(record.adapter)
    manifest = adapter.manifest
    weights = release.family_of_release(project, record).adapter_files
    progress(f"{name}: lora_weights {adapter.key[:12]}, made {manifest['created']}")
    _require_recorded(adapter)
    _require_served(store, record, adapter, weights)
    _require_same_environment(project, name, manifest)
    with scratch_folder(project, f"reproduce-{record.model}-{record.number}") as scratch:
        places = {"output": scratch / "output", "work": scratch / "checkpoints"}
        places["output"].mkdir()
        for kind, make in (("base_model", _base_model), ("dataset", _dataset)):
            made_from, word = store.recall(manifest[kind]), kind.replace("_", " ")
            if store.holds(made_from):
                store.verify(made_from)
                progress(f"{word}: {made_from.content_hash[:12]} is in the store")
                places[kind] = made_from.path
            else:
                places[kind] = make(project, made_from, scratch, progress)
        sources = _lay_out(adapter, scratch / "training")
        progress(f"training: the recorded sources, on {manifest['job']['threads']} threads")
        _run(project, manifest["job"], places, sources, progress)
        files = lineage.folder_digest(places["output"], NOT_CONTENT)[1]
    return Reproduction(name, files.get(weights[0], ""), _difference(manifest, files, weights))


def _release_of(project: Project, what: str) -> ReleaseRecord:
    if found := RELEASE.fullmatch(what):
        return release.read_record(project, found[1], int(found[2]))
    if not Path(what).is_file():
        raise UserError(f"{what} is neither a release, such as indigo@3, nor the file of an answer")
    facts, _ = client.provenance_of(project, Path(what))
    try:
        record = release.read_record(project, facts["model"], facts["release"])
        same = facts["adapter_hash"] == record.adapter["content_hash"]
    except KeyError as error:
        raise UserError(f"{what}: its provenance lacks {error}, so it names no release") from None
    if not same:
        raise UserError(
            f"{what} is of another release {record.number} of {record.model} than the one "
            "of this project; run this in the project whose release gave it"
        )
    return record


def _require_recorded(artifact: Artifact) -> None:
    """UserError unless the manifest has a job, and itself and recipe/ are what was recorded."""
    manifest, made = artifact.manifest, f"{artifact.kind} {artifact.key[:12]} of {artifact.model}"
    if not {"job", "recipe_hash"} <= manifest.keys():
        raise UserError(
            f"{made} was made before jobs and all sources were recorded; materialize "
            f"{artifact.model}/{artifact.kind} with the code of today to get one that can be "
            "made again"
        )
    key = lineage.digest({**manifest["recipe"], "modules": None})
    if not key == manifest["key"] == artifact.key:
        raise UserError(
            f"{artifact.path / 'manifest.json'} was changed: its recipe has the key {key[:12]}, "
            f"not {artifact.key[:12]}; take it from a backup"
        )
    if lineage.folder_digest(artifact.path / "recipe")[0] != manifest["recipe_hash"]:
        raise UserError(
            f"{artifact.path / 'recipe'} is not what was recorded with {made}; take it from a "
            "backup"
        )


def _require_served(
    store: Store, record: ReleaseRecord, adapter: Artifact, weights: Sequence[str]
) -> None:
    served, made = store.recall(record.repository).manifest["files"], adapter.manifest["files"]
    for name in weights:
        if (found := served[f"adapter/{name}"]) != made[name]:
            raise UserError(
                f"release {record.number} of {record.model} serves the adapter file {found[:12]}, "
                f"not that of its lora_weights {adapter.key[:12]}; its record is not about its "
                "content"
            )


def _require_same_environment(project: Project, name: str, manifest: Facts) -> None:
    """UserError when libraries, device or machine here are of another kind than then."""
    then, facts = manifest["recipe"]["environment"], project.placement.facts()
    if then.get("device") == "cuda" and facts.device != "cuda":
        raise UserError(
            f"{name} was made on a GPU and there is none here that can be used; a CPU gives "
            "other bits"
        )
    machine = manifest["hardware"]["machine"]
    if machine != facts.machine:
        raise UserError(
            f"{name} was made on a machine of type {machine} and this one is {facts.machine}, "
            f"which gives other bits; run it on a {machine} machine"
        )
    without = (*lineage.NOT_LIBRARIES, *(n for n, v in then.items() if v == lineage.ABSENT))
    other = {n: v for n, v in then.items() if n not in without and v != facts.version(n)}
    if other:
        listed = ", ".join(f"{n} {v} (here {facts.version(n)})" for n, v in other.items())
        raise UserError(f"{name} was made with {listed}; `{_pip(other)}` mends it")


def _pip(versions: Mapping[str, str]) -> str:
    """The command that installs these versions; a label such as +cpu names PyTorch's own index."""
    labels = sorted({label for v in versions.values() if (label := v.partition("+")[2])})
    indices = [f"--extra-index-url https://download.pytorch.org/whl/{label}" for label in labels]
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    return " ".join(["pip install", *wanted, *indices])


def _base_model(project: Project, recorded: Artifact, scratch: Path, progress: Progress) -> Path:
    """A folder with the recorded base model's files, found again."""
    folder, weights = scratch / "base_model", family_of(project, recorded.model).weights
    found = weights.functions.find_again(project, recorded, folder)
    progress(f"base model: {found} is still the one of then")
    return folder


def _dataset(project: Project, recorded: Artifact, scratch: Path, progress: Progress) -> Path:
    """A folder with the recorded dataset's files, made again."""
    _require_recorded(recorded)
    manifest = recorded.manifest
    _require_same_environment(project, f"its dataset {recorded.key[:12]}", manifest)
    places = {"source": scratch / "data", "output": scratch / "dataset"}
    places["source"].mkdir()
    progress("dataset: gone from the store; it is made again from the data that DVC holds")
    job = manifest["job"]
    export = {
        "root": project.root,
        "home": project.home,
        "dvc_hash": manifest["dvc_hash"],
        "data_hash": manifest["data_hash"],
        "path": job["arguments"]["config"]["path"],
        "output": places["source"],
    }
    function = "adire_assets.tracking.dvc.versions:export"
    by_today = {"function": function, "arguments": export, "launcher": []}
    _run(project, job | by_today, {}, Path(__file__).parents[2], progress)
    _run(project, job, places, _lay_out(recorded, scratch / "preparation"), progress)
    difference = _difference(manifest, lineage.folder_digest(places["output"], NOT_CONTENT)[1])
    if difference:
        raise UserError(f"the dataset comes out otherwise than the one of then: {difference}")
    progress(f"dataset: {recorded.content_hash[:12]} made again, equal")
    return places["output"]


def _lay_out(artifact: Artifact, folder: Path) -> Path:
    """`recipe/sources` as a tree of packages below `folder`, for PYTHONPATH."""
    files = {path.stem: path for path in (artifact.path / "recipe" / "sources").glob("*.py")}
    for name, path in files.items():
        is_package = any(other.startswith(f"{name}.") for other in files)
        target = folder.joinpath(*name.split("."))
        target = target / "__init__.py" if is_package else target.with_name(f"{target.name}.py")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder


def _run(
    project: Project, job: Facts, places: Mapping[str, Path], sources: Path, progress: Progress
) -> None:
    """Carry out a recorded job in a child that imports the project's modules from `sources`."""
    launcher = job["launcher"]
    run_step(
        project,
        job["function"],
        {name: job_folder.located(value, places) for name, value in job["arguments"].items()},
        threads=job["threads"],
        launcher=(sys.executable, *launcher) if launcher else (),
        sources=sources,
        progress=lambda line: progress(f"  {line}"),
    )


def _difference(
    manifest: Facts, files: Mapping[str, str], weights: Sequence[str] = ()
) -> str | None:
    """How `files`, {path: SHA-256}, differ from the manifest's, in a clause; None when equal.

    `weights` names those that are served.
    """
    then = manifest["files"]
    names = sorted(name for name in {*then, *files} if then.get(name) != files.get(name))
    if not names:
        return None
    told = [
        f"{name} is {files.get(name, 'absent')[:12]} and was {then.get(name, 'absent')[:12]}"
        for name in names[:SHOWN_FILES]
    ]
    if len(names) > SHOWN_FILES:
        told.append(f"{len(names) - SHOWN_FILES} more files differ")
    if weights and not {*weights}.intersection(names):
        told.append("the adapter itself is equal")
    if (cpu := lineage.hardware()["cpu"]) != manifest["hardware"]["cpu"]:
        told.append(f"made on {manifest['hardware']['cpu']}, this is {cpu}")
    if manifest["recipe"]["environment"].get("device") == "cuda":
        told.append("a GPU need not give the same bits twice")
    return "; ".join(told)
