"""`adire export` and `adire import`: a release's adapter out, and another's in."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from adire_assets.cli import main
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.families.diffusion.formats.adapter import ADAPTER_FILE
from adire_assets.serving import record, release
from adire_assets.serving.release import ReleaseRecord
from tests.support import diffusion
from tests.support.fleets import make_fleet
from tests.support.house import TARGET, House

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
CONFIG = """
data: {path: data, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation: {judge: {source: judge}}
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Releases 1 and 2 of one base, which is also that of the project's config; 1 is live."""
    root = tmp_path_factory.mktemp("project")
    (root / "configs" / "models").mkdir(parents=True)
    (root / "configs" / "models" / f"{MODEL}.yaml").write_text(CONFIG)
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs" / "fleet.yaml")
    project = Project(root, root / ".adire")
    made = House(project, make_fleet(), MODEL)
    base = diffusion.make_base(made, "sd15")
    shutil.copytree(base.path / "pipeline", root / "base")
    for number in (1, 2):
        adapter = diffusion.make_adapter_of(made, base, number)
        release.write_record(
            project,
            ReleaseRecord(
                model=MODEL,
                number=number,
                repository=adapter.reference(),
                adapter=adapter.reference(),
                base_model=base.reference(),
                evaluation=adapter.reference(),
                verdict=adapter.reference(),
                mlflow_run_id="run",
                provenance={
                    "code": {"commit": "c" * 40},
                    "base_model": {"source": "base", "revision": None, "hash": "b"},
                },
            ),
        )
    return made


@pytest.fixture
def adire(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run the command line in the project; its status, output and complaint."""
    monkeypatch.setenv("ADIRE_PROJECT", str(house.project.root))
    monkeypatch.delenv("ADIRE_HOME", raising=False)
    monkeypatch.delenv("ADIRE_FLEET", raising=False)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["adire", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


def content(house: House, number: int) -> dict[str, np.ndarray]:
    reference = release.read_record(house.project, MODEL, number).adapter
    return load_file(Store(house.project).open(reference).path / ADAPTER_FILE)


@pytest.mark.parametrize("to", ["diffusers", "kohya", "comfyui"])
def test_a_release_goes_out_and_comes_in(house: House, adire, tmp_path: Path, to: str) -> None:
    file, folder = tmp_path / "out.safetensors", tmp_path / "in"
    status, told, _ = adire("export", f"{MODEL}@2", "--format", to, "--out", file)
    assert (status, told) == (0, f"{file}: release 2 in the format {to}\n")
    with safe_open(file, "numpy") as opened:
        facts = opened.metadata()
    known = release.read_record(house.project, MODEL, 2)
    assert facts["adire.release"] == "2"
    assert facts["adire.adapter_recipe_key"] == known.adapter["key"]
    assert json.loads(facts["adire.base_model"])["hash"] == known.base_model["content_hash"]
    assert json.loads(facts["adire.code"]) == {"commit": "c" * 40}
    assert facts["ss_sd_model_name"] == "base"
    status, told, _ = adire("import", file, MODEL, "--out", folder)
    assert (status, told) == (0, f"{folder}: from the format {to}\n")
    back, original = load_file(folder / ADAPTER_FILE), content(house, 2)
    assert set(back) == {_peft_name(name) for name in original}
    assert all(np.array_equal(back[_peft_name(name)], original[name]) for name in original)


def _peft_name(name: str) -> str:
    """The adapters here were saved in diffusers' old spelling."""
    return name.replace("lora.down", "lora_A").replace("lora.up", "lora_B")


def test_the_live_release_goes_out_when_none_is_named(house: House, adire, tmp_path: Path) -> None:
    file = tmp_path / "live.safetensors"
    status, _, complaint = adire("export", MODEL, "--out", file)
    assert status == 1
    assert complaint.startswith(f"adire: nothing of {MODEL} is live")
    record.change(
        house.project,
        TARGET,
        MODEL,
        lambda state: state.with_live_release(1, "deploy", None),
    )
    assert (
        adire("export", MODEL, "--out", file)[1] == f"{file}: release 1 in the format diffusers\n"
    )
    live = {_peft_name(name): value for name, value in content(house, 1).items()}
    assert all(np.array_equal(value, live[name]) for name, value in load_file(file).items())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", f"{MODEL}@9", "--out", "x.safetensors"], "there is no release 9 of cloth"),
        (
            ["export", f"{MODEL}@new", "--out", "x.safetensors"],
            "'cloth@new': a release is named like",
        ),
        (
            ["export", f"{MODEL}@1", "--out", "x.ckpt"],
            "x.ckpt: name a file that ends in .safetensors",
        ),
        (["import", "nothing.safetensors", MODEL, "--out", "x"], "nothing.safetensors cannot be"),
        (["import", __file__, "silk", "--out", "x"], "there is no model 'silk'"),
    ],
)
def test_a_mistake_gets_one_sentence(
    adire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, told, complaint = adire(*words)
    assert (status, told) == (1, "")
    assert complaint.startswith(f"adire: {says}")
    assert complaint.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_was_changed_does_not_go_out(house: House, adire, tmp_path: Path) -> None:
    reference = release.read_record(house.project, MODEL, 1).adapter
    file = Store(house.project).open(reference).path / ADAPTER_FILE
    before = file.read_bytes()
    file.chmod(0o644)
    try:
        file.write_bytes(before[:-4] + b"\x00\x00\x00\x00")
        complaint = adire("export", f"{MODEL}@1", "--out", tmp_path / "x.safetensors")[2]
    finally:
        file.write_bytes(before)
    assert "was changed after it was made" in complaint
