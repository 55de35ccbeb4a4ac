"""What `adire gc` deletes and what it leaves."""

from dataclasses import asdict
from pathlib import Path

import pytest

from adire_assets.cli import main
from adire_assets.core import readers
from adire_assets.core.project import Project
from adire_assets.core.storage import FileStorage
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.serving import release
from adire_assets.serving.state import DeploymentRecord, Rollout
from tests.support.garbage import HOW_IT_READS, MODEL, gc, make, reader

DESCRIPTORS = Path("/proc/self/fd")


# --- artifacts -----------------------------------------------------------------------------------


def test_what_nothing_needs_goes_and_is_told_before_and_after(project: Project) -> None:
    made = make(project)
    before = gc(project, dry_run=True)
    assert all(artifact.path.exists() for artifact in made)
    after = gc(project)
    assert [artifact.path.exists() for artifact in made] == [False, False, True]
    assert before[:-1] == after[:-1] and len(after) == 3
    assert all(f"{MODEL}/thing {artifact.key[:12]}" in "\n".join(after) for artifact in made[:2])
    assert before[-1].endswith("would be freed") and after[-1].endswith("were freed")
    for artifact in made[:2]:
        assert Store(project).recall(artifact.reference()).manifest["key"] == artifact.key
    assert not list((Store(project).root / ".tmp").iterdir())


@pytest.mark.parametrize("how", HOW_IT_READS)
def test_what_another_process_reads_stays_until_it_ends(project: Project, how: str) -> None:
    read, *_ = make(project)
    process = reader(project, read, how)
    assert str(read.key[:12]) not in "\n".join(gc(project, dry_run=True))
    gc(project)
    said, _ = process.communicate("\n", timeout=30)
    assert said == "True\n" and process.returncode == 0
    gc(project)
    assert not read.path.exists()


def test_what_a_killed_process_has_read_goes(project: Project) -> None:
    read, *_ = make(project)
    process = reader(project, read, "opened")
    process.kill()
    process.wait()
    gc(project)
    assert not read.path.exists()


