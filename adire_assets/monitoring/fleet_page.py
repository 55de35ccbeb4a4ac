"""What the project and its processes show Prometheus, beside gateways and slots.

    FleetPage(project).lines() -> Prometheus' text

The studio serves it at /metrics on loopback. Processes are looked at with each scrape, the store at
most once a minute (each manifest is read once), and the size of the home every ten.
"""

import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Any

import psutil

from adire_assets.config.fleet import FleetConfig, load_fleet
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Store, read_json
from adire_assets.line import evaluate
from adire_assets.serving import record, release
from adire_assets.serving.fleet import guard, orphans

PATH = "/metrics"
DAY = 86_400.0  # seconds
STORE_SECONDS, SIZE_SECONDS = 60.0, 600.0
# What one broken or missing file raises, which is to harm nothing beside it.
UNREADABLE = (UserError, KeyError, FileNotFoundError)
Sample = tuple[str, dict[str, str], float]  # name, labels, value


@dataclass
class FleetPage:
    """The page of one project; keeps what is read seldom."""

    project: Project
    now: Callable[[], float] = time.monotonic
    _kept: dict[str, tuple[float, list[Sample]]] = field(default_factory=dict)
    _made: dict[Path, "Made"] = field(default_factory=dict)
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def lines(self) -> str:
        """The whole page."""
        project, fleet = self.project, load_fleet(self.project)
        found = [*processes(project), *disk(project), *shares(project, fleet)]
        with self._reading:
            found += self._seldom("size", SIZE_SECONDS, lambda: size(project))
            found += self._seldom("steps", STORE_SECONDS, lambda: steps(project, fleet, self._made))
            found += self._seldom("quality", STORE_SECONDS, lambda: quality(project, fleet))
        return "".join(map(_line, found))

    def _seldom(
        self, name: str, seconds: float, look: Callable[[], Iterator[Sample]]
    ) -> list[Sample]:
        at, found = self._kept.get(name, (-float("inf"), []))
        if self.now() - at > seconds:
            found = list(look())
            self._kept[name] = self.now(), found
        return found


def processes(project: Project) -> Iterator[Sample]:
    """CPU seconds and resident bytes of each program of the fleet on this machine, with all that it
    has started. What processes share, each counts."""
    cpu, memory = defaultdict[str, float](float), defaultdict[str, float](float)
    for process in guard.with_variable(orphans.MARK, str(project.home)):
        marked = guard.variable(process, orphans.PROGRAM)
        program = marked or "supervisord"
        with suppress(psutil.Error):
            with process.oneshot():
                times, resident = process.cpu_times(), process.memory_info().rss
            # With those of children that have ended, else the sum would fall; those of supervisord
            # are other programs.
            cpu[program] += sum(times[:4] if marked else times[:2])
            memory[program] += resident
    for program in sorted(cpu):
        own = {"program": program}
        yield "adire_process_cpu_seconds_total", own, cpu[program]
        yield "adire_process_resident_bytes", own, memory[program]


def disk(project: Project) -> Iterator[Sample]:
    """Bytes of the file system that the home lies on."""
    found = shutil.disk_usage(project.home if project.home.exists() else project.root)
    yield "adire_disk_free_bytes", {}, found.free
    yield "adire_disk_total_bytes", {}, found.total


def size(project: Project) -> Iterator[Sample]:
    """Bytes of the files in the home; one with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(project.home):
        for name in names:
            with suppress(OSError):
                found = Path(folder, name).lstat()
                seen[found.st_dev, found.st_ino] = found.st_size
    yield "adire_stored_bytes", {}, sum(seen.values())


def shares(project: Project, fleet: FleetConfig) -> Iterator[Sample]:
    """Which share of a model's requests each release gets, by the records."""
    for target in fleet.targets:
        for state in record.read_all(project, target):
            for number in sorted({*state.loaded, *state.weights}):
                own = {"target": target, "model": state.model, "release": str(number)}
                yield "adire_release_share", own, state.weights.get(number, 0) / 100
                yield "adire_release_live", own, float(number == state.live)


@dataclass(frozen=True)
class Made:
    """What the manifest of an artifact, which never changes, says of its step."""

    model: str
    step: str
    ended: float  # Unix time
    seconds: float
    cost: float
    currency: str
    results: dict[str, float]  # of a training


def steps(project: Project, fleet: FleetConfig, known: dict[Path, Made]) -> Iterator[Sample]:
    """Of the steps that ended within the last day: how many, their seconds, and their cost, of what
    was deleted since as well; of costs, those in the fleet's currency.

    `known` keeps by its folder what was read; it gets those that are new, and loses those that are
    gone. A manifest that cannot be read counts nowhere.
    """
    store, currency = Store(project), fleet.costs.currency if fleet.costs else ""
    held = set(project.storage.names())
    # Unlike pathlib's, this glob passes over what is not complete.
    kept = glob("*/*/*/manifest.json", root_dir=store.memory)  # noqa: PTH207
    deleted = {Path(name).parent.as_posix() for name in kept} - held
    folders = {*(store.root / name for name in held), *(store.memory / name for name in deleted)}
    for folder in known.keys() - folders:
        del known[folder]
    for folder in folders - known.keys():
        with suppress(*UNREADABLE):
            known[folder] = _made(read_json(folder / "manifest.json"))
    by_step = defaultdict[tuple[str, str], list[Made]](list)
    for made in known.values():
        by_step[made.model, made.step].append(made)
    since = time.time() - DAY
    for (model, step), all_of_it in sorted(by_step.items()):
        own, recent = {"model": model, "step": step}, [m for m in all_of_it if m.ended >= since]
        latest = max(all_of_it, key=lambda made: made.ended)
        yield "adire_steps_1d", own, len(recent)
        yield "adire_step_seconds_1d", own, sum(made.seconds for made in recent)
        yield "adire_step_cost_1d", own, sum(m.cost for m in recent if m.currency == currency)
        yield "adire_step_ended_timestamp_seconds", own, latest.ended
        for name, value in latest.results.items():
            yield "adire_training_result", {"model": model, "result": name}, value


def _made(manifest: dict[str, Any]) -> Made:
    results = {
        name: float(value)
        for name, value in (manifest.get("training") or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    cost = manifest.get("cost") or {}
    return Made(
        manifest["recipe"]["model"],
        manifest["recipe"]["kind"],
        datetime.fromisoformat(manifest["created"]).timestamp(),
        manifest["seconds"],
        cost.get("amount", 0.0),
        cost.get("currency", ""),
        results,
    )


def quality(project: Project, fleet: FleetConfig) -> Iterator[Sample]:
    """What each loaded release was evaluated at, and its base with the same judge."""
    loaded = {
        (state.model, number)
        for target in fleet.targets
        for state in record.read_all(project, target)
        for number in (*state.loaded, *state.weights)
    }
    for model, number in sorted(loaded):
        with suppress(*UNREADABLE):  # as of a release whose evaluation is no longer in the store
            found = release.read_record(project, model, number)
            report = Store(project).open(found.evaluation).json(evaluate.REPORT)
            for series, scores in (("score", "scores"), ("base_score", "base_scores")):
                for metric, value in report.get(scores, {}).items():
                    own = {"model": model, "release": str(number), "metric": metric}
                    if isinstance(value, int | float):
                        yield f"adire_evaluation_{series}", own, value


def _line(sample: Sample) -> str:
    name, labels, value = sample
    told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{told}}} {float(value)!r}\n" if told else f"{name} {float(value)!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
