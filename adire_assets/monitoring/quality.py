"""The quality of the answers that users get: a share of them is measured as they pass the gateway.

`watch` is the process that does it, one per target whose gateway has a `sample_share`. What is
measured is the family's (`signals`); of an answer only these numbers are kept, with its release and
time, in <home>/quality/<target>/<model>/<release>/<day>.jsonl. Neither prompts nor answers are.

Each signal of a release is watched for a change since the release's first answer (see `drift`). The
chance that any of them is reported while nothing changes is at most `RATE`, however long that is; a
user who asks for much of one kind at once is a change.
"""

import json
import math
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from adire_assets.config.fleet import FleetConfig
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.evidence import RATE, threshold
from adire_assets.core.family import Family
from adire_assets.core.files import read_json, write_json
from adire_assets.core.project import Project
from adire_assets.core.readers import reading
from adire_assets.core.store import Store
from adire_assets.monitoring.drift import Martingale
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.gateway.tap import Exchange, exchange, traces
from adire_assets.serving.release import family_of_release, find_record

FOLDER, SUMMARY = "quality", "summary.json"
TELL_SECONDS = 2.0  # from one summary of a release to the next
AGAIN_SECONDS = 2.0  # after the gateway has ended
FAILED_SECONDS = 60.0  # after the signals of a release could not be opened
FIRST = 50  # measured answers whose mean is what later ones are told against
RELEASES = 4  # whose signals are open at once, each with a judge in memory
WAITING = 4  # answers that wait to be measured

Signals = Callable[[list[str], list[Any]], list[dict[str, float]]]


@dataclass
class Series:
    """One signal of one release, in the order of the answers."""

    martingale: Martingale = field(default_factory=Martingale)
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    changed_at: str | None = None

    def observe(self, value: float, at: str, signals: int) -> None:
        """Take a value; `signals`: how many are watched for this release."""
        if math.isnan(value):
            return
        if len(self.first) < FIRST:
            self.first.append(value)
        self.last = [*self.last[1 - FIRST :], value]
        evidence = self.martingale.observe(value)
        if self.changed_at is None and evidence >= threshold(RATE / signals):
            self.changed_at = at


@dataclass
class ReleaseQuality:
    """What has been measured of one release on one target."""

    model: str
    release: int
    series: dict[str, Series] = field(default_factory=dict)
    answers: int = 0

    def observe(self, signals: Mapping[str, float], at: str) -> None:
        self.answers += 1
        for name, value in signals.items():
            found = self.series.setdefault(name, Series())
            found.observe(value, at, len(signals))

    def changes(self) -> dict[str, str]:
        """{signal: since when it is known to have changed}."""
        return {name: one.changed_at for name, one in self.series.items() if one.changed_at}

    def summary(self) -> dict[str, Any]:
        """Means of the first and of the last answers, and what has changed."""
        signals = {
            name: {"first": fmean(one.first), "last": fmean(one.last), "changed_at": one.changed_at}
            for name, one in self.series.items()
            if one.last
        }
        return {"answers": self.answers, "signals": signals}


def read(project: Project, target: str, model: str, release: int) -> ReleaseQuality:
    """What has been measured of a release, by its files. A line that was cut off by a kill is left
    out."""
    found = ReleaseQuality(model, release)
    for path in sorted(_folder(project, target, model, release).glob("*.jsonl")):
        for row in _rows(path):
            found.observe(_numbers(row["signals"]), row["at"])
    return found


def releases(project: Project, target: str, model: str) -> list[int]:
    """Those of which anything has been measured, in order."""
    folder = _folder(project, target, model)
    return sorted(int(one.name) for one in folder.glob("*") if one.name.isdecimal())


def watch(
    project: Project, fleet: FleetConfig, target: str, share: float, say: Callable[[str], None]
) -> None:
    """Measure `share` of the answers, in (0, 1], until the process ends; waits while the gateway is
    down. UserError for a share that is none."""
    if not 0 < share <= 1:
        raise UserError(f"the share is {share:g}; give one above 0, up to 1")
    gateway = routing.gateway_of(project, fleet, target)
    measured = Measured(project, fleet, target, say)
    # Envoy would hold what is not read, so somebody always reads.
    waiting: queue.Queue[bytes] = queue.Queue(WAITING)
    threading.Thread(target=_measure, args=(measured, waiting), daemon=True).start()
    dropped = 0
    while True:
        try:
            for trace in traces(gateway, share):
                try:
                    waiting.put_nowait(trace)
                except queue.Full:
                    dropped += 1
                    if dropped.bit_count() == 1:  # said ever more rarely
                        say(f"{dropped} sampled answers so far came too fast to be measured")
        except GatewayDown as error:
            say(str(error))
            time.sleep(AGAIN_SECONDS)


def _measure(measured: "Measured", waiting: "queue.Queue[bytes]") -> None:
    try:
        while True:
            try:
                found = exchange(waiting.get(timeout=TELL_SECONDS))
            except queue.Empty:
                measured.tell()
                continue
            if found is not None:
                measured.take(found)
    except BaseException:  # the process ends with its thread, and supervisord starts it again
        traceback.print_exc()
        os._exit(1)


