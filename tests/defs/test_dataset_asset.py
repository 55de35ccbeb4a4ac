"""The dataset step tells on the command line what became of the files in its folder."""

import hashlib
import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from adire_assets.core.project import Project
from adire_assets.defs import build_definitions
from tests.support.picture_folders import fill

ROOT = Path(__file__).parents[2]


def pin(project: Project) -> None:
    """What `dvc add data` writes."""

    def keep(content: bytes, ending: str = "") -> str:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ending
        place = project.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return md5

    folder = project.root / "data"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [
        {"md5": keep(path.read_bytes()), "relpath": path.relative_to(folder).as_posix()}
        for path in files
    ]
    md5 = keep(json.dumps(listed).encode(), ".dir")
    (project.root / "data.dvc").write_text(f"outs:\n- md5: {md5}\n  hash: md5\n  path: data\n")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for path in (tmp_path / "configs" / "models").iterdir():
        if path.name != "indigo.yaml":
            path.unlink()
    path = tmp_path / "configs" / "models" / "indigo.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"] = {
        "path": "data/indigo",
        "resolution": 32,
        "instance_prompt": "cloth",
        "minimum_images": 8,
        "held_out_fraction": 0.4,
    }
    path.write_text(yaml.safe_dump(config))
    fill(tmp_path / "data" / "indigo", 20)
    return Project(tmp_path, tmp_path / ".adire")


def test_one_line_tells_of_captions_rejections_and_unused_files(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project.root / "data" / "indigo"
    for number in range(12):
        (folder / f"p{number:03d}.caption").write_text(f"cloth {number}")
    (folder / "metadata.json").write_text("{}")
    (folder / "p000.jpeg").write_bytes((folder / "p001.png").read_bytes()[:200])
    pin(project)
    (folder / ".DS_Store").write_text("x")
    with dg.instance_for_test() as instance:
        job = build_definitions(project).resolve_implicit_global_asset_job_def()
        run = job.execute_in_process(
            instance=instance,
            asset_selection=[
                dg.AssetKey(["indigo", name]) for name in ("training_data", "dataset")
            ],
            run_config={"loggers": {"lines": {}}},
        )
        metadata = run.asset_materializations_for_node("indigo__dataset")[0].metadata
    [*_, last] = capsys.readouterr().out.splitlines()
    assert last.startswith(
        "indigo: captions of their own: 12 of 20 images, data.instance_prompt: 8; 1 file rejected: "
        "p000.jpeg (damaged or cut off"
    )
    assert "; 1 file not used: metadata.json (not read; captions are read from metadata.csv" in last
    assert "metadata.json" in metadata["unused"].value
    assert metadata["own_captions"].value == 12
