"""A model's training as somebody without a terminal follows it: what a run would find changed, the
latest run, how far its training is, and starting and stopping runs.

A run that is started here is the one that the sensor `<model>_changes` would start, and like that
one it goes live from committed files only. A second one is refused while one is under way. One that
is stopped leaves its checkpoint, from which the same recipe goes on.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import family_of, load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.sample import Sample
from adire_assets.core.shown import Shown
from adire_assets.core.store import Store
from adire_assets.gates import approvals, clean_commit
from adire_assets.line import train
from adire_assets.line.changes import line_job, run_tags, state_of
from adire_assets.ops import dagster_runs, operations
from adire_assets.ops.dagster_runs import Run, RunLog
from adire_assets.serving import record, release
from adire_assets.tracking import followed

BY_TAG = "adire/by"  # of a run that was started in the studio: who
LOSS, VALIDATION_LOSS, STEPS = "loss", "validation_loss", "max_train_steps"
POINTS = 400  # of a curve that is shown
LINES = 6  # of what a run said last
SHOWN_STEPS, SHOWN_SAMPLES = 12, 6  # the latest validations; samples of an evaluation
LOCKED_WITHIN_SECONDS = 60  # a run takes its lock a little after it counts as started
# Asset -> what is made there, in the order of the graph.
PARTS = {
    "training_data": "data",
    "training_config": "training settings",
    "base_model": "base model",
    "evaluation_config": "evaluation settings",
    "dataset": "data set",
    "lora_weights": "training",
    "evaluation_report": "evaluation",
    "promotion_verdict": "verdict",
    "triton_repository": "release",
    "deployed_model": "going live",
}
LAST_PART = "deployed_model"


@dataclass(frozen=True)
class Curve:
    """How far a training is: (step, loss) each, at most about POINTS of them."""

    run_id: str  # MLflow's
    recipe_key: str
    steps: int | None  # in all, where the family says so
    loss: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    shown: tuple[int, ...]  # steps

    def sentence(self) -> str:
        """Where it is."""
        if not self.loss:
            return "No step is reported yet."
        step, loss = self.loss[-1]
        whole = f" of {self.steps:,}" if self.steps else ""
        said = f"Step {step:,}{whole}, loss {loss:.4g}"
        if self.validation:
            when, value = self.validation[-1]
            said += f"; validation loss {value:.4g} at step {when:,}"
        return f"{said}."


@dataclass(frozen=True)
class RunView:
    """The latest run of a model in plain words. It `can_stop` while it is under way, until its
    release goes live: that is for who decides about releases. `parts`: (what is made, how it
    stands) of its steps; `said`: its last lines; `problems`: gates that refused and steps that
    failed."""

    id: str
    sentence: str
    under_way: bool
    can_stop: bool
    parts: tuple[tuple[str, str], ...]
    said: tuple[str, ...]
    problems: tuple[str, ...]
    release: int | None


@dataclass(frozen=True)
class View:
    """The latest run and the training that belongs to it; without one, the latest training."""

    run: RunView | None
    curve: Curve | None


def state(project: Project, model: str) -> Iterator[str]:
    """What a run would find changed since the latest release, and what keeps it from starting."""
    known = release.records(project, model)
    if not known:
        yield "There is no release yet: a run makes the first one, from the data on."
    else:
        number = known[-1].number
        try:
            changed = operations.differences(project, known[-1])
        except UserError as error:
            yield f"What has changed since release {number} cannot be told: {error}"
        else:
            if changed:
                yield f"Changed since release {number}, the latest:"
                yield from (f"  {one}" for one in changed)
            else:
                yield f"Nothing has changed since release {number}, the latest."
    try:
        _require_startable(project, model)
    except UserError as error:
        yield f"A run cannot be started: {error}"


def view(project: Project, model: str) -> View:
    """How the latest run stands. UserError when Dagster does not answer."""
    run = next(iter(dagster_runs.latest_runs(project, model)), None)
    curve = _curve(project, model, run)
    return View(_run_view(project, model, run, curve) if run else None, curve)


def lines(project: Project, model: str) -> Iterator[str]:
    """`state` and `view` as lines of text."""
    yield from state(project, model)
    found = view(project, model)
    if found.run is None:
        yield "No run yet."
    else:
        yield found.run.sentence
        yield from (f"  {one}" for one in found.run.problems)
        yield f"  {', '.join(f'{what}: {how}' for what, how in found.run.parts)}"
        yield from (f"  said: {one}" for one in found.run.said)
    if found.curve:
        yield found.curve.sentence()


def start(project: Project, model: str, by: str) -> str:
    """Put a run of the whole line into Dagster's queue, for somebody; a sentence. UserError when
    one is under way, and when the sensors would start nothing."""
    _require_startable(project, model)
    with project.locks.acquire(f"start-{model}"):  # two may press it at once
        for run in dagster_runs.latest_runs(project, model):
            if run.under_way:
                raise UserError(
                    f"{run.short} of {model} ({run.why}) is under way; wait for its end, or stop it"
                )
        tags = run_tags(project, model, state_of(project, model), f"{by} started it in the studio")
        run_id = dagster_runs.launch(project, line_job(model), {**tags, BY_TAG: by})
    return f"{model}: run {run_id[:8]} is in Dagster's queue"


def stop(project: Project, model: str, run_id: str, by: str) -> str:
    """Stop a run for somebody; a sentence. What it has made, and its checkpoint, stay. UserError
    when it is not the one under way, and while its release goes live."""
    for run in dagster_runs.latest_runs(project, model):
        if run.id == run_id and run.under_way:
            if _goes_live(dagster_runs.log_of(project, run)):
                raise UserError(
                    f"{run.short} of {model} brings its release live; end the rollout on the "
                    "releases' page"
                )
            dagster_runs.terminate(project, run)
            _note_stop(project, model, {"run": run_id, "by": by, "at": record.now()})
            return f"{model}: {run.short} is stopping; its checkpoint stays"
    raise UserError(f"run {run_id[:8]} of {model} is not under way")


def shown(project: Project, model: str, curve: Curve) -> list[tuple[int, list[Shown]]]:
    """What the latest validations of a training have shown, the newest first."""
    return [
        (step, samples_at(project, model, curve.run_id, step))
        for step in curve.shown[: -SHOWN_STEPS - 1 : -1]
    ]


def samples_at(project: Project, model: str, run_id: str, step: int) -> list[Shown]:
    """What a training has shown at a step, as its family sees it. UserError without any."""
    folder = followed.shown_at(project, model, run_id, step)
    found: list[Shown] = family_of(project, model).shows.functions.of_validation(folder)
    return found


def evaluated(project: Project, model: str, curve: Curve) -> list[Sample]:
    """Some samples of the evaluation of a training's adapter; none before it is evaluated."""
    reference = project.records.read(f"references/latest/{model}/evaluation_report").value
    if reference is None:
        return []
    store = Store(project)
    evaluation = store.open(reference)
    if evaluation.manifest["lora_weights"]["key"] != curve.recipe_key:
        return []
    dataset = store.open(evaluation.manifest["dataset"])
    plug = family_of(project, model)
    found: list[Sample] = plug.samples.functions.samples(evaluation.path, dataset.path)
    return found[:SHOWN_SAMPLES]