class Measured:
    """Measures exchanges, and keeps the numbers. Children that measure die with this process."""

    def __init__(
        self, project: Project, fleet: FleetConfig, target: str, say: Callable[[str], None]
    ) -> None:
        self.project, self.fleet, self.target, self.say = project, fleet, target, say
        self.open: dict[tuple[str, int], tuple[ExitStack, Signals, Family]] = {}
        self.known: dict[tuple[str, int], ReleaseQuality] = {}
        self.told = 0.0  # when summaries were last written
        self.untold: set[tuple[str, int]] = set()  # of which no summary has the last answer
        self.failed: dict[tuple[str, int], float] = {}  # until when it is not tried again

    def take(self, one: Exchange) -> None:
        """Measure one; what cannot be measured is said and left out."""
        key = one.model, one.release
        if time.monotonic() < self.failed.get(key, 0.0):
            return
        try:
            with reading():  # what opens the signals reads the evaluation by the first answer
                signals, plug = self._signals(*key)
                prompt, content = _asked(plug, one)
                [found] = signals([prompt], [content])
                self._keep(key, found)
        except (UserError, OSError) as error:
            self.say(f"answers of {key[0]}@{key[1]} cannot be measured: {error}")
            self.failed[key] = time.monotonic() + FAILED_SECONDS
            self._close(key)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            self.say(f"an answer of {key[0]}@{key[1]} is none of its family: {error!r}")

    def tell(self) -> None:
        """Write the summaries that are not of all answers yet."""
        for key in self.untold:
            path = _folder(self.project, self.target, *key) / SUMMARY
            write_json(path, self.known[key].summary())
        self.untold.clear()

    def _signals(self, model: str, release: int) -> tuple[Signals, Family]:
        key = model, release
        if key not in self.open:
            while len(self.open) >= RELEASES:
                self._close(next(iter(self.open)))
            context, plug = _opened(self.project, self.fleet, model, release)
            with ExitStack() as opening:
                signals = opening.enter_context(context)
                self.open[key] = opening.pop_all(), signals, plug
        self.open[key] = self.open.pop(key)  # the one that was used last is last
        return self.open[key][1:]

    def _close(self, key: tuple[str, int]) -> None:
        if key in self.open:
            self.open.pop(key)[0].close()

    def _keep(self, key: tuple[str, int], found: Mapping[str, float]) -> None:
        now = datetime.now(UTC)
        at = now.isoformat(timespec="seconds")
        if key not in self.known:
            for path in _folder(self.project, self.target, *key).glob("*.jsonl"):
                _mend(path)
            self.known[key] = read(self.project, self.target, *key)
        before = self.known[key].changes()
        self.known[key].observe(found, at)
        row = {"at": at, "signals": _storable(found)}
        folder = _folder(self.project, self.target, *key)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{now.date()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.untold.add(key)
        if time.monotonic() > self.told + TELL_SECONDS:
            self.told = time.monotonic()
            self.tell()
        for name in self.known[key].changes().keys() - before.keys():
            self.say(f"{key[0]}@{key[1]} on {self.target}: {name} has changed")


def sentences(project: Project, target: str, model: str, release: int) -> Iterator[str]:
    """What has been measured of a release, a line, and one for each signal that has changed."""
    path = _folder(project, target, model, release) / SUMMARY
    if not path.is_file():
        return
    told = read_json(path)
    values = ", ".join(f"{name} {one['last']:.3g}" for name, one in told["signals"].items())
    yield f"quality: {told['answers']} answers measured; means of the last {FIRST}: {values}"
    for name, one in told["signals"].items():
        if one["changed_at"]:
            yield (
                f"CHANGED: {name}, seen {one['changed_at']}: {one['last']:.3g}, and "
                f"{one['first']:.3g} at first"
            )


def _asked(plug: Family, one: Exchange) -> tuple[str, Any]:
    """The prompt, and the content of the answer."""
    functions = plug.serve.functions
    pieces = one.protocol.name == plug.streams
    content = (functions.whole if pieces else functions.content)(one.content)
    return functions.prompt(one.request), content


def _opened(
    project: Project, fleet: FleetConfig, model: str, release: int
) -> tuple[AbstractContextManager[Signals], Family]:
    record = find_record(project, model, release)
    if record is None:
        raise UserError(f"this project has no release {release} of {model}")
    plug = family_of_release(project, record)
    if plug.signals is None:
        raise UserError(f"the family {plug.name} has no signals to measure answers by")
    evaluation = Store(project).open(record.evaluation)
    judge = Store(project).open(evaluation.manifest["judge"])
    device = lineage.device_class(fleet.device)
    return plug.signals.functions.open_signals(judge.path, evaluation.path, device), plug


def _folder(project: Project, target: str, model: str, release: int | None = None) -> Path:
    folder = project.home / FOLDER / target / model
    return folder if release is None else folder / str(release)


def _rows(path: Path) -> list[Any]:
    """Its whole lines: the last one may be just written, or was cut off by a kill."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _mend(path: Path) -> None:
    """Cut off what a kill has left of a line."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))


def _storable(signals: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in signals.items()}


def _numbers(stored: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in stored.items()}
