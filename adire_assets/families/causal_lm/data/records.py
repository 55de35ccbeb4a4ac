"""Records of instruction data become examples: conversations whose last message is the answer.

Formats, found by the content of each file or said in the config:

    alpaca    instruction, input (may be absent), output; system
    messages  messages: a list of {role: system | user | assistant, content}
    sharegpt  conversations: a list of {from: system | human | gpt, value}; system

Each may have `slots` (facts that the answer must repeat: {name: value} or a list), `language` (a
BCP 47 tag) and an `id`, which is not kept. Texts are taken in composed form (NFC) and with \\n at
the end of lines. Every mistake is noted with file, line and key.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from adire_assets.core.file_names import same_form
from adire_assets.families.causal_lm.config import DataConfig
from adire_assets.families.causal_lm.data.json_values import json_values
from adire_assets.families.causal_lm.data.personal_data import NAMES, find, masked
from adire_assets.families.causal_lm.texts import spelled, whole

COMMON_KEYS = ("slots", "language", "id")
KEYS = {
    "alpaca": ("instruction", "input", "output", "system"),
    "messages": ("messages",),
    "sharegpt": ("conversations", "system"),
}
# The keys of the list of turns, of who says one and of what is said.
TURNS = {
    "messages": ("messages", "role", "content"),
    "sharegpt": ("conversations", "from", "value"),
}
OPENAI_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
ROLES = {
    "messages": OPENAI_ROLES,
    "sharegpt": {**OPENAI_ROLES, "human": "user", "gpt": "assistant"},
}
FOLLOWS: dict[str | None, tuple[str, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
KINDS = {
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a number",
    float: "a number",
}
SHOWN_TEXT = 60  # characters


@dataclass(frozen=True)
class Example:
    """One conversation: `messages` as (role, content), and where it stands."""

    messages: tuple[tuple[str, str], ...]
    slots: dict[str, str]
    language: str | None  # None: the record does not say
    file: str
    line: int

    @property
    def source(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def question(self) -> str:
        """All before the answer. What the system is told counts neither here nor as a duplicate."""
        turns = [content for role, content in self.messages[:-1] if role != "system"]
        return "\n".join(turns)

    @property
    def answer(self) -> str:
        return self.messages[-1][1]


@dataclass(frozen=True)
class Finding:
    """Personal data that is allowed to stand in a record; `found` is masked."""

    file: str
    line: int
    kind: str
    found: str


@dataclass
class Read:
    """What files hold: `examples`, and every mistake in `problems`, a line of text each."""

    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    personal_data: list[Finding] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)  # of each file


def read_records(text: str, name: str, config: DataConfig, read: Read) -> None:
    """Add what the file `name` with the content `text` holds to `read`."""
    before = len(read.problems)
    values = list(json_values(text, name, read.problems))
    if not values and len(read.problems) == before:
        read.problems.append(f"{name}:1: has no records; put some into it, or take it away")
    objects = [record for _, record in values if isinstance(record, dict)]
    form = config.format if config.format != "auto" else _format_of(objects)
    if form is None:
        if objects:
            read.problems.append(
                f"{name}:{values[0][0]}: no record has the keys of a known format: alpaca has "
                "instruction and output, messages has messages, sharegpt has conversations"
            )
        objects = []
    else:
        read.formats[name] = form
    for line, record in values:
        if not isinstance(record, dict):
            read.problems.append(f"{name}:{line}: a record is an object, found {_kind(record)}")
        elif form is not None:
            _Record(record, form, name, line, config, read).add()


def _format_of(objects: list[dict[str, Any]]) -> str | None:
    """The format that the first record with telling keys has."""
    for record in objects:
        for form, tell in (
            ("messages", {"messages"}),
            ("sharegpt", {"conversations"}),
            ("alpaca", {"instruction", "output"}),
        ):
            if tell & record.keys():
                return form
    return None


@dataclass(frozen=True)
class _Record:
    record: dict[str, Any]
    form: str
    file: str
    line: int
    config: DataConfig
    read: Read

    def add(self) -> None:
        before = len(self.read.problems)
        self._refuse_unknown(self.record, (*KEYS[self.form], *COMMON_KEYS))
        messages = [*(self._alpaca() if self.form == "alpaca" else self._turns())]
        language = self.record.get("language")
        if language is not None and not _is_tag(language):
            self._expected("language", "a BCP 47 tag such as en, zh or yo", language)
        if len(self.read.problems) > before:
            return
        if messages[0][0] != "system" and self.config.system_prompt:
            messages.insert(0, ("system", self.config.system_prompt))
        slots = self._slots(messages[-1][1])
        if len(self.read.problems) == before:
            self.read.examples.append(
                Example(tuple(messages), slots, language, self.file, self.line)
            )

    def _alpaca(self) -> Iterator[tuple[str, str]]:
        yield from self._system()
        asked = self._said(self.record.get("instruction"), "instruction")
        about = self._said(self.record.get("input"), "input", optional=True)
        yield "user", f"{asked}\n{about}" if about else asked
        yield "assistant", self._said(self.record.get("output"), "output")

    def _turns(self) -> Iterator[tuple[str, str]]:
        key, role_key, text_key = TURNS[self.form]
        last: str | None = None
        if "system" in KEYS[self.form]:
            for last, text in self._system():
                yield last, text
        turns = self.record.get(key)
        if not isinstance(turns, list) or not turns:
            self._expected(key, "a list of turns", turns)
            return
        for number, turn in enumerate(turns):
            place = f"{key}[{number}]"
            if not isinstance(turn, dict):
                self._expected(place, f"an object with {role_key} and {text_key}", turn)
                return
            self._refuse_unknown(turn, (role_key, text_key), f"{place}.")
            said_by = turn.get(role_key)
            role = ROLES[self.form].get(said_by) if isinstance(said_by, str) else None
            if role is None:
                self._expected(f"{place}.{role_key}", _one_of(ROLES[self.form]), said_by)
                return
            if role not in FOLLOWS[last]:
                self._note(
                    f"{place}.{role_key}",
                    f"{said_by} is out of order; a conversation begins with system or the user, "
                    "then user and assistant take turns",
                )
                return
            last = role
            yield role, self._said(turn.get(text_key), f"{place}.{text_key}")
        if last != "assistant":
            self._note(place, f"the last turn is of the {last}; it must be the assistant's answer")

    def _system(self) -> Iterator[tuple[str, str]]:
        if text := self._said(self.record.get("system"), "system", optional=True):
            yield "system", text

    def _slots(self, answer: str) -> dict[str, str]:
        given = self.record.get("slots")
        if isinstance(given, list):
            given = {str(number): value for number, value in enumerate(given, start=1)}
        if not isinstance(given, dict):
            if given is not None:
                self._expected("slots", "{name: value} or a list of values", given)
            return {}
        slots = {}
        for name, value in given.items():
            place = f"slots.{_shown(name)}"
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            text = self._text(value, place)
            # As the slots of an answer are counted (`evaluation.metrics.slots`).
            if text and not whole(spelled(text)).search(spelled(answer)):
                self._note(place, f"{_shown(text)} does not stand in the answer")
            slots[self._text(name, place)] = text
        return slots

    def _said(self, value: Any, place: str, *, optional: bool = False) -> str:
        """A text of the conversation, in which no personal data stands that is not allowed."""
        text = self._text(value, place, optional=optional)
        for kind, found in find(text, self.config.phone_regions):
            if kind in self.config.allow_personal_data:
                self.read.personal_data.append(Finding(self.file, self.line, kind, masked(found)))
            else:
                self._note(
                    place,
                    f"holds {NAMES[kind]} ({masked(found)}); take it out, or name {kind} in "
                    "data.allow_personal_data",
                )
        return text

    def _text(self, value: Any, place: str, *, optional: bool = False) -> str:
        """`value` as text, "" where it is wrong, which is noted, or optional and not there."""
        if value is None and optional:
            return ""
        if not isinstance(value, str):
            self._expected(place, "text", value)
            return ""
        if wrong := UNFIT.search(value):
            what = "half a surrogate pair" if wrong[0] >= "\ud800" else "a control character"
            self._note(place, f"holds {what}, U+{ord(wrong[0]):04X}; take it out")
            return ""
        text = same_form(value.replace("\r\n", "\n").replace("\r", "\n"))
        if not optional and not any(sign.isprintable() and sign != " " for sign in text):
            self._note(place, "is empty")
        return text

    def _refuse_unknown(
        self, given: dict[str, Any], known: tuple[str, ...], before: str = ""
    ) -> None:
        for key in given:
            if key in known or key in self.config.ignored_keys:
                continue
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            self._note(
                f"{before}{_shown(key)}",
                f"unknown key; {hint}{self.form} has {', '.join(known)}; name it in "
                "data.ignored_keys to leave it out",
            )

    def _expected(self, place: str, what: str, found: Any) -> None:
        if found is None:
            self._note(place, f"is missing; {what} is expected")
        else:
            self._note(place, f"{what} is expected, found {_kind(found)}")

    def _note(self, place: str, problem: str) -> None:
        self.read.problems.append(f"{self.file}:{self.line}: {place}: {problem}")


def _is_tag(language: Any) -> bool:
    return isinstance(language, str) and LANGUAGE.fullmatch(language) is not None


def _one_of(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}"


def _shown(text: str) -> str:
    """The beginning of a text of somebody else, in which nothing is left that is not printable."""
    return repr(text[:SHOWN_TEXT])[1:-1]


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"'{_shown(value)}'" if value else "an empty text"
    return KINDS.get(type(value), "null")
