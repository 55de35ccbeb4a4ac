"""What became of a folder of images, in the one line that the command line shows."""

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 3  # files of each kind
SAME_IMAGE = "the same image as "  # before the name of the one that is kept: why one is rejected


def summary_sentence(summary: Mapping[str, Any]) -> str:
    """How many images have captions of their own, and which files were rejected or not used.

    `summary` is the content of summary.json.
    """
    images, own = summary["images"], summary["own_captions"]
    said = [f"captions of their own: {own} of {_many(images, 'image')}"]
    if images > own:
        said[0] += f", data.instance_prompt: {images - own}"
    for kind, told in (("rejected", "rejected"), ("unused", "not used")):
        if files := summary[kind]:
            said.append(f"{_many(len(files), 'file')} {told}: {_some(files)}")
    if files := summary["uncalibrated"]:
        said.append(
            f"{_many(len(files), 'image')} without a colour profile, though EXIF says that the "
            "colours are not sRGB, or they are inks (CMYK), so that they may be off: "
            f"{', '.join(files[:SHOWN])}" + (", ..." if len(files) > SHOWN else "")
        )
    return "; ".join(said)


def _some(files: Sequence[Mapping[str, str]]) -> str:
    """The first files of each reason, those of most files first."""
    by_reason: dict[str, list[str]] = {}
    for one in files:
        by_reason.setdefault(one["reason"], []).append(one["file"])
    groups = sorted(by_reason.items(), key=lambda group: -len(group[1]))
    shown = [
        f"{', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' * (len(names) > SHOWN)} "
        f"({reason})"
        for reason, names in groups[:SHOWN]
    ]
    left = sum(len(names) for _, names in groups[SHOWN:])
    return ", ".join(shown) + (f" and {left} more (summary.json)" if left else "")


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
