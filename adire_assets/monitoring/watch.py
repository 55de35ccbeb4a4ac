"""How what is served is doing, without a Prometheus: two looks at its metrics, and the difference.

    before = look(project, fleet)
    ...
    for line in sentences(figures(fleet, before, look(project, fleet))): ...

A look asks each gateway and each slot once. `History` keeps the looks of the last minutes.
"""

import re
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from adire_assets.config.fleet import FleetConfig, SlotConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.monitoring.cost import Spent, spent
from adire_assets.monitoring.fleet_page import processes
from adire_assets.serving import record
from adire_assets.serving.connection import host_and_port
from adire_assets.serving.fleet.needed import needed
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.traffic import Histogram, Traffic, histogram_total
from adire_assets.serving.slot_server import server_named

ANSWER_SECONDS = 2.0  # in which a page must have come
KEPT_SECONDS = 300.0  # looks further apart than this are not compared
SERIES = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# What waits for a slot's engine, whatever the kind of its server.
WAITING = (
    "adire_images_waiting",
    "vllm:num_requests_waiting",
    "nv_inference_pending_request_count",
)
# Of an engine whose busy seconds rise when a request ends alone.
ENGINE_SECONDS = "adire_engine_seconds_total"
# Of a page, what is not looked at is not kept: those of language models' engines are long.
KEPT = re.compile(rf"adire_.*|nv_gpu_memory_.*|{'|'.join(WAITING)}")
Release = tuple[str, str, str]  # target, model, number
Slot = tuple[str, str]  # target, name
Page = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]  # series -> (labels, value)


@dataclass(frozen=True)
class Look:
    """What was counted at `at` (monotonic seconds). `shares`: of a model's requests, 0 to 1;
    `programs`: bytes of memory; `prices`: of an hour of each slot;
    `silent`: what did not answer, in sentences."""

    at: float
    shares: Mapping[Release, float] = field(default_factory=dict)
    traffic: Mapping[Release, Traffic] = field(default_factory=dict)
    pages: Mapping[Slot, Page] = field(default_factory=dict)
    programs: Mapping[str, float] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    prices: Mapping[Slot, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ReleaseFigures:
    """One release between two looks; None is not known. `unit` is what it makes ("image");
    `engine_seconds` and `cost` are those of one."""

    share: float
    requests_per_second: float | None = None
    failed_share: float | None = None
    median_seconds: float | None = None
    unit: str = ""
    made_per_second: float | None = None
    engine_seconds: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class SlotFigures:
    """One slot: how much waits now, which share of the time its engine was busy, how many adapters
    it holds, which share of a GPU's memory is used; its price and idle cost per hour."""

    waiting: float
    busy: float
    adapters: float
    device_memory: float | None = None
    cost_per_hour: float | None = None
    idle_cost_per_hour: float | None = None


@dataclass(frozen=True)
class Figures:
    """What two looks show."""

    seconds: float
    currency: str
    releases: Mapping[Release, ReleaseFigures]
    slots: Mapping[Slot, SlotFigures]
    programs: Mapping[str, float]
    silent: tuple[str, ...]


# --- looking -----------------------------------------------------------------------------------


def look(project: Project, fleet: FleetConfig) -> Look:
    """Ask every gateway and every slot that somebody needs."""
    wanted, silent = needed(project, fleet), []
    shares, traffic = {}, {}
    for target in wanted.targets:
        gateway = routing.gateway_of(project, fleet, target)
        try:
            for state in record.read_all(project, target):
                for number in state.loaded:
                    release = target, state.model, str(number)
                    shares[release] = state.weights.get(number, 0) / 100
                    users = gateway.traffic(state.model, number)
                    traffic[release] = users.plus(gateway.pinned_traffic(state.model, number))
        except UserError as error:
            silent.append(str(error))
    slots = {
        (target, name): config
        for target, settings in wanted.targets.items()
        for name, config in settings.slots.items()
    }
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(slots, pool.map(_page, slots.values()), strict=True))
    silent += [
        f"slot {name} of {target} does not show its metrics; `adire status` says how it is"
        for (target, name), page in found.items()
        if page is None
    ]
    memory: dict[str, float] = {}
    for series, labels, value in processes(project):
        if series == "adire_process_resident_bytes":
            memory[labels["program"]] = value
    pages = {slot: page for slot, page in found.items() if page is not None}
    prices = {slot: fleet.slot_cost_per_hour(*slot) for slot in pages}
    return Look(time.monotonic(), shares, traffic, pages, memory, tuple(silent), prices)


