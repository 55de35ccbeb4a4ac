"""DVC look-ups, the pull of what .dvc files name, and the metrics files that `dvc.yaml` exposes.

`subtree` and `verify_working_tree` read DVC's own files and never import dvc, so a sensor can call
them often; only the worker functions `pull` and `export` do. The content of a model's data is the
hash of its own subtree in the `.dir` listing: another model's data in the same `.dvc` file changes
nothing.
Nothing here writes into a folder that DVC tracks, except `pull`, which leaves every file alone that
DVC cannot give back. What a user can mend is a `UserError` with the command that does it.
"""

import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from adire_assets.config import Project
from adire_assets.data.dvc_files import (
    Output,
    listing,
    local_stores,
    object_file,
    outputs_of,
    read_config,
    relative,
)
from adire_assets.data.working_tree import compare, complete, differences, md5_of
from adire_assets.errors import UserError
from adire_assets.lineage import digest
from adire_assets.store import lock, write_json
from adire_assets.worker import Progress

EMBEDDED_REMOTE = "embedded"
NAMED_FILES = 3  # how many differing files a message names
HEARTBEAT_SECONDS = 5.0
FORCE_ADVICE = "`dvc add` takes them in, `dvc checkout --force` drops them:"


@dataclass(frozen=True)
class Subtree:
    """One model's part of a tracked folder.

    `hash` is a SHA-256 over `files` alone; `dvc_hash` is what the .dvc file says of the whole
    output (`<md5>.dir`); `files` maps paths relative to the model's folder to their MD5.
    """

    hash: str
    dvc_hash: str
    files: dict[str, str]


def subtree(project: Project, dvc_file: str, folder: str) -> Subtree:
    """What `dvc_file` pins below `folder`; both are relative to the project's root.

    UserError when the .dvc file is missing or malformed, when its listing is neither in DVC's cache
    nor in a remote that is a local folder, or when it has no file below `folder`.
    """
    output, inner = _owner(project, dvc_file, folder)
    prefix = "" if inner == "." else f"{inner}/"
    listed = listing(project, output)
    files = {
        name.removeprefix(prefix): md5 for name, md5 in listed.items() if name.startswith(prefix)
    }
    if not files:
        raise UserError(
            f"{dvc_file} has no files below {folder}: put the images there and run "
            f"`dvc add {relative(project, output.path)}`"
        )
    return Subtree(digest(files), output.md5, files)


def verify_working_tree(project: Project, dvc_file: str, folder: str, subtree: Subtree) -> None:
    """UserError when the files below `folder` are not exactly those of `subtree`.

    Every file's MD5 is compared; one that was computed before is taken again while size, inode and
    time stamps stand still. What DVC leaves out of a folder does not count.
    """
    output, _ = _owner(project, dvc_file, folder)
    found = compare(project, project.root / folder, subtree.files)
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
    # Without --force DVC keeps files that are not in its cache, and so would go back on nothing.
    force = " --force" if found.changed or found.extra else ""
    pull_hint = "; files that DVC has not here yet: `adire pull`" if found.missing else ""
    raise UserError(
        f"{folder} differs from {dvc_file}: {', '.join(parts)}; to take the folder as it is run "
        f"`dvc add {relative(project, output.path)}`, to go back to the pinned version "
        f"`dvc checkout {dvc_file}{force}`{pull_hint}"
    )


