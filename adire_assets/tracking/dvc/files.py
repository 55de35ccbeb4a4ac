"""DVC's own files, read without importing dvc: .dvc files, `.dir` listings, configuration.

Good enough for look-ups in DVC 3's format; anything else is a `UserError` that names the command
which mends it. Nothing here writes.
"""

import hashlib
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import platformdirs
import yaml
from configobj import ConfigObj, ConfigObjError

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project

MALFORMED = (yaml.YAMLError, AttributeError, KeyError, TypeError)
UNFOLLOWED = (ValueError, OSError, RuntimeError)  # no path that can be followed
CONFLICT = re.compile(r"^(<{7}|={7}|>{7}|\|{7})", re.MULTILINE)  # git's conflict markers


@dataclass(frozen=True)
class Output:
    """One output of a .dvc file: where it belongs, and the MD5 that it should have."""

    dvc_file: str
    path: Path
    md5: str
    remote: str | None

    @property
    def is_folder(self) -> bool:
        """Whether `md5` is that of a list of files."""
        return self.md5.endswith(".dir")


def relative(project: Project, path: Path) -> str:
    """`path` relative to the project's root."""
    return path.relative_to(project.root).as_posix()


def typed(project: Project, path: Path | str) -> str:
    """`path` (absolute, or relative to the project's root) as a user types it there in a shell."""
    full = project.root / path
    return shlex.quote(relative(project, full) if full.is_relative_to(project.root) else str(full))


def outputs_of(project: Project, dvc_file: str) -> list[Output]:
    """What `dvc_file` (relative to the project's root) tracks. UserError when it is malformed."""
    path = project.inside(dvc_file, "DVC file")
    folder_name = dvc_file.removesuffix(".dvc")
    add = f"`dvc add {typed(project, folder_name)}`"
    if not (project.root / folder_name).exists():
        add = f"put the files into {folder_name}, then {add}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{dvc_file} does not exist in {project.root}; {add} makes it") from None
    except UnicodeDecodeError:
        text = "\0"  # which YAML refuses
    except OSError as error:
        raise UserError(
            f"{dvc_file} cannot be read ({error.strerror}); move it away, {add} makes it anew"
        ) from None
    file = typed(project, dvc_file)
    add = f"delete it (`rm {file}`), {add} makes it anew"  # dvc reads it first, and fails
    if not text.strip():
        raise UserError(f"{dvc_file} is empty; {add}")
    if marker := CONFLICT.search(text):
        line = text.count("\n", 0, marker.start()) + 1
        raise UserError(
            f"{dvc_file}:{line} has the marks of a merge that git could not finish; take one side "
            f"whole with `git checkout --ours {file}` (or `--theirs`) and run `adire pull`; or to "
            f"pin the folder as it is, {add}"
        )
    try:
        tree = yaml.safe_load(text)
        folder, entries = path.parent / tree.get("wdir", "."), tree["outs"]
        outputs = [
            Output(dvc_file, (folder / entry["path"]).resolve(), entry["md5"], entry.get("remote"))
            for entry in entries
        ]
        hashes = [entry["hash"] for entry in entries]
    except (*MALFORMED, *UNFOLLOWED) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{dvc_file} is not what DVC 3 writes ({type(error).__name__}: {reason}); {add}"
        ) from None
    for output, kind in zip(outputs, hashes, strict=True):
        if not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(output.md5)) or kind != "md5":
            raise UserError(f"{dvc_file} has no MD5 that DVC 3 writes but {output.md5!r}; {add}")
        project.inside(str(output.path), f"{dvc_file}: path")
    if not outputs:
        raise UserError(f"{dvc_file} names no outputs; {add}")
    return outputs


def listing(project: Project, output: Output) -> dict[str, str]:
    """{path inside the output: MD5} of a tracked folder, from DVC's cache or a local remote."""
    for store in local_stores(project):
        file = object_file(store, output.md5)
        try:
            content = file.read_bytes()
        except OSError:
            continue
        if md5_of_bytes(content) != output.md5.split(".")[0]:
            continue  # damaged here; another place may have it sound
        listed = {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
        for name in listed:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise UserError(f"{output.dvc_file} lists {name}, which leaves its folder")
        return dict(sorted(listed.items()))
    raise UserError(
        f"the list of files that {output.dvc_file} names ({output.md5}) is not on this machine: "
        "run `adire pull`"
    )


def object_file(store: Path, md5: str) -> Path:
    return store / "files" / "md5" / md5[:2] / md5[2:]


def md5_of(path: Path) -> str:
    """The MD5 of a file, as DVC takes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_of_bytes(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def is_sound(file: Path, md5: str) -> bool:
    """Whether an object of DVC's has the content that its name `md5` (perhaps with .dir) says."""
    return md5_of(file) == md5.split(".")[0]


def remote_folder(project: Project, name: str) -> Path | None:
    """Where a remote lies that is a folder of this machine; None when it is none."""
    url = remote_urls(project).get(name, "://")
    return None if "://" in url else Path(url)


def remote_urls(project: Project) -> dict[str, str]:
    """{remote: its address}, as the configuration names them."""
    return {
        section.removeprefix('remote "').rstrip('"'): values.get("url", "://")
        for section, values in read_config(project).items()
        if section.startswith("remote ")
    }


def local_stores(project: Project) -> list[Path]:
    """DVC's cache, then the remotes that are folders of this machine."""
    cache = read_config(project).get("cache", {}).get("dir") or project.root / ".dvc" / "cache"
    remotes = [Path(url) for url in remote_urls(project).values() if "://" not in url]
    return [Path(cache), *remotes]


def read_config(project: Project) -> dict[str, dict[str, str]]:
    """DVC's merged configuration: system, user, project, local; folder paths made absolute."""
    given, app, own = os.environ.get, ("dvc", "iterative"), project.root / ".dvc"
    files = (
        Path(given("DVC_SYSTEM_CONFIG_DIR") or platformdirs.site_config_dir(*app)) / "config",
        Path(given("DVC_GLOBAL_CONFIG_DIR") or platformdirs.user_config_dir(*app)) / "config",
        *(own / "config", own / "config.local"),
    )
    merged: dict[str, dict[str, str]] = {}
    for file in filter(Path.is_file, files):
        try:
            tree = ConfigObj(str(file), interpolation=False, encoding="utf-8").dict()
        except (ConfigObjError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is not a DVC configuration: {error}; mend it") from None
        for section, values in tree.items():
            name = section.strip().strip("'")
            for key in ("url", "dir"):
                if key in values and "://" not in values[key]:
                    values[key] = str((file.parent / Path(values[key]).expanduser()).resolve())
            merged.setdefault(name, {}).update(values)
    return merged
