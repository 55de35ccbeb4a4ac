"""A new model's YAML from a form: the keys of the schema, the text, the file, the commit.

    keys_of(family)                      what the form may ask for
    text = yaml_text({"family": "...", "data.path": "...", ...})
    check(project, name, text)           the same check as of the file
    write(project, name, text)           configs/models/<name>.yaml, never over a file
    commit(project, name, reason, by)

Contract: the YAML says what was chosen and no defaults. Texts are quoted where any reader of YAML
could take them for something else; other values are taken as YAML reads them, so that a wrong one
is told by the check, at its line.
"""

import difflib
import errno
import inspect
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.compat import StringIO
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from adire_assets.config.model import model_of_text, require_name
from adire_assets.config.yaml_file import Strict
from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError
from adire_assets.core.family import family, told
from adire_assets.core.files import sync
from adire_assets.core.project import Project
from adire_assets.tracking.git import git

# What all readers of YAML take for a text.
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*")
SPECIAL = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "inf", "nan"}
BOUNDS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "a multiple of",
}
# What a value may share with another place, or stand for: nothing that a form needs.
NODES = re.compile(r"(^|[\s\[{,:])[&*!]")
VALUE_CHARACTERS, BRACKETS = 10_000, 50  # of a value, at most
SHOWN_CHARACTERS = 60  # of a default
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # how file systems say so
DEEP = "this is nested too deeply"


@dataclass(frozen=True)
class Key:
    """A key of the schema. `name` is its path, such as training.rank; `section` what stands before
    the last point, and `about` what that is; `help` says what the key takes; `choices` are all its
    values, where they are few."""

    name: str
    section: str
    about: str
    required: bool
    default: str
    help: str
    choices: tuple[str, ...] = ()
    is_text: bool = False


def keys_of(family_name: str) -> list[Key]:
    """The keys of a family's YAML, without `family`. UserError for a family that there is not."""
    return [key for key in _keys(_schema(family_name), "", True) if key.name != "family"]


def yaml_text(chosen: Mapping[str, str]) -> str:
    """The YAML of these values by key; empty ones are left out. UserError for a value that no YAML
    can hold, and for a key that there is not."""
    family_name = chosen.get("family", "")
    known = {key.name: key for key in keys_of(family_name)}
    tree = CommentedMap(family=_text(family_name))
    for name, value in chosen.items():
        if name == "family" or not value.strip():
            continue
        if name not in known:
            raise UserError(f"{name}: there is no such key in a model of family {family_name}")
        *sections, last = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, CommentedMap())
        place[last] = _text(value) if known[name].is_text else _value(name, value)
    written = StringIO()
    yaml = YAML()
    yaml.width = 10_000
    try:
        yaml.dump(tree, written)
    except RecursionError:
        raise UserError(f"{DEEP} for a YAML file; write fewer levels") from None
    return written.getvalue()


def check(project: Project, name: str, text: str) -> None:
    """UserError unless the text could be the YAML of a new model of this name."""
    _require_new(project, name)
    model_of_text(project, name, text)


def difference(project: Project, name: str, text: str) -> list[str]:
    """What writing would change, as `diff -u` shows it."""
    require_name(name)
    path = project.model_file(name).relative_to(project.root).as_posix()
    return [*difflib.unified_diff([], text.splitlines(), "/dev/null", f"b/{path}", lineterm="")]


def write(project: Project, name: str, text: str) -> Path:
    """Write a checked YAML; its path. UserError as for `check`, and when it cannot be written.
    Nothing is written over a file that came meanwhile."""
    check(project, name, text)
    path = project.model_file(name)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with writing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)
            _link(path, temporary)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def commit(project: Project, name: str, reason: str, by: str) -> str:
    """Commit a new model's YAML alone, with `by` as its author; what was done, in a sentence.

    UserError, with the command to run, where git does not take it: no checkout, nothing new, or
    what git says.
    """
    require_name(name)
    path = project.model_file(name).relative_to(project.root).as_posix()
    advice = f"in {project.root} run: git add {path} && git commit -m '...' -- {path}"
    state = _git(project, advice, "status", "--porcelain", "--untracked-files=all", "--", path)
    if state[:2] not in ("??", "A "):
        raise UserError(
            f"{path} is not a new file in git ({state.strip() or 'nothing to commit'}); {advice}"
        )
    author = re.sub(r"[<>\s]+", " ", by).strip() or "studio"
    _git(project, advice, "add", "--", path)
    try:
        said = ("commit", "--quiet", "--only", f"--author={author} <>", "-m", reason, "--", path)
        _git(project, advice, *said)
    except UserError:
        if state.startswith("??"):
            with suppress(UserError):  # why it was refused matters more
                _git(project, advice, "rm", "--cached", "--quiet", "--", path)
        raise
    made = _git(project, advice, "rev-parse", "--short", "HEAD").strip()
    return f"{path} is committed as {made}"


