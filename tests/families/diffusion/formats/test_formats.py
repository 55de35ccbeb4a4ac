"""Adapters go out to kohya's and ComfyUI's formats and come back, and mean the same in each."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from adire_assets.core.store import read_json
from adire_assets.families.diffusion.formats.adapter import ADAPTER_FILE, inspect_adapter
from adire_assets.families.diffusion.formats.adapters import export, import_
from adire_assets.families.diffusion.formats.base_names import Format
from tests.support import adapters
from tests.support.adapters import Case, metadata_of

FORMATS: tuple[Format, ...] = ("diffusers", "kohya", "comfyui")
# The patterns name modules of one component, and peft looks for them in each.
pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
# What configs/models/indigo.yaml trains, and the rest that the original code has too.
EMBEDDED_LAYERS = [
    *adapters.ATTENTION,
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv_in", "conv1", "conv2"),
    *("conv_shortcut", "conv_out", "time_emb_proj", "time_embedding.linear_1"),
    *("downsamplers.0.conv", "upsamplers.0.conv"),
]
# ComfyUI's names of the text encoders, for CLIP ViT-L, OpenCLIP ViT-H and ViT-bigG.
CLIPS = {
    "embedded": ["clip_l"],
    "sd15": ["clip_l"],
    "sd2": ["clip_h"],
    "sdxl": ["clip_l", "clip_g"],
}
# Some names as files that are in use have them.
KNOWN = {
    "sd15": [
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_out_0",
        "lora_unet_up_blocks_1_resnets_2_conv_shortcut",
        "lora_unet_mid_block_attentions_0_proj_in",
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        "diffusion_model.input_blocks.3.0.op",
        "diffusion_model.output_blocks.2.1.conv",
        "diffusion_model.output_blocks.3.1.proj_in",
    ],
    "sdxl": [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_output_blocks_2_2_conv",
        "lora_unet_middle_block_2_in_layers_2",
        "lora_unet_label_emb_0_0",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_1_self_attn_out_proj",
        "text_encoders.clip_g.transformer.text_projection",
    ],
}


@pytest.fixture(scope="module", params=["sd15", "sd2", "sdxl", "embedded"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param != "embedded":
        base = adapters.make_base(folder / "base", request.param)
        return Case(request.param, base, folder)
    base = request.getfixturevalue("embedded_base")
    return Case("embedded", base, folder, unet=EMBEDDED_LAYERS, variant="fp16")


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("sd15")
    return Case("sd15", adapters.make_base(folder / "base", "sd15"), folder)


def names_in(file: Path) -> set[str]:
    keys = (key.split(".lora_")[0] for key in load_file(file))
    return {key.removesuffix(".alpha").removesuffix(".dora_scale") for key in keys}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5, msg=name)


def changed_by_comfyui(file: Path, case: Case) -> dict[str, torch.Tensor]:
    """What ComfyUI makes of the base's weights with this file, by module as diffusers calls it.

    Written from what its loader does: names under `diffusion_model.` and `text_encoders.` are those
    of its own models, alpha is divided by the rank, and `dora_scale` by the length of the weight
    without the change. diffusers' reader of checkpoints tells which weight an LDM name is.
    """
    tensors = {key: torch.tensor(value) for key, value in load_file(file).items()}
    plain = case.merged(None)
    own = [name for name in sorted(names_in(file)) if name.startswith("diffusion_model.")]
    checkpoint = {
        f"model.{name}.{leaf}": name
        for name in own
        for leaf in ("weight", "bias")  # the reader wants both of some
    }
    config = read_json(case.base / "unet" / "config.json")
    places = {
        name: f"unet.{key.removesuffix('.weight')}"
        for key, name in convert_ldm_unet_checkpoint(checkpoint, config).items()
        if key.endswith(".weight")
    }
    assert set(places) == set(own)
    for module in plain:
        component, _, name = module.partition(".")
        if component in adapters.ENCODERS:
            clip = CLIPS[case.name][adapters.ENCODERS.index(component)]
            long = name if name.startswith("text_") else f"text_model.{name}"
            places[f"text_encoders.{clip}.transformer.{long}"] = module
    for name, module in places.items():
        if f"{name}.lora_up.weight" not in tensors:
            continue
        up, down = tensors.pop(f"{name}.lora_up.weight"), tensors.pop(f"{name}.lora_down.weight")
        weight = plain[module]
        change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        change *= tensors.pop(f"{name}.alpha").item() / down.shape[0]
        scale = tensors.pop(f"{name}.dora_scale", None)
        merged = weight + change
        if scale is not None:
            assert scale.shape[0] == len(weight)
            lengths = weight.reshape(len(weight), -1).norm(dim=1)
            merged *= scale / lengths.reshape(-1, *[1] * (weight.ndim - 1))
        plain[module] = merged
    assert not tensors, f"ComfyUI would not load {sorted(tensors)[:3]}"
    return plain


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_an_adapter_comes_back_as_it_went(
    case: Case, kind: str, to: Format, tmp_path: Path
) -> None:
    original = case.adapter(kind)
    file = case.export(kind, to, tmp_path)
    assert import_(file, case.base, tmp_path / "back") == to
    assert inspect_adapter(tmp_path / "back", case.base) == []
    before, after = load_file(original / ADAPTER_FILE), load_file(tmp_path / "back" / ADAPTER_FILE)
    assert set(before) == set(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert_close(
        adapters.merged_weights(case.base, tmp_path / "back", case.variant),
        case.merged(kind),
    )


@pytest.mark.parametrize("to", FORMATS)
def test_magnitudes_of_dora_come_back(case: Case, to: Format, tmp_path: Path) -> None:
    original = case.adapter("dora")
    import_(case.export("dora", to, tmp_path), case.base, tmp_path / "back")
    before, after = load_file(original / ADAPTER_FILE), load_file(tmp_path / "back" / ADAPTER_FILE)
    assert {name: value.shape for name, value in before.items()} == {
        name: value.shape for name, value in after.items()
    }
    for name, value in before.items():
        # ComfyUI's are divided by one length and multiplied by another.
        tolerance = 1e-6 if to == "comfyui" else 0
        np.testing.assert_allclose(after[name], value, rtol=tolerance, err_msg=name)
    assert_close(
        adapters.merged_weights(case.base, tmp_path / "back", case.variant),
        case.merged("dora"),
    )


def test_magnitudes_that_the_stock_loader_leaves_out_are_told_and_mended(
    sd15: Case, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sd15.adapter("dora"), tmp_path / "adapter"))
    file, facts = folder / ADAPTER_FILE, metadata_of(folder / ADAPTER_FILE)
    short = {key.replace("vector.weight", "vector"): one for key, one in load_file(file).items()}
    save_file(short, file, facts)
    [problem] = inspect_adapter(folder, sd15.base)
    assert "leaves out unless .weight ends their names: text_encoder." in problem
    import_(file, sd15.base, tmp_path / "mended")
    assert_close(adapters.merged_weights(sd15.base, tmp_path / "mended"), sd15.merged("dora"))


def test_every_format_draws_the_same_image(case: Case, tmp_path: Path) -> None:
    expected = adapters.draw(case.base, case.adapter(), case.variant)
    assert np.abs(expected - adapters.draw(case.base, None, case.variant)).max() > 0.05
    for to in FORMATS:
        import_(case.export("lora", to, tmp_path), case.base, tmp_path / to)
        drawn = adapters.draw(case.base, tmp_path / to, case.variant)
        np.testing.assert_allclose(drawn, expected, atol=1e-5, err_msg=to)


def test_stock_diffusers_draws_kohyas_file(case: Case, tmp_path: Path) -> None:
    file = case.export("attention", "kohya", tmp_path)
    expected = adapters.draw(case.base, case.adapter("attention"), case.variant)
    assert np.abs(expected - adapters.draw(case.base, None, case.variant)).max() > 0.02
    np.testing.assert_allclose(adapters.draw(case.base, file, case.variant), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_comfyui_makes_the_same_weights(case: Case, kind: str, tmp_path: Path) -> None:
    file = case.export(kind, "comfyui", tmp_path)
    assert_close(changed_by_comfyui(file, case), case.merged(kind))


def test_names_are_those_of_files_in_use(case: Case, tmp_path: Path) -> None:
    exported = {name for to in FORMATS[1:] for name in names_in(case.export("lora", to, tmp_path))}
    assert set(KNOWN.get(case.name, [])) <= exported


def test_rslora_and_ranks_become_alphas_in_kohyas_file(sd15: Case, tmp_path: Path) -> None:
    tensors = load_file(sd15.export("rslora", "kohya", tmp_path))
    for end, rank in (("attn1_to_q", 2), ("attn1_to_k", 3), ("mlp_fc1", 4)):
        [*_, name] = sorted(key for key in tensors if key.endswith(f"{end}.alpha"))
        assert tensors[name].shape == ()
        assert tensors[name] == pytest.approx(5 * rank**0.5)
        assert tensors[name.replace("alpha", "lora_down.weight")].shape[0] == rank


def test_half_precision_is_read_exactly(sd15: Case, tmp_path: Path) -> None:
    exact = load_file(sd15.export("lora", "kohya", tmp_path))
    for dtype, kept in ((torch.bfloat16, np.float32), (torch.float16, np.float16)):
        halved = {key: torch.tensor(value).to(dtype) for key, value in exact.items()}
        save_torch_file(halved, tmp_path / "half.safetensors")
        import_(tmp_path / "half.safetensors", sd15.base, tmp_path / str(dtype))
        for key, value in load_file(tmp_path / str(dtype) / ADAPTER_FILE).items():
            assert value.dtype == kept
            name, _, half = key.rpartition(".lora_")
            if name.startswith("unet."):
                flat = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
                end = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[half]
                assert np.array_equal(value, halved[f"{flat}.{end}"].float().numpy())


def test_other_spellings_are_read(sd15: Case, tmp_path: Path) -> None:
    """A 1 x 1 convolution as a matrix, no alpha, and LDM names behind kohya's prefix."""
    tensors = load_file(sd15.export("attention", "comfyui", tmp_path))
    respelled = {}
    for key, value in tensors.items():
        name, _, end = key.partition(".lora_")
        if name.startswith("diffusion_model.") and end:
            flat = name.removeprefix("diffusion_model.").replace(".", "_")
            respelled[f"lora_unet_{flat}.lora_{end}"] = value
    rank, inner = 2, 8
    respelled["lora_unet_input_blocks_1_1_proj_in.lora_down.weight"] = np.ones(
        (rank, inner), np.float32
    )
    respelled["lora_unet_input_blocks_1_1_proj_in.lora_up.weight"] = np.ones(
        (inner, rank), np.float32
    )
    save_file(respelled, tmp_path / "other.safetensors")
    assert import_(tmp_path / "other.safetensors", sd15.base, tmp_path / "read") == "kohya"
    read = load_file(tmp_path / "read" / ADAPTER_FILE)
    proj_in = "unet.down_blocks.0.attentions.0.proj_in"
    assert read[f"{proj_in}.lora_A.weight"].shape == (rank, inner, 1, 1)
    weights = adapters.merged_weights(sd15.base, tmp_path / "read")[proj_in]
    torch.testing.assert_close(
        weights, sd15.merged(None)[proj_in] + rank
    )  # without alpha the scale is 1


def test_a_file_tells_rank_alpha_and_where_it_is_from(sd15: Case, tmp_path: Path) -> None:
    facts = {"adire.release": "3", "ss_sd_model_name": "a/base"}
    for number in range(4):  # equal content gives equal bytes, whatever order a process has
        file = tmp_path / f"{number}.safetensors"
        export(sd15.adapter("attention"), sd15.base, "kohya", file, facts)
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(4)}) == 1
    told = metadata_of(file)
    assert facts.items() <= told.items()
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("3", "5")
    assert metadata_of(sd15.export("lora", "kohya", tmp_path))["ss_network_dim"] == "Dynamic"
    import_(file, sd15.base, tmp_path / "back")
    export(tmp_path / "back", sd15.base, "comfyui", tmp_path / "again.safetensors")
    assert facts.items() <= metadata_of(tmp_path / "again.safetensors").items()
