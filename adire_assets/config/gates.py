"""The schema of `evaluation.gates`: what an evaluation must show before its adapter goes live.

Here is what every family asks; a family's `GateConfig` is a subclass with its own thresholds, its
metrics and the table of its gates. A key `..._maximum` bounds from above, `..._minimum` from below,
and `..._below_base` asks for less than the bare base has. `gates.verdict` judges by it.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import EffectiveOnlyWith, MisplacedKey, Strict
from adire_assets.core.gate import GateRule

Share = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(ge=0, le=100)]
HAS_MARGINS = EffectiveOnlyWith("margins", "a margin", lambda gates: gates.margins)


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
    """Versions between which training, evaluation and serving may differ; default: none.

    A family adds the packages that must agree, a key each.
    """

    cuda: Versions = None


class CompatibilityConfig(Strict):
    """See `gates.upgrades`."""

    allow: AllowedVersions = AllowedVersions()


class ChampionGates(Strict):
    """Against the release that is live: how much worse a metric may be, at most.

    A release passes when, for each metric with a margin, the lower confidence bound of its
    difference to the champion is above -margin. A margin is in the unit of its metric; smaller ones
    need more prompts, and a verdict says how small a difference it could have seen.
    """

    ONLY_WITH = {"confidence": (HAS_MARGINS,)}

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95  # one-sided
    margins: dict[str, Margin] = {}  # metric -> margin


class GateConfig(Strict):
    """Thresholds of the quality gates; changing one never trains or evaluates again."""

    METRICS: ClassVar[tuple[str, ...]] = ()  # what an evaluation measures; the first ranks samples
    NAMES: ClassVar[Mapping[str, str]] = {}  # how words of them are written: "kid" is KID
    GATES: ClassVar[tuple[GateRule, ...]] = ()  # beside those of `gates.verdict`

    # Not required unless given.
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

    @model_validator(mode="after")
    def _margins_of_known_metrics(self) -> Self:
        if unknown := sorted({*self.champion.margins} - {*self.METRICS}):
            known = ", ".join(self.METRICS)
            raise MisplacedKey(
                f"there is no metric {unknown[0]}; the metrics are {known}", ("champion", "margins")
            )
        return self
