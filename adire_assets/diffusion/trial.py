"""One trial of a search, in a worker child: a training that may be given up on its way."""

from pathlib import Path
from typing import Any

from adire_assets.worker import Progress

FIRST_TRIALS = 4  # that nobody gives up: there is nothing to compare them with


class GivenUp(Exception):
    """The trial is worse than most others at the same step."""

    def __init__(self, step: int) -> None:
        self.step = step


def run(
    *, storage: str, study: str, number: int, progress: Progress, **arguments: Any
) -> dict[str, Any]:
    """Train; {"validation_loss": of the adapter, "given_up_at": a step or None}.

    `arguments` are those of `lora.train`. Each validation loss goes into trial `number` of the
    Optuna study in `storage`, whose pruner then says whether to go on.
    """
    import optuna

    from adire_assets.diffusion import lora

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS)
    opened = optuna.load_study(study_name=study, storage=storage, pruner=pruner)
    [found] = [trial for trial in opened.trials if trial.number == number]
    trial = optuna.Trial(opened, found._trial_id)

    def watched(message: str, pictures: Path | None = None, **numbers: float) -> None:
        step = int(numbers.get("step", 0))
        progress(message, pictures, **numbers)
        if "validation_loss" in numbers:
            trial.report(numbers["validation_loss"], step)
            if step < arguments["training"]["max_train_steps"] and trial.should_prune():
                raise GivenUp(step)

    try:
        report = lora.train(**arguments, progress=watched)
    except GivenUp as given_up:
        return {"validation_loss": None, "given_up_at": given_up.step}
    return {"validation_loss": report["validation_loss"], "given_up_at": None}
