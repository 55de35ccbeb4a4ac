"""What children get of the caller's environment, and that Triton's Python is one whole Python."""

import os
import shutil
import site
import sys
from pathlib import Path
from string import Template

import pytest

from adire_assets.core.child_environment import PARENT, child_environment
from adire_assets.core.project import Project
from adire_assets.serving.fleet import triton
from adire_assets.serving.fleet.parity import scratch_server
from tests.support.asking import generate

ROOT = Path(__file__).parents[3]
LEAKS = {
    "VIRTUAL_ENV": "/elsewhere",
    "PYTHONSTARTUP": "/elsewhere.py",
    "PYTHONPATH": "/elsewhere",
    "PYTHONHOME": "/elsewhere",
    "LD_PRELOAD": "/elsewhere.so",
    "LD_LIBRARY_PATH": "/elsewhere/lib:/usr/local/nvidia/lib64",
    "CONDA_PREFIX": "/elsewhere",
    "GIT_DIR": "/elsewhere/.git",
    "GIT_INDEX_FILE": "/elsewhere/index",
    "DAGSTER_PIPES_CONTEXT": "another child's",
    "BASH_ENV": "/elsewhere.sh",
}
KEPT = {
    "PATH": "/usr/bin",
    "HOME": "/home/ade",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TMPDIR": "/scratch",
    "https_proxy": "http://proxy:3128",
    "NO_PROXY": "localhost",
    "CUDA_VISIBLE_DEVICES": "1",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "ADIRE_HOME": "/home/ade/house",
}
ACCOUNT = {"AWS_SECRET_ACCESS_KEY": "secret", "HF_TOKEN": "secret"}


def test_only_what_is_listed_is_passed_on() -> None:
    given = {**LEAKS, **KEPT, **ACCOUNT, "ADIRE_PASS": "LAB, RACK", "LAB": "dye", "RACK": "3"}
    drivers = {"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64"}
    asked_for = {"ADIRE_PASS": "LAB, RACK", "LAB": "dye", "RACK": "3"}
    ours = {PARENT: str(os.getpid())}
    assert child_environment(given=given) == {**KEPT, **ACCOUNT, **asked_for, **drivers, **ours}


def test_servers_get_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ACCOUNT, **KEPT}.items():
        monkeypatch.setenv(name, value)
    assert not ACCOUNT.keys() & triton.SERVER.environment("cpu", 1).keys()


SCRIPT = """
import os, sys
import ssl, sqlite3, lzma, ctypes  # extensions of the standard library
sys.path[:0] = [os.environ["ADIRE_SITE_PACKAGES"]]
import json
import numpy as np
import torch  # encodes the path that it lies in
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        found = {"environment": dict(os.environ), "python": sys.version, "prefix": sys.prefix}
        return [pb.InferenceResponse([
            pb.Tensor("images", np.zeros((1, 4, 4, 3), np.uint8)),
            pb.Tensor("release", np.array([1], np.int32)),
            pb.Tensor("provenance", np.array([json.dumps(found).encode()], object)),
        ]) for _ in requests]
"""


def test_triton_runs_the_python_of_this_environment_whatever_is_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = tmp_path / "activated" / "bin"
    decoy.mkdir(parents=True)
    for name in ("python3", "python"):
        shutil.copy("/bin/false", decoy / name)
    monkeypatch.setenv("PATH", f"{decoy}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONSTARTUP", "CONDA_PREFIX", "GIT_DIR"):
        monkeypatch.setenv(name, LEAKS[name])

    def fill(folder: Path) -> str:
        version = folder / "models" / "cloth" / "1"
        version.mkdir(parents=True)
        config = (ROOT / "triton_models" / "diffusion" / "config.pbtxt").read_text()
        described = Template(config).substitute(name="cloth", maximum_batch_size=1)
        (version.parent / "config.pbtxt").write_text(described)
        (version / "model.py").write_text(SCRIPT)
        return "cloth"

    # Triton hands paths to a shell, and its Python decodes them as ASCII.
    root = tmp_path / "it's a caf\u00e9 ; #1 %d"
    installed = root / ".venv" / "site-packages"
    installed.parent.mkdir(parents=True)
    installed.symlink_to(triton.packages())
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(installed)])
    project = Project(root, root / "home")
    with scratch_server(project, "triton", "cpu", fill, 60) as address:
        found = generate(address, "cloth", "circles").provenance
    assert found["python"] == sys.version
    assert found["prefix"] == sys.base_prefix
    assert not (LEAKS.keys() - {"LD_LIBRARY_PATH", "PYTHONHOME"}) & found["environment"].keys()
