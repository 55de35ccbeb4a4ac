"""What datasets contain, and which releases rest on something that was taken down.

configs/takedowns.yaml names contents. A release is covered by an entry when the dataset that its
adapter was trained on contains that content. `quarantine_taken_down` comes before everything that
may bring a release to users, so that entries made by hand count like those of `adire takedown`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath

from adire_assets.config.takedowns import FILE, Takedown, taken_down
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family, family_names
from adire_assets.core.file_names import same_form
from adire_assets.core.project import Project
from adire_assets.core.shown import Item
from adire_assets.core.store import Artifact, Store
from adire_assets.serving import record, release
from adire_assets.serving.release import ReleaseRecord


def file_lists(project: Project, model: str) -> dict[str, Artifact]:
    """Content hash -> training_data: the lists of files of a model that the store has."""
    found = Store(project).artifacts(model, "training_data")
    return {one.content_hash: one for one in found}


def read(dataset: Artifact, lists: Mapping[str, Artifact]) -> tuple[str, list[tuple[str, Item]]]:
    """(family, its items, each with the path of its file below the project) of a dataset in the
    store; paths are in composed form.

    `lists` are the `file_lists` of its model; without its own a path may lack its ending.
    UserError for a dataset of another version or family that cannot be read here.
    """
    manifest = dataset.manifest
    listed = lists.get(manifest["recipe"].get("inputs", {}).get("training_data"))
    arguments = manifest.get("job", {}).get("arguments", {})
    try:
        files = listed.json("files.json") if listed else {}
        said = listed.json("data.json") if listed else {}
        config = arguments.get("config") or said["data"]
        folder = PurePosixPath(config["path"])
        plug = _family(dataset, said)
        found = list(plug.shows.functions.items(dataset.path, files))
    except KeyError as key:
        raise UserError(f"{_named(dataset)} cannot be read here: it lacks the key {key}") from None
    except FileNotFoundError as error:
        raise UserError(f"{_named(dataset)} cannot be read here: no {error.filename}") from None
    except (UserError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{_named(dataset)} cannot be read here: {error}") from None
    return plug.name, [(same_form((folder / item.file).as_posix()), item) for item in found]


def _named(dataset: Artifact) -> str:
    return f"dataset {dataset.key[:12]} of {dataset.model}"


def _family(dataset: Artifact, said: Mapping[str, str]) -> Family:
    """The family whose code made a dataset; `said`: what its training_data says, if it is there."""
    made = {*dataset.manifest["recipe"].get("modules", ())}
    for name in family_names():
        with suppress(UserError):  # another one that is broken
            if made & {*family(name).dataset.modules}:
                return family(name)
    if "family" in said:
        return family(said["family"])
    raise UserError("no installed family has made it")


def refuse_dataset(project: Project, dataset: Artifact) -> None:
    """UserError for a dataset with something that configs/takedowns.yaml names: none is trained
    on."""
    if not (gone := taken_down(project)):
        return
    if found := _first_taken_down(dataset, gone, file_lists(project, dataset.model)):
        where, entry = found
        raise UserError(
            f"{_named(dataset)} contains {where}, which {FILE} excludes: {entry.reason}; build the "
            f"dataset without it first: adire materialize {dataset.model} --select '*dataset'"
        )


def refuse_taken_down(project: Project, wanted: ReleaseRecord) -> None:
    """UserError for a release that an entry of configs/takedowns.yaml covers, or may cover.

    Of a dataset that was deleted nobody can tell; `adire takedown` has quarantined what it knew.
    """
    _refuse(project, wanted, f"materialize {wanted.model} again")


def lift_quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """`record.lift_quarantine`, unless an entry of configs/takedowns.yaml covers the release."""
    advice = "delete its entry there to allow it again"
    if wanted := release.find_record(project, model, number):
        _refuse(project, wanted, advice)
    # Its dataset may have been deleted since.
    if entry := _told(project, model, number, taken_down(project)):
        raise UserError(
            f"release {number} of {model} rests on {entry.file}, which {FILE} excludes: "
            f"{entry.reason}; {advice}"
        )
    record.lift_quarantine(project, model, number, reason)


def quarantine_taken_down(project: Project, model: str, progress: Callable[[str], None]) -> bool:
    """Quarantine each release of a model that an entry of configs/takedowns.yaml covers.

    Whether there was one that was not yet. `progress` is told of those that nobody can tell of.
    """
    if not (gone := taken_down(project)):
        return False
    covered: dict[str, tuple[str, Takedown] | None] = {}  # by the dataset's content
    lists, new = file_lists(project, model), False
    for one in release.records(project, model):
        if _told(project, model, one.number, gone):
            continue
        try:
            dataset = _dataset_of(project, one)
            if dataset and dataset.content_hash not in covered:
                covered[dataset.content_hash] = _first_taken_down(dataset, gone, lists)
        except UserError as error:
            progress(f"nobody can tell what release {one.number} of {model} rests on: {error}")
            continue
        if dataset and (found := covered[dataset.content_hash]):
            record.quarantine(project, model, one.number, _why(found[1]))
            new = True
    return new


def _refuse(project: Project, wanted: ReleaseRecord, advice: str) -> None:
    named = f"release {wanted.number} of {wanted.model}"
    if not (gone := taken_down(project)):
        return
    try:
        dataset = _dataset_of(project, wanted)
        lists = file_lists(project, wanted.model)
        found = _first_taken_down(dataset, gone, lists) if dataset else None
    except UserError as error:
        raise UserError(
            f"nobody can tell whether {named} rests on something that {FILE} excludes: {error}; "
            f"materialize {wanted.model} again"
        ) from None
    if found:
        where, entry = found
        raise UserError(
            f"{named} rests on {where}, which {FILE} excludes: {entry.reason}; {advice}"
        )


def _dataset_of(project: Project, wanted: ReleaseRecord) -> Artifact | None:
    """The dataset that a release's adapter was trained on; None when it was deleted."""
    store = Store(project)
    named = store.recall(wanted.adapter).manifest.get("dataset")
    if named is None:
        raise UserError("its adapter does not say what it was trained on")
    dataset = store.recall(named)
    return dataset if store.holds(dataset) else None


def _first_taken_down(
    dataset: Artifact, gone: Mapping[str, Takedown], lists: Mapping[str, Artifact]
) -> tuple[str, Takedown] | None:
    """(where it is, the entry that names it) of the first excluded content of a dataset."""
    for where, item in read(dataset, lists)[1]:
        if entry := gone.get(item.identity):
            return item.told(where), entry
    return None


def _why(entry: Takedown) -> str:
    return f"rests on {entry.file}, which was taken down: {entry.reason}"


def _told(
    project: Project, model: str, number: int, gone: Mapping[str, Takedown]
) -> Takedown | None:
    """The entry for which a release is quarantined."""
    now = record.quarantine_entry(project, model, number) or {}
    return next((one for one in gone.values() if now.get("reason") == _why(one)), None)
