"""The schema of a language model's `training` section, and which of its keys a search may try.

The keys that are not every family's carry the names of TRL's SFTConfig.
"""

from typing import Annotated

from pydantic import Field, field_validator

from adire_assets.families.training.settings import SharedTrainingConfig


class TrainingConfig(SharedTrainingConfig):
    """How a language model's adapter is trained."""

    max_length: Annotated[int, Field(ge=16, le=1_000_000)] = 1024  # tokens; longer is cut
    # Several examples share a row and do not see each other; else each has a row of its own.
    packing: bool = True
    assistant_only_loss: bool = True  # false: learn to write the questions as well

    # Answers to validation questions that are written at each validation, to be looked at; the base
    # is loaded a second time for that.
    num_validation_answers: Annotated[int, Field(ge=0, le=16)] = 0

    @field_validator("adapter_type")
    @classmethod
    def _can_be_served(cls, value: str) -> str:
        if value == "dora":
            raise ValueError("vLLM serves no DoRA adapter; use lora or rslora")
        return value


OTHER_MEASURE = "it changes what the validation loss measures; search once for each of its values"
NO_DIFFERENCE = "it changes no validation loss; set it in training"
NOT_SEARCHED = {  # keys of training, and why
    **dict.fromkeys(("max_length", "assistant_only_loss"), OTHER_MEASURE),
    **dict.fromkeys(("checkpointing_steps", "packing", "num_validation_answers"), NO_DIFFERENCE),
    "validation_steps": "set search.validation_steps, which is that of all trials",
}
