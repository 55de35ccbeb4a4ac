"""A YAML file of configs/ as a pydantic model, or one clear line for each mistake in it.

A line says file, line, key, what is wrong and what is allowed. Unknown and duplicate keys are
refused. Text is taken in Unicode's composed form, whatever editor wrote it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import same_form

T = TypeVar("T", bound=BaseModel)
EMPTY = object()
KEPT = 64  # texts of files
NULL = re.compile(r"[^:]*:\s+(null|Null|NULL|~)(?=[\s,}]|$)")


class MisplacedKey(ValueError):
    """What a validator raises about a value deeper in its section, found at `location` there."""

    def __init__(self, sentence: str, location: tuple[str | int, ...]) -> None:
        super().__init__(sentence)
        self.location = location


def distinct(values: list[Any]) -> list[Any]:
    """ValueError for a list that has an entry twice; for `AfterValidator`."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"has the same entry twice: {value}")
    return values


@dataclass(frozen=True)
class EffectiveOnlyWith:
    """What a key needs to have an effect: `holds(section)`, which is about the key `other`;
    `advice` is how to bring it about."""

    other: str
    advice: str
    holds: Callable[[Any], bool]


class Strict(BaseModel):
    """A section of a file: frozen, no unknown keys, no conversions, no keys without an effect.

    `ONLY_WITH` names for a key what it needs, any one of these. A value that is given, is not the
    default and can have no effect is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    ONLY_WITH: ClassVar[Mapping[str, tuple[EffectiveOnlyWith, ...]]] = {}

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> Self:
        given = {name: getattr(self, name) for name in type(self).model_fields}
        for key, needs in idle(type(self), given).items():
            lacking = " and ".join(_as_it_is(need.other, given[need.other]) for need in needs)
            advice = " or ".join(need.advice for need in needs)
            raise MisplacedKey(
                f"{key} has no effect while {lacking}: set {advice}, or take {key} out", (key,)
            )
        return self


def idle(
    schema: type[Strict], given: Mapping[str, Any]
) -> dict[str, tuple[EffectiveOnlyWith, ...]]:
    """The keys of `given` that have no effect beside the others, and what each would need."""
    defaults = {name: field.default for name, field in schema.model_fields.items()}
    section = SimpleNamespace(**{**defaults, **given})
    return {
        key: needs
        for key, needs in schema.ONLY_WITH.items()
        if given.get(key, defaults[key]) != defaults[key]
        and not any(need.holds(section) for need in needs)
    }


def without_idle(schema: type[Strict], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` without the keys that have no effect beside the others."""
    return {key: value for key, value in given.items() if key not in idle(schema, given)}


def _as_it_is(key: str, value: Any) -> str:
    if value is None:
        return f"{key} is not given"
    return f"{key} is {str(value).lower() if isinstance(value, bool) else value}"


@dataclass(frozen=True)
class ChosenBy(Generic[T]):
    """A schema that depends on the value of a key at the top of the file: `schema_of(value)`.

    `schema_of` raises UserError for a value that it does not know; `hint` says what there is.
    """

    key: str
    schema_of: Callable[[str], type[T]]
    hint: Callable[[], str]