def _require_startable(project: Project, model: str) -> None:
    if not load_model(project, model).enabled:
        raise UserError(f"{model} is disabled in {project.model_file(model)}")
    if why := clean_commit.refusal(project, model):
        raise UserError(f"{model}: {why}")


def _curve(project: Project, model: str, run: Run | None) -> Curve | None:
    under_way = run is not None and run.under_way
    told = (LOSS, VALIDATION_LOSS)
    found = followed.follow(project, model, told, run.id if run else "", exact=under_way)
    if found is None:
        return None
    steps = found.parameters.get(STEPS, "")
    loss, validation = (tuple(found.metrics[name].items()) for name in told)
    every = -(-len(loss) // POINTS) or 1
    return Curve(
        found.run_id,
        found.recipe_key,
        int(steps) if steps.isdecimal() else None,
        # The latest point is always there.
        loss[::-1][::every][::-1],
        validation,
        found.shown,
    )


def _run_view(project: Project, model: str, run: Run, curve: Curve | None) -> RunView:
    log = dagster_runs.log_of(project, run)
    number = _release_of(project, model, run)
    ended = f" at {_clock(run.ended)}" if run.ended else ""
    head = f"{run.short[0].upper()}{run.short[1:]} ({run.why}, {_clock(run.created)})"
    return RunView(
        run.id,
        f"{head} {_status(project, model, run, log, curve, number)}{ended}.",
        run.under_way,
        run.under_way and not _goes_live(log),
        tuple((what, log.steps.get(part, "not yet")) for part, what in PARTS.items()),
        tuple(log.said[-LINES:]),
        tuple(log.problems),
        number,
    )


def _status(
    project: Project, model: str, run: Run, log: RunLog, curve: Curve | None, number: int | None
) -> str:
    """How a run stands, in a clause."""
    if run.waits:
        if dagster_runs.queue_is_served(project):
            return "waits in Dagster's queue"
        return (
            "waits in Dagster's queue, and Dagster's daemon, which would start it, does not run: "
            "start it with `adire up`, or ask somebody who can"
        )
    match run.status:
        case "STARTED":
            young = time.time() - (run.started or run.created) < LOCKED_WITHIN_SECONDS
            if not young and not project.locks.is_held(f"run-{run.id}"):
                return f"was killed; the sensor {model}_changes marks it as failed soon"
            now = [what for part, what in PARTS.items() if log.steps.get(part) == "now"]
            return f"is under way: {', '.join(now) or 'between two steps'}"
        case "CANCELING":
            return "is stopping"
        case "CANCELED":
            return f"was stopped{_stopped_by(project, model, run)}{_checkpoint(project, curve)}"
        case "SUCCESS":
            return f"has ended: {_outcome(project, model, number)}"
        case "FAILURE":
            return "was refused" if any("refused by" in one for one in log.problems) else "failed"
    return f"is {run.status.lower()}"


def _goes_live(log: RunLog) -> bool:
    return log.steps.get(LAST_PART) == "now"


def _note_stop(project: Project, model: str, told: dict[str, str]) -> None:
    project.records.change(f"stopped/{model}", lambda _: told)


def _stopped_by(project: Project, model: str, run: Run) -> str:
    found = project.records.read(f"stopped/{model}").value
    return f" by {found['by']}" if found and found["run"] == run.id else ""


def _checkpoint(project: Project, curve: Curve | None) -> str:
    """What a stopped training has kept, in a clause."""
    step = curve and checkpoint_step(train.work_folder(project, curve.recipe_key))
    if not step:
        return ""
    return (
        f"; unless something has changed, the next one goes on from the checkpoint at step {step}"
    )


def checkpoint_step(work: Path) -> int | None:
    """The step of the checkpoint in the folder of a training, by its name; see
    `families.training.checkpoint`."""
    names = [folder.name for folder in work.glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=None)


def _release_of(project: Project, model: str, run: Run) -> int | None:
    """The release that a run has made, or made once more."""
    made = project.records.read(f"references/{run.id}/{model}/triton_repository").value
    known = release.records(project, model) if made else []
    return next((one.number for one in reversed(known) if one.repository == made), None)


def _outcome(project: Project, model: str, number: int | None) -> str:
    if number is None:
        return "no release was made"
    targets = [
        name
        for name in load_fleet(project).targets
        if record.read(project, name, model).live == number
    ]
    if targets:
        return f"release {number} is live on {', '.join(targets)}"
    if any(one.number == number for one in approvals.waiting(project, model)):
        return f"release {number} waits for approval"
    return f"release {number} is made"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
