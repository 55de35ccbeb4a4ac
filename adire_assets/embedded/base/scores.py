"""How good the tiny base model is: accuracies, fidelity and scale on what nothing was trained on.

Contract: every figure is taken over held-out drawings (their seeds lie HELD_OUT above those of the
training), or over images that the base itself draws from held-out captions.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPModel, CLIPTokenizer

from adire_assets.embedded.base.autoencoder import psnr
from adire_assets.embedded.base.corpus import draw_generic, draw_style
from adire_assets.embedded.base.judge import similarity
from adire_assets.embedded.base.pattern_images import Pixels, draw_pattern
from adire_assets.embedded.base.patterns import (
    COLOURS,
    MOTIF_WORDS,
    Pattern,
    choose_pattern,
)
from adire_assets.embedded.cloth.sample_images import CAPTION_PREFIX, TECHNIQUES
from adire_assets.families.diffusion.engine.sampling import Request, Sampler

HELD_OUT = 1_000_000  # added to the seed for images that nothing is trained on
STEPS, GUIDANCE = 20, 3.0  # of the images that the base draws


def measure(
    judge: CLIPModel,
    tokenizer: CLIPTokenizer,
    autoencoder: AutoencoderKL,
    pipeline: Path,
    seed: int,
    count: int,
    resolution: int,
    device: str,
) -> dict[str, float]:
    """Accuracies in [0, 1], PSNR in dB and mean CLIP-S, each over `count` images (the base draws
    half as many). `pipeline` is the exported folder, drawn with on `device` (cpu, cuda)."""
    rng = np.random.default_rng([seed + HELD_OUT, 29])
    patterns = [choose_pattern(rng) for _ in range(count)]
    drawn = np.stack([draw_pattern(pattern, rng, resolution) for pattern in patterns])
    generated = patterns[: count // 2]
    figures = {
        **zero_shot_accuracy(judge, tokenizer, patterns, drawn),
        **{
            f"{name}_generated": share
            for name, share in zero_shot_accuracy(
                judge,
                tokenizer,
                generated,
                sample(pipeline, [p.caption() for p in generated], device),
            ).items()
        },
    }
    generic = draw_generic(count, seed + HELD_OUT, resolution)
    style = draw_style(count, seed + HELD_OUT, resolution, recoloured=0.0)
    figures["psnr_generic_db"] = psnr(autoencoder, generic.images)
    figures["psnr_adire_db"] = psnr(autoencoder, style.images)
    own = similarity(judge, tokenizer, style.images, style.captions).diagonal()
    other = similarity(judge, tokenizer, generic.images, style.captions).diagonal()
    figures["clip_s_adire"] = float(2.5 * own.clamp(min=0).mean())
    figures["clip_s_generic_as_adire"] = float(2.5 * other.clamp(min=0).mean())
    names = [f"{CAPTION_PREFIX}{name}, indigo cloth" for name in TECHNIQUES]
    named = similarity(judge, tokenizer, style.images, names).argmax(1)
    figures["accuracy_technique"] = float((named == torch.arange(count) % 3).float().mean())
    return {name: round(value, 4) for name, value in figures.items()}


def sample(pipeline: Path, prompts: Sequence[str], device: str, seed: int = 0) -> Pixels:
    """One image per prompt, drawn by the exported pipeline: uint8 [N, H, W, 3]."""
    sampler = Sampler(pipeline, variant="fp16", device=device)
    requests = [
        Request(prompt, seed=seed + place, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
        for place, prompt in enumerate(prompts)
    ]
    return np.concatenate(sampler.generate(requests))


def zero_shot_accuracy(
    model: CLIPModel, tokenizer: CLIPTokenizer, patterns: Sequence[Pattern], images: Pixels
) -> dict[str, float]:
    """Share of images (uint8 [N, H, W, 3]) for which the caption with the right word scores best.

    `accuracy_motif`: 33-way, everything else in the caption as it is; `accuracy_motif_bare`: 33-way
    with the motif alone as caption; `accuracy_foreground` and `accuracy_background`: 12-way.
    """
    hits = dict.fromkeys(("motif", "motif_bare", "foreground", "background"), 0)
    for pattern, image in zip(patterns, images, strict=True):
        questions = {
            "motif": [pattern.with_motif(word).caption() for word in MOTIF_WORDS],
            "motif_bare": list(MOTIF_WORDS),
            "foreground": [replace(pattern, foreground=name).caption() for name in COLOURS],
            "background": [replace(pattern, background=name).caption() for name in COLOURS],
        }
        answers = {
            "motif": MOTIF_WORDS.index(pattern.motif),
            "motif_bare": MOTIF_WORDS.index(pattern.motif),
            "foreground": list(COLOURS).index(pattern.foreground),
            "background": list(COLOURS).index(pattern.background),
        }
        captions = [caption for group in questions.values() for caption in group]
        scores = similarity(model, tokenizer, image[None], captions)[0]
        start = 0
        for name, group in questions.items():
            hits[name] += int(scores[start : start + len(group)].argmax()) == answers[name]
            start += len(group)
    return {f"accuracy_{name}": number / len(images) for name, number in hits.items()}
