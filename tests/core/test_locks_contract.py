"""What every implementation of `Locks` keeps: add one to IMPLEMENTATIONS."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from adire_assets.core.locks import FileLocks, Locks

IMPLEMENTATIONS: dict[str, Callable[[Path], Locks]] = {"files": FileLocks}
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture(params=IMPLEMENTATIONS)
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> Locks:
    return IMPLEMENTATIONS[request.param](tmp_path)


def hold_until_killed(locks: Locks, begun: "multiprocessing.synchronize.Event") -> None:
    with locks.acquire("device"):
        begun.set()
        signal.pause()


def test_one_at_a_time_and_each_lock_for_itself(locks: Locks) -> None:
    assert not locks.is_held("device")
    with locks.acquire("device") as lease:
        assert locks.is_held("device") and locks.is_current(lease)
        with locks.try_acquire("device") as second, locks.try_acquire("dvc") as other:
            assert second is None and other is not None
    assert not locks.is_held("device")


def test_a_failure_inside_lets_go(locks: Locks) -> None:
    with pytest.raises(RuntimeError), locks.acquire("device"):
        raise RuntimeError
    assert not locks.is_held("device")


def test_a_fence_only_grows_and_tells_a_lease_that_is_over(locks: Locks) -> None:
    leases = []
    for _ in range(20):
        with locks.acquire("device") as lease:
            leases.append(lease)
    fences = [lease.fence for lease in leases]
    assert fences == sorted(set(fences))
    assert [locks.is_current(lease) for lease in leases] == [False] * 19 + [True]
    assert len({lease.holder for lease in leases}) == 20


def test_a_killed_holder_holds_nothing(locks: Locks) -> None:
    begun = PROCESSES.Event()
    holder = PROCESSES.Process(target=hold_until_killed, args=(locks, begun))
    holder.start()
    assert begun.wait(30) and locks.is_held("device")
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    with locks.acquire("device"):
        pass


def count(locks: Locks, file: Path) -> None:
    for _ in range(50):
        with locks.acquire("device"):
            file.write_text(str(int(file.read_text()) + 1))


def test_of_racing_processes_each_has_it_alone(locks: Locks, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    racing = [PROCESSES.Process(target=count, args=(locks, file)) for _ in range(3)]
    for process in racing:
        process.start()
    for process in racing:
        process.join()
    assert file.read_text() == "150"
