"""Which of the files that decide about going live differ from the commit.

The sensors bring a model live from committed files only, so that somebody could review them, unless
the committed configs/models/<model>.yaml says `require_clean_commit: false`. (In the working tree
alone that key would switch itself off.) Files are compared by content with the tree of HEAD: what
is ignored, or hidden by `git update-index --assume-unchanged`, counts like any other.

Without git there is no commit to compare with: such a copy is named by its build stamp (see
`lineage.code_identity`), and goes live as it is.

Weights that a .dvc file tracks must be those that it names. (The dataset step checks the data so.)
"""

import os
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from adire_assets.config import takedowns
from adire_assets.config.fleet import fleet_file
from adire_assets.config.model import ModelConfig, load_model
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.tracking.dvc import files
from adire_assets.tracking.dvc.working_tree import differences
from adire_assets.tracking.git import git

OPTION = "require_clean_commit"
# Folders, relative to the project: every file of these endings below them decides.
# Envoy's .lua says what counts as a failed answer; .js and .j2 are the blind sheet, which rates.
CODE = {
    lineage.PACKAGE: (".py", ".lua", ".js", ".j2"),
    "triton_models": (".py", ".pbtxt"),
    "base_models": (".dvc",),
    takedowns.FILE: (".yaml",),
}
TOP = "dagster_defs.py"
SHOWN = 5


def uncommitted(project: Project, model: str) -> list[str]:
    """Each file that decides about `model` and is not what HEAD holds, such as
    "configs/models/indigo.yaml (changed)"; empty where there is no git.

    UserError when git is there and does not answer.
    """
    if (top := _top(project.root)) is None:
        return []
    try:
        config = load_model(project, model)
    except UserError:  # its file is among those that decide, and nothing is read from it
        config = None
    deciding = {os.path.relpath(path, top) for path in _deciding(project, model, config)}
    found = {name: "outside the repository" for name in deciding if name.startswith("..")}
    inside = sorted(deciding - found.keys())
    folders = [os.path.relpath(project.root / name, top) for name in CODE]
    tree = _tree(top, [*inside, *folders])
    committed = {one: tree[one] for one in tree if one in inside or _is_code(project, top / one)}
    present = [name for name in inside if (top / name).is_file()]
    now = dict(zip(present, _hashes(top, present), strict=True))
    for name in {*inside, *committed}:
        if name not in committed:
            found[name] = "not in the commit"
        elif now.get(name) != committed[name]:
            found[name] = "changed" if name in now else "deleted"
    found |= _other_weights(project, config) if config else {}
    return [f"{name} ({how})" for name, how in sorted(found.items())]


def is_required(project: Project, model: str) -> bool:
    """Whether the sensors of `model` may go live from a clean commit only; what HEAD says."""
    if (top := _top(project.root)) is None:
        return False
    name = os.path.relpath(project.model_file(model), top)
    done = _git(top, "show", f"HEAD:{Path(name).as_posix()}", check=False)
    try:
        tree = YAML(typ="safe").load(done) if done else None
    except YAMLError:
        return True
    return not (isinstance(tree, dict) and tree.get(OPTION) is False)


def refusal(project: Project, model: str) -> str | None:
    """Why the sensors must not bring `model` live now, in a sentence; None when they may."""
    if not is_required(project, model) or not (found := uncommitted(project, model)):
        return None
    return (
        f"not committed: {file_list(found)}; commit them, or commit `{OPTION}: false` in "
        f"{os.path.relpath(project.model_file(model), project.root)}; `adire materialize {model}` "
        "goes on without"
    )


def file_list(files: list[str]) -> str:
    """The first of them, and how many others."""
    more = len(files) - SHOWN
    return ", ".join(files[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _deciding(project: Project, model: str, config: ModelConfig | None) -> Iterator[Path]:
    """The files that decide about `model`, as they are in the working tree."""
    yield from (project.model_file(model), fleet_file(project), project.root / TOP)
    if config:
        named = (*config.evaluation.files(), *config.serving.files())
        yield from (project.root / name for name in named)
        yield project.root / config.data.dvc_file
    if (gone := project.root / takedowns.FILE).is_file():
        yield gone
    for name in CODE:
        below = (project.root / name).rglob("*")
        yield from (path for path in below if _is_code(project, path) and path.is_file())


def _is_code(project: Project, path: Path) -> bool:
    places = (project.root / name for name, endings in CODE.items() if path.suffix in endings)
    return any(path.is_relative_to(place) for place in places)


def _other_weights(project: Project, config: ModelConfig) -> dict[str, str]:
    """Weights in the project that are not those of their .dvc file: the commit pins others."""
    found = {}
    for source in config.weights().values():
        path = (project.root / source.source).resolve()
        pinned = source.is_hub or source.sha256
        if pinned or not path.exists() or not path.is_relative_to(project.root):
            continue
        places = [place for place in (path, *path.parents) if project.root in place.parents]
        tracking = (place.with_name(f"{place.name}.dvc") for place in places)
        if file := next((file for file in tracking if file.is_file()), None):
            name = files.relative(project, file)
            outputs = files.outputs_of(project, name)
            if any(path.is_relative_to(one.path) and differences(project, one) for one in outputs):
                found[source.source] = f"not what {name} says"
    return found


def _top(root: Path) -> Path | None:
    """The checkout that holds the project; None where there is none, or it ignores the project."""
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return None
    top = Path(_git(root, "rev-parse", "--show-toplevel").strip())
    configs = root / "configs"
    if top != root and not _git(root, "ls-files", "--", str(configs), check=False):
        return None
    return top


def _tree(top: Path, paths: list[str]) -> dict[str, str]:
    """{path: blob} of HEAD below `paths`; empty before the first commit."""
    listing = _git(top, "ls-tree", "-rz", "--full-tree", "HEAD", "--", *paths, check=False)
    entries = (line.partition("\t") for line in listing.split("\0") if line)
    return {name: facts.split()[2] for facts, _, name in entries}


def _hashes(top: Path, names: list[str]) -> list[str]:
    """The blob that `git add` would make of each file."""
    if not names:
        return []
    return _git(top, "hash-object", "--stdin-paths", given="\n".join(names) + "\n").split()


def _git(folder: Path, *arguments: str, given: str | None = None, check: bool = True) -> str:
    try:
        return git(folder, *arguments, given=given, check=check)
    except UserError as error:
        raise UserError(f"git cannot tell what is committed in {folder}: {error}") from None