# --- the schema ----------------------------------------------------------------------------------


def _schema(family_name: str) -> type[Strict]:
    if not family_name:
        raise UserError(f"family: this key is missing; {told()}")
    return family(family_name).schema()


def _keys(schema: type[Strict], before: str, required: bool) -> Iterator[Key]:
    for name, field in schema.model_fields.items():
        path = f"{before}{name}"
        kinds = [*_kinds(field.annotation)]
        needed = required and field.is_required()
        sections = [one for one in kinds if isinstance(one, type) and issubclass(one, Strict)]
        if sections:
            yield from _keys(sections[0], f"{path}.", needed)
            continue
        values = [one for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
        choices = tuple(map(str, values))
        if bool in kinds:
            choices = ("true", "false")
        yield Key(
            name=path,
            section=before.rstrip("."),
            about=inspect.cleandoc(schema.__doc__ or "").partition("\n\n")[0],
            required=needed,
            default=_default(field),
            help=_help(field, kinds),
            choices=choices,
            is_text=str in kinds or any(isinstance(one, str) for one in values),
        )


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types of a union, without None and what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for kind in get_args(annotation):
            yield from _kinds(kind)
    elif annotation is not NoneType:
        yield annotation


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value == "" or value in ([], {}):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _help(field: FieldInfo, kinds: list[Any]) -> str:
    """Its range and kind, in words."""
    found = [field.description or ""]
    found += [_kind_word(kind) for kind in kinds if get_origin(kind) is not Literal]
    for constraint in (*field.metadata, *_inner_metadata(field.annotation)):
        for name, words in BOUNDS.items():
            bound = getattr(constraint, name, None)
            if bound is not None:
                found.append(f"{words} {bound:,}" if isinstance(bound, int) else f"{words} {bound}")
    return ", ".join(dict.fromkeys(one for one in found if one))


def _inner_metadata(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        for one in get_args(annotation)[1:]:
            yield from getattr(one, "metadata", (one,))
    elif get_origin(annotation) in (Union, UnionType):
        for kind in get_args(annotation):
            yield from _inner_metadata(kind)


def _kind_word(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "", bool: ""}
    named = {list: "a list, such as [a, b]", dict: "pairs, such as {a: 1}"}
    return words.get(kind) or named.get(get_origin(kind), "")


# --- the text ------------------------------------------------------------------------------------


def _text(value: str) -> str:
    """A text that every reader of YAML takes for one."""
    value = value.strip()
    plain = PLAIN.fullmatch(value) and value.lower() not in SPECIAL
    return value if plain else DoubleQuotedScalarString(value)


def _value(name: str, text: str) -> Any:
    """A value as YAML reads it; a whole number without the zeros before it, which some readers take
    for another base."""
    brackets = text.count("[") + text.count("{")
    if len(text) > VALUE_CHARACTERS or brackets > BRACKETS or NODES.search(text):
        raise UserError(
            f"{name}: write at most {VALUE_CHARACTERS:,} characters and {BRACKETS} brackets, "
            "without anchors, aliases or tags"
        )
    try:
        found = YAML().load(text)
    except RecursionError:
        raise UserError(f"{name}: {DEEP}; write fewer levels") from None
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(getattr(error, "problem", error)).split())
        raise UserError(f"{name}: this is not valid YAML: {reason}") from None
    return int(found) if isinstance(found, int) and not isinstance(found, bool) else found


# --- file and commit -----------------------------------------------------------------------------


def _require_new(project: Project, name: str) -> None:
    require_name(name)
    path = project.model_file(name)
    if path.exists() or path.is_symlink():
        raise UserError(_exists(path))


def _exists(path: Path) -> str:
    return f"{path} exists already; choose another name, or edit that file"


def _link(path: Path, temporary: Path) -> None:
    """Give a whole file its name, which fails where a file is there, as no renaming does."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise UserError(_exists(path)) from None
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        raise UserError(
            f"{path} cannot be written: its file system has no hard links; save the text that is "
            "shown in that file"
        ) from None


def _git(project: Project, advice: str, *arguments: str) -> str:
    """What git prints. UserError with `advice` where it refuses."""
    try:
        return git(
            project.root, *arguments, environment={"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        )
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
