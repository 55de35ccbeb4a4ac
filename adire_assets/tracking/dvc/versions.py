"""DVC look-ups, the data of another version, and the metrics files that `dvc.yaml` exposes.

`subtree` and `verify_working_tree` read DVC's own files and never import dvc, so a sensor can call
them often; only the worker function `export` does. The content of a model's data is the hash of its
own subtree in the `.dir` listing: another model's data in the same `.dvc` file changes nothing, nor
do files that do not count (`file_names.is_content`).
Nothing here writes into a folder that DVC tracks. What a user can mend is a `UserError` with the
command that does it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import is_content, same_form
from adire_assets.core.lineage import digest
from adire_assets.core.project import Project
from adire_assets.core.store import write_bytes, write_json
from adire_assets.core.worker import Progress
from adire_assets.tracking.dvc import files as dvc_files
from adire_assets.tracking.dvc import session
from adire_assets.tracking.dvc.files import Output, listing, outputs_of, relative, typed
from adire_assets.tracking.dvc.pull import unfetched
from adire_assets.tracking.dvc.working_tree import compare

NAMED_FILES = 3  # how many differing files a message names


@dataclass(frozen=True)
class Subtree:
    """One model's part of a tracked folder.

    `hash` is a SHA-256 over `files` alone; `dvc_hash` is what the .dvc file says of the whole
    output (`<md5>.dir`); `files` maps paths relative to the model's folder, in composed form, to
    their MD5, as far as they count.
    """

    hash: str
    dvc_hash: str
    files: dict[str, str]


def subtree(project: Project, dvc_file: str, folder: str) -> Subtree:
    """What `dvc_file` pins below `folder`; both are relative to the project's root.

    UserError when the .dvc file is missing or malformed, when its listing is neither in DVC's cache
    nor in a remote that is a local folder, or when it has no file below `folder`.
    """
    output, prefix = place_of(project, dvc_file, folder)
    files = files_below(prefix, listing(project, output))
    if not files:
        raise UserError(
            f"{dvc_file} has no files below {folder}: put files there and run "
            f"`dvc add {typed(project, output.path)}`"
        )
    return Subtree(digest(files), output.md5, files)


def place_of(project: Project, dvc_file: str, folder: str) -> tuple[Output, str]:
    """The output of `dvc_file` that holds `folder`, and what the paths below `folder` begin with in
    its listing: "" or a path with /. UserError when there is none."""
    output, inner = _owner(project, dvc_file, folder)
    return output, "" if inner == "." else f"{inner}/"


def files_below(prefix: str, listed: Mapping[str, str]) -> dict[str, str]:
    """The files of a listing that count, by their path below `prefix` ("" or a path with /)."""
    prefix = same_form(prefix)
    below = {same_form(name): md5 for name, md5 in listed.items()}
    found = {n.removeprefix(prefix): md5 for n, md5 in below.items() if n.startswith(prefix)}
    return {name: md5 for name, md5 in found.items() if is_content(name)}


def verify_working_tree(project: Project, dvc_file: str, folder: str, subtree: Subtree) -> None:
    """UserError when the files below `folder` are not exactly those of `subtree`.

    Every file's MD5 is compared; a known MD5 is used again while size, inode and time stamps are
    the same. Files that DVC leaves out of a folder do not count.
    """
    output, _ = _owner(project, dvc_file, folder)
    found = compare(project, project.inside(folder, "data folder"), subtree.files)
    if not found:
        return
    if len(found.missing) == len(subtree.files):
        raise UserError(
            f"the {len(subtree.files)} files that {dvc_file} names below {folder} are not there: "
            "run `adire pull`"
        )
    parts = []
    room = NAMED_FILES
    for kind in ("changed", "missing", "extra"):
        names = getattr(found, kind)
        if names:
            shown = names[:room]
            room -= len(shown)
            named = f" ({', '.join(shown)}{', ...' if len(names) > len(shown) else ''})"
            parts.append(f"{len(names)} {kind}{named if shown else ''}")
    cache = dvc_files.local_stores(project)[0]
    stored = {name: dvc_files.object_file(cache, subtree.files[name]) for name in found.changed}
    if any(
        o.is_file() and not dvc_files.is_sound(o, subtree.files[name]) for name, o in stored.items()
    ):
        raise UserError(
            f"{folder} differs from {dvc_file}: {', '.join(parts)}; the copy in DVC's cache is "
            f"damaged as well; run `adire pull`, which fetches it again"
        )
    # Without --force DVC keeps files that are not in its cache, and so would go back on nothing.
    force = " --force" if found.changed or found.extra else ""
    back = f"`dvc checkout {typed(project, dvc_file)}{force}`"
    if unfetched(project, [output]):  # without them, dvc checkout would delete the folder
        remotes = session.remotes_of(project, output.remote)
        remote = f" --remote {remotes[0]}" if remotes else ""
        back = f"`dvc fetch{remote} {typed(project, dvc_file)}` and {back}"
    raise UserError(
        f"{folder} differs from {dvc_file}: {', '.join(parts)}; to take the folder as it is run "
        f"`dvc add {typed(project, output.path)}`, to go back to the pinned version {back}"
    )


def export(
    *,
    root: str,
    home: str,
    dvc_hash: str,
    data_hash: str,
    path: str,
    output: str,
    progress: Progress,
) -> dict[str, int]:
    """Copy a model's files of another version out of DVC's cache or a remote into `output`.

    A worker function; neither the working tree nor the cache changes. `dvc_hash` (`<md5>.dir`)
    names the version. The model's folder in it is the end of `path`, its folder in the project,
    whose subtree has the hash `data_hash`. UserError when cache and remotes together lack a file.
    """
    project = Project(Path(root), Path(home))
    session.require_dvc(project)
    known = dvc_files.remote_urls(project)
    remotes = [
        name for name in dict.fromkeys([*session.remotes_of(project), *known]) if name in known
    ]
    files: dict[str, str] = {}
    lacking, said = {dvc_hash}, []
    for remote in (None, *remotes):
        message = f"fetching data {dvc_hash[:12]} from {remote or 'the cache of DVC'}"
        try:
            with session.opened(project, message, progress, remote) as repo:
                place = repo.cloud.get_remote_odb(remote) if remote else repo.cache.local
                if not files and place.exists(dvc_hash):
                    listed = json.loads(place.fs.cat_file(place.oid_to_path(dvc_hash)))
                    files = _subtree_of(listed, path, data_hash)
                lacking = _copy_out(place, files, Path(output)) if files else lacking
        except UserError as error:
            said.append(str(error))
        if not lacking:
            return {"files": len(files)}
    advice = f"add the one that has them with {session.ADD_REMOTE}"
    if remotes:
        push = "dvc push --all-commits"
        if not session.default_remote(project):  # which dvc wants with --all-commits
            push = f"dvc remote default {remotes[0]}` and `{push}"
        advice = f"whoever has them {session.push_again(project, remotes[0], [dvc_hash], push)}"
    raise UserError(
        f"the data of version {dvc_hash} is neither in DVC's cache nor in a remote "
        f"({', '.join(remotes) or 'none is configured'}), {len(lacking)} objects are missing, such "
        f"as {min(lacking)}; {advice}" + "".join(f"; {reason}" for reason in said)
    )


def write_metrics(project: Project, model: str, metrics: Mapping[str, Any], loss_csv: Path) -> None:
    """Put an evaluation's `metrics` (plain JSON) and a training's loss curve where DVC shows them.

    Writes metrics/<model>.json and metrics/<model>_loss.csv (columns step,loss), each whole or not
    at all; the loss curve is a copy of `loss_csv`, where the training left one.
    """
    folder = project.root / "metrics"
    write_json(folder / f"{model}.json", dict(metrics))
    if loss_csv.is_file():
        write_bytes(folder / f"{model}_loss.csv", loss_csv.read_bytes())


def _owner(project: Project, dvc_file: str, folder: str) -> tuple[Output, str]:
    """The output of `dvc_file` that holds `folder`, and the folder's path inside it."""
    full = Path(same_form(str(project.inside(folder, "data folder"))))
    outputs = outputs_of(project, dvc_file)
    for output in outputs:
        top = same_form(str(output.path))
        if full.is_relative_to(top) and output.is_folder:
            return output, full.relative_to(top).as_posix()
        if full.is_relative_to(top):
            raise UserError(
                f"{dvc_file} pins the single file {relative(project, output.path)}, not a folder "
                f"that holds {folder}; name the folder, after `dvc add` of it, in data.dvc_file"
            )
    held = ", ".join(relative(project, output.path) for output in outputs)
    raise UserError(f"{dvc_file} pins {held}, which does not hold {folder}")


