"""A scratch project in real DVC, for the tests of what is pinned and pulled."""

import shutil
from pathlib import Path

import pytest

from adire_assets.core.project import Project
from tests.support.dvc_project import FILES, write


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A project with data/ and weights/ in DVC, pushed into the embedded remote, and no cache."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        from dvc.repo import Repo

        with Repo.init(str(root), no_scm=True) as repo:
            write(root, {**FILES, "weights/model.bin": "w", "configs/models/indigo.yaml": ""})
            with repo.config.edit() as config:
                config["remote"]["embedded"] = {"url": str(root / ".dvc" / "embedded")}
            repo.add(["data", "weights"])
            repo.push(remote="embedded")
    # As in a clone of a git repository: DVC is not told that there is no git.
    (root / ".dvc" / "config").write_text("['remote \"embedded\"']\n    url = embedded\n")
    return root


@pytest.fixture
def project(template, tmp_path, monkeypatch) -> Project:
    """A copy of the template with its working tree and without git or DVC's cache."""
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("ADIRE_HOME", raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    root = tmp_path / "project"
    ignore = shutil.ignore_patterns("cache", "tmp")
    shutil.copytree(template, root, ignore=ignore)
    return Project(root, root / ".adire")
