"""A model's training as somebody without a terminal follows it: what a run would find changed, the
latest run, how far its training is, and starting and stopping runs.

A run that is started here is the one that the sensor `<model>_changes` would start, and like that
one it goes live from committed files only. It is refused while another run that `adire`, a sensor
or the studio started is under way. One that is stopped leaves its checkpoint, if it has one, from
which the same recipe goes on.
"""

from collections.abc import Iterator
from contextlib import suppress
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
from adire_assets.line.changes import deployment_job, line_job, run_tags, state_of, was_killed
from adire_assets.ops import dagster_runs, operations
from adire_assets.ops.dagster_runs import Run, RunLog
from adire_assets.serving import record, release
from adire_assets.tracking import followed

BY_TAG = "adire/by"  # of a run that was started in the studio: who
LOSS, VALIDATION_LOSS, STEPS = "loss", "validation_loss", "max_train_steps"
POINTS = 400  # of a curve that is shown
LINES = 6  # of what a run said last
SHOWN_STEPS, SHOWN_SAMPLES = 12, 6  # the latest validations; samples of an evaluation
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
STOPPABLE = ("QUEUED", "STARTED")


@dataclass(frozen=True)
class Curve:
    """How far a training is: (step, loss) each, at most about POINTS of them."""

    run_id: str  # MLflow's
    recipe_key: str
    steps: int | None  # in all, where the family says so
    loss: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    shown: tuple[int, ...]  # steps
    artifacts: str  # address of what it keeps
    other: bool  # than the training of the latest run

    def sentence(self) -> str:
        """Where it is."""
        return f"The latest training, not of this run: {self._at()}" if self.other else self._at()

    def _at(self) -> str:
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
    """The latest run and the training that belongs to it; without one, the latest training.
    `trouble`: why MLflow does not tell of it."""

    run: RunView | None
    curve: Curve | None
    trouble: str | None = None


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
    run = dagster_runs.latest_run(project, model)
    curve, trouble = None, None
    try:
        curve = _curve(project, model, run)
    except UserError as error:  # the run is told of all the same
        trouble = str(error)
    return View(_run_view(project, model, run, curve) if run else None, curve, trouble)


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
    if found.trouble:
        yield found.trouble


def start(project: Project, model: str, by: str) -> str:
    """Put a run of the whole line into Dagster's queue, for somebody; a sentence. UserError while
    another run that `adire`, a sensor or the studio started is under way, while files that decide
    are not committed, and when the model is disabled."""
    _require_startable(project, model)
    with project.locks.acquire(f"start-{model}"):  # two may press it at once
        for run in dagster_runs.runs_under_way(project, model):
            raise UserError(
                f"{run.short} of {model} ({run.why}) is under way; wait for its end, or stop it"
            )
        tags = run_tags(project, model, state_of(project, model), f"{by} started it in the studio")
        run_id = dagster_runs.launch(project, line_job(model), {**tags, BY_TAG: by})
    return f"{model}: run {run_id[:8]} is in Dagster's queue"


def stop(project: Project, model: str, run_id: str, by: str) -> str:
    """Stop a run of the whole line for somebody; a sentence. What it has made, and its checkpoint,
    stay. UserError when it is not under way, while its release goes live, and for a run that was
    started at a terminal or deploys an approved release."""
    for run in dagster_runs.runs_under_way(project, model):
        if run.id == run_id:
            if why := _stop_refusal(model, run, dagster_runs.log_of(project, run)):
                raise UserError(f"{run.short} of {model} {why}")
            dagster_runs.terminate(project, run)
            _note_stop(project, model, {"run": run_id, "by": by, "at": record.now()})
            return f"{model}: {run.short} is stopping; its checkpoint stays"
    raise UserError(f"run {run_id[:8]} of {model} is not under way")


def shown(project: Project, model: str, curve: Curve) -> list[tuple[int, list[Shown]]]:
    """What the latest validations of a training have shown, the newest first; what cannot be read
    is left out."""
    found = []
    for step in curve.shown[: -SHOWN_STEPS - 1 : -1]:
        with suppress(UserError):  # its files may still be on their way
            found.append((step, _samples(project, model, curve.run_id, curve.artifacts, step)))
    return found


