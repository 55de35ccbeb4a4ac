"""One trial of a search, on the folders of artifacts."""

from pathlib import Path
from typing import Any

from adire_assets.core.store import read_json
from adire_assets.core.worker import importing
from adire_assets.families.training.trial import DIRECTION, METRIC, UNPRUNED_TRIALS, run_trial

__all__ = ["DIRECTION", "METRIC", "UNPRUNED_TRIALS", "refusal", "run"]


def refusal(dataset: Path) -> str | None:
    """Why trials on this dataset cannot be compared, None where they can."""
    if read_json(dataset / "summary.json")["validation"]:
        return None
    return (
        "a search compares losses on validation examples, and none of the dataset's fell there; "
        "raise data.validation_fraction"
    )


def run(**arguments: Any) -> dict[str, Any]:
    """`trial.run_trial` of this family's training; `arguments` are its others."""
    with importing():
        from adire_assets.families.causal_lm.steps.train import train
    return run_trial(train, **arguments)