def pull(
    *, root: str, targets: list[str], progress: Progress, home: str | None = None
) -> dict[str, list[str]]:
    """Bring what the .dvc files `targets` (relative to `root`) name into the working tree.

    A worker function. Remotes are tried in this order: the one an output names itself or the
    default one, then `embedded`. Needs no git checkout. Returns {"pulled": [...], "unchanged":
    [...]}; without anything to pull, dvc is not even imported. UserError with DVC's sentence when
    it fails or when files that only the user has would be lost.
    """
    base = Path(root).resolve()
    chosen = home or os.environ.get("ADIRE_HOME")
    project = Project(base, Path(chosen).resolve() if chosen else base / ".adire")
    with lock(project, "dvc"):
        outputs = {target: outputs_of(project, target) for target in targets}
        wanted = [name for name, outs in outputs.items() if not complete(project, outs)]
        if wanted:
            _pull(project, {name: outputs[name] for name in wanted}, progress)
    return {"pulled": wanted, "unchanged": [name for name in targets if name not in wanted]}


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
    names the version. Which folder of it is the model's is told by `data_hash`, its subtree's hash,
    among those that `path`, the model's folder in the project, may be. UserError when cache and
    remotes together do not have it all.
    """
    project = Project(Path(root), Path(home))
    _require_dvc(project)
    config = read_config(project)
    names = [s.removeprefix('remote "').rstrip('"') for s in config if s.startswith("remote ")]
    first = [name for name in (config.get("core", {}).get("remote"), EMBEDDED_REMOTE) if name]
    remotes = [name for name in dict.fromkeys([*first, *names]) if name in names]
    files: dict[str, str] = {}
    lacking, said = {dvc_hash}, []
    for remote in (None, *remotes):
        message = f"fetching data {dvc_hash[:12]} from {remote or 'the cache of DVC'}"
        try:
            with _heartbeat(progress, message), _dvc(project, message, remote) as repo:
                place = repo.cloud.get_remote_odb(remote) if remote else repo.cache.local
                if not files and place.exists(dvc_hash):
                    listed = json.loads(place.fs.cat_file(place.oid_to_path(dvc_hash)))
                    files = _subtree_of(listed, path, data_hash)
                lacking = _copy_out(place, files, Path(output)) if files else lacking
        except UserError as error:
            said.append(str(error))
        if not lacking:
            return {"files": len(files)}
    raise UserError(
        f"the data of version {dvc_hash} is neither in DVC's cache nor in a remote "
        f"({', '.join(remotes) or 'none is configured'}), {len(lacking)} objects are missing, such "
        f"as {min(lacking)}; whoever has them runs `dvc push --all-commits`"
        + "".join(f"; {reason}" for reason in said)
    )


def in_place(project: Project, targets: Iterable[str]) -> bool:
    """Whether the working tree already holds what the .dvc files name, so that no pull is due."""
    return all(complete(project, outputs_of(project, target)) for target in targets)


def write_metrics(
    project: Project, model: str, metrics: Mapping[str, Any], loss_csv: Path
) -> tuple[Path, Path]:
    """Put an evaluation's `metrics` (plain JSON) and a training's loss curve where DVC shows them.

    Writes metrics/<model>.json and metrics/<model>_loss.csv (columns step,loss), each whole or not
    at all; the loss curve is copied from `loss_csv`.
    """
    values = project.root / "metrics" / f"{model}.json"
    curve = project.root / "metrics" / f"{model}_loss.csv"
    write_json(values, dict(metrics))
    temporary = curve.with_name(f".{curve.name}.{os.getpid()}.tmp")
    shutil.copyfile(loss_csv, temporary)
    temporary.replace(curve)
    return values, curve


def _owner(project: Project, dvc_file: str, folder: str) -> tuple[Output, str]:
    """The output of `dvc_file` that holds `folder`, and the folder's path inside it."""
    full = project.inside(folder, "data folder")
    outputs = outputs_of(project, dvc_file)
    for output in outputs:
        if full.is_relative_to(output.path):
            if not output.md5.endswith(".dir"):
                raise UserError(
                    f"{dvc_file} pins the single file {relative(project, output.path)}, not a "
                    f"folder that holds {folder}; run `dvc add` on the folder"
                )
            return output, full.relative_to(output.path).as_posix()
    held = ", ".join(relative(project, output.path) for output in outputs)
    raise UserError(f"{dvc_file} pins {held}, which does not hold {folder}")


def _require_dvc(project: Project) -> None:
    if not (project.root / ".dvc").is_dir():
        raise UserError(
            f"{project.root} has no .dvc folder, so DVC cannot tell where the data is; clone the "
            "whole repository, or run `dvc init` and `dvc remote add`"
        )


def _subtree_of(listed: list[dict[str, str]], path: str, data_hash: str) -> dict[str, str]:
    """{path in the model's folder: MD5}: the part of a `.dir` listing whose hash is `data_hash`."""
    parts = PurePosixPath(path).parts
    for start in range(len(parts) + 1):
        prefix = "".join(f"{part}/" for part in parts[start:])
        files = {
            entry["relpath"].removeprefix(prefix): entry["md5"]
            for entry in listed
            if entry["relpath"].startswith(prefix)
        }
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
        if md5_of(folder / name) != md5:
            (folder / name).unlink()  # damaged there; another place may have it sound
    return set(lacking().values())


