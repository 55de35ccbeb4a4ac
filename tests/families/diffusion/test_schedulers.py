"""Schedulers in place of the base's own: what they draw, and which bases they are refused for."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.evaluation.images import draw
from adire_assets.families.diffusion.schedulers import LCM, SCHEDULERS, ZERO_SNR, refusal
from tests.support import tiny, training

LARGEST = 2  # levels of 255
STEPS = 4
ENDS_IN_NOISE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def by_stock(stock: Any, request: Request) -> np.ndarray:
    """uint8 [1, H, W, 3] of the stock pipeline with the request's scheduler."""
    own = stock.scheduler
    stock.scheduler = getattr(diffusers, request.scheduler or "").from_config(own.config)
    try:
        image = stock(
            request.prompt,
            guidance_scale=request.guidance_scale,
            num_inference_steps=request.num_inference_steps,
            generator=[torch.Generator().manual_seed(request.seed)],
            output_type="np",
        ).images
    finally:
        stock.scheduler = own
    return (image * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def pure_noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that predicts velocity and begins in pure noise, as the embedded one."""
    folder = tiny.make_random_base(tmp_path_factory.mktemp("noise"), "v_prediction")
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config({**pipe.scheduler.config, **ENDS_IN_NOISE})
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("base", ["random_base", "pure_noise"])
def test_each_draws_what_the_stock_pipeline_draws_with_it_whatever_shares_its_passes(
    base: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(base)
    names = SCHEDULERS if base == "random_base" else ZERO_SNR
    asked = [
        Request("circles", seed=seed, num_inference_steps=steps, scheduler=name)
        for name in names
        for seed, steps in ((3, STEPS), (4, STEPS), (3, STEPS + 1))
    ]
    sampler, seen = Sampler(folder, device="cpu", batch_images=16), []
    denoise = sampler.model.denoise

    def counted(noisy: torch.Tensor, *given: Any) -> torch.Tensor:
        seen.append(len(noisy))
        return denoise(noisy, *given)

    monkeypatch.setattr(sampler.model, "denoise", counted)
    together = sampler.generate(asked)
    assert max(seen) == 2 * 16, "they do not share passes"
    stock = StableDiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    for wanted, images in zip(asked, together, strict=True):
        assert difference(images, by_stock(stock, wanted)) <= LARGEST, wanted
    [own] = sampler.generate([Request("circles", seed=3, num_inference_steps=STEPS)])
    firsts = dict(zip(names, together[::3], strict=True))
    assert difference(own, firsts.pop("DDIMScheduler")) <= LARGEST
    # Some are the same in few steps of a base that predicts much the same at each.
    others = [name for name, images in firsts.items() if difference(own, images) > LARGEST]
    assert len(others) > len(firsts) / 2, others


def test_a_schedule_is_computed_once_for_all_images_of_as_many_steps(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(random_base, device="cpu")
    made: list[int] = []
    kind = diffusers.UniPCMultistepScheduler
    set_timesteps = kind.set_timesteps

    def counted(scheduler: Any, steps: int, *given: Any, **named: Any) -> None:
        made.append(steps)
        set_timesteps(scheduler, steps, *given, **named)

    monkeypatch.setattr(kind, "set_timesteps", counted)
    asked = [
        Request("circles", num_inference_steps=steps, num_images=2, scheduler=kind.__name__)
        for steps in (1, 2, 1)
    ]
    one, _, other = sampler.generate(asked)
    assert made == [1, 2]
    assert difference(one, other) <= LARGEST


def test_those_that_are_told_to_know_pure_noise_do() -> None:
    for name in SCHEDULERS:
        taken = signature(getattr(diffusers, name).__init__).parameters
        assert ("rescale_betas_zero_snr" in taken) == (name in ZERO_SNR), name


@pytest.mark.parametrize(
    ("own", "unet", "scheduler", "steps", "says"),
    [
        ({}, {}, None, 1000, None),
        ({"prediction_type": "v_prediction"}, {}, "UniPCMultistepScheduler", 1000, None),
        ({}, {}, "LMSDiscreteScheduler", 50, None),
        (
            {"prediction_type": "sample"},
            {},
            "UniPCMultistepScheduler",
            50,
            "UniPCMultistepScheduler is for bases that predict epsilon or v_prediction, and this "
            "one predicts sample; leave it out, and the base is drawn by its own DDIMScheduler",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            {},
            "EulerDiscreteScheduler",
            50,
            "and this one predicts flow; leave it out",
        ),
        (ENDS_IN_NOISE, {}, "DPMSolverMultistepScheduler", 50, None),
        (
            ENDS_IN_NOISE,
            {},
            "HeunDiscreteScheduler",
            50,
            "HeunDiscreteScheduler cannot begin in pure noise, as the base's rescale_betas_zero_snr"
            " asks; those that can are DDIMScheduler, DDPMScheduler, ",
        ),
        (
            {},
            {},
            LCM,
            50,
            "LCMScheduler is for latent consistency models, and this base is none: its own "
            "scheduler is DDIMScheduler, and its denoiser has no time_cond_proj_dim; take another",
        ),
        ({"_class_name": LCM}, {}, LCM, 50, None),
        ({}, {"time_cond_proj_dim": 256}, LCM, 50, None),
        (
            {"original_inference_steps": 20},
            {"time_cond_proj_dim": 256},
            LCM,
            21,
            "LCMScheduler draws this base in at most 20 steps, and 21 are allowed; lower that",
        ),
    ],
)
def test_one_that_does_not_fit_the_base_is_refused_in_a_sentence(
    tmp_path: Path,
    own: dict[str, Any],
    unet: dict[str, Any],
    scheduler: str | None,
    steps: int,
    says: str | None,
) -> None:
    for name, content in (
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler", **own}),
        ("unet/config.json", {"time_cond_proj_dim": None, **unet}),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
    why = refusal(tmp_path, scheduler, steps)
    assert (why is None) if says is None else (says in (why or "")), why


def test_nothing_is_drawn_or_trained_for_one_that_does_not_fit(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    drawing = {"prompts": ["circles"], "seeds": [0], "scheduler": LCM, "num_inference_steps": 4}
    with pytest.raises(UserError, match=r"serving\.scheduler: LCMScheduler is for latent"):
        draw(
            base=str(random_base),
            variant=None,
            adapter=None,
            drawing=drawing,
            output=str(tmp_path),
            device="cpu",
            progress=print,
        )
    with pytest.raises(UserError, match=r"training\.validation_scheduler: LCMScheduler is for"):
        training.run(
            tmp_path, random_base, dataset, validation_prompt="cloth", validation_scheduler=LCM
        )
    assert not list((tmp_path / "output").iterdir())
