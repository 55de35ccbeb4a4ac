"""The section `monitoring` of a model's YAML: how its live release is watched.

Nothing here is part of a recipe: another limit makes no artifact stale.
"""

from typing import Annotated, Literal

from pydantic import Field

from adire_assets.config.yaml_file import Strict


class FeedbackConfig(Strict):
    """What users may say of the live release. A rating of 1 or 2, or one with a flag, is bad."""

    token_days: Annotated[int, Field(ge=1, le=365)] = 30  # how long an answer can be rated
    maximum_bad_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    minimum_ratings: Annotated[int, Field(ge=1, le=100_000)] = 20
    minimum_users: Annotated[int, Field(ge=1, le=10_000)] = 3
    action: Literal["alert", "rollback"] = "alert"


class MonitoringConfig(Strict):
    """How a live release is watched."""

    feedback: FeedbackConfig = FeedbackConfig()