def load(path: Path, schema: type[T] | ChosenBy[T]) -> T:
    """The file as `schema`, or UserError with one line per mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; the project's README shows what it holds"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return understood(path, text, schema)


@lru_cache(maxsize=KEPT)
def understood(path: Path, text: str, schema: type[T] | ChosenBy[T]) -> T:
    """What the text of the file `path` says, or is to say; UserError as for `load`."""
    # The same text is asked about many times in one run.
    try:
        tree = YAML().load(same_form(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (YAMLError, RecursionError, ValueError) as error:  # no text of a YAML file at all
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML: {reason}") from None
    if tree is None:
        raise UserError(f"{path}:1: is empty; the project's README shows what it holds")
    if not isinstance(tree, dict):
        found = "a list" if isinstance(tree, list) else "a single value"
        raise UserError(f"{path}:1: expected keys and values, found {found}")
    if isinstance(schema, ChosenBy):
        schema = _chosen(path, tree, schema)
    try:
        return schema.model_validate(_with_sections(_plain(tree, text.splitlines()), schema))
    except ValidationError as error:
        lines = [_sentence(path, tree, schema, problem) for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def _chosen(path: Path, tree: Any, choice: ChosenBy[T]) -> type[T]:
    where = f"{path}:{_line(tree, [choice.key])}: {choice.key}"
    if choice.key not in tree:
        raise UserError(f"{where}: this key is missing; {choice.hint()}")
    value = tree[choice.key]
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a name, found {value!r}; {choice.hint()}")
    try:
        return choice.schema_of(str(value))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _plain(node: Any, lines: Sequence[str]) -> Any:
    """ruamel's position-carrying values as plain Python, which strict validation asks for.

    A key with nothing behind it has the value EMPTY, one with `null` has None.
    """
    if isinstance(node, dict):
        return {
            str(key): EMPTY
            if value is None and _is_bare(node, key, lines)
            else _plain(value, lines)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_plain(value, lines) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _is_bare(node: Any, key: Any, lines: Sequence[str]) -> bool:
    """Whether nothing is written behind a key whose value is None."""
    if key not in (node.lc.data or {}):  # it came by an anchor
        return False
    line, column = node.lc.key(key)
    return NULL.match(lines[line][column:]) is None


def _with_sections(value: Any, kind: Any) -> Any:
    """`value`, in which a section that is there but empty has no keys instead of being nothing.

    So it means its defaults, and a key that it must have is missing; `tls:` without a line below
    it does not turn TLS off.
    """
    schema = _section(kind)
    if value is EMPTY:
        value = {} if schema else None
    # What lies in a list or a mapping is the last that its type names: list[it], dict[key, it].
    inner = [get_args(one)[-1] for one in _kinds(kind) if get_origin(one) is type(value)]
    element = inner[0] if inner else None
    if isinstance(value, dict):
        fields = schema.model_fields if schema else {}
        kinds = {name: fields[name].annotation if name in fields else element for name in value}
        return {name: _with_sections(one, kinds[name]) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_sections(one, element) for one in value]
    return value


def _section(annotation: Any) -> Any:
    """The schema among the types of a union, or None."""
    return next((one for one in _kinds(annotation) if hasattr(one, "model_fields")), None)


def _kinds(annotation: Any) -> list[Any]:
    """The types of a union, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for one in get_args(annotation) for kind in _kinds(one)]
    return [annotation]


def _sentence(path: Path, tree: Any, schema: type[BaseModel], problem: Any) -> str:
    message, context = problem["msg"], problem.get("ctx") or {}
    location = [part for part in problem["loc"] if part != "[key]"]
    location += getattr(context.get("error"), "location", ())
    key = ".".join(str(part) for part in location) or "(file)"
    where = f"{path}:{_line(tree, location)}: {key}"
    if problem["type"] == "extra_forbidden":
        allowed = _fields(schema, location[:-1])
        close = get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"{where}: this key is missing"
    if problem["type"] == "literal_error":
        given, allowed = problem["input"], context["expected"]
        return f"{where}: {given!r} is not allowed; allowed values: {allowed}"
    if problem["type"] == "value_error":
        return f"{where}: {context['error']}"
    if problem["input"] is None:
        return f"{where}: there is no value; give one, or take the line out"
    return f"{where}: {message[0].lower()}{message[1:]}, found {problem['input']!r}"


def _line(tree: Any, location: list) -> int:
    """The 1-based line of a key, or of the nearest enclosing one that stands in the file."""
    line, node = 0, tree
    for part in location:
        position = getattr(node, "lc", None)
        if position is None or position.data is None or part not in position.data:
            break
        line, node = position.data[part][0], node[part]
    return line + 1


def _fields(schema: Any, location: list) -> list[str]:
    for part in location:
        if field := schema.model_fields.get(part):
            inner = [field.annotation, *get_args(field.annotation)]
            schema = next((found for kind in inner if (found := _section(kind))), schema)
    return sorted(schema.model_fields)
