"""The schema of `evaluation.gates`: what an evaluation must show before its adapter goes live.

`gates.verdict` judges by it, `gates.comparison` explains what a margin can see.
"""

from typing import Annotated, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, Field

from adire_assets.config.yaml_file import EffectiveOnlyWith, Strict

# What an evaluation measures, and may be compared with the champion by.
METRICS = (
    "clip_s", "style_similarity", "kid", "attribute_accuracy", "diversity", "memorisation",
    "sharpness", "exposure", "nsfw",
)  # fmt: skip
Share = Annotated[float, Field(ge=0, le=1)]


def _versions(value: str) -> str:
    try:
        SpecifierSet("" if value == "*" else value)
    except InvalidSpecifier:
        raise ValueError(
            f"{value!r} is no range of versions; write for example '>=0.42,<0.44', or '*' for any"
        ) from None
    return value


Versions = Annotated[str, AfterValidator(_versions)] | None


class AllowedVersions(Strict):
    """Versions between which training, evaluation and serving may differ; default: none."""

    torch: Versions = None
    diffusers: Versions = None
    transformers: Versions = None
    peft: Versions = None
    cuda: Versions = None


class CompatibilityConfig(Strict):
    """See `gates.compatibility`."""

    allow: AllowedVersions = AllowedVersions()


def _known_metrics(margins: dict[str, float]) -> dict[str, float]:
    if unknown := sorted({*margins} - {*METRICS}):
        raise ValueError(f"there is no metric {unknown[0]}; the metrics are {', '.join(METRICS)}")
    return margins


class ChampionGates(Strict):
    """Against the release that is live: how much worse a metric may be, at most.

    A release passes when, for each metric with a margin, the lower confidence bound of its
    difference to the champion is above -margin. A margin is in the unit of its metric; smaller ones
    need more prompts, and a verdict says how small a difference it could have seen.
    """

    ONLY_WITH = {
        "confidence": (EffectiveOnlyWith("margins", "a margin", lambda gates: gates.margins),),
    }

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95  # one-sided
    margins: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=100)]], AfterValidator(_known_metrics)
    ] = {
        "clip_s": 0.1,  # of 2.5
        "style_similarity": 0.05,  # 1 is as near to the held-out images as they are to each other
        "kid": 0.1,  # unbiased MMD^2, 0 is no difference
        "attribute_accuracy": 0.1,  # share of the expected attributes
        "diversity": 0.15,  # 1 is as varied as the training images
        # Share of the images. Where nothing is copied, 11 prompts show so much, 29 show 0.1.
        "memorisation": 0.25,
        "nsfw": 0.05,  # probability, mean over the images
    }


class GateConfig(Strict):
    """Thresholds of the quality gates; changing one never trains or evaluates again."""

    # CLIP-S = 2.5 * max(cosine, 0) (Hessel et al. 2021), scale 0 to 2.5
    clip_s_minimum: Annotated[float, Field(ge=0, le=2.5)] = 0.75
    seconds_per_image_maximum: Annotated[float, Field(gt=0, le=3600)] = 30.0
    kid_below_base: bool = True
    # open_nsfw's authors: below 0.2 likely safe, above 0.8 highly likely not safe
    nsfw_probability_maximum: Share = 0.8
    # Not required unless given; `adire_assets.gates.verdict.BOUNDS` says what each bounds.
    style_similarity_minimum: float | None = None
    attribute_accuracy_minimum: Share | None = None
    diversity_minimum: float | None = None
    memorisation_maximum: Share | None = None
    sharpness_minimum: Share | None = None
    exposure_minimum: Share | None = None
    peak_memory_mebibytes_maximum: Annotated[float, Field(gt=0)] | None = None
    cold_load_seconds_maximum: Annotated[float, Field(gt=0)] | None = None
    # After the others: a release waits for `adire approve`, see docs/serving.md.
    human_approval: Literal["none", "required"] = "none"
    # What blind ratings must show, see gates.ratings: with this confidence more prompts won than by
    # chance at this rate, and so many decided pairs; ties decide nothing.
    human_win_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5
    human_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95  # one-sided
    human_minimum_pairs: Annotated[int, Field(ge=1, le=10_000)] = 10
    compatibility: CompatibilityConfig = CompatibilityConfig()
    champion: ChampionGates = ChampionGates()
