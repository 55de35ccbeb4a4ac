"""What a slot's folder says that an engine should serve.

    models/<model>/<number>/   model.json (engine: base, largest rank, length),
                               multi_lora.json ({name: adapter}), serving.json (limits),
                               provenance.json (number, content hash, what it was made from)
    engine.json                the base that the engine was last started on

An engine has one base. Which one, and how large, follows from the releases that are there.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHOSEN = "engine.json"


@dataclass(frozen=True)
class Release:
    """One release of a slot's folder. `limits` are its serving.json, `provenance` is its own."""

    model: str
    number: int
    folder: Path
    base: Path
    rank: int
    length: int
    adapter: Path
    limits: dict[str, Any] = field(hash=False, compare=False, default_factory=dict)
    provenance: dict[str, Any] = field(hash=False, compare=False, default_factory=dict)

    @property
    def name(self) -> str:
        """Of its adapter in the engine; it never comes to mean other weights."""
        return f"{self.model}@{self.number}"

    @property
    def content_hash(self) -> str:
        return str(self.provenance["release_hash"])


@dataclass(frozen=True)
class Engine:
    """What an engine is started with."""

    base: Path
    rank: int
    length: int

    def holds(self, release: Release) -> bool:
        """Whether a release can be loaded into it as it is."""
        return (
            self.base == release.base
            and self.rank >= release.rank
            and self.length >= release.length
        )


def read_release(folder: Path) -> Release:
    """OSError, ValueError or KeyError for a folder that holds no whole release."""
    engine, adapters = _read(folder / "model.json"), _read(folder / "multi_lora.json")
    [adapter] = adapters.values()
    return Release(
        folder.parent.name,
        int(folder.name),
        folder,
        (folder / engine["model"]).resolve(),
        int(engine["max_lora_rank"]),
        int(engine["max_model_len"]),
        folder / adapter,
        _read(folder / "serving.json"),
        _read(folder / "provenance.json"),
    )


def installed(slot: Path, model: str | None = None) -> tuple[list[Release], dict[str, str]]:
    """The releases in a slot's folder (of one model) by name, and {name: why it cannot be read}.

    A Triton's slot has releases of other models beside them, which bring no model.json.
    """
    found, broken = [], {}
    for folder in slot.glob(f"models/{model or '*'}/[0-9]*"):
        if model is None and not (folder / "model.json").exists():
            continue
        try:
            found.append(read_release(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            broken[f"{folder.parent.name}@{folder.name}"] = f"{folder}: {error!r}"
    return sorted(found, key=lambda one: (one.model, one.number)), broken


def engine_for(slot: Path) -> Engine | None:
    """What the engine of a slot is to be started with; None while it has nothing to serve.

    It keeps the base that was chosen for it while a release of that is there.
    """
    releases, _ = installed(slot)
    counts = Counter(one.base for one in releases)
    try:
        chosen = Path(_read(slot / CHOSEN)["base"])
    except (OSError, ValueError, KeyError):
        chosen = None
    if not counts:
        return None
    base = chosen if chosen in counts else counts.most_common(1)[0][0]
    assert base is not None
    return engine_of(one for one in releases if one.base == base)


def engine_of(releases: Iterable[Release]) -> Engine:
    """The smallest engine that holds these releases of one base."""
    found = list(releases)
    return Engine(found[0].base, max(one.rank for one in found), max(one.length for one in found))


def choose(slot: Path, base: Path) -> None:
    """Have the engine started on this base next time."""
    temporary = slot / f".{CHOSEN}"
    temporary.write_text(json.dumps({"base": str(base)}), encoding="utf-8")
    temporary.rename(slot / CHOSEN)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
