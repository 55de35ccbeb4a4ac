"""configs/takedowns.yaml: images and records that no model may be trained on, and why.

An entry names its content (`core.shown.Item.identity`), so the content stays excluded under any
name. `adire takedown` adds entries; people may add and delete them too.
"""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Annotated

from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from adire_assets.config.yaml_file import Strict, load
from adire_assets.core.files import write_bytes
from adire_assets.core.project import Project

FILE = "configs/takedowns.yaml"
OPENING = "Images and records that no model may be trained on; `adire takedown` adds to it."


class Takedown(Strict):
    """One image or record."""

    content: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # SHA-256, see `core.shown.Item`
    was: Annotated[str, Field(min_length=1)]  # where it stood: FILE or FILE:LINE
    reason: Annotated[str, Field(min_length=1)]
    by: Annotated[str, Field(min_length=1)]
    at: Annotated[str, Field(min_length=1)]  # ISO 8601


class Takedowns(Strict):
    """The whole file."""

    takedowns: list[Takedown] = []


def taken_down(project: Project) -> dict[str, str]:
    """{content: why it was taken down}, sorted; empty without the file. UserError for mistakes."""
    path = project.root / FILE
    found = load(path, Takedowns).takedowns if _says_something(path) else []
    return dict(sorted((one.content, one.reason) for one in found))


def _says_something(path: Path) -> bool:
    """Whether there is more than comments: after the last entry is deleted there is not."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)


def add(project: Project, entries: Iterable[Takedown]) -> Path:
    """Add entries to the file, which keeps its comments; returns it."""
    path, yaml, tree = project.root / FILE, YAML(), CommentedMap()
    with project.locks.acquire("takedowns"):
        known = taken_down(project)
        new = [one.model_dump() for one in entries if one.content not in known]
        tree.yaml_set_start_comment(OPENING)
        if _says_something(path):
            tree = yaml.load(path.read_text(encoding="utf-8"))
        if tree.get("takedowns"):
            tree["takedowns"].extend(new)
        else:
            tree["takedowns"] = new
        written = BytesIO()
        yaml.dump(tree, written)
        write_bytes(path, written.getvalue())
    return path
