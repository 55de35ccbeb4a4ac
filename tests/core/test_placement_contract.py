"""What every implementation of `Placement` keeps: add one to IMPLEMENTATIONS."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from adire_assets.core import devices, lineage
from adire_assets.core.lineage import Facts, Recipe
from adire_assets.core.placement import Job, LocalPlacement, Outcome, Placement, run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Store

IMPLEMENTATIONS: dict[str, Callable[[Project], Placement]] = {"local": LocalPlacement}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    return Project(tmp_path, tmp_path / "home")


@pytest.fixture(params=IMPLEMENTATIONS)
def placement(request: pytest.FixtureRequest, project: Project) -> Placement:
    return IMPLEMENTATIONS[request.param](project)


def job(function: str, **arguments: object) -> Job:
    return Job(f"tests.support.jobs:{function}", arguments, threads=1)


def ended(placement: Placement, work: Job) -> tuple[Outcome, list[str]]:
    with placement.start(work) as started:
        events = list(started.events())
        return started.outcome(), events


def test_what_it_returns_and_prints_comes_back(placement: Placement) -> None:
    outcome, events = ended(placement, job("echo", text="indigo"))
    assert (outcome.status, outcome.returned()) == ("done", {"text": "indigo"})
    assert "echo indigo" in events


def test_a_refusal_is_its_sentence(placement: Placement) -> None:
    outcome = ended(placement, job("refuse"))[0]
    assert (outcome.status, outcome.sentence) == ("failed", "there is no cloth to dye")


def test_what_breaks_has_failed_and_what_is_killed_is_lost(placement: Placement) -> None:
    outcome, events = ended(placement, job("crash"))
    assert outcome.status == "failed" and any("the vat leaks" in line for line in events)
    assert ended(placement, job("die"))[0].status == "lost"


def test_a_path_is_that_of_the_same_file_where_it_runs(
    placement: Placement, project: Project
) -> None:
    written = project.home / "store" / "adapter"
    told = ended(placement, job("echo", text=written))[0].returned()
    assert told == {"text": str(written)}


def test_no_absolute_path_stands_in_a_job(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {}

    def read(folder: Path, **_: object) -> list[str]:
        text["job"] = (folder / "job.json").read_text()
        return ["true"]

    monkeypatch.setattr("adire_assets.core.job_folder.command", read)
    paths = {"a": project.home / "cache", "b": project.root / "data", "c": project.home}
    with LocalPlacement(project).start(job("echo", **paths)):
        assert str(project.root) not in text["job"]
        assert json.loads(text["job"])["arguments"]["a"] == {"place": "home", "path": "cache"}


def test_leaving_the_block_ends_it(placement: Placement, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt), placement.start(job("wait", file=begun)):
        late = time.monotonic() + 60
        while not begun.exists():
            assert time.monotonic() < late
            time.sleep(0.02)
        child = psutil.Process(int(begun.read_text()))
        raise KeyboardInterrupt
    assert not child.is_running()


def test_a_device_is_one_jobs_and_another_class_is_free(
    placement: Placement, project: Project
) -> None:
    with placement.start(job("device", device="cpu")) as started:
        assert project.locks.is_held(devices.CPU)
        assert not project.locks.is_held("device-cuda")
        assert [*started.events()] and started.outcome().returned() == {"device": "cpu"}
    assert not project.locks.is_held(devices.CPU)


@pytest.mark.parametrize("visible", ["0,1", "GPU-aa,GPU-bb"])
def test_each_gpu_is_a_device_of_its_own(
    project: Project, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(devices, "LOOK_SECONDS", 0.01)
    first, second = visible.split(",")
    third: list[str] = []

    def wait() -> None:
        with devices.exclusive_device(project.locks, "cuda") as given:
            third.append(given["CUDA_VISIBLE_DEVICES"])

    waiting = threading.Thread(target=wait)
    with devices.exclusive_device(project.locks, "cuda") as one:
        with devices.exclusive_device(project.locks, "cuda") as other:
            assert one == {"CUDA_VISIBLE_DEVICES": first}
            assert other == {"CUDA_VISIBLE_DEVICES": second}
            with devices.exclusive_device(project.locks, "cpu"):
                waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive() and not third
        waiting.join(30)
    assert third == [second]


def test_what_takes_every_gpu_waits_for_all(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with devices.exclusive_device(project.locks, "cuda", every=True) as given:
        assert given == {} and all(map(project.locks.is_held, ("device-0", "device-1")))


def test_an_outcome_tells_what_computed(placement: Placement) -> None:
    outcome = ended(placement, job("echo", text="indigo"))[0]
    assert outcome.hardware == placement.facts().hardware


class Elsewhere(LocalPlacement):
    """Jobs run on another machine, with other libraries and a GPU, than this process."""

    def facts(self) -> Facts:
        hardware = {"cpu": "of the worker"}
        versions = {"torch": "9.9"}
        return Facts("cuda", 64, "aarch64", "12.8", hardware, lambda n: versions.get(n, "absent"))


def test_a_recipe_is_of_the_facts_of_the_worker(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe() -> Recipe:
        facts = project.placement.facts()
        device = facts.device_class()
        environment = facts.environment("torch", device=device)
        return Recipe("thing", "cloth", ("tests.support.jobs",), {}, {}, environment, facts)

    here = recipe()
    monkeypatch.setattr("adire_assets.core.project.LocalPlacement", Elsewhere)
    there = recipe()
    assert there.key != here.key
    assert there.as_dict()["environment"] == {"torch": "9.9", "device": "cuda", "cuda": "12.8"}
    made = Store(project).build(there, lambda folder: None).artifact.manifest
    assert made["hardware"] == {"cpu": "of the worker"}


def test_a_manifest_names_the_machine_that_computed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adire_assets.core.project.LocalPlacement", Elsewhere)

    def make(folder: Path) -> None:
        run_step(project, "tests.support.jobs:echo", {"text": "indigo"}, progress=print)

    recipe = Recipe("thing", "cloth", facts=project.placement.facts())
    made = Store(project).build(recipe, make).artifact.manifest
    assert made["hardware"] == lineage.hardware()
    without = Recipe("other", "cloth", facts=project.placement.facts())
    made = Store(project).build(without, lambda folder: None).artifact.manifest
    assert made["hardware"] == {"cpu": "of the worker"}
