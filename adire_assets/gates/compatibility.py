"""Whether training, evaluation and serving ran on software that belongs together: a pure rule.

    a family's packages        the same major.minor everywhere; a version that nobody recorded is a
                               difference too
    cuda                       the same major.minor wherever a GPU computed; null on the CPU, which
                               is compared with nothing
    driver, device, threads    told, never refused: a driver runs what was built for older ones, and
                               whether another device or thread count gives the same answers is
                               measured (`fleet.parity`)

`evaluation.gates.compatibility.allow` has a key for each package, and for cuda: the versions
between which it may differ, as a PEP 440 range such as ">=0.42,<0.44", "*" for any, or null.

Each side is {name: version or None} with the names above; `of_manifest` reads it from what an
artifact recorded, and a release's answers carry it as `provenance["software"]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

Software = Mapping[str, str | None]

CUDA = "cuda"
TOLD = ("driver", "device", "threads")
ANY = "*"


@dataclass(frozen=True)
class Compatibility:
    """`refused` and `told`: a clause for each difference; `versions`: {name: {side: version}}."""

    refused: tuple[str, ...]
    told: tuple[str, ...]
    versions: dict[str, dict[str, str | None]]

    @property
    def compatible(self) -> bool:
        return not self.refused

    def sentence(self) -> str:
        """One line for people."""
        told = f" ({'; '.join(self.told)})" if self.told else ""
        if self.compatible:
            *packages, cuda = (name for name in self.versions if name not in TOLD)
            named = f"{', '.join(packages)} and {cuda}" if packages else cuda
            return f"compatibility: training, evaluation and serving agree on {named}{told}"
        return (
            f"compatibility: {'; '.join(self.refused)}{told}; install the same minor versions on "
            "all sides and materialize again, or name the versions that may differ under "
            "evaluation.gates.compatibility.allow"
        )


def compare(
    training: Software,
    evaluation: Software,
    serving: Software | None,
    allow: Mapping[str, str | None],
) -> Compatibility:
    """The rule above, for the names in `allow`. `serving` is None when the release does not tell
    what it runs on."""
    sides = {"training": training, "evaluation": evaluation, "serving": serving or {}}
    names = (*(name for name in allow if name != CUDA), CUDA, *TOLD)
    versions = {
        name: {side: software.get(name) for side, software in sides.items()} for name in names
    }
    found = {name: _difference(name, versions[name], allow.get(name)) for name in names}
    return Compatibility(
        refused=tuple(text for name, text in found.items() if text and name not in TOLD),
        told=tuple(text for name, text in found.items() if text and name in TOLD),
        versions=versions,
    )


def of_manifest(manifest: Mapping[str, Any]) -> dict[str, str | None]:
    """What the step behind an artifact's manifest ran on."""
    found = dict(manifest["recipe"]["environment"])
    if found.get("device") == CUDA:
        found["driver"] = manifest["hardware"].get("driver")
    return found


def _difference(name: str, versions: Mapping[str, str | None], allowed: str | None) -> str | None:
    """How the sides differ in `name`, as a clause; None when they may."""
    known = {side: version for side, version in versions.items() if version is not None}
    unknown = [side for side in versions if side not in known]
    if allowed == ANY:
        return None
    if unknown and name not in (CUDA, *TOLD):
        return f"nothing tells which {name} {' and '.join(unknown)} ran with"
    if allowed is not None:
        outside = {side: v for side, v in known.items() if not _within(v, allowed)}
        return f"{_told(name, outside)}, allowed is {allowed}" if outside else None
    groups = {version if name in TOLD else _minor(version) for version in known.values()}
    return _told(name, known) if len(groups) > 1 else None


def _told(name: str, versions: Mapping[str, str]) -> str:
    """Such as "peft is 0.21.0 at training and evaluation, 0.22.1 at serving"."""
    sides: dict[str, list[str]] = {}
    for side, version in versions.items():
        sides.setdefault(version, []).append(side)
    parts = [f"{version} at {' and '.join(where)}" for version, where in sides.items()]
    return f"{name} {'are' if name == 'threads' else 'is'} {', '.join(parts)}"


def _minor(version: str) -> tuple[int, ...] | str:
    try:
        return (*Version(version).release, 0)[:2]
    except InvalidVersion:
        return version


def _within(version: str, allowed: str) -> bool:
    try:
        return SpecifierSet(allowed).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
