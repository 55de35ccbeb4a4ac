"""What every implementation of `Storage` keeps: add one to IMPLEMENTATIONS."""

import multiprocessing
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adire_assets.core import readers
from adire_assets.core.project import Project
from adire_assets.core.storage import FileStorage, Storage

IMPLEMENTATIONS: dict[str, Callable[[Project], Storage]] = {
    "files": lambda project: FileStorage(project.home)
}
PROCESSES = multiprocessing.get_context("fork")
NAME, OTHER = "cloth/thing/1", "cloth/thing/2"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, tmp_path / "home")
    (project.home / "store").mkdir(parents=True)
    return project


@pytest.fixture(params=IMPLEMENTATIONS)
def storage(request: pytest.FixtureRequest, project: Project) -> Storage:
    return IMPLEMENTATIONS[request.param](project)


def finished(project: Project, content: str) -> Path:
    folder = project.home / "store" / ".tmp" / content
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "a.txt").write_text(content)
    return folder


def put(storage: Storage, project: Project, *names: str) -> None:
    for name in names:
        assert storage.put_if_absent(name, finished(project, name.replace("/", "-")))


def delete(storage: Storage, *names: str, dry_run: bool = False) -> list[str]:
    return [name for name, _ in storage.delete_unheld(names, lambda: names, dry_run)]


def test_the_first_stays(storage: Storage, project: Project) -> None:
    assert storage.find(NAME) is None and storage.names() == []
    assert storage.put_if_absent(NAME, finished(project, "first"))
    assert not storage.put_if_absent(NAME, finished(project, "second"))
    found = storage.find(NAME)
    assert found and (found / "a.txt").read_text() == "first"
    put(storage, project, OTHER)
    assert storage.names() == [NAME, OTHER]


def test_names_are_told_while_others_come_and_go(storage: Storage, project: Project) -> None:
    put(storage, project, NAME)
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for place in (project.home / "store" / name for name in (".tmp/x", "cloth/x")):
                (place / "a").mkdir(parents=True)
                shutil.rmtree(place)

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(500):
            assert storage.names() == [NAME]
    finally:
        over.set()
        other.join()


def race(storage: Storage, folder: Path, won: "multiprocessing.Queue[str]") -> None:
    if storage.put_if_absent(NAME, folder):
        won.put(folder.name)


def test_of_racing_processes_one_wins(storage: Storage, project: Project) -> None:
    won = PROCESSES.Queue()
    folders = [finished(project, str(number)) for number in range(4)]
    racing = [PROCESSES.Process(target=race, args=(storage, folder, won)) for folder in folders]
    for process in racing:
        process.start()
    for process in racing:
        process.join()
    found = storage.find(NAME)
    assert found and won.get(timeout=5) == (found / "a.txt").read_text() and won.empty()


def read_until(storage: Storage, how: str, begun: object, end: object) -> None:
    storage.find(NAME) if how == "found" else storage.hold(NAME)
    begun.set()  # type: ignore[attr-defined]
    end.wait(60)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["found", "held"])
def test_what_another_process_holds_stays_until_it_ends(
    storage: Storage, project: Project, how: str
) -> None:
    put(storage, project, NAME, OTHER)
    begun, end = PROCESSES.Event(), PROCESSES.Event()
    reader = PROCESSES.Process(target=read_until, args=(storage, how, begun, end))
    reader.start()
    assert begun.wait(30)
    assert delete(storage, NAME, OTHER, dry_run=True) == [OTHER]
    assert delete(storage, NAME, OTHER) == [OTHER]
    assert storage.names() == [NAME]
    end.set()
    reader.join()
    assert delete(storage, NAME) == [NAME] and storage.names() == []


def test_a_dry_run_deletes_nothing(storage: Storage, project: Project) -> None:
    put(storage, project, NAME)
    assert delete(storage, NAME, dry_run=True) == [NAME]
    assert storage.names() == [NAME]


def test_what_has_become_needed_meanwhile_stays(storage: Storage, project: Project) -> None:
    put(storage, project, NAME, OTHER)
    gone = [name for name, _ in storage.delete_unheld([NAME, OTHER], lambda: [OTHER])]
    assert gone == [OTHER] and storage.names() == [NAME]


def test_all_are_out_of_sight_before_the_first_is_deleted(
    storage: Storage, project: Project
) -> None:
    put(storage, project, NAME, OTHER)
    for name, folder in storage.delete_unheld([NAME, OTHER], lambda: [NAME, OTHER]):
        assert storage.names() == []
        assert (folder / "a.txt").read_text() == name.replace("/", "-")
    shutil.rmtree(project.home / "store" / ".tmp", ignore_errors=True)


def test_a_block_of_reading_lets_go(storage: Storage, project: Project) -> None:
    put(storage, project, NAME)
    with readers.reading():
        storage.hold(NAME)
    assert delete(storage, NAME) == [NAME]
