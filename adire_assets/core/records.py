"""The plug `Records`: small JSON values that decide something and change; and records in files.

What is live, releases, approvals, quarantines, ratings and measurements are records, each under a
name such as deployments/local/indigo.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, write_json
from adire_assets.core.lineage import digest
from adire_assets.core.locks import Lease, Locks

T = TypeVar("T")
NAME = re.compile(r"[\w@-][\w.@-]*(/[\w@-][\w.@-]*)*")


class Conflict(RuntimeError):
    """A record was changed meanwhile, or the lease under which it was to be changed is over."""


@dataclass(frozen=True)
class Record:
    """What a record says. `value` and `revision` are None when it was never written; a `revision`
    is opaque, and another one whenever the value is. `place` names it in sentences."""

    place: str
    value: Any = None
    revision: str | None = None

    def as_kind(self, kind: Callable[..., T]) -> T:
        """`kind` with the value's keys as its arguments. UserError when they are others."""
        try:
            return kind(**self.value)
        except TypeError as error:
            reason = str(error).rpartition("() ")[2]
            raise UserError(
                f"{self.place} is not what belongs there ({reason}); take it from a backup"
            ) from None


class Records(Protocol):
    """Records by name, for all processes that share a home. A reader sees whole values only."""

    def read(self, name: str) -> Record:
        """A record as it is now. UserError for one that cannot be read."""

    def change(
        self,
        name: str,
        function: Callable[[Any], Any],
        *,
        revision: str | None = None,
        lease: Lease | None = None,
    ) -> Record:
        """Replace the value by what `function` makes of it (of None when there is none), with
        nobody else's change in between; the new record.

        What `function` raises leaves the record as it is. Conflict when the record has another
        `revision`, or `lease` is over. `function` changes no record itself.
        """

    def list(self, folder: str) -> list[str]:
        """The names of all records below a folder, at whatever depth, sorted."""


@dataclass(frozen=True)
class FileRecords:
    """Each record is <home>/<name>.json, replaced whole under a lock of its own."""

    home: Path
    locks: Locks

    def read(self, name: str) -> Record:
        path = self._path(name)
        try:
            value = read_json(path)
        except FileNotFoundError:
            return Record(str(path))
        return Record(str(path), value, digest(value))

    def change(
        self,
        name: str,
        function: Callable[[Any], Any],
        *,
        revision: str | None = None,
        lease: Lease | None = None,
    ) -> Record:
        with self.locks.acquire(f"record-{name.replace('/', '-')}"):
            before = self.read(name)
            if revision is not None and revision != before.revision:
                raise Conflict(f"{before.place} was changed meanwhile")
            value = function(before.value)
            if lease is not None and not self.locks.is_current(lease):
                raise Conflict(f"{lease.holder} no longer holds {lease.name}")
            if before.revision is None or value != before.value:
                write_json(self._path(name), value)
            return self.read(name)

    def list(self, folder: str) -> list[str]:
        found = (self.home / folder).rglob("*.json")
        names = (path.relative_to(self.home).with_suffix("").as_posix() for path in found)
        return sorted(name for name in names if NAME.fullmatch(name))

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a record")
        return self.home / f"{name}.json"