def _subtree_of(listed: list[dict[str, str]], path: str, data_hash: str) -> dict[str, str]:
    """{path in the model's folder: MD5}: the part of a `.dir` listing whose hash is `data_hash`."""
    parts = PurePosixPath(path).parts
    everything = {entry["relpath"]: entry["md5"] for entry in listed}
    for start in range(len(parts) + 1):
        files = files_below("".join(f"{part}/" for part in parts[start:]), everything)
        if digest(files) == data_hash:
            return files
    return {}


def _copy_out(place: Any, files: Mapping[str, str], folder: Path) -> set[str]:
    """Fill `folder` with what `place`, an object database of DVC, has; the MD5s still lacking."""

    def lacking() -> dict[str, str]:
        return {name: md5 for name, md5 in files.items() if not (folder / name).is_file()}

    names = lacking()
    # Not `oids_exist`, which deletes the damaged objects that it finds.
    present = set(place.list_oids_exists(sorted(set(names.values()))))
    wanted = {name: md5 for name, md5 in names.items() if md5 in present}
    sources = [place.oid_to_path(md5) for md5 in wanted.values()]
    place.fs.get(sources, [str(folder / name) for name in wanted])
    for name, md5 in wanted.items():
        if dvc_files.md5_of(folder / name) != md5:
            (folder / name).unlink()  # damaged there; another place may have it sound
    return set(lacking().values())
