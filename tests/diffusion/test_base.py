"""Finding a base model, and the sentences when it cannot be used."""

import os
import shutil
from pathlib import Path

import pytest

from adire_assets.diffusion.base import content_hash, resolve
from adire_assets.errors import UserError
from tests.support import tiny

COMMIT = "0123456789" * 4


def test_a_folder_is_known_by_its_bytes_not_by_its_place_or_times(
    tmp_path: Path, random_base: Path
) -> None:
    copy = Path(shutil.copytree(random_base, tmp_path / "copy"))
    original = resolve(str(random_base), None, None, tmp_path)
    relative = resolve("copy", None, None, tmp_path)
    assert relative.path == copy
    assert relative.content_hash == original.content_hash
    config = copy / "unet" / "config.json"
    os.utime(config, (0, 0))
    assert content_hash(copy) == original.content_hash
    config.write_text(config.read_text() + "\n")
    assert content_hash(copy) != original.content_hash


def test_a_missing_folder_names_the_command_and_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"base_model.source: there is no folder .*`adire pull`"):
        resolve("base_models/tiny", None, None, tmp_path)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match="not a diffusers pipeline, because model_index"):
        resolve("base", None, None, tmp_path)


def test_pickled_weights_alone_are_refused(tmp_path: Path, random_base: Path) -> None:
    base = Path(shutil.copytree(random_base, tmp_path / "base"))
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"unet/ holds only pickled weights .*safetensors"):
        resolve("base", None, None, tmp_path)


def test_a_component_that_is_missing_is_named(tmp_path: Path, random_base: Path) -> None:
    base = Path(shutil.copytree(random_base, tmp_path / "base"))
    shutil.rmtree(base / "vae")
    with pytest.raises(UserError, match="incomplete, the folder vae"):
        resolve("base", None, None, tmp_path)


def test_a_variant_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, random_base: Path
) -> None:
    half = tiny.make_random_base(tmp_path / "half", variant="fp16")
    assert resolve(str(half), None, "fp16", tmp_path).path == half
    with pytest.raises(UserError, match="no weights of variant none; variants there: fp16"):
        resolve(str(half), None, None, tmp_path)
    with pytest.raises(UserError, match="no weights of variant fp16; variants there: none"):
        resolve(str(random_base), None, "fp16", tmp_path)


def test_a_judge_is_found_by_its_own_marker(tmp_path: Path) -> None:
    tiny.make_random_judge(tmp_path / "judge")
    found = resolve("judge", None, None, tmp_path, marker="config.json", key="evaluation.judge")
    assert found.path == tmp_path / "judge"
    with pytest.raises(UserError, match=r"evaluation.judge.source: there is no folder"):
        resolve("none", None, None, tmp_path, marker="config.json", key="evaluation.judge")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_cached_hub_model_needs_no_network(cache: Path, random_base: Path) -> None:
    snapshot = cache / "models--organisation--name" / "snapshots" / COMMIT
    shutil.copytree(random_base, snapshot)
    found = resolve("organisation/name", COMMIT, None, cache)
    assert found.path == snapshot
    assert found.content_hash == COMMIT
    assert found.identity == f"organisation/name@{COMMIT}"


def test_a_hub_model_that_cannot_be_fetched_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(UserError, match=r"base_model.source: .*hf download .*HF_HOME") as caught:
        resolve("organisation/name", COMMIT, None, cache)
    assert COMMIT in str(caught.value)
