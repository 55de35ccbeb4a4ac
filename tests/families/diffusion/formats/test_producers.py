"""LoRA files as the common programs write them.

Each is imported and weighs what stock diffusers makes of it; whatever is no LoRA is refused as what
it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_all_state_dict_to_peft, convert_state_dict_to_kohya
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.formats.adapter import ADAPTER_FILE, inspect_adapter
from adire_assets.families.diffusion.formats.adapters import import_
from adire_assets.families.diffusion.formats.base_names import read_base
from tests.support import adapters

Tensors = dict[str, torch.Tensor]
RANK = 3
ENDS = (*adapters.ATTENTION, *adapters.TEXT_ATTENTION)


class Producer:
    """A base, one random LoRA on its attention in diffusers' spelling with peft, and what the
    base's weights become by it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lora: Tensors = {}
        self.merged = adapters.merged_weights(base, None)
        generator = torch.Generator().manual_seed(0)
        for module, weight in read_base(base).weights.items():
            if not module.endswith(ENDS):
                continue
            component, _, name = module.partition(".")
            long = name if component == "unet" else f"text_model.{name.removeprefix('text_model.')}"
            down = torch.randn(RANK, weight.shape[1], generator=generator)
            up = torch.randn(weight.shape[0], RANK, generator=generator)
            self.lora[f"{component}.{long}.lora_A.weight"] = down
            self.lora[f"{component}.{long}.lora_B.weight"] = up
            self.merged[module] = self.merged[module] + up @ down

    def part(self, component: str) -> Tensors:
        start = f"{component}."
        return {k.removeprefix(start): v for k, v in self.lora.items() if k.startswith(start)}

    def kohya(self, scale: float = 1.0) -> Tensors:
        """As sd-scripts writes it, with alphas of `scale` * rank."""
        result = {}
        for key, value in self.lora.items():
            component, _, name = key.partition(".")
            xl = "text_encoder_2" in {key.partition(".")[0] for key in self.lora}
            te = {"text_encoder": "lora_te1" if xl else "lora_te", "text_encoder_2": "lora_te2"}
            module, half = name.split(".lora_")
            flat = f"{te.get(component, 'lora_unet')}_{module.replace('.', '_')}"
            end = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[half]
            result[f"{flat}.{end}"] = value if end.startswith("lora_down") else value / scale
            result[f"{flat}.alpha"] = torch.tensor(RANK * scale)
        return result


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def producer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Producer:
    folder = tmp_path_factory.mktemp(request.param)
    return Producer(adapters.make_base(folder / "base", request.param))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Producer:
    folder = tmp_path_factory.mktemp("alone")
    return Producer(adapters.make_base(folder / "base", "sd15"))


def attention_processors(producer: Producer) -> Tensors:
    """diffusers 0.11 to 0.20."""
    result = {}
    old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    for key, value in producer.lora.items():
        module, half = key.split(".lora_")
        end = "down" if half.startswith("A") else "up"
        head, _, last = module.removesuffix(".0").rpartition(".")
        place = f"{head}.processor.{last}" if key.startswith("unet.") else f"{head}.{old[last]}"
        result[f"{place}_lora.{end}.weight"] = value
    return result


def before_peft(producer: Producer) -> Tensors:
    """diffusers 0.21 to 0.25, the text encoders by diffusers' own code."""
    result = {}
    for component in ("unet", *adapters.ENCODERS):
        part = producer.part(component)
        if not part:
            continue
        if component == "unet":
            part = {
                k.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): v
                for k, v in part.items()
            }
        else:
            part = convert_state_dict_to_diffusers(part)
        result |= {f"{component}.{key}": value for key, value in part.items()}
    return result


def kohya_by_diffusers(producer: Producer) -> Tensors:
    """diffusers' own converter, whose alphas are int64."""
    result = convert_state_dict_to_kohya(convert_all_state_dict_to_peft(producer.lora))
    alphas = {value.dtype for key, value in result.items() if key.endswith(".alpha")}
    assert alphas == {torch.int64}
    return result


