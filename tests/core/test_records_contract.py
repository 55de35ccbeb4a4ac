"""What every implementation of `Records` keeps: add one to IMPLEMENTATIONS."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.locks import FileLocks, Locks
from adire_assets.core.records import Conflict, FileRecords, Records


def in_files(folder: Path) -> tuple[Records, Locks]:
    locks = FileLocks(folder / "locks")
    return FileRecords(folder, locks), locks


IMPLEMENTATIONS: dict[str, Callable[[Path], tuple[Records, Locks]]] = {"files": in_files}
PROCESSES = multiprocessing.get_context("fork")
LIVE = "deployments/local/indigo"


@pytest.fixture(params=IMPLEMENTATIONS)
def plugs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Records, Locks]:
    return IMPLEMENTATIONS[request.param](tmp_path)


@pytest.fixture
def records(plugs: tuple[Records, Locks]) -> Records:
    return plugs[0]


def test_a_record_is_what_was_last_made_of_it(records: Records) -> None:
    assert (records.read(LIVE).value, records.read(LIVE).revision) == (None, None)
    first = records.change(LIVE, lambda value: {"live": 1, "was": value})
    assert first == records.read(LIVE) and first.value == {"live": 1, "was": None}
    second = records.change(LIVE, lambda value: {**value, "live": 2})
    assert second.value == {"live": 2, "was": None} and second.revision != first.revision
    assert records.change(LIVE, lambda value: value) == second


def test_what_raises_changes_nothing(records: Records) -> None:
    before = records.change(LIVE, lambda _: [1])

    def fail(value: list[int]) -> None:
        value.append(2)
        raise UserError("no")

    with pytest.raises(UserError):
        records.change(LIVE, fail)
    assert records.read(LIVE) == before


def test_another_revision_than_the_one_that_was_read_is_refused(records: Records) -> None:
    read = records.change(LIVE, lambda _: {"live": 1})
    records.change(LIVE, lambda _: {"live": 2}, revision=read.revision)
    with pytest.raises(Conflict):
        records.change(LIVE, lambda _: {"live": 3}, revision=read.revision)
    assert records.read(LIVE).value == {"live": 2}


def test_a_lease_that_is_over_changes_nothing(plugs: tuple[Records, Locks]) -> None:
    records, locks = plugs
    with locks.acquire("rollout") as taken_for_dead:
        records.change(LIVE, lambda _: {"live": 1}, lease=taken_for_dead)
    with locks.acquire("rollout") as successor:
        records.change(LIVE, lambda _: {"live": 2}, lease=successor)
        with pytest.raises(Conflict, match="no longer holds rollout"):
            records.change(LIVE, lambda _: {"live": 3}, lease=taken_for_dead)
    assert records.read(LIVE).value == {"live": 2}


def test_a_list_names_what_lies_below_a_folder(records: Records) -> None:
    for name in (LIVE, "deployments/indigo", "deployments/far/indigo", "releases/indigo/1"):
        records.change(name, lambda _: {})
    below = ["deployments/far/indigo", "deployments/indigo", LIVE]
    assert records.list("deployments") == below
    assert records.list("deployments/local") == [LIVE] and records.list("ratings") == []


@pytest.mark.parametrize("name", ["../indigo", "/indigo", "a//b", "a/../b", ".hidden", ""])
def test_no_name_leaves_the_home(records: Records, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a record"):
        records.change(name, lambda _: {})


def count(records: Records) -> None:
    for _ in range(30):
        records.change(LIVE, lambda value: (value or 0) + 1)


def test_no_change_of_racing_processes_is_lost(records: Records) -> None:
    racing = [PROCESSES.Process(target=count, args=(records,)) for _ in range(3)]
    for process in racing:
        process.start()
    for process in racing:
        process.join()
    assert records.read(LIVE).value == 90


def test_a_value_becomes_a_kind_or_the_record_is_named(records: Records) -> None:
    def kind(live: int) -> Any:
        return live

    assert records.change(LIVE, lambda _: {"live": 1}).as_kind(kind) == 1
    broken = records.change(LIVE, lambda _: {"dead": 1})
    with pytest.raises(UserError, match=r"indigo.*is not what belongs there"):
        broken.as_kind(kind)
