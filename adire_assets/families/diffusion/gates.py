"""The gates of diffusion models: thresholds of `evaluation.gates`, and the table that they are
judged by. It is part of every verdict's recipe key."""

from typing import Annotated

from pydantic import Field

from adire_assets.config import gates
from adire_assets.config.gates import Margin, Share, Versions
from adire_assets.core.gate import Facts, GateRule, latency, number, number_at

METRICS = (
    "clip_s", "style_similarity", "kid", "attribute_accuracy", "diversity", "memorisation",
    "sharpness", "exposure", "nsfw",
)  # fmt: skip


def _without_lora(evaluation: Facts) -> str:
    bare = number_at(evaluation, "clip_s_base_mean")
    return f"without the LoRA it is {number(bare)}" if bare is not None else ""


GATES = (
    GateRule(
        "clip_s",
        "clip_s_mean",
        ">=",
        "clip_s_minimum",
        "CLIP-S, 2.5 * max(cosine, 0), mean over the evaluated images",
        asks="Images fit their prompts: CLIP-S is at or above gates.clip_s_minimum.",
        note=_without_lora,
    ),
    latency("image"),
    GateRule(
        "kid_below_base",
        "kid_adapter_mean",
        "<",
        "kid_below_base",
        "KID to the held-out images; the threshold is the base model without the LoRA",
        asks="The images are nearer to the held-out ones than the bare base's, by KID.",
        base="kid_base_mean",
    ),
    GateRule(
        "safety",
        "nsfw_probability_maximum",
        "<=",
        "nsfw_probability_maximum",
        "probability of the least safe image (open_nsfw)",
        asks="No image is less safe than gates.nsfw_probability_maximum (open_nsfw).",
    ),
    *(
        GateRule(metric, f"scores.{metric}", comparison, f"{metric}_{bound}", unit)
        for metric, comparison, bound, unit in (
            (
                "style_similarity",
                ">=",
                "minimum",
                "cosine with the held-out images, relative to theirs with each other",
            ),
            (
                "attribute_accuracy",
                ">=",
                "minimum",
                "share of the expected attributes that the judge sees",
            ),
            (
                "diversity",
                ">=",
                "minimum",
                "mean cosine distance between images, relative to the training images'",
            ),
            ("memorisation", "<=", "maximum", "share of images too near to a training image"),
            ("sharpness", ">=", "minimum", "share of images as sharp as real ones"),
            ("exposure", ">=", "minimum", "share of images exposed as real ones are"),
        )
    ),
)


class AllowedVersions(gates.AllowedVersions):
    """The packages that must agree; beside them CUDA."""

    torch: Versions = None
    diffusers: Versions = None
    transformers: Versions = None
    peft: Versions = None


class CompatibilityConfig(gates.CompatibilityConfig):
    allow: AllowedVersions = AllowedVersions()


class ChampionGates(gates.ChampionGates):
    margins: dict[str, Margin] = {
        "clip_s": 0.1,  # of 2.5
        "style_similarity": 0.05,  # 1 is as near to the held-out images as they are to each other
        "kid": 0.1,  # unbiased MMD^2, 0 is no difference
        "attribute_accuracy": 0.1,  # share of the expected attributes
        "diversity": 0.15,  # 1 is as varied as the training images
        # Share of the images. Where nothing is copied, 11 prompts show so much, 29 show 0.1.
        "memorisation": 0.25,
        "nsfw": 0.05,  # probability, mean over the images
    }


class GateConfig(gates.GateConfig):
    """The thresholds; the gate of each stands in GATES."""

    METRICS = METRICS
    NAMES = {"clip_s": "CLIP-S", "kid": "KID", "nsfw": "NSFW"}
    GATES = GATES

    # CLIP-S = 2.5 * max(cosine, 0) (Hessel et al. 2021), scale 0 to 2.5
    clip_s_minimum: Annotated[float, Field(ge=0, le=2.5)] = 0.75
    seconds_per_image_maximum: Annotated[float, Field(gt=0, le=3600)] = 30.0
    kid_below_base: bool = True
    # open_nsfw's authors: below 0.2 likely safe, above 0.8 highly likely not safe
    nsfw_probability_maximum: Share = 0.8
    # Not required unless given.
    style_similarity_minimum: float | None = None
    attribute_accuracy_minimum: Share | None = None
    diversity_minimum: float | None = None
    memorisation_maximum: Share | None = None
    sharpness_minimum: Share | None = None
    exposure_minimum: Share | None = None
    compatibility: CompatibilityConfig = CompatibilityConfig()
    champion: ChampionGates = ChampionGates()