def some_alphas_missing(producer: Producer) -> Tensors:
    written = producer.kohya()
    return {k: v for n, (k, v) in enumerate(written.items()) if not k.endswith("alpha") or n % 2}


WRITERS: dict[str, Callable[[Producer], Tensors]] = {
    "diffusers with attention processors": attention_processors,
    "diffusers before peft": before_peft,
    "diffusers with peft": lambda p: p.lora,
    "kohya by diffusers": kohya_by_diffusers,
    "kohya, OneTrainer": lambda p: p.kohya(scale=0.5),
    "kohya without alphas": lambda p: {k: v for k, v in p.kohya().items() if "alpha" not in k},
    "kohya with some alphas": some_alphas_missing,
    "kohya, alphas of one number": lambda p: {
        k: v.reshape(1) if k.endswith("alpha") else v for k, v in p.kohya().items()
    },
}


def imported(producer: Producer, file: Path) -> dict[str, torch.Tensor]:
    """The base's weights with the adapter that was imported, merged in by stock diffusers."""
    folder = file.with_name(f"{file.stem}-imported")
    import_(file, producer.base, folder)
    assert inspect_adapter(folder, producer.base) == []
    return adapters.merged_weights(producer.base, folder)


def assert_equal(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-4) -> None:
    assert set(found) == set(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(
            found[name],
            weight,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, n=name: f"{n} {text}",
        )


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_weighs_what_stock_diffusers_makes_of_it(
    producer: Producer, tmp_path: Path, writer: str
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({k: v.contiguous() for k, v in WRITERS[writer](producer).items()}, file)
    assert_equal(adapters.merged_weights(producer.base, file), producer.merged)
    assert_equal(imported(producer, file), producer.merged)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.int64,
        torch.int32,
        torch.int16,
        torch.uint8,
        torch.float64,
        torch.float16,
        torch.bfloat16,
    ],
)
def test_alphas_come_in_any_type(sd15: Producer, tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "lora.safetensors"
    scaled = sd15.kohya(scale=2)
    save_file({k: v.to(dtype) if "alpha" in k else v for k, v in scaled.items()}, file)
    assert_equal(imported(sd15, file), sd15.merged)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_in_half_precision_are_read(
    sd15: Producer, tmp_path: Path, dtype: torch.dtype
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({key: value.to(dtype) for key, value in attention_processors(sd15).items()}, file)
    assert_equal(imported(sd15, file), adapters.merged_weights(sd15.base, file), 2e-2)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda p: {k: v for k, v in p.kohya().items() if k.startswith("lora_te_")},
        lambda p: {k: v for k, v in p.lora.items() if k.startswith("text_encoder.")},
        lambda p: {f"text_encoder.{k}": v for k, v in p.part("text_encoder").items()},
    ],
)
def test_an_adapter_of_the_text_encoder_alone_is_one(
    sd15: Producer, tmp_path: Path, spelling: Callable[[Producer], Tensors]
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(spelling(sd15), file)
    plain = adapters.merged_weights(sd15.base, None)
    expected = {
        name: weight if name.startswith("text_encoder.") else plain[name]
        for name, weight in sd15.merged.items()
    }
    assert_equal(adapters.merged_weights(sd15.base, file), expected)
    assert_equal(imported(sd15, file), expected)


@pytest.mark.parametrize(
    "spelling",
    [
        # diffusers' `unet.save_attn_procs` before prefixes came
        lambda p: {
            k.removeprefix("unet."): v
            for k, v in attention_processors(p).items()
            if k.startswith("unet.")
        },
        lambda p: p.part("unet"),
        lambda p: {k.replace("lora_A", "lora_A.default"): v for k, v in p.part("unet").items()},
        lambda p: {
            k.replace("lora_unet_", "lycoris_"): v
            for k, v in p.kohya().items()
            if k.startswith("lora_unet_")
        },
    ],
)
def test_a_unet_alone_needs_no_prefix(
    sd15: Producer, tmp_path: Path, spelling: Callable[[Producer], Tensors]
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(spelling(sd15), file)
    plain = adapters.merged_weights(sd15.base, None)
    expected = {n: w if n.startswith("unet.") else plain[n] for n, w in sd15.merged.items()}
    assert_equal(imported(sd15, file), expected)


@pytest.mark.parametrize("component", ["unet", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize(
    "more", [{}, {"use_rslora": True, "rank_pattern": {"to_q": 2, "q_proj": 2}}]
)
def test_a_folder_of_pefts_own_is_read(
    producer: Producer, tmp_path: Path, component: str, more: dict[str, Any]
) -> None:
    pipe = architectures.load(producer.base, None, torch.float32).pipe
    if not hasattr(pipe, component):
        return
    torch.manual_seed(1)
    targets = adapters.ATTENTION if component == "unet" else adapters.TEXT_ATTENTION
    settings = {"r": 4, "lora_alpha": 3, "init_lora_weights": False, **more}
    model = get_peft_model(getattr(pipe, component), LoraConfig(target_modules=targets, **settings))
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload().state_dict()
    file = tmp_path / "adapter_model.safetensors"
    assert all(key.startswith("base_model.model.") for key in load_file(file))
    found = imported(producer, file)
    plain = adapters.merged_weights(producer.base, None)
    for name, weight in found.items():
        part, _, module = name.partition(".")
        expected = merged[f"{module}.weight"] if part == component else plain[name]
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-4, msg=name)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"says rank and alpha in adapter_config\.json; put that"):
        import_(file, producer.base, tmp_path / "without")


def test_metadata_of_other_programs_does_no_harm(sd15: Producer, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    facts = {"ss_network_module": "networks.lora", "ss_tag_frequency": "{}", "ot_revision": "x",
             "modelspec.architecture": "stable-diffusion-v1/lora", "format": "pt"}  # fmt: skip
    save_file(sd15.kohya(), file, facts)
    assert_equal(imported(sd15, file), sd15.merged)


MIDDLE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([f"{MIDDLE}.hada_w1_a", f"{MIDDLE}.alpha"], "is a LoHa of LyCORIS"),
        ([f"{MIDDLE}.lokr_w1"], "is a LoKr of LyCORIS"),
        (["lycoris_mid_block_attentions_0_proj_in.lokr_w2"], "is a LoKr of LyCORIS"),
        ([f"{MIDDLE}.weight", f"{MIDDLE}.on_input"], "is an IA3 of LyCORIS"),
        ([f"{MIDDLE}.oft_blocks"], "is an OFT or BOFT of LyCORIS"),
        ([f"{MIDDLE}.a1.weight"], "is a GLoRA of LyCORIS"),
        ([f"{MIDDLE}.diff", f"{MIDDLE}.diff_b"], "holds whole differences of weights"),
        ([f"{MIDDLE}.lora_mid.weight"], "three matrices"),
        ([f"{MIDDLE}.scalar"], "scalars beside its matrices"),
        (["lora_unet_mid_block_resnets_0_norm1.w_norm"], "changes norms too"),
        (["unet.mid_block.attentions.0.proj_in.lora_B.bias"], "has biases beside its matrices"),
        (["bundle_emb.adire.string_to_param.*"], "textual inversion embeddings bundled"),
        (["emb_params"], "is a textual inversion embedding"),
        (["<adire>"], "is a textual inversion embedding"),
        (["clip_l", "clip_g"], "is a textual inversion embedding"),
        (["adire"], "has no layers by name"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "such as Flux"),
        (["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"], "such as Flux"),
        (["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"], "Stable Diffusion 3"),
        (["diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight"], "such as Flux"),
        (["lora_te3_encoder_block_0_layer_0.lora_down.weight"], "Stable Diffusion 3"),
        (["model.diffusion_model.out.2.weight", "first_stage_model.x"], "is a whole checkpoint"),
        (["cond_stage_model.transformer.x.weight"], "`base_model.source` of a model takes it"),
        (["control_model.input_blocks.0.0.weight"], "is for a ControlNet"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "is an IP-Adapter"),
        (["mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion"
          ".weight"], "is a Custom Diffusion adapter"),
        (["down_blocks.0.motion_modules.0.x.lora_A.weight"], "AnimateDiff"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "is an autoencoder"),
        (["mid_block.attentions.0.proj_in.weight", "conv_in.bias"], "holds whole weights"),
        (["unet.conv_in.weight"], "holds whole weights of a model"),
        (["lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"], "two text encoders"),
        (["unet.mid_block.attentions.0.proj_in.magic"], "tensors that are no part of one: unet"),
        (["some.other.thing"], "in a format that is known: it has keys that none has"),
    ],
)  # fmt: skip
def test_what_is_no_lora_is_refused_as_what_it_is(
    sd15: Producer, tmp_path: Path, keys: list[str], says: str
) -> None:
    file = tmp_path / "x.safetensors"
    save_file({key: torch.ones(1, 1) for key in keys}, file)
    with pytest.raises(UserError) as error:
        import_(file, sd15.base, tmp_path / "out")
    assert says in str(error.value)
    assert "does not fit" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_an_adapter_for_another_base_says_which(
    sd15: Producer, producer: Producer, tmp_path: Path
) -> None:
    if producer.base == sd15.base or "text_encoder_2" not in str(producer.lora):
        return
    for number, tensors in enumerate((producer.lora, producer.kohya(), before_peft(producer))):
        file = tmp_path / f"{number}.safetensors"
        save_file(tensors, file)
        with pytest.raises(UserError, match="is for another base: its UNet takes text of width 64"):
            import_(file, sd15.base, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "`git lfs pull`"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b'{"error": "Unauthorized"}', "is JSON text, perhaps the answer of a server"),
        (b"PK\x03\x04 as torch.save writes", "a zip archive, such as torch.save writes; pickled"),
        (b"\x80\x02}q\x00. as pickle writes", "it is pickled; pickled weights"),
        (b"GGUF\x03\x00\x00\x00\x00\x00", "it is a GGUF file"),
        (b"\x00" * 40, "is not a safetensors file"),
        (b"x", "is not a safetensors file"),
    ],
)
def test_a_file_that_only_has_the_name_is_told_by_its_content(
    sd15: Producer, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError) as error:
        import_(tmp_path / "x.safetensors", sd15.base, tmp_path / "out")
    assert says in str(error.value)


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.999])
def test_a_file_that_was_cut_off_says_so(sd15: Producer, tmp_path: Path, kept: float) -> None:
    file = tmp_path / "x.safetensors"
    save_file(sd15.kohya(), file)
    content = file.read_bytes()
    file.write_bytes(content[: max(64, int(kept * len(content)))])
    with pytest.raises(UserError, match="is cut off"):
        import_(file, sd15.base, tmp_path / "out")


def test_numbers_in_eight_bits_are_refused_by_their_type(sd15: Producer, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in sd15.lora.items()}, file)
    with pytest.raises(UserError, match=r"types other than float64.*F8_E4M3"):
        import_(file, sd15.base, tmp_path / "out")
    save_file({k: v.to(torch.int8) for k, v in sd15.lora.items()}, file)
    with pytest.raises(UserError, match=r"types other than float64.*int8"):
        import_(file, sd15.base, tmp_path / "out")


def test_dora_by_diffusers_converter_is_read(sd15: Producer, tmp_path: Path) -> None:
    """It leaves the magnitudes' names half in its own spelling."""
    folder = adapters.make_adapter(
        tmp_path / "dora", sd15.base, unet=adapters.ATTENTION, text=[], use_dora=True, lora_alpha=3
    )
    given = load_file(folder / ADAPTER_FILE)
    save_file(convert_state_dict_to_kohya(given), file := tmp_path / "kohya.safetensors")
    assert_equal(imported(sd15, file), adapters.merged_weights(sd15.base, folder))
