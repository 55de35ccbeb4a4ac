"""What has been measured of a release, by its files."""

import json
import random
from pathlib import Path

from adire_assets.core.project import Project
from adire_assets.monitoring import quality


def kept(project: Project, day: str, rows: list[dict[str, float | None]]) -> Path:
    path = project.home / "quality" / "local" / "cloth" / "3" / f"{day}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"at": f"{day}T10:00:00+00:00", "signals": one}) for one in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_change_is_told_with_its_day_and_its_signal(tmp_path: Path) -> None:
    project, chance = Project(tmp_path, tmp_path / "home"), random.Random(4)

    def rows(shift: float) -> list[dict[str, float | None]]:
        return [
            {"clip_s": chance.gauss(shift, 1), "nsfw": chance.random(), "quiet": None}
            for _ in range(150)
        ]

    kept(project, "2026-01-01", rows(0))
    assert quality.read(project, "local", "cloth", 3).changes() == {}
    kept(project, "2026-01-02", rows(-3))
    found = quality.read(project, "local", "cloth", 3)
    assert found.changes() == {"clip_s": "2026-01-02T10:00:00+00:00"}
    assert found.answers == 300
    told = found.summary()["signals"]
    assert told["clip_s"]["first"] > -1 > -2 > told["clip_s"]["last"]
    assert "quiet" not in told


def test_a_line_that_a_kill_has_cut_off_is_left_out(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path / "home")
    path = kept(project, "2026-01-01", [{"clip_s": 1.0}, {"clip_s": 2.0}])
    path.write_bytes(path.read_bytes()[:-9])
    assert quality.read(project, "local", "cloth", 3).series["clip_s"].last == [1.0]


def test_a_release_that_was_never_measured_has_nothing_to_tell(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path / "home")
    assert quality.read(project, "local", "cloth", 3).answers == 0
    assert [*quality.sentences(project, "local", "cloth", 3)] == []
