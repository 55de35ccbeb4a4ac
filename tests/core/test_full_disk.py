"""A disk that is full or can only be read: one sentence with the path, nothing half written."""

import errno
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from adire_assets.cli import main
from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Store, write_json
from adire_assets.gates import approvals
from adire_assets.ops.backup import backup, restore
from adire_assets.ops.gc import collect_garbage
from adire_assets.serving import record, release
from adire_assets.tracking import registry

ROOT = Path(__file__).parents[2]
MODEL = "indigo"


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def project(disk: Path, mlflow_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A home with artifacts and a release on that disk."""
    made = Project(mlflow_project.root, disk / "home")
    shutil.copytree(mlflow_project.home, made.home)
    shutil.copytree(ROOT / "configs", made.root / "configs", dirs_exist_ok=True)
    monkeypatch.setenv("ADIRE_PROJECT", str(made.root))
    monkeypatch.setenv("ADIRE_HOME", str(made.home))
    for number in range(4):
        make(made, number)
    base = Store(made).artifacts(MODEL, "thing")[0].reference()
    parts = ("repository", "adapter", "base_model", "evaluation", "verdict")
    wanted = release.ReleaseRecord(
        MODEL, 1, **dict.fromkeys(parts, base), mlflow_run_id=None, provenance={}
    )
    release.write_record(made, wanted)
    slot = made.home / "fleet" / "slots" / "a"
    release.install(made, wanted, slot)  # its base takes no space, since it is linked
    release.remove(slot, MODEL, 1)
    registry.aliases(made, MODEL)
    return made


@pytest.fixture
def read_only(project: Project, disk: Path, tmp_path: Path) -> Iterator[Project]:
    """The same home, where it can only be read."""
    place = tmp_path / "read_only"
    place.mkdir()
    mount("--bind", str(disk), str(place))
    mount("-o", "remount,bind,ro", str(place))
    try:
        yield Project(project.root, place / "home")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make(project: Project, number: int) -> None:
    def write(folder: Path) -> None:
        (folder / "pipeline").mkdir()
        (folder / "pipeline" / "weights").write_bytes(bytes(300_000))
        (folder / "base.json").write_bytes(b"{}")
        (folder / "config.pbtxt").write_bytes(b"")

    Store(project).build(Recipe("thing", MODEL, inputs={"n": str(number)}), write)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "locks"
    }


def adire(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["adire", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return (int(ended.value.code or 0), *capsys.readouterr())


WRITERS: dict[str, tuple[Callable[[Project], object], str]] = {
    "an artifact": (lambda project: make(project, 9), r"home/store/.tmp/indigo-thing-\S+"),
    "a quarantine": (
        lambda project: record.quarantine(project, MODEL, 1, "too pale"),
        "home/quarantine/indigo/1.json",
    ),
    "a deployment": (
        lambda project: record.change(
            project,
            "local",
            MODEL,
            lambda state: state.with_live_release(None, "rollback", "x"),
        ),
        "home/deployments/local/indigo.json",
    ),
    "an approval": (
        lambda project: approvals.approve(
            project, release.read_record(project, MODEL, 1), "rounder", "ada"
        ),
        "home/approvals/indigo/1.json",
    ),
    "a slot": (
        lambda project: release.install(
            project, release.read_record(project, MODEL, 1), project.home / "fleet" / "slots" / "a"
        ),
        r"home/fleet/slots/a/models/indigo/\S+",
    ),
    "a backup": (
        lambda project: backup(project, project.home.parent / "kept", lambda message: None),
        r".kept.unfinished/home/\S+",
    ),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_is_told_with_its_path_and_nothing_stays_half_written(
    project: Project, disk: Path, what: str
) -> None:
    write, path = WRITERS[what]
    fill(disk)
    before = files_of(disk)
    with pytest.raises(UserError) as refused:
        write(project)
    assert re.fullmatch(
        rf"the disk of {disk}/{path} is full; make room there \(`adire gc --dry-run` .*",
        str(refused.value),
    )
    assert files_of(disk) == before


@pytest.mark.parametrize("what", [name for name in WRITERS if name != "a slot"])
def test_a_disk_that_can_only_be_read_is_told(read_only: Project, what: str) -> None:
    write, _ = WRITERS[what]
    with pytest.raises(UserError) as refused:
        write(read_only)
    assert re.fullmatch(
        rf"{read_only.home.parent}/\S+ lies on a file system that can only be read; mount it .*",
        str(refused.value),
    )


def test_gc_makes_room_on_a_full_disk(project: Project, disk: Path) -> None:
    cached = project.home / "cache" / "latents" / "00" / "0.safetensors"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(bytes(1000))
    limits = project.root / "configs" / "home.yaml"
    limits.write_text("maximum_cache_gigabytes: 0\n")
    fill(disk)
    said = list(collect_garbage(project, keep=1, dry_run=False))
    assert said[-1] == "0.6 MB were freed"
    assert len(Store(project).artifacts()) == 2 and not cached.exists()
    make(project, 9)
    lost = Recipe("thing", MODEL, inputs={"n": "1"})
    assert Store(project).find(lost) is None
    assert list((project.home / "manifests").rglob("manifest.json"))


def test_the_commands_tell_it_in_a_line(
    read_only: Project,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    fill(disk)
    for words in (
        ("materialize", MODEL, "--select", "training_config"),
        ("lift-quarantine", MODEL, "1", "--reason", "x"),
        ("up", "--only", "serving"),
    ):
        code, _, said = adire(monkeypatch, capsys, *words)
        assert code == 1 and said.count("\n") == 1
        assert words[0] == "lift-quarantine" or "is full; make room there" in said
    monkeypatch.setenv("ADIRE_HOME", str(read_only.home))
    for words in (
        ("materialize", MODEL, "--select", "training_config"),
        ("rollback", MODEL, "--reason", "x"),
        ("gc", "--keep", "1"),
        ("up", "--only", "serving"),
    ):
        code, _, said = adire(monkeypatch, capsys, *words)
        assert code == 1 and said.count("\n") == 1 and "can only be read" in said
    code, out, said = adire(monkeypatch, capsys, "status")
    assert code == 0 and "STOPPED" in out and not said


def test_what_is_on_a_disk_that_can_only_be_read_can_be_backed_up(
    project: Project, read_only: Project, tmp_path: Path
) -> None:
    """A disk that begins to fail is mounted so. Dagster's last rows lie in the log beside."""
    path = project.home / "dagster" / "runs.db"
    path.parent.mkdir()
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE runs (id TEXT)")
    writer.commit()
    writer.execute("INSERT INTO runs VALUES ('the last one')")
    writer.commit()
    beside = {end: Path(f"{path}{end}").read_bytes() for end in ("", "-wal")}
    writer.close()
    for end, content in beside.items():
        Path(f"{path}{end}").write_bytes(content)
    backup(read_only, tmp_path / "kept", lambda message: None)
    again = Project(project.root, tmp_path / "again")
    restore(again, tmp_path / "kept", lambda message: None)
    with closing(sqlite3.connect(again.home / "dagster" / "runs.db")) as database:
        assert database.execute("SELECT id FROM runs").fetchall() == [("the last one",)]
    assert release.read_record(again, MODEL, 1).model == MODEL


def test_a_child_whose_disk_is_full_tells_it(project: Project, disk: Path) -> None:
    roomy, arguments = Project(project.root, project.root / "roomy"), {"folder": project.home}
    with pytest.raises(UserError, match=r"is full; make room there"):
        run_step(roomy, "tests.support.jobs:fill", arguments, progress=lambda message: None)


def test_a_lock_that_there_is_needs_no_writing(project: Project, read_only: Project) -> None:
    with project.locks.acquire("dvc"):
        pass
    with read_only.locks.acquire("dvc"):
        assert project.locks.is_held("dvc")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left"), "the disk of the project's home is full; "),
        (OSError(errno.EDQUOT, "Quota", "/a"), "your quota on the disk of /a is used up; "),
        (OSError(errno.EFBIG, "File too large", "/a"), "/a would become larger than a file may"),
        (RuntimeError("Error while serializing: No space left on device (os error 28)"), "the dis"),
        (sqlite3.OperationalError("database or disk is full"), "the disk of the project's home is"),
        (
            sqlite3.OperationalError("disk I/O error"),
            "the project's home cannot be read or",
        ),
        (OSError(errno.ECONNREFUSED, "Connection refused"), None),
        (RuntimeError("the vat leaks"), None),
    ],
)
def test_what_libraries_make_of_it_is_seen_through(error: Exception, sentence: str | None) -> None:
    wrapped = RuntimeError("a run did not finish")
    wrapped.__cause__ = error
    for one in (error, wrapped) if not isinstance(error, OSError) else (error,):
        said = refusal(one)
        assert said is None if sentence is None else (said or "").startswith(sentence)


