"""What datasets contain, and whether a release rests on something that was taken down."""

from pathlib import PurePosixPath

from adire_assets.config.takedowns import FILE, taken_down
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family, family_names
from adire_assets.core.file_names import same_form
from adire_assets.core.project import Project
from adire_assets.core.shown import Item
from adire_assets.core.store import Artifact, Store
from adire_assets.serving.release import ReleaseRecord


def items(project: Project, dataset: Artifact) -> list[tuple[str, Item]]:
    """(path of its file below the project, item) of a dataset in the store, in composed form. Where
    the list of files was deleted, a path may lack its ending."""
    manifest = dataset.manifest
    content = manifest["recipe"]["inputs"]["training_data"]
    known = Store(project).artifacts(dataset.model, "training_data")
    listed = next((one for one in known if one.content_hash == content), None)
    files = listed.json("files.json") if listed else {}
    folder = PurePosixPath(manifest["job"]["arguments"]["config"]["path"])
    found = _family(dataset).shows.functions.items(dataset.path, files)
    return [(same_form((folder / item.file).as_posix()), item) for item in found]


def _family(dataset: Artifact) -> Family:
    made = {*dataset.manifest["recipe"]["modules"]}
    for name in family_names():
        if made & {*family(name).dataset.modules}:
            return family(name)
    raise UserError(f"{dataset.path} was made by a family that is not installed here")


def refuse_taken_down(project: Project, record: ReleaseRecord) -> None:
    """UserError for a release whose dataset contains something that configs/takedowns.yaml names.
    Of a dataset that was deleted nobody can tell; `adire takedown` has quarantined what it knew."""
    if not (gone := taken_down(project)):
        return
    store = Store(project)
    dataset = store.recall(store.recall(record.adapter).manifest["dataset"])
    if not store.holds(dataset):
        return
    for where, item in items(project, dataset):
        if item.identity in gone:
            raise UserError(
                f"release {record.number} of {record.model} rests on {item.told(where)}, which "
                f"{FILE} excludes: {gone[item.identity]}; materialize {record.model} again"
            )
