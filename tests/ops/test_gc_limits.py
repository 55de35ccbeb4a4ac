"""Beside artifacts, `adire gc` deletes what dead processes left and what is beyond a limit."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adire_assets.core import folders
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from tests.support.garbage import MODEL, gc, limit, make

DIGITS = "0123456789abcdef" * 2


def held_folders(project: Project) -> dict[str, tuple[Path, Callable]]:
    """Places where processes work, and how one holds its folder."""
    building = Store(project).root / ".tmp" / f"{MODEL}-thing-{DIGITS}"
    scratch = project.home / "work" / "golden-cloth-3"
    return {
        "an artifact that is made": (building, lambda: project.locks.acquire(building.name)),
        "the scratch folder of a command": (scratch, lambda: project.locks.acquire(scratch.name)),
        "checkpoints": (project.home / "work" / DIGITS, lambda: project.locks.acquire("device")),
    }


@pytest.mark.parametrize(
    "which", ["an artifact that is made", "the scratch folder of a command", "checkpoints"]
)
def test_a_folder_goes_when_its_holder_is_dead(project: Project, which: str) -> None:
    limit(project, maximum_checkpoints_gigabytes=0)
    folder, hold = held_folders(project)[which]
    folder.mkdir(parents=True)
    (folder / "half.bin").write_bytes(bytes(1000))
    with hold():
        gc(project)
        assert folder.exists()
    assert any(folder.name in line for line in gc(project, dry_run=True)) and folder.exists()
    assert any(folder.name in line for line in gc(project)) and not folder.exists()


@pytest.mark.parametrize("parent", ["jobs", "fleet/scratch"])
def test_a_temporary_folder_goes_when_its_process_was_killed(project: Project, parent: str) -> None:
    place = project.home / parent
    with folders.temporary_folder(project, place) as folder:
        gc(project)
        assert folder.is_dir()
    assert not folder.exists()
    left = place / "left"
    left.mkdir()
    assert f"{parent}/left (0.0 MB)" in gc(project) and not left.exists()
    left.mkdir()
    with folders.temporary_folder(project, place):  # the next one tidies up as well
        assert not left.exists()


def fill_cache(project: Project) -> list[Path]:
    """Three files of a megabyte; the first was made last, the second read last."""
    made = []
    for number, (read, written) in enumerate(((10, 30), (40, 10), (20, 20))):
        path = project.home / "cache" / "latents" / f"{number:02}" / f"{number}.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(10**6))
        os.utime(path, (1_000_000 + read, 1_000_000 + written))
        made.append(path)
    return made


def test_a_cache_within_its_limit_stays(project: Project) -> None:
    made = fill_cache(project)
    assert gc(project) == ["0.0 MB were freed"]
    assert all(path.is_file() for path in made)


def test_what_of_a_cache_was_used_least_recently_goes_first(project: Project) -> None:
    made = fill_cache(project)
    limit(project, maximum_cache_gigabytes=0.002)
    assert gc(project, dry_run=True) == ["cache: 1 of 3 files (1.0 MB)", "1.0 MB would be freed"]
    assert gc(project) == ["cache: 1 of 3 files (1.0 MB)", "1.0 MB were freed"]
    assert [path.is_file() for path in made] == [True, True, False]
    limit(project, maximum_cache_gigabytes=0)
    gc(project)
    assert not any(path.is_file() for path in made)


def test_a_cache_in_use_is_left_and_that_is_told(project: Project) -> None:
    made = fill_cache(project)
    limit(project, maximum_cache_gigabytes=0)
    with project.locks.acquire("device"):
        assert gc(project)[0].startswith("cache and checkpoints: left as they are, since a train")
    assert all(path.is_file() for path in made)


def test_of_killed_trainings_the_one_of_longest_ago_goes_first(project: Project) -> None:
    old, young = (project.home / "work" / (digit * 32) for digit in "ab")
    for folder, when in ((old, 1_000), (young, 2_000)):
        folder.mkdir(parents=True)
        (folder / "checkpoint.safetensors").write_bytes(bytes(10**6))
        os.utime(folder / "checkpoint.safetensors", (when, when))
    limit(project, maximum_checkpoints_gigabytes=0.001)
    assert gc(project)[0] == f"work/{old.name} (1.0 MB)"
    assert young.is_dir() and not old.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("maximum_cache_gigabyte: 3\n", r"home.yaml:1: maximum_cache_gigabyte: unknown key; did"),
        ("maximum_cache_gigabytes: -1\n", r"home.yaml:1: maximum_cache_gigabytes: .* found -1"),
        ("maximum_cache_gigabytes: .inf\n", r"home.yaml:1: maximum_cache_gigabytes: .* found inf"),
    ],
)
def test_a_mistake_in_the_limits_is_told_and_nothing_goes(
    project: Project, text: str, said: str
) -> None:
    made = make(project)
    (project.root / "configs" / "home.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        gc(project)
    assert all(artifact.path.exists() for artifact in made)