def test_what_was_written_before_stays_when_the_disk_is_full(project: Project, disk: Path) -> None:
    path = project.home / "deployments" / "local" / f"{MODEL}.json"
    write_json(path, {"live": 1})
    fill(disk)
    with pytest.raises(UserError, match="is full"):
        write_json(path, {"live": 2, "history": ["x" * 10_000]})
    assert '"live": 1' in path.read_text()
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def write_much(source: Path, folder: Path) -> None:
    with (folder / "weights").open("wb") as file:
        for _ in range(30):
            file.write(bytes(10**6))


def copy_much(source: Path, folder: Path) -> None:
    source.mkdir()
    write_much(source, source)
    shutil.copytree(source, folder / "pipeline")


@pytest.mark.parametrize("step", [write_much, copy_much])
def test_a_step_that_fills_the_disk_is_told_and_its_folder_goes(
    project: Project, disk: Path, step: Callable[[Path, Path], None]
) -> None:
    before = files_of(disk)
    recipe = Recipe("base_model", MODEL)
    with pytest.raises(UserError, match=r"/home/store/\.tmp/indigo-base_model-\S+ is full; make r"):
        Store(project).build(recipe, partial(step, project.root / "many"))
    assert files_of(disk) == before


def test_the_command_line_sees_through_what_a_library_made_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def app() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(main, "app", app)
    code, _, said = adire(monkeypatch, capsys, "status")
    assert code == 1 and said.startswith("adire: the disk of the project's home is full; make room")


def test_the_file_is_named_and_not_the_one_that_becomes_it(read_only: Project) -> None:
    with pytest.raises(UserError, match=rf"^{read_only.home}/facts.json lies on a file system"):
        write_json(read_only.home / "facts.json", {})
