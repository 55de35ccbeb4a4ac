"""configs/takedowns.yaml: images and records that no model may be trained on, and why.

An entry names content by its hash (`core.shown.Item.identity`), so it stays excluded under any
name. `adire takedown` adds entries; people may add and delete them too.
"""

from collections.abc import Iterable
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from adire_assets.config.yaml_file import Strict, load
from adire_assets.core.errors import UserError
from adire_assets.core.files import write_bytes
from adire_assets.core.project import Project

FILE = "configs/takedowns.yaml"
OPENING = "Images and records that no model may be trained on, see docs/reproduce.md."


def _as_text(value: Any) -> Any:
    """YAML parses an unquoted date as a date."""
    return value.isoformat() if isinstance(value, date) else value


class Takedown(Strict):
    """One image or record."""

    sha256: Annotated[
        str, Field(pattern=r"^[0-9a-f]{64}$")
    ]  # of its content, see `core.shown.Item`
    file: Annotated[str, Field(min_length=1)]  # where it stood: FILE or FILE:LINE
    reason: Annotated[str, Field(min_length=1)]
    by: Annotated[str, Field(min_length=1)]
    at: Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]  # ISO 8601


class Takedowns(Strict):
    """The whole file."""

    takedowns: list[Takedown] | None = None


def taken_down(project: Project) -> dict[str, Takedown]:
    """{hash: its first entry}, sorted; empty without the file. UserError for mistakes."""
    path = project.root / FILE
    found = (load(path, Takedowns).takedowns if _has_keys(_text(path)) else None) or []
    return dict(sorted({one.sha256: one for one in reversed(found)}.items()))


def add(project: Project, entries: Iterable[Takedown]) -> list[Takedown]:
    """Add entries to the file and keep its comments; returns those that were new."""
    path, yaml = project.root / FILE, YAML()
    with project.locks.acquire("takedowns"):
        known = taken_down(project)
        new = [one for one in entries if one.sha256 not in known]
        if not new:
            return []
        text = _text(path)
        tree = yaml.load(text) if _has_keys(text) else CommentedMap()
        before = "" if _has_keys(text) else text or f"# {OPENING}\n"
        added = [one.model_dump() for one in new]
        tree["takedowns"] = tree.get("takedowns") or []
        tree["takedowns"].extend(added)
        written = BytesIO()
        yaml.dump(tree, written)
        separated = f"{before.rstrip()}\n" if before.strip() else ""
        write_bytes(path, separated.encode() + written.getvalue())
    return new


def _text(path: Path) -> str:
    """The content of the file, "" without it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _has_keys(text: str) -> bool:
    """Whether there is more than comments; after the last entry was deleted there may not be."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())
