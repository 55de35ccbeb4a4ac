"""Another version of a folder that DVC tracks, made without touching the folder.

Files come into DVC's cache, and with them the list that a .dvc file names. Until a .dvc file does,
nothing refers to them, so that whoever dies here leaves nothing but unused objects.
"""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import same_form
from adire_assets.core.project import Project
from adire_assets.core.worker import Progress
from adire_assets.tracking.dvc import files as dvc_files
from adire_assets.tracking.dvc import session, versions


def pin(
    *,
    root: str,
    home: str,
    dvc_file: str,
    folder: str,
    added: Mapping[str, str],
    removed: list[str],
    leaving: list[str],
    progress: Progress,
) -> dict[str, Any]:
    """The text of `dvc_file` for its folder with other files below `folder`.

    A worker function. `added`: {path below `folder`: a file with its content}; `removed`: such
    paths that are there. Of `leaving`, paths below `folder`, the content comes into the cache too,
    so that it can be taken back. Returns {text, md5s: {path: MD5} of `added`}. UserError with
    DVC's sentence.
    """
    project = Project(Path(root), Path(home))
    session.require_dvc(project)
    output, prefix = versions.place_of(project, dvc_file, folder)
    listed = dvc_files.listing(project, output)
    spelled = {same_form(name): name for name in listed}
    kept = {listed[one]: one for n in leaving if (one := spelled.get(same_form(f"{prefix}{n}")))}
    md5s = {name: dvc_files.md5_of(Path(path)) for name, path in added.items()}
    for name in removed:
        listed.pop(spelled.get(same_form(f"{prefix}{name}"), ""), None)
    for name, md5 in md5s.items():
        whole = same_form(f"{prefix}{name}")
        listed[spelled.get(whole, whole)] = md5
    with session.opened(
        project, f"adding {len(added)} files to {dvc_file}", progress, None
    ) as repo:
        from dvc_data.hashfile.tree import Tree
        from dvc_objects.fs.local import LocalFileSystem

        cache = repo.cache.local
        for name, md5 in md5s.items():
            _forget_damaged(Path(cache.oid_to_path(md5)), md5)
            cache.add(added[name], LocalFileSystem(), md5)
        for md5, name in kept.items():
            _forget_damaged(Path(cache.oid_to_path(md5)), md5)
            cache.add(str(output.path / name), LocalFileSystem(), md5)
        entries = [{"md5": md5, "relpath": name} for name, md5 in listed.items()]
        tree = Tree.from_list(entries, hash_name="md5")
        tree.digest()
        cache.add(tree.path, tree.fs, tree.oid)
    sizes = [_size(project, output, name, md5) for name, md5 in listed.items()]
    text = _renamed(project, dvc_file, output, tree.oid, sum(sizes), len(listed))
    return {"text": text, "md5s": md5s}


def _forget_damaged(held: Path, md5: str) -> None:
    """DVC takes an object that is there for sound."""
    if held.is_file() and not dvc_files.is_sound(held, md5):
        held.unlink()


def _size(project: Project, output: dvc_files.Output, name: str, md5: str) -> int:
    """The bytes of a file, by the cache, or the working tree where the cache lacks it."""
    held = dvc_files.object_file(dvc_files.local_stores(project)[0], md5)
    try:
        return (held if held.is_file() else output.path / name).stat().st_size
    except FileNotFoundError:
        place = dvc_files.relative(project, output.path / name)
        raise UserError(f"{place} is neither there nor in DVC's cache; run `adire pull`") from None


def _renamed(
    project: Project, dvc_file: str, output: dvc_files.Output, md5: str, size: int, count: int
) -> str:
    yaml = YAML()
    path = project.root / dvc_file
    tree = yaml.load(path.read_text(encoding="utf-8"))
    place = next(
        number
        for number, one in enumerate(dvc_files.outputs_of(project, dvc_file))
        if one.path == output.path
    )
    tree["outs"][place] |= {"md5": md5, "size": size, "nfiles": count}
    written = StringIO()
    yaml.dump(tree, written)
    return written.getvalue()
