"""The sections of a model's YAML, and its gates."""

from typing import Annotated, Literal

from pydantic import Field

from adire_assets.config import gates, model
from adire_assets.config.weights import ModelSource
from adire_assets.config.yaml_file import Strict
from adire_assets.core.gate import GateRule, latency


class Gates(gates.GateConfig):
    METRICS = ("perplexity",)
    GATES = (
        GateRule(
            "perplexity", "scores.perplexity", "<=", "perplexity_maximum", "of held-out texts"
        ),
        latency("text"),
    )
    perplexity_maximum: Annotated[float, Field(ge=1)] = 3.0
    seconds_per_text_maximum: Annotated[float, Field(gt=0)] = 1.0


class Training(Strict):
    seed: int = 0
    shuffled: bool = False  # the sabotage: learn from the texts' letters in any order


class Evaluation(model.EvaluationConfig):
    judge: ModelSource
    seeds: tuple[int, ...] = (0, 1)
    gates: Gates = Gates()


class Config(model.ModelConfig):
    family: Literal["ngram"]
    base_model: ModelSource
    training: Training = Training()
    evaluation: Evaluation
    serving: model.ServingConfig = model.ServingConfig()
