"""One trial of a search, in a worker child: a training that may be given up on its way."""

from collections.abc import Callable
from typing import Any

from adire_assets.core.worker import Progress, importing

METRIC, DIRECTION = "validation_loss", "minimize"  # what trials are compared by
UNPRUNED_TRIALS = 4  # that nobody gives up: there is nothing to compare them with


def run_trial(
    train: Callable[..., dict[str, Any]],
    *,
    storage: str,
    study: str,
    number: int,
    progress: Progress,
    **arguments: Any,
) -> dict[str, Any]:
    """Train; {"validation_loss": of the adapter, "given_up_at": a step or None}.

    `arguments` are those of `train`. Each validation loss goes into trial `number` of
    the Optuna study in `storage`, whose pruner then says whether to go on.
    """
    with importing():
        import optuna

        from adire_assets.families.training.loop import TrialPruned

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS)
    opened = optuna.load_study(study_name=study, storage=f"sqlite:///{storage}", pruner=pruner)
    [found] = [trial for trial in opened.trials if trial.number == number]
    trial = optuna.Trial(opened, found._trial_id)

    def should_prune(step: int, validation_loss: float) -> bool:
        trial.report(validation_loss, step)
        return trial.should_prune()

    try:
        report = train(**arguments, progress=progress, should_prune=should_prune)
    except TrialPruned as pruned:
        return {"validation_loss": None, "given_up_at": pruned.step}
    if not report:  # of the processes that help the first one
        return {}
    return {"validation_loss": report["validation_loss"], "given_up_at": None}
