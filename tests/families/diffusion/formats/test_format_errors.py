"""What an adapter file is refused for, and by which sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.formats.adapter import ADAPTER_FILE
from adire_assets.families.diffusion.formats.adapters import export, import_
from tests.support import adapters
from tests.support.adapters import Case, metadata_of

pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
Tensors = dict[str, np.ndarray]
QUERY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("sd15")
    return Case("sd15", adapters.make_base(folder / "base", "sd15"), folder)


def without(tensors: Tensors, key: str) -> Tensors:
    return {name: value for name, value in tensors.items() if name != key}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: {**t, f"{QUERY}.lora_mid.weight": np.ones((3, 3), "f4")}, QUERY + ".lora_mid"),
        (
            lambda t: {**t, **{f"lora_unet_x{n}.alpha": np.ones(1, "f4") for n in range(5)}},
            "no module of the base takes: .*x0.alpha, .*x1.alpha, .*x2.alpha and 2 more",
        ),
        (lambda t: without(t, f"{QUERY}.lora_up.weight"), "the other matrix is missing"),
        (lambda t: {f"{QUERY}.alpha": np.ones((), "f4")}, "the other matrix is missing"),
        (lambda t: {**t, f"{QUERY}.alpha": np.ones(2, "f4")}, "shapes that do not fit"),
        (lambda t: {**t, f"{QUERY}.alpha": np.array(np.nan, "f4")}, "alpha of unet.* is nan"),
        (
            lambda t: {**t, f"{QUERY}.lora_up.weight": np.ones((24, 3), "i8")},
            "types other than .*: .*lora_up.weight int64",
        ),
        (
            lambda t: {**t, f"{QUERY}.lora_up.weight": np.full((24, 3), np.inf, "f4")},
            "NaN or infinite",
        ),
        (
            lambda t: {**t, f"{QUERY}.dora_scale": np.ones((1, 24), "f4")},
            r"dora_scale \[1, 24\]",
        ),
        (lambda t: {**t, f"{QUERY}.dora_scale": np.ones((24, 1), "f4")}, "all modules of the unet"),
        (lambda t: {**t, "diffusion_model.out.2.alpha": np.ones((), "f4")}, "mixes formats"),
        (lambda t: {**t, "transformer.x.lora_A.weight": np.ones((1, 1), "f4")}, "such as Flux"),
        (
            lambda t: {
                **t,
                QUERY.replace("mid_block_attentions_0", "middle_block_1") + ".alpha": t[
                    f"{QUERY}.alpha"
                ],
            },
            "two keys for the same",
        ),
        (lambda t: {}, "holds no tensors"),
    ],
)
def test_a_file_that_cannot_be_read_whole_is_refused(
    sd15: Case, tmp_path: Path, edit: Callable[[Tensors], Tensors], says: str
) -> None:
    file = sd15.export("attention", "kohya", tmp_path)
    save_file(edit(load_file(file)), file)
    with pytest.raises(UserError, match=says):
        import_(file, sd15.base, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"\x80\x04 a pickle"])
def test_a_pickle_is_refused(sd15: Case, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "adapter.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"not a safetensors file.*a pickle can run any code"):
        import_(tmp_path / "adapter.pt", sd15.base, tmp_path / "back")


def test_what_is_there_is_not_written_over(sd15: Case, tmp_path: Path) -> None:
    file = sd15.export("attention", "kohya", tmp_path)
    with pytest.raises(UserError, match="exists already"):
        import_(file, sd15.base, tmp_path)
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        export(sd15.adapter(), sd15.base, "kohya", tmp_path / "adapter.ckpt")


def test_an_adapter_of_another_base_is_refused(sd15: Case, tmp_path: Path) -> None:
    for architecture, changed, says in (
        ("sd15", {"block_out_channels": (8, 16, 32)}, "shapes that do not fit the base"),
        ("sdxl", {}, "another base|no module of the base takes"),
    ):
        other = adapters.make_base(tmp_path / architecture, architecture, **changed)
        with pytest.raises(UserError, match=says):
            import_(sd15.export("lora", "kohya", tmp_path), other, tmp_path / "back")
        with pytest.raises(UserError, match=says):
            export(sd15.adapter(), other, "kohya", tmp_path / "file.safetensors")


def test_what_a_format_cannot_name_is_refused(sd15: Case, tmp_path: Path) -> None:
    """ComfyUI has no attention without a transformer; kohya takes the names as they are."""
    kinds = ["AttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
    base = adapters.make_base(tmp_path / "base", "sd15", down_block_types=kinds)
    adapter = adapters.make_adapter(tmp_path / "adapter", base, unet=["to_q"], text=[])
    with pytest.raises(UserError, match=r"comfyui.*no names for: unet\.\S+, \S+, \S+ and \d+ more"):
        export(adapter, base, "comfyui", tmp_path / "comfyui.safetensors")
    export(adapter, base, "kohya", tmp_path / "kohya.safetensors")
    import_(tmp_path / "kohya.safetensors", base, tmp_path / "back")
    before, after = (load_file(tmp_path / name / ADAPTER_FILE) for name in ("adapter", "back"))
    assert all(np.array_equal(before[name], after[name]) for name in before | after)


def test_settings_that_contradict_the_tensors_are_refused(sd15: Case, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd15.adapter("attention"), tmp_path / "adapter"))
    file = folder / ADAPTER_FILE
    told = metadata_of(file)["lora_adapter_metadata"]
    for old, new, says in (
        ('"unet.r": 3', '"unet.r": 4', "the rank 4, its tensors 3"),
        ('"unet.use_dora": false', '"unet.use_dora": true', "lacks magnitudes"),
        ('"unet.lora_alpha": 5', '"unet.lora_alpha": "five"', "malformed"),
        ("{", "[", "not a JSON object"),
    ):
        assert old in told
        save_file(load_file(file), file, {"lora_adapter_metadata": told.replace(old, new, 1)})
        with pytest.raises(UserError, match=says):
            export(folder, sd15.base, "kohya", tmp_path / "file.safetensors")
