"""What the gateway must know of a model, and how many requests it lets a release answer at once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adire_assets.config.fleet import LOOPBACK, GatewayConfig, SlotConfig
from adire_assets.core.answer import UsualRequest
from adire_assets.serving.gateway.protocol import InferenceProtocol, protocols_named
from adire_assets.serving.slot_server import server_of

REQUESTS_AT_ONCE = 64  # to a release of which nobody knows how much it can do
HEADROOM = 2  # for requests that are larger
MOST_AT_ONCE = 1000  # to any: each has a thread in its server


@dataclass(frozen=True)
class ServedModel:
    """What the gateway must know of one model.

    `loaded`: release -> the slot that holds it; `weights`: release -> its share of the requests
    that name no release, in percent, adding up to 100 (empty: such requests are refused);
    `mirrored`: (release, percent of the requests that it gets a copy of); `protocols`: the names of
    those that its releases are asked by (None: of all that their slots speak); `asked_as`: by which
    name, where that is not the model's; `usual`: release -> what a request of the default size
    takes, where that is known.
    """

    model: str
    loaded: Mapping[int, str]
    weights: Mapping[int, int] = field(default_factory=dict)
    mirrored: tuple[int, int] | None = None
    protocols: tuple[str, ...] | None = None
    asked_as: str = ""
    usual: Mapping[int, UsualRequest] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.asked_as or self.model

    def is_asked(self, number: int) -> bool:
        """Whether requests that name no release, or copies of them, come to this one."""
        copies = self.mirrored is not None and self.mirrored[0] == number
        return copies or self.weights.get(number, 0) > 0

    def asked_by(self, slots: Iterable[SlotConfig]) -> list[InferenceProtocol]:
        """The protocols that it is asked by, of those that these slots speak."""
        every = self.protocols is None
        return [one for one in protocols_of(slots) if every or one.name in (self.protocols or ())]


def protocols_of(slots: Iterable[SlotConfig]) -> list[InferenceProtocol]:
    """What these slots are asked by."""
    return protocols_named(name for slot in slots for name in server_of(slot).protocols)


def requests_at_once(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], served: Sequence[ServedModel]
) -> dict[tuple[str, int], int]:
    """(model, release) -> how many requests it may be answering; those beyond are refused.

    As many as are answered within half of the timeout if each is of the default size. The engines
    of a machine that are asked take turns, so that each has an equal part of its time, and so has
    each release of an engine that is asked.
    """
    releases = [(one, number, name) for one in served for number, name in one.loaded.items()]
    fixed = gateway.maximum_concurrent_requests
    found = {(one.model, number): fixed or REQUESTS_AT_ONCE for one, number, _ in releases}
    if fixed:
        return found

    def engine_of(one: ServedModel, number: int, name: str) -> tuple[str, str, str]:
        """(machine, slot, engine); of a slot's releases that were not measured, one together."""
        host, usual = slots[name].host, one.usual.get(number)
        machine = LOOPBACK[0] if host in LOOPBACK else host
        return machine, name, usual.engine if usual else ""

    releases = [place for place in releases if place[2] in slots]
    asked: dict[tuple[str, str, str], set[tuple[str, int]]] = defaultdict(set)
    for one, number, name in releases:
        if one.is_asked(number):
            asked[engine_of(one, number, name)].add((one.model, number))
    for one, number, name in releases:
        if (usual := one.usual.get(number)) is None:
            continue
        engine, release = engine_of(one, number, name), (one.model, number)
        engines = {other for other in asked if other[0] == engine[0]} | {engine}
        sharing = len(asked.get(engine, set()) | {release})
        seconds = usual.seconds * len(engines) * sharing
        if sharing > 1:
            seconds *= usual.shared
        most = int(gateway.request_timeout_seconds / HEADROOM / seconds)
        found[release] = min(max(most, 1), MOST_AT_ONCE)
    return found
