"""Files and folders that several processes write at once."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from adire_assets.cli import main
from adire_assets.core.disk import written_whole
from adire_assets.core.errors import UserError
from adire_assets.core.folders import exclusive_folder
from adire_assets.core.project import Project
from adire_assets.core.store import write_bytes
from adire_assets.families.diffusion.answers import read_provenance, save_png
from adire_assets.families.diffusion.training import class_images as drawn
from adire_assets.families.diffusion.training.cache import Facts, TensorCache
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.serving.gateway.tokens import make_keys

PIXELS = np.zeros((8, 8, 3), np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_of_two_writers_at_once_each_has_a_place_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.bin"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # its block ended last
    assert names(path.parent) == ["x.bin"]


@pytest.mark.parametrize("fill", [Path.touch, Path.mkdir, lambda path: None])
def test_what_was_not_finished_is_gone(tmp_path: Path, fill: Any) -> None:
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "x") as place:
        fill(place)
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_name_as_long_as_a_name_may_be_can_be_written(tmp_path: Path) -> None:
    longest = tmp_path / f"{'ẹ' * 83}.json"  # 254 bytes, of 255
    write_bytes(longest, b"x")
    assert longest.read_bytes() == b"x"
    png = tmp_path / f"{251 * 'x'}.png"
    save_png(PIXELS, png, {"model": "cloth"})
    assert read_provenance(png)["model"] == "cloth"


class Meeting:
    """Stands in for the sampler: two that draw at once have both begun before either writes."""

    def __init__(self, barrier: Barrier) -> None:
        self.barrier = barrier

    def __call__(self, *_: Any) -> "Meeting":
        return self

    def generate(self, requests: list[Any]) -> list[list[np.ndarray]]:
        self.barrier.wait(30)
        return [[PIXELS]]


def test_class_images_may_be_drawn_by_two_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingConfig.model_validate(
        {"with_prior_preservation": True, "class_prompt": "a cloth", "num_class_images": 20}
    )
    monkeypatch.setattr(drawn, "Sampler", Meeting(Barrier(2)))

    def draw(_: int) -> list[Path]:
        given = Path("base"), None, settings, tmp_path, Facts(), "cpu", lambda message: None
        return drawn.class_images(*given)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(draw, range(2))
    assert first == second
    assert all(path.is_file() for path in first)
    assert names(first[0].parent) == [path.name for path in first]


def test_a_cache_and_a_picture_may_be_written_by_two_at_once(tmp_path: Path) -> None:
    import torch

    barrier = Barrier(2)

    def make(subject: str) -> dict[str, torch.Tensor]:
        barrier.wait(30)
        return {"x": torch.ones(2)}

    def fill(number: int) -> None:
        cache = TensorCache(tmp_path / "cache", make, Facts())
        for subject in range(20):
            cache.fill([((subject,), (f"{subject}",))])
            save_png(PIXELS, tmp_path / "out.png", {"model": "cloth"})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, range(2)))
    assert {path.suffix for path in (tmp_path / "cache").rglob("*.*")} == {".safetensors"}
    assert names(tmp_path) == ["cache", "out.png"]


HOLD = """
import sys
from pathlib import Path
from adire_assets.core.folders import exclusive_folder
with exclusive_folder(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_keys_are_made_by_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "auth"
    make_keys(folder)
    mode = stat.S_IMODE((folder / "private.pem").stat().st_mode)
    code = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        before = (folder / "keys.json").read_bytes()
        with pytest.raises(UserError, match="another process makes keys in"):
            make_keys(folder)
        other.communicate("", timeout=30)
    assert (folder / "keys.json").read_bytes() == before
    make_keys(folder)
    assert mode == 0o600
    assert names(folder) == ["keys.json", "private.pem"]


def test_a_base_model_is_trained_by_one_at_a_time_and_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADIRE_HOME", str(tmp_path / "elsewhere"))
    work = Project.find().home / "base-model"
    with exclusive_folder(work, "busy"):
        said = CliRunner().invoke(main.app, ["base-model", "train", "--output", "made"])
    assert said.exit_code != 0
    assert f"{work} is used by another training" in f"{said.exception or said.output}"
    assert not (tmp_path / ".adire").exists()
