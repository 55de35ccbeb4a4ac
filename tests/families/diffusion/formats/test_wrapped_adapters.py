"""LoRA files whose keys name what a trainer wrapped its models in, and files without an effect."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.formats.adapters import import_
from tests.families.diffusion.formats.test_producers import (
    RANK,
    Producer,
    Tensors,
    assert_equal,
    imported,
)
from tests.support import adapters


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Producer:
    return Producer(adapters.make_base(tmp_path_factory.mktemp("wrapped") / "base", "sd15"))


def inside(key: str, wrapper: str, flat: bool) -> str:
    """`key` as the component's own model has it inside `wrapper`."""
    mark = "_" if flat else "."
    starts = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "unet.", "text_encoder.",
              "text_encoder_2.")  # fmt: skip
    start = next(start for start in starts if key.startswith(start))
    return f"{start}{wrapper}{mark}{key.removeprefix(start)}"


def wrapped(wrapper: str) -> Callable[[Producer], Tensors]:
    return lambda p: {inside(key, wrapper, flat=False): value for key, value in p.lora.items()}


def wrapped_by_kohya(wrapper: str) -> Callable[[Producer], Tensors]:
    def write(producer: Producer) -> Tensors:
        written = producer.kohya(scale=0.5)
        return {inside(key, wrapper, flat=True): value for key, value in written.items()}

    return write


WRAPPERS: dict[str, Callable[[Producer], Tensors]] = {
    "compiled": wrapped("_orig_mod"),
    "DDP": wrapped("module"),
    "DDP, compiled": wrapped("module._orig_mod"),
    "everything in DDP": lambda p: {f"module.{key}": value for key, value in p.lora.items()},
    "compiled, by kohya": wrapped_by_kohya("_orig_mod"),
    "DDP, by kohya": wrapped_by_kohya("module"),
    "DDP, compiled, by kohya": wrapped_by_kohya("module__orig_mod"),
    "FSDP and checkpoints within": lambda p: {
        key.replace(".transformer_blocks.", ".transformer_blocks._fsdp_wrapped_module.").replace(
            ".attn1.", "._checkpoint_wrapped_module.attn1."
        ): value
        for key, value in p.lora.items()
    },
}


@pytest.mark.parametrize("writer", WRAPPERS)
def test_what_a_trainer_wrapped_its_models_in_is_left_out(
    sd15: Producer, tmp_path: Path, writer: str
) -> None:
    file = tmp_path / "lora.safetensors"
    written = WRAPPERS[writer](sd15)
    assert written.keys() - sd15.lora.keys() - sd15.kohya().keys()
    save_file({k: v.contiguous() for k, v in written.items()}, file)
    assert_equal(imported(sd15, file), sd15.merged)


def test_a_folder_of_pefts_own_is_read_when_its_model_was_compiled(
    sd15: Producer, tmp_path: Path
) -> None:
    unet = architectures.load(sd15.base, None, torch.float32).pipe.unet
    torch.manual_seed(1)
    [layer] = [name for name, _ in unet.named_modules() if name.endswith("mid_block.attentions.0."
               "transformer_blocks.0.attn1.to_q")]  # fmt: skip
    patterns = {"alpha_pattern": {f"_orig_mod.{layer}": 12}}
    config = LoraConfig(
        r=4, lora_alpha=3, init_lora_weights=False, target_modules=adapters.ATTENTION, **patterns
    )
    model = get_peft_model(torch.compile(unet), config)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    assert all(key.startswith("base_model.model._orig_mod.") for key in load_file(file))
    merged = model.merge_and_unload().state_dict()
    found = imported(sd15, file)
    for name in (name for name in found if name.startswith("unet.")):
        expected = merged[f"_orig_mod.{name.removeprefix('unet.')}.weight"]
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4, msg=name)
    for start in ("unet.", "unet.module."):
        within = tmp_path / start / "adapter_model.safetensors"
        within.parent.mkdir()
        (within.parent / "adapter_config.json").write_text(
            (tmp_path / "adapter_config.json").read_text()
        )
        save_file({f"{start}{key}": value for key, value in load_file(file).items()}, within)
        assert_equal(imported(sd15, within), found)


def test_two_wrappings_of_one_layer_are_two_keys_for_the_same(
    sd15: Producer, tmp_path: Path
) -> None:
    file = tmp_path / "lora.safetensors"
    both = {**sd15.lora, **WRAPPERS["compiled"](sd15)}
    save_file({k: v.clone() for k, v in both.items()}, file)
    with pytest.raises(UserError, match="two keys for the same: "):
        import_(file, sd15.base, tmp_path / "back")


def zeroed(tensors: Tensors, *ends: str) -> Tensors:
    return {k: v * 0 if k.endswith(ends) else v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: zeroed(p.kohya(), "alpha"), r"the alpha of .* and \d+ more is 0, by which such"),
        (lambda p: zeroed(p.kohya(), "attn1_to_q.alpha"), "the alpha of .*to_q.* is 0"),
        (lambda p: zeroed(p.lora, "lora_B.weight"), "in every layer a matrix is zero"),
        (lambda p: zeroed(p.kohya(), "lora_down.weight"), "in every layer a matrix is zero"),
        (
            lambda p: {
                **zeroed(p.part("unet"), "attn1.to_q.lora_A.weight", "attn1.to_k.lora_A.weight",
                         "attn1.to_v.lora_B.weight", "to_out.0.lora_B.weight",
                         "attn2.to_q.lora_A.weight", "attn2.to_k.lora_A.weight",
                         "attn2.to_v.lora_B.weight"),
            },
            "in every layer a matrix is zero",
        ),
    ],
)  # fmt: skip
def test_an_adapter_without_an_effect_is_refused(
    sd15: Producer, tmp_path: Path, write: Callable[[Producer], Tensors], says: str
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({k: v.contiguous() for k, v in write(sd15).items()}, file)
    with pytest.raises(UserError, match=says):
        import_(file, sd15.base, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_alpha_of_zero_in_pefts_settings_is_refused(sd15: Producer, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    settings = {"unet.r": RANK, "unet.lora_alpha": 0}
    tensors = {k: v for k, v in sd15.lora.items() if k.startswith("unet.")}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(UserError, match="is 0, by which such a layer changes nothing"):
        import_(file, sd15.base, tmp_path / "back")
