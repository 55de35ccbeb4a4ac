"""The plug of a slot server: the program that serves releases in a slot.

A kind of server is a module, named in `config.fleet.SERVERS` and chosen by a slot's key `server`.
Its replicas pull: what a slot should hold is written into its folder (see `release.install`), and
the server is brought to that, `reconcile`, or finds it when it starts. It is asked by the clients
of its protocols (`serving.gateway.protocol`), and watched through the gateway.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from adire_assets.config.fleet import SERVERS, SlotConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving.connection import host_and_port


class SlotServer(ABC):
    """One kind of server. It keeps nothing: everything is the slot's.

    `protocols` are the names of those that it speaks, `port` is the key of a slot where it is asked
    by this project, `metrics_port` that of its metrics.
    `drain_seconds`: how long a server that stops lets running requests finish.
    `error_line` is a regular expression of the lines of its log that say what is wrong.
    `metric_labels` are Prometheus' relabellings of its metrics to `model` and `release`, and
    `metric_rules` is a file of rules that record stable names of them (see docs/metrics.md).
    """

    protocols: tuple[str, ...]
    port: str
    metrics_port: str = "metrics_port"
    drain_seconds: int
    error_line: str
    metric_labels: Sequence[Mapping[str, Any]] = ()
    metric_rules: Path | None = None

    @abstractmethod
    def command(
        self, project: Project, folder: Path, slot: SlotConfig, models: Sequence[str]
    ) -> list[str]:
        """What serves these models of a slot's folder on loopback, at the ports of `slot`."""

    @abstractmethod
    def environment(self, device: str, threads: int) -> dict[str, str]:
        """All of it. `device` is "auto", "cpu" or "cuda"; on the CPU an engine has so many
        `threads`, unless it takes turns with those of other slots."""

    @abstractmethod
    def versions(self, content: Path) -> dict[str, str]:
        """Distribution -> version of what decides how a release answers; `content` is the folder of
        the release's files, or of its family's backend."""

    def own_metrics(self, slot: SlotConfig) -> str | None:
        """host:port where a local server shows its metrics by itself, for the slot's process to
        show them at `metrics_port` with those of its engines; None: it has that port itself."""
        return None

    def start_seconds(self, folder: Path) -> float:
        """How long it may take to start, where that is longer than a load; `folder` is a slot's, or
        the content of a release that it starts for."""
        return 0.0

    @abstractmethod
    def require_live(self, slot: SlotConfig, seconds: float) -> None:
        """UserError with the address and a hint when no server answers."""

    @abstractmethod
    def reconcile(self, slot: SlotConfig, folder: Path, model: str, seconds: float) -> set[int]:
        """Bring the server to the releases of a model that its folder holds; what it then serves.

        Those that it serves already go on meanwhile. UserError when one cannot be loaded.
        """

    @abstractmethod
    def held(self, slot: SlotConfig, model: str) -> set[int]:
        """The releases of a model that the server calls ready; UserError when it is down."""

    @abstractmethod
    def health_path(self, model: str | None) -> str:
        """What the gateway asks over HTTP: 200 while it serves the model, or runs at all."""

    @abstractmethod
    def load_failure(self, model: str) -> str:
        """A regular expression of what its log says about a model that it does not load; the first
        group is why."""


def server_named(kind: str) -> SlotServer:
    found: Any = resolve_name(SERVERS[kind])
    assert isinstance(found, SlotServer)
    return found


def server_of(slot: SlotConfig) -> SlotServer:
    return server_named(slot.server)


def speaks(kind: str, protocols: Iterable[str]) -> bool:
    """Whether a kind of server speaks all of these."""
    return set(protocols) <= set(server_named(kind).protocols)


def slots_speaking(slots: Mapping[str, SlotConfig], protocols: Iterable[str]) -> list[str]:
    """The names of the slots whose server speaks all of these."""
    return [name for name, slot in slots.items() if speaks(slot.server, protocols)]


def kind_speaking(protocols: Iterable[str]) -> str:
    """The first kind of server that speaks all of these. UserError when there is none."""
    for kind in SERVERS:
        if speaks(kind, protocols):
            return kind
    raise UserError(
        f"no kind of slot server speaks {', '.join(protocols)}; there are {', '.join(SERVERS)}"
    )


def address(slot: SlotConfig) -> str:
    """host:port where the slot is asked by this project."""
    return host_and_port(slot.host, getattr(slot, server_of(slot).port))


def is_live(slot: SlotConfig) -> bool:
    """Whether a server answers. False also when nobody listens."""
    try:
        server_of(slot).require_live(slot, 2)
    except UserError:
        return False
    return True