def _pull(project: Project, wanted: Mapping[str, list[Output]], progress: Progress) -> None:
    _require_dvc(project)
    config = read_config(project)
    default = config.get("core", {}).get("remote")
    embedded = EMBEDDED_REMOTE if f'remote "{EMBEDDED_REMOTE}"' in config else None
    for target, outputs in wanted.items():
        pinned = [output.remote for output in outputs]
        remotes = [name for name in dict.fromkeys([*pinned, default, embedded]) if name]
        _fetch(project, target, outputs, remotes, progress)
        # dvc removes a whole output when one of its files is not in the cache; by now all are.
        message = f"writing {target}"
        with _heartbeat(progress, message), _dvc(project, message, embedded) as repo:
            repo.checkout([str(project.root / target)])
        progress(f"{target}: in place")


def _fetch(
    project: Project,
    target: str,
    outputs: list[Output],
    remotes: Sequence[str],
    progress: Progress,
) -> None:
    """Fill DVC's cache with what the working tree lacks of `outputs`."""
    said = []
    for remote in remotes:
        if not _unfetched(project, outputs):
            return
        try:
            message = f"pulling {target} from {remote}"
            with _heartbeat(progress, message), _dvc(project, message, remote) as repo:
                repo.fetch([str(project.root / target)], remote=remote)
        except UserError as error:
            said.append(str(error))
    lacking = _unfetched(project, outputs)
    if not lacking:
        return
    if not remotes:
        raise UserError(
            f"{target}: no DVC remote is configured, and {len(lacking)} files are not in DVC's "
            "cache; name the place that has them: `dvc remote add --default <name> <url>`"
        )
    raise UserError(
        f"{target}: {len(lacking)} files are in none of the DVC remotes ({', '.join(remotes)}), "
        f"such as {lacking[0]}; whoever made {target} has to run `dvc push`"
        + "".join(f"; {reason}" for reason in said)
    )


def _unfetched(project: Project, outputs: Iterable[Output]) -> list[str]:
    """The files that the working tree lacks and DVC's cache does not have."""
    cache, lacking = local_stores(project)[0], []
    for output in outputs:
        try:
            is_folder = output.md5.endswith(".dir")
            listed = listing(project, output) if is_folder else {output.path.name: output.md5}
            found = differences(project, output)
        except UserError:  # nothing local knows the list
            lacking.append(f"the list {output.md5}")
            continue
        wanted = {name: listed[name] for name in (*found.missing, *found.changed)}
        names = [n for n, md5 in wanted.items() if not object_file(cache, md5).is_file()]
        if is_folder and not names and not object_file(cache, output.md5).is_file():
            names = [f"the list {output.md5}"]  # dvc takes it last, when all files have come
        lacking += names
    return lacking


@contextmanager
def _dvc(project: Project, action: str, remote: str | None) -> Iterator[Any]:
    """DVC's view of the project with `remote` as its default; what it raises becomes a UserError.

    DVC wants git only to keep .gitignore files, so it is told that there is none and a plain copy
    of the project works as well. While somebody runs dvc by hand it waits instead of failing.
    """
    from dvc.repo import Repo

    settings = {"core": {"no_scm": True, **({"remote": remote} if remote else {})}}
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with Repo(str(project.root), config=settings, _wait_for_lock=True) as repo:
            yield repo
    except Exception as error:  # remotes are plug-ins, which raise what their own library raises
        plain = re.sub(r"\x1b\[\d+m|<https?://[^>]*>", "", str(error) or type(error).__name__)
        plain = plain.replace("Use `--force` to force.", FORCE_ADVICE)
        sentences = [" ".join(text.split()) for text in (plain, *logged[-1:])]
        raise UserError(f"DVC failed while {action}: {' - '.join(sentences)}") from error
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def _heartbeat(progress: Progress, message: str) -> Iterator[None]:
    """Say `message` now and again every few seconds, as DVC itself is silent in here."""
    done = threading.Event()

    def beat() -> None:
        started = time.monotonic()
        while not done.wait(HEARTBEAT_SECONDS):
            progress(f"{message}: {time.monotonic() - started:.0f} s")

    progress(message)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
