"""A release in a slot: brought there, checked, taken away. No traffic is moved here."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adire_assets.config.fleet import FleetConfig, SlotConfig, fleet_file_name
from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.locks import Lease
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.core.waiting import wait_until
from adire_assets.serving import release
from adire_assets.serving.client import ask, stream
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.fleet import guard, slot
from adire_assets.serving.fleet.supervisor import is_supervised, slot_program
from adire_assets.serving.release import ReleaseRecord, family_of_release
from adire_assets.serving.slot_server import address, is_live, server_of


@dataclass(frozen=True)
class SlotClient:
    """One slot of a target."""

    project: Project
    fleet: FleetConfig
    target: str
    name: str

    @property
    def config(self) -> SlotConfig:
        return self.fleet.targets[self.target].slots[self.name]

    @property
    def folder(self) -> Path:
        return slot.folder(self.project, self.target, self.name, self.config)

    @property
    def address(self) -> str:
        return address(self.config)

    def exclusive(self, model: str) -> AbstractContextManager[Lease]:
        """Nobody else changes what the slot holds of this model meanwhile."""
        return self.project.locks.acquire(f"slot-{self.target}-{self.name}-{model}")

    def load(self, wanted: ReleaseRecord, require: Callable[[], None] = lambda: None) -> None:
        """Make the slot's server serve this release, and no other of its model.

        What it held before answers until the new one does. UserError when it is down, serves
        the model for another project, or cannot load the release; then it holds what it held.
        `require` raises when that is not wanted any more; it is asked before each change.
        """
        model, number = wanted.model, wanted.number
        self.wait()
        self._refuse_foreign(model)
        require()
        release.install(self.project, wanted, self.folder)
        try:
            require()
            self._reconcile(model)
            self.require_answer(wanted)
        except UserError:
            require()
            self.unload(model, number)
            raise
        require()
        others = [other for other in release.installed(self.folder, model) if other != number]
        for other in others:
            release.remove(self.folder, model, other)
        if others or self.ready(model) != {number}:
            self._reconcile(model)

    def reload(self, wanted: ReleaseRecord, require: Callable[[], None]) -> None:
        """Load the release afresh, also where the server takes a dead one for ready."""
        require()
        release.remove(self.folder, wanted.model, wanted.number)
        self.load(wanted, require)

    @contextmanager
    def lent(self, wanted: ReleaseRecord) -> Iterator[str]:
        """The slot's address while it serves this release beside what it holds."""
        model, number = wanted.model, wanted.number
        with self.exclusive(model):
            self._refuse_foreign(model)
            own = number in release.installed(self.folder, model)
            release.install(self.project, wanted, self.folder)
            try:
                self._reconcile(model)
                self.require_answer(wanted)
                yield self.address
            finally:
                if not own:
                    self.unload(model, number)

    def unload(self, model: str, number: int) -> None:
        """Take a release out of the slot; done also when its server is down."""
        live = is_live(self.config)
        release.remove(self.folder, model, number)
        if live:
            self._reconcile(model)

    def wait(self) -> None:
        """A supervised slot that was just killed comes back; any other must answer now."""
        if not is_live(self.config):
            supervised = self.config.launch == "local" and is_supervised(
                self.project, slot_program(self.target, self.name)
            )
            start_seconds = server_of(self.config).start_seconds(self.folder)
            longest = max(self.fleet.load_timeout_seconds, start_seconds)
            wait_until(lambda: is_live(self.config), longest if supervised else 0)
            server_of(self.config).require_live(self.config, 5)

    def require_ours(self) -> None:
        """UserError when a local slot's server does not run; another project's does not count."""
        if not self._is_ours():
            other = "; what answers there is another project's" if is_live(self.config) else ""
            raise UserError(
                f"the server of slot {self.name} does not run at {self.address}{other}; `adire up` "
                "starts it, or names who has its ports"
            )

    def require_answer(self, wanted: ReleaseRecord) -> None:
        """UserError unless the slot answers with the wanted release."""
        for answer in ask_for_signs(self.project, self.address, wanted):
            found = (answer.release, answer.provenance["release_hash"])
            if found != (wanted.number, wanted.repository["content_hash"]):
                raise UserError(
                    f"the server at {self.address} answers with release {found[0]} of "
                    f"{wanted.model} ({found[1][:12]}), not with {wanted.number} "
                    f"({wanted.repository['content_hash'][:12]})"
                )

    def ready(self, model: str) -> set[int]:
        """The releases of a model that the server calls ready; UserError when it is down."""
        return server_of(self.config).held(self.config, model)

    def _reconcile(self, model: str) -> None:
        seconds = self.fleet.load_timeout_seconds
        server_of(self.config).reconcile(self.config, self.folder, model, seconds)

    def _is_ours(self) -> bool:
        return self.config.launch == "remote" or guard.is_running(guard.mark(self.folder))

    def _refuse_foreign(self, model: str) -> None:
        """UserError when the server serves this model for another project or home."""
        foreign = self.ready(model) - set(release.installed(self.folder, model))
        if foreign and not self._is_ours():
            raise UserError(
                f"the server at {self.address} already serves release {max(foreign)} of {model}, "
                f"which this project did not deploy; choose other ports in {fleet_file_name()}, "
                "or stop that server where it was started"
            )


def ask_for_signs(
    project: Project, endpoint: Endpoint | str, wanted: ReleaseRecord
) -> Iterator[Answer]:
    """A release's answer to the cheapest request of the kind that it was evaluated with, and the
    end of its stream where it is served in streams too."""
    plug, evaluation = family_of_release(project, wanted), Store(project).open(wanted.evaluation)
    served = plug.serve.functions
    request = served.probe(served.requests(evaluation.path)[0])
    yield ask(endpoint, plug, wanted.model, request, wanted.number)
    if wanted.streams:
        *_, last = stream(endpoint, plug, wanted.model, request, wanted.number)
        yield last