def samples_at(project: Project, model: str, run_id: str, step: int) -> list[Shown]:
    """What a training has shown at a step, as its family sees it. UserError without any."""
    place = followed.artifacts_of(project, model, run_id)
    return _samples(project, model, run_id, place, step)


def _samples(project: Project, model: str, run_id: str, place: str, step: int) -> list[Shown]:
    folder = followed.shown_at(project, run_id, place, step)
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
    told = (LOSS, VALIDATION_LOSS)
    found = _own(project, model, run, told) if run else None
    other = run is not None and found is None
    if found is None and not (run and run.under_way):
        found = followed.latest(project, model, told)
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
        found.artifacts,
        other,
    )


def _own(
    project: Project, model: str, run: Run, metrics: tuple[str, ...]
) -> followed.Followed | None:
    """The training of the adapter that a run has made or taken; before that, the one that it works
    on."""
    made = project.records.read(f"references/{run.id}/{model}/lora_weights").value
    if made:
        return followed.of_adapter(project, model, metrics, made["key"])
    return followed.of_dagster_run(project, model, metrics, run.id)


def _run_view(project: Project, model: str, run: Run, curve: Curve | None) -> RunView:
    log = dagster_runs.log_of(project, run)
    number = _release_of(project, model, run)
    ended = f" at {_clock(run.ended)}" if run.ended else ""
    head = f"{run.short[0].upper()}{run.short[1:]} ({run.why}, {_clock(run.created)})"
    return RunView(
        run.id,
        f"{head} {_status(project, model, run, log, curve, number)}{ended}.",
        run.under_way,
        run.under_way and _stop_refusal(model, run, log) is None,
        tuple(_parts(model, run, log)),
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
            if was_killed(project, run.id, run.started or run.created):
                return f"was killed; the sensor {model}_changes marks it as failed soon"
            now = [what for part, what in PARTS.items() if log.steps.get(part) == "now"]
            return f"is under way: {', '.join(now) or 'between two steps'}"
        case "CANCELING":
            return "is stopping"
        case "CANCELED":
            kept = _checkpoint(project, curve) if curve and not curve.other else ""
            return f"was stopped{_stopped_by(project, model, run)}{kept}"
        case "SUCCESS":
            return f"has ended: {_outcome(project, model, number)}"
        case "FAILURE":
            return "was refused" if log.refused else "failed"
    return f"is {run.status.lower()}"


def _stop_refusal(model: str, run: Run, log: RunLog) -> str | None:
    """Why a run that is under way cannot be stopped here, in a clause; None when it can."""
    # Dagster calls a run stopping before it looks whether it can reach its process.
    if run.job == deployment_job(model):
        return "deploys an approved release; end the rollout on the releases' page"
    if run.job != line_job(model):
        return (
            f"is not of the whole line ({run.why}); press Ctrl-C at the terminal where it was "
            "started, or stop it in Dagster's UI if it was started there"
        )
    if log.steps.get(LAST_PART) == "now":
        return "brings its release live; end the rollout on the releases' page"
    if run.status == "CANCELING":
        return "is stopping already"
    if run.status not in STOPPABLE:
        return "is just starting; try again in some seconds"
    return None


def _parts(model: str, run: Run, log: RunLog) -> Iterator[tuple[str, str]]:
    """What is made in a run, and how it stands; of a run that has ended, and of one that is not of
    the whole line, only what it came to."""
    whole = run.under_way and run.job == line_job(model)
    for part, what in PARTS.items():
        if whole or part in log.steps:
            yield what, log.steps.get(part, "not yet")


def _note_stop(project: Project, model: str, told: dict[str, str]) -> None:
    project.records.change(f"stopped/{model}", lambda _: told)


def _stopped_by(project: Project, model: str, run: Run) -> str:
    found = project.records.read(f"stopped/{model}").value
    return f" by {found['by']}" if found and found["run"] == run.id else ""


def _checkpoint(project: Project, curve: Curve) -> str:
    """What a stopped training has kept, in a clause."""
    step = checkpoint_step(train.work_folder(project, curve.recipe_key))
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
    """The release that a run has made, made once more, or deployed."""
    names = ("triton_repository", "deployed_model")  # the second alone deploys an older release
    values = (project.records.read(f"references/{run.id}/{model}/{name}").value for name in names)
    made = next(filter(None, values), None)
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
