"""What `Sampler` promises of the images that are evaluated and served."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from adire_assets.families.diffusion.engine import sampling
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from tests.support import tiny

STEPS = 3
PREPACKED = 1  # of 255 levels: prepacked convolutions sum in another order


def ask(prompt: str, **options: object) -> Request:
    return Request(prompt, num_inference_steps=STEPS, **options)  # type: ignore[arg-type]


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.fixture(scope="module")
def sampler(random_base: Path, adapter: Path) -> Sampler:
    return Sampler(random_base, adapter=adapter, device="cpu")


@pytest.fixture(scope="module")
def bare(random_base: Path) -> Sampler:
    return Sampler(random_base, device="cpu")


def test_an_image_depends_neither_on_its_batch_nor_on_its_number(sampler: Sampler) -> None:
    together = sampler.generate(
        [ask("circles", seed=5, num_images=3), ask("stripes", seed=40, negative_prompt="red")]
    )
    [alone] = sampler.generate([ask("circles", seed=7)])
    [stripes] = sampler.generate([ask("stripes", seed=40, negative_prompt="red")])
    assert largest_difference(together[0][2], alone[0]) <= 2
    assert largest_difference(together[1][0], stripes[0]) <= 2
    assert largest_difference(together[0][0], together[0][1]) > 20


def test_results_come_in_the_order_and_shape_of_the_requests(sampler: Sampler) -> None:
    requests = [
        ask("a", seed=1, guidance_scale=3.0),
        Request("b", seed=2, num_inference_steps=2, num_images=2),
        ask("c", seed=3, guidance_scale=3.0),
    ]
    mixed = sampler.generate(requests)
    assert [images.shape for images in mixed] == [(1, 64, 64, 3), (2, 64, 64, 3), (1, 64, 64, 3)]
    assert all(images.dtype == np.uint8 for images in mixed)
    for images, request in zip(mixed, requests, strict=True):
        [alone] = sampler.generate([request])
        assert largest_difference(images, alone) <= 2


def test_more_images_than_one_forward_pass_takes(random_base: Path) -> None:
    small = Sampler(random_base, device="cpu", batch_images=2)
    [images] = small.generate([ask("a", seed=10, num_images=5)])
    [last] = small.generate([ask("a", seed=14)])
    assert largest_difference(images[4], last[0]) <= 2


def test_without_the_adapter_it_is_exactly_the_base(sampler: Sampler, bare: Sampler) -> None:
    requests = [ask("circles", seed=3, num_images=2)]
    [before] = sampler.generate(requests)
    [off] = sampler.generate(requests, with_adapter=False)
    [after] = sampler.generate(requests)
    [base] = bare.generate(requests)
    assert np.array_equal(off, base)
    assert np.array_equal(before, after)
    assert largest_difference(before, base) > 2


@pytest.mark.parametrize("negative", ["", "red"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_it_draws_what_the_stock_pipeline_draws(
    tmp_path: Path,
    bases: dict[tiny.Architecture, Path],
    architecture: tiny.Architecture,
    negative: str,
) -> None:
    base = bases[architecture]
    adapter = tiny.make_adapter(tmp_path / "adapter", base)
    stock = DiffusionPipeline.from_pretrained(base)
    stock.set_progress_bar_config(disable=True)
    asked = ask("circles", negative_prompt=negative, guidance_scale=4.0, seed=11)

    def by_stock() -> np.ndarray:
        image = stock(
            asked.prompt,
            negative_prompt=negative or None,
            guidance_scale=asked.guidance_scale,
            num_inference_steps=asked.num_inference_steps,
            generator=torch.Generator().manual_seed(asked.seed),
            output_type="np",
        ).images
        return (image * 255).round().astype(np.uint8)

    ours = Sampler(base, adapter=adapter, device="cpu")
    [bare] = ours.generate([asked], with_adapter=False)
    assert largest_difference(by_stock(), bare) <= PREPACKED
    stock.load_lora_weights(str(adapter))
    [drawn] = ours.generate([asked])
    # Merged weights round otherwise than two products do.
    assert largest_difference(by_stock(), drawn) <= 2
    assert largest_difference(drawn, bare) > 20


@pytest.mark.parametrize(
    "scheduler",
    [
        "PNDMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "TCDScheduler",
    ],
)
def test_it_steps_any_scheduler_as_the_stock_pipeline_does(
    tmp_path: Path, random_base: Path, scheduler: str
) -> None:
    stock = StableDiffusionPipeline.from_pretrained(random_base)
    stock.scheduler = getattr(diffusers, scheduler).from_config(stock.scheduler.config)
    assert_stock_draws(stock, tmp_path)


@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "DPMSolverMultistepScheduler",
    ],
)
def test_rows_that_step_together_are_drawn_as_each_alone(
    random_base: Path, adapter: Path, scheduler: str
) -> None:
    # Two at a time: who steps with whom changes from pass to pass.
    sampler = Sampler(random_base, adapter=adapter, device="cpu", batch_images=2)
    requests = [
        ask("circles", seed=5, num_images=3, guidance_scale=3.0, scheduler=scheduler),
        ask("stripes", seed=40, guidance_scale=1.0, scheduler=scheduler),
        Request("grid", seed=8, num_inference_steps=5, guidance_scale=6.5, scheduler=scheduler),
    ]
    for request, images in zip(requests, sampler.generate(requests), strict=True):
        for number, image in enumerate(images):
            alone = replace(request, seed=request.seed + number, num_images=1)
            assert largest_difference(sampler.generate([alone])[0][0], image) <= 2


def test_a_distilled_unet_is_told_its_guidance(tmp_path: Path, random_base: Path) -> None:
    stock = StableDiffusionPipeline.from_pretrained(random_base)
    torch.manual_seed(0)
    stock.unet = UNet2DConditionModel.from_config({**stock.unet.config, "time_cond_proj_dim": 8})
    weak, strong = (assert_stock_draws(stock, tmp_path, scale) for scale in (2.0, 9.0))
    assert not np.array_equal(weak, strong)


def assert_stock_draws(stock: StableDiffusionPipeline, folder: Path, scale: float = 4.0) -> Any:
    """The sampler draws what the pipeline `stock` draws; returns its image."""
    stock.set_progress_bar_config(disable=True)
    stock.save_pretrained(folder)
    asked = Request("circles", guidance_scale=scale, seed=11, num_inference_steps=4)
    image = stock(
        asked.prompt,
        guidance_scale=scale,
        num_inference_steps=asked.num_inference_steps,
        generator=[torch.Generator().manual_seed(asked.seed)],
        output_type="np",
    ).images
    expected = (image * 255).round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "prepack", lambda part: None)
        [exactly] = Sampler(folder, device="cpu").generate([asked])
    assert np.array_equal(expected, exactly)
    [drawn] = Sampler(folder, device="cpu").generate([asked])
    assert largest_difference(expected, drawn) <= PREPACKED
    return drawn


def test_images_of_sdxl_with_and_without_a_negative_prompt_share_a_batch(
    bases: dict[tiny.Architecture, Path],
) -> None:
    sampler = Sampler(bases["sdxl"], device="cpu")
    asked = [ask("circles", seed=1), ask("circles", seed=1, negative_prompt="red"), ask("b")]
    passes: list[None] = []
    hook = sampler.model.pipe.vae.decoder.register_forward_hook(lambda *_: passes.append(None))
    together = sampler.generate(asked)
    hook.remove()
    assert len(passes) == 1
    for images, request in zip(together, asked, strict=True):
        [alone] = sampler.generate([request])
        assert largest_difference(images, alone) <= 2
    assert largest_difference(together[0], together[1]) > 2


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 1), (1.0, 1), (4.0, 2)])
def test_guidance_is_computed_only_where_it_has_an_effect(
    bare: Sampler, guidance: float, rows: int
) -> None:
    seen = []
    hook = bare.model.pipe.unet.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    bare.generate([ask("circles", guidance_scale=guidance)])
    hook.remove()
    assert seen == [rows] * STEPS


def test_a_prompt_beyond_the_tokenizer_is_cut_in_silence(
    bare: Sampler, capfd: pytest.CaptureFixture[str]
) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).addHandler(handler)
    bare.generate([ask("indigo " * 200)])
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).removeHandler(handler)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert records == []


def test_noise_that_the_scheduler_adds_at_each_step_is_drawn_per_image(tmp_path: Path) -> None:
    base = tiny.make_random_base(tmp_path / "base")
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(base)
    sampler = Sampler(base, device="cpu")
    assert type(sampler.model.pipe.scheduler) is EulerAncestralDiscreteScheduler
    [together] = sampler.generate([ask("circles", seed=5, num_images=3)])
    [alone] = sampler.generate([ask("circles", seed=7)])
    assert largest_difference(together[2], alone[0]) <= 2


def test_half_precision_files_compute_in_float32_on_the_cpu(tmp_path: Path) -> None:
    base = tiny.make_random_base(tmp_path / "base", variant="fp16")
    sampler = Sampler(base, variant="fp16", device="cpu")
    assert {weight.dtype for weight in sampler.model.pipe.unet.parameters()} == {torch.float32}
    assert sampler.generate([ask("circles")])[0].std() > 0


def test_what_the_text_encoder_does_not_see_is_told(sampler: Sampler) -> None:
    assert sampler.left_out("indigo circles") == ""
    tokenizer = sampler.model.pipe.tokenizer
    words = tokenizer.model_max_length - 2
    text = " ".join(["blue"] * 200)
    pieces = sampler.model.pipe.tokenizer(text, add_special_tokens=False).input_ids
    assert (
        sampler.left_out(text) == sampler.model.pipe.tokenizer.decode(pieces[words:]).strip() != ""
    )
    [one], [other] = (sampler.generate([ask(f"{text} {end}", seed=3)]) for end in ("cat", "dog"))
    assert (one == other).all(), "what is said to be left out changes the image"
    assert sampler.left_out(f"{text} cat").endswith("cat")


def test_of_two_text_encoders_the_one_that_sees_less_counts(
    bases: dict[tiny.Architecture, Path],
) -> None:
    sampler = Sampler(bases["sdxl"], device="cpu")
    shorter = sampler.model.pipe.tokenizer_2
    shorter.model_max_length = 4
    pieces = shorter("red yellow green", add_special_tokens=False).input_ids
    assert sampler.left_out("red yellow green") == shorter.decode(pieces[2:]).strip() != ""
