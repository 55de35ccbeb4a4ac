"""What became of a folder of instruction data, in the one line that the command line shows."""

from collections.abc import Mapping
from typing import Any

SHOWN = 3  # of each kind


def summary_sentence(summary: Mapping[str, Any]) -> str:
    """How many examples in which languages, with how many facts, and what was left out.

    `summary` is the content of summary.json.
    """
    languages = ", ".join(f"{of['examples']} {name}" for name, of in summary["languages"].items())
    said = [
        f"{_many(summary['examples'], 'example')} ({languages}) with "
        f"{_many(summary['slots'], 'slot')}"
    ]
    if not summary["slots"]:
        said[0] += ", so that nothing measures whether an answer invents facts"
    for count, what, names in (
        (len(summary["rejected"]), "duplicate", [_place(one) for one in summary["rejected"]]),
        (len(summary["unused"]), "file", summary["unused"]),
    ):
        if count:
            told = "left out" if what == "duplicate" else "not used"
            said.append(f"{_many(count, what)} {told}: {_some(names)}")
    if found := summary["personal_data"]:
        kinds = sorted({one["kind"] for one in found})
        said.append(f"personal data that is allowed: {len(found)} ({', '.join(kinds)})")
    return "; ".join(said)


def _place(one: Mapping[str, Any]) -> str:
    return f"{one['file']}:{one['line']}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (
        f" and {len(names) - SHOWN} more (summary.json)" if len(names) > SHOWN else ""
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