def test_what_is_opened_while_it_is_decided_stays(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the deletion somebody comes, reads, refers to it, and has ended:
    as the step of a run in a process of its own does."""
    read, other, *_ = make(project, 4)
    remember = Store.remember

    def come(store: Store, artifact: Artifact) -> None:
        remember(store, artifact)
        if artifact == read:
            reader(project, artifact, "opened").communicate("\n", timeout=30)
            place = project.home / "references" / "run-of-now" / MODEL / "thing.json"
            write_json(place, artifact.reference())

    monkeypatch.setattr(Store, "remember", come)
    with project.locks.acquire("run-run-of-now"):
        gc(project)
    assert read.path.exists() and not other.path.exists()
    monkeypatch.undo()
    gc(project)  # the run has ended
    assert not read.path.exists()


def test_readers_cost_no_descriptor_each_and_a_block_lets_go(project: Project) -> None:
    made = make(project, 12)
    store = Store(project)
    before = len(list(DESCRIPTORS.iterdir()))
    for artifact in made:
        store.open(artifact.reference())
    assert len(list(DESCRIPTORS.iterdir())) <= before + 1
    with readers.reading():
        store.open(made[0].reference())
        names = [made[0].name, made[1].name]
        with readers.reading(), readers.exclusive(project.home, names) as free:
            assert not free  # this process has opened all of them
    assert len(list(DESCRIPTORS.iterdir())) <= before + 1


@pytest.mark.parametrize(
    "said",
    [
        {"live": 1, "active": "blue"},
        {"live": 3, "history": [{"number": 1}, {"number": 3}]},
        {"live": 3, "slots": {"blue": 3, "green": 1}},
    ],
    ids=["serves", "served before", "stands by"],
)
def test_a_release_that_is_served_or_may_be_gone_back_to_stays(
    project: Project, said: dict
) -> None:
    wanted, unwanted, newest = make(project)
    parts = ("repository", "adapter", "base_model", "evaluation", "verdict")
    for number, content in ((1, wanted), (2, unwanted), (3, newest)):
        references = dict.fromkeys(parts, content.reference())
        release.write_record(
            project,
            release.ReleaseRecord(MODEL, number, **references, mlflow_run_id=None, provenance={}),
        )
    state = asdict(DeploymentRecord(MODEL, "far", **said))
    write_json(project.home / "deployments" / "far" / f"{MODEL}.json", state)
    gc(project)
    assert [one.path.exists() for one in (wanted, unwanted, newest)] == [True, False, True]


def test_a_release_on_its_way_to_a_later_target_stays(project: Project) -> None:
    made = make(project)
    reference = made[0].reference()
    parts = ("repository", "adapter", "base_model", "evaluation", "verdict")
    for number in (1, 2):
        record = release.ReleaseRecord(
            model=MODEL,
            number=number,
            **dict.fromkeys(parts, reference if number == 1 else made[2].reference()),
            mlflow_run_id=None,
            provenance={},
        )
        release.write_record(project, record)
    coming = Rollout(number=1, origin=None, slot="blue", strategy="canary", steps=[100])
    state = DeploymentRecord(MODEL, "far", rollout=coming)
    write_json(project.home / "deployments" / "far" / f"{MODEL}.json", asdict(state))
    gc(project)
    assert made[0].path.exists() and not made[1].path.exists()


def test_a_release_that_a_plan_brings_to_a_target_without_a_record_stays(project: Project) -> None:
    made = make(project)
    parts = ("repository", "adapter", "base_model", "evaluation", "verdict")
    for number, content in ((1, made[0]), (2, made[2])):
        references = dict.fromkeys(parts, content.reference())
        release.write_record(
            project,
            release.ReleaseRecord(MODEL, number, **references, mlflow_run_id=None, provenance={}),
        )
    begin = {"number": 1, "origin": None, "slot": "blue", "strategy": "canary", "steps": [100]}
    step = {"to": None, "leave": None, "verdict": None, "reason": "", "begin": begin}
    plan = {"token": 1, "at": "2026-01-01T00:00:00+00:00", "steps": {"far": step}}
    write_json(project.home / "deployments" / f"{MODEL}.json", plan)
    gc(project)
    assert made[0].path.exists() and not made[1].path.exists()


def test_what_was_withdrawn_by_a_killed_gc_goes(project: Project) -> None:
    made = make(project, 1)
    store = Store(project)
    store.remember(made[0])
    withdrawn = FileStorage(project.home).withdraw(made[0].name)
    assert any(".tmp/gc-" in line for line in gc(project))
    assert not withdrawn.exists()
    assert store.recall(made[0].reference()).key == made[0].key


# --- slots ---------------------------------------------------------------------------------------


def test_of_the_bases_in_a_slot_those_stay_that_a_release_there_refers_to(
    project: Project,
) -> None:
    slot = project.home / "fleet" / "slots" / "local" / "blue"
    write_json(slot / "models" / MODEL / "3" / "serving.json", {"base_model": "a" * 32})
    for name in ("a" * 32, "b" * 32, f".{'c' * 32}.tmp"):
        write_json(slot / "base_models" / name / "base.json", {})
    (slot / "base_models" / ".DS_Store").write_text("left by a desktop")
    with project.locks.try_acquire(release.INSTALL_LOCK) as free:
        assert free
    said = gc(project)
    assert {path.name for path in (slot / "base_models").iterdir()} == {"a" * 32, ".DS_Store"}
    assert sum("fleet/slots/local/blue/base_models/" in line for line in said) == 2


def test_of_a_mount_only_bases_of_this_project_go(project: Project, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    fleet = project.root / "configs" / "fleet.yaml"
    remote = f"launch: remote\n        folder: {mount}"
    fleet.write_text(fleet.read_text().replace("launch: local", remote, 1))
    base = make(project, 1, "base_model")[0]
    parts = ("repository", "adapter", "base_model", "evaluation", "verdict")
    record = release.ReleaseRecord(
        MODEL, 1, **dict.fromkeys(parts, base.reference()), mlflow_run_id=None, provenance={}
    )
    release.write_record(project, record)
    for name in (base.content_hash[:32], "f" * 32):
        write_json(mount / "base_models" / name / "base.json", {})
    gc(project)
    assert [path.name for path in (mount / "base_models").iterdir()] == ["f" * 32]


def test_the_command_says_what_would_go(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = make(project)
    monkeypatch.setenv("ADIRE_PROJECT", str(project.root))
    monkeypatch.setattr("sys.argv", ["adire", "gc", "--keep", "1", "--dry-run"])
    with pytest.raises(SystemExit):
        main.main()
    said = capsys.readouterr().out
    assert f"{MODEL}/thing {made[0].key[:12]}" in said and "would be freed" in said
    assert all(artifact.path.exists() for artifact in made)
