"""Finding a base model, and the sentences when it cannot be used."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.model_files import content_hash
from adire_assets.families.diffusion.base import resolve, resolve_config
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
    for left in (".DS_Store", "unet/.DS_Store", "unet/config.json~", "Thumbs.db"):
        (copy / left).write_text("what a desktop or an editor leaves")
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "`git lfs pull`"),
        (b"", "is empty"),
        (b"<html>", "is a web page"),
    ],
)
def test_weights_that_never_came_are_told_before_they_are_loaded(
    tmp_path: Path, random_base: Path, content: bytes, says: str
) -> None:
    base = Path(shutil.copytree(random_base, tmp_path / "base"))
    (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"unet/ diffusion_pytorch_model.safetensors .*{says}"):
        resolve("base", None, None, tmp_path)


def test_a_pickle_is_known_by_its_ending_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "model.CKPT").write_bytes(b"x")
    with pytest.raises(UserError, match=r"model\.CKPT is pickled"):
        resolve("model.CKPT", None, None, tmp_path)


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


def test_a_pipeline_of_another_kind_is_refused(tmp_path: Path, random_base: Path) -> None:
    base = Path(shutil.copytree(random_base, tmp_path / "base"))
    index = base / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    with pytest.raises(UserError, match=r"names a FluxPipeline; base models are .*1 and 2 .*XL"):
        resolve("base", None, None, tmp_path)


def test_a_pinned_folder_is_refused_when_its_bytes_are_others(
    tmp_path: Path, random_base: Path
) -> None:
    base = Path(shutil.copytree(random_base, tmp_path / "base"))
    pin = content_hash(base)
    assert resolve("base", None, None, tmp_path, sha256=pin).content_hash == pin
    (base / "unet" / "config.json").open("a").write("\n")
    with pytest.raises(UserError) as caught:
        resolve("base", None, None, tmp_path, sha256=pin)
    text = str(caught.value)
    assert text.startswith("base_model.sha256: ") and pin in text
    assert f"set base_model.sha256 to {content_hash(base)}" in text


def test_a_file_is_known_by_its_sha256(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    file.write_bytes(b"weights")
    found = hashlib.sha256(b"weights").hexdigest()
    assert resolve("some.safetensors", None, None, tmp_path, sha256=found).content_hash == found
    with pytest.raises(UserError, match=f"{found}, but {'0' * 64} is pinned"):
        resolve("some.safetensors", None, None, tmp_path, sha256="0" * 64)
    with pytest.raises(UserError, match=r"base_model.source: there is no file"):
        resolve("other.safetensors", None, None, tmp_path)


@pytest.mark.parametrize("name", ["some.ckpt", "some.pt", "some.bin"])
def test_a_pickled_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"is pickled, which can run code .*\.safetensors"):
        resolve(name, None, None, tmp_path)


def test_a_config_is_known_by_its_texts_not_by_its_weights(
    tmp_path: Path, random_base: Path
) -> None:
    copy = Path(shutil.copytree(random_base, tmp_path / "copy"))
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    original = resolve_config(str(random_base), None, tmp_path)
    assert resolve_config("copy", None, tmp_path).content_hash == original.content_hash
    (copy / "scheduler" / "scheduler_config.json").open("a").write("\n")
    assert resolve_config("copy", None, tmp_path).content_hash != original.content_hash
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(UserError, match="incomplete, tokenizer/"):
        resolve_config("copy", None, tmp_path)
    with pytest.raises(UserError, match=r"base_model.config.source: there is no folder"):
        resolve_config("none", None, tmp_path)


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


def test_of_a_hub_model_the_texts_are_enough_for_a_config(cache: Path, random_base: Path) -> None:
    snapshot = cache / "models--organisation--name" / "snapshots" / COMMIT
    without_weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(random_base, snapshot, ignore=without_weights)
    found = resolve_config("organisation/name", COMMIT, cache)
    assert (found.path, found.content_hash) == (snapshot, COMMIT)
    with pytest.raises(UserError, match=r"text_encoder/ holds no .safetensors weights"):
        resolve("organisation/name", COMMIT, None, cache)


def test_a_hub_model_that_cannot_be_fetched_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(UserError, match=r"base_model.source: .*hf download .*HF_HOME") as caught:
        resolve("organisation/name", COMMIT, None, cache)
    assert COMMIT in str(caught.value)