def _page(slot: SlotConfig) -> Page | None:
    port = getattr(slot, server_named(slot.server).metrics_port)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        address = f"http://{host_and_port(slot.host, port)}/metrics"
        with opener.open(address, timeout=ANSWER_SECONDS) as answer:
            return parsed(answer.read().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return None


def parsed(text: str) -> Page:
    """Those series of a page in Prometheus' format that are looked at here."""
    found = defaultdict[str, list[tuple[Mapping[str, str], float]]](list)
    for name, labels, value in SERIES.findall(text):
        if not KEPT.fullmatch(name):
            continue
        found[name].append((dict(LABEL.findall(labels)), float(value)))
    return found


def total(page: Page, *series: str, **labels: str) -> float:
    """The sum of what these series have with these labels."""
    return sum(
        value
        for name in series
        for own, value in page.get(name, ())
        if all(own.get(label) == wanted for label, wanted in labels.items())
    )


# --- comparing ---------------------------------------------------------------------------------


def figures(fleet: FleetConfig, before: Look, after: Look) -> Figures:
    """What happened between two looks."""
    seconds = max(after.at - before.at, 1e-6)
    paid = {
        slot: spent(
            _risen(before, after, slot, "adire_busy_seconds_total"),
            _risen(before, after, slot, "adire_made_total"),
            seconds,
            after.prices.get(slot),
            _engine_seconds(before, after, slot),
        )
        for slot in after.pages
    }
    releases = {
        release: _release_figures(release, before, after, seconds, paid)
        for release in sorted(after.shares)
    }
    slots = {slot: _slot_figures(page, paid[slot]) for slot, page in sorted(after.pages.items())}
    currency = fleet.costs.currency if fleet.costs else ""
    return Figures(seconds, currency, releases, slots, after.programs, after.silent)


def _release_figures(
    release: Release, before: Look, after: Look, seconds: float, paid: Mapping[Slot, Spent]
) -> ReleaseFigures:
    target, model, number = release
    both = release in before.traffic and release in after.traffic
    traffic = after.traffic[release].since(before.traffic[release]) if both else Traffic()
    made = engine_seconds = 0.0
    cost: float | None = None
    unit = ""
    for (place, _), one in paid.items():
        if place != target:
            continue
        made += one.made.get((model, number), 0.0)
        engine_seconds += one.busy.get((model, number), 0.0)
        unit = one.units.get((model, number), unit)
        own = one.cost.get((model, number))
        cost = cost if own is None else (cost or 0.0) + own
    answered = traffic.answered
    return ReleaseFigures(
        after.shares[release],
        answered / seconds if both else None,
        min(traffic.failed / answered, 1.0) if answered else None,
        median(traffic.latency),
        unit,
        made / seconds if unit else None,
        engine_seconds / made if made else None,
        cost / made if made and cost is not None else None,
    )


def _slot_figures(page: Page, paid: Spent) -> SlotFigures:
    all_of_it = total(page, "adire_gpu_memory_total_bytes", "nv_gpu_memory_total_bytes")
    used = total(page, "adire_gpu_memory_used_bytes", "nv_gpu_memory_used_bytes")
    return SlotFigures(
        total(page, *WAITING),
        paid.busy_share,
        total(page, "adire_adapters_held"),
        used / all_of_it if all_of_it else None,
        paid.cost_per_hour,
        paid.idle_cost_per_hour,
    )


def _risen(before: Look, after: Look, slot: Slot, series: str) -> dict[tuple[str, str, str], float]:
    """(model, release, unit) -> by how much a counter has risen; from zero where it began anew.
    What the first look did not see may have risen at any time: 0."""
    found = [defaultdict[tuple[str, str, str], float](float) for _ in range(2)]
    for one, counted in zip((before, after), found, strict=True):
        for own, value in one.pages.get(slot, {}).get(series, ()):
            counted[own.get("model", ""), own.get("release", ""), own.get("unit", "")] += value
    then, now = found
    return {key: _since(then[key], v) if key in then else 0.0 for key, v in now.items()}


def _engine_seconds(before: Look, after: Look, slot: Slot) -> float | None:
    """For how long the engines of a slot worked; None where they do not tell it."""
    risen = None
    for own, value in after.pages[slot].get(ENGINE_SECONDS, ()):
        risen = risen or 0.0
        for then, earlier in before.pages.get(slot, {}).get(ENGINE_SECONDS, ()):
            if then == own:
                risen += _since(earlier, value)
    return risen


def _since(earlier: float, value: float) -> float:
    return value - earlier if value >= earlier else value


def median(latency: Histogram) -> float | None:
    """Seconds, interpolated between the bounds of a histogram in ms; None without answers."""
    half, low = histogram_total(latency) / 2, (0.0, 0)
    for bound, within in latency:
        if half and within >= half:
            share = (half - low[1]) / (within - low[1])
            return (low[0] + share * (bound - low[0])) / 1000
        low = bound, within
    return None


class History:
    """The looks of the last minutes, oldest first."""

    def __init__(self) -> None:
        self.looks: deque[Look] = deque()

    def add(self, one: Look) -> None:
        self.looks.append(one)
        while one.at - self.looks[0].at > KEPT_SECONDS:
            self.looks.popleft()

    def whole(self, fleet: FleetConfig) -> Figures:
        """What the time between the first and the last look shows."""
        return figures(fleet, self.looks[0], self.looks[-1])

    def points(self, fleet: FleetConfig) -> list[Figures]:
        """What the time from each look to the next shows."""
        return [figures(fleet, one, other) for one, other in pairwise(self.looks)]


def watch(project: Project, fleet: FleetConfig, seconds: float) -> Iterator[str]:
    """`sentences` about the next `seconds`."""
    before = look(project, fleet)
    time.sleep(seconds)
    yield from sentences(figures(fleet, before, look(project, fleet)))


# --- words -------------------------------------------------------------------------------------


def sentences(found: Figures) -> Iterator[str]:
    """The figures, a line for each release and slot."""
    for (target, model, number), release in found.releases.items():
        yield f"{model} release {number} on {target}: {'; '.join(_of_release(release, found))}"
    for (target, name), slot in found.slots.items():
        yield f"slot {name} of {target}: {', '.join(_of_slot(slot, found.currency))}"
    if not found.releases:
        yield "nothing is served"
    yield from found.silent
    if found.programs:
        shown = (f"{name} {_mib(size)}" for name, size in sorted(found.programs.items()))
        yield f"memory: {', '.join(shown)}"


def _of_release(one: ReleaseFigures, found: Figures) -> Iterator[str]:
    yield f"{one.share:.0%} of the requests"
    if one.requests_per_second is not None:
        yield f"{one.requests_per_second:.2f} requests/s"
    if one.failed_share is not None:
        yield f"{one.failed_share:.1%} failed"
    if one.median_seconds is not None:
        yield f"median {one.median_seconds:.2f} s"
    if one.made_per_second is not None:
        yield f"{one.made_per_second:.2f} {one.unit}s/s"
    if one.engine_seconds is not None:
        yield f"{one.engine_seconds:.3g} s of the engine for each {one.unit}"
    if one.cost is not None:
        yield cost_of(one.cost, one.unit, found.currency)


def cost_of(cost: float, unit: str, currency: str) -> str:
    """What one of them costs, or a thousand where one is next to nothing."""
    many = cost < 0.0005
    what = f"1,000 {unit}s" if many else unit
    return f"{cost * (1000 if many else 1):.4f} {currency} per {what}"


def _of_slot(one: SlotFigures, currency: str) -> Iterator[str]:
    yield f"{one.waiting:.0f} waiting"
    yield f"busy {one.busy:.0%}"
    yield f"{one.adapters:.0f} adapters"
    if one.device_memory is not None:
        yield f"{one.device_memory:.0%} of the GPU's memory used"
    if one.cost_per_hour is not None and one.idle_cost_per_hour is not None:
        yield f"{one.idle_cost_per_hour:.3f} of {one.cost_per_hour:.3f} {currency} per hour idle"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
