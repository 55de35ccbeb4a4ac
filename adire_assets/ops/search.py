"""`adire search`: tries training settings, and prunes the trials that do worse than others.

    search(project, "indigo", trials=None, out=None, progress=print)

Optuna draws settings from the ranges in the model's YAML. Each trial is a training like the line's,
in a child, without an adapter at its end. The family says what counts (`trial.METRIC`), and a trial
that is worse than the median of the others at the same step is given up. The study lies in
<home>/search/<model>-<what the trials have in common>.db: a search that was killed goes on as if
it had not been, and one over other data, another base, other code, libraries or ranges is another
study. Each trial is an MLflow run below one run of the search. The best settings are written as the
model's YAML, comments kept.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ruamel.yaml import YAML

from adire_assets.config import held_weights
from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import ModelConfig, load_model
from adire_assets.config.search import SearchConfig, SearchRange
from adire_assets.config.yaml_file import Strict, idle, without_idle
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family
from adire_assets.core.folders import temporary_folder
from adire_assets.core.lineage import Facts, Recipe
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, write_bytes
from adire_assets.core.worker import Progress
from adire_assets.line import sources
from adire_assets.line.dataset import build as build_dataset
from adire_assets.tracking import runs


def search(
    project: Project, model: str, trials: int | None, out: Path | None, progress: Progress
) -> dict[str, Any]:
    """Continue the study to `trials` trials (default: the YAML's); its best training settings.

    They are written to `out` (default: <home>/search/<model>.yaml). UserError without a `search`
    section, when another process searches, or when no trial came to an end.
    """
    config = load_model(project, model)
    if config.search is None:
        raise UserError(
            f"{project.model_file(model)} has no section search; add one with ranges, for example "
            "search: {parameters: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}}"
        )
    plug, schema = family(config.family), type(config.training)
    if plug.trial is None:
        raise UserError(f"{model}: the family {plug.name} knows no search")
    facts = project.placement.facts()
    device = facts.device_class(load_fleet(project).device)
    dataset = build_dataset(project, sources.training_data(project, model).artifact).artifact
    if why := plug.trial.functions.refusal(dataset.path):
        raise UserError(f"{model}: {why}")
    base = held_weights.known(project, model, "base_model")
    if base is None:
        raise UserError(
            f"the base of {model} is not in the store yet; run "
            f"`adire materialize {model} --select base_model` first"
        )
    recipe = recipe_of(config, dataset, base, facts, device)
    name = f"{model}-{recipe.key[:12]}"
    folder = project.home / "search"
    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {
        "storage": folder / f"{name}.db",
        "study": name,
        "dataset": dataset.path,
        "base_model": base.path,
        "cache": project.home / "cache",
        "device": device,
    }
    with project.locks.acquire(f"search-{name}"):
        study = _study(given["storage"], name, plug.trial.functions)
        tags = {"adire.search": name}
        parent = study.user_attrs.get("mlflow_run_id")
        if parent is None:
            parent = runs.plain_run(project, model, f"search {name}", tags)
            study.set_user_attr("mlflow_run_id", parent)
        wanted = trials or config.search.trials
        while (ended := _ended(study)) < wanted:
            # Draws what a search that was never interrupted draws after as many trials.
            seed = int(lineage.digest([config.search.seed, ended])[:8], 16)
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            trial = study.ask()
            chosen = _chosen(trial, config.search, schema)
            progress(f"trial {ended + 1} of {wanted}: {_words(chosen)}")
            training = without_idle(schema, recipe.config["training"] | chosen)
            run = runs.plain_run(project, model, f"trial {trial.number}", tags, parent)
            _carry_out(project, plug, study, trial, run, given, training, progress)
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(f"no trial of {name} came to its end; narrow the ranges of search")
    best = study.best_trial
    path = out or folder / f"{model}.yaml"
    _write(project.model_file(model), path, best.params, schema)
    progress(
        f"search: {model} trial={best.number} {plug.trial.functions.METRIC}={best.value:.4f} "
        f"{_words(best.params)} yaml={path}"
    )
    return best.params


def recipe_of(
    config: ModelConfig, dataset: Artifact, base: Artifact, facts: Facts, device: str
) -> Recipe:
    """What the trials of a study have in common: only then are they comparable."""
    plug = family(config.family)
    assert config.search and plug.trial
    searched = config.search.model_dump(include={"parameters", "seed", "validation_steps"})
    training = {**config.training.model_dump(), "validation_steps": searched["validation_steps"]}
    common = {n: v for n, v in training.items() if n not in searched["parameters"]}
    return Recipe(
        "search",
        dataset.model,
        modules=plug.trial.modules,
        inputs={"dataset": dataset.content_hash, "base_model": base.content_hash},
        config={**searched, "training": common},
        environment=facts.environment(*plug.packages, device=device),
        facts=facts,
    )


def _study(path: Path, name: str, trials_of: Any) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{path}",
        study_name=name,
        load_if_exists=True,
        direction=trials_of.DIRECTION,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=trials_of.UNPRUNED_TRIALS),
    )
    for trial in study.trials:
        if not trial.state.is_finished():  # its process was killed
            study.tell(trial.number, state=TrialState.FAIL)
    return study


def _ended(study: optuna.Study) -> int:
    """How many trials say something: also that their settings diverge. A killed one does not."""
    killed = [
        t for t in study.trials if t.state == TrialState.FAIL and "refused" not in t.user_attrs
    ]
    return sum(trial.state.is_finished() for trial in study.trials) - len(killed)


def _chosen(trial: optuna.Trial, config: SearchConfig, schema: type[Strict]) -> dict[str, Any]:
    def drawn(name: str, tried: SearchRange) -> Any:
        if tried.choices is not None:
            return trial.suggest_categorical(name, tried.choices)
        low, high = tried.low or 0.0, tried.high or 0.0
        if schema.model_fields[name].annotation is int:
            return trial.suggest_int(name, int(low), int(high), log=tried.log)
        return trial.suggest_float(name, low, high, log=tried.log)

    return {name: drawn(name, tried) for name, tried in config.parameters.items()}


def _carry_out(
    project: Project,
    plug: Family,
    study: optuna.Study,
    trial: optuna.Trial,
    run: str,
    given: Mapping[str, Any],
    training: Mapping[str, Any],
    progress: Progress,
) -> None:
    """One training in a child; how it ended goes into the study and into its MLflow run."""
    assert plug.trial
    runs.log_parameters(project, run, training)
    launcher, settings = plug.launched(training, given["device"], given["base_model"])
    try:
        with temporary_folder(project, project.home / "jobs") as scratch:
            (scratch / "output").mkdir()
            places = {"output": scratch / "output", "work": scratch / "work"}
            result = run_step(
                project,
                plug.trial.job("run"),
                {**given, **places, "number": trial.number, "training": settings},
                launcher=launcher,
                recorder=runs.recorder(run),
                progress=lambda line: progress(f"  {line}"),
            )
    except UserError as refused:
        progress(f"  refused: {refused}")
        trial.set_user_attr("refused", str(refused))
        study.tell(trial, state=TrialState.FAIL)
        runs.finish(project, run, "FAILED")
        return
    if result["given_up_at"]:
        progress(f"  given up at step {result['given_up_at']}: worse than most others")
        study.tell(trial, state=TrialState.PRUNED)
    else:
        metric = plug.trial.functions.METRIC
        study.tell(trial, result[metric])
        progress(f"  {metric.replace('_', ' ')} {result[metric]:.4f}")
    runs.finish(project, run, "FINISHED")


def _write(source: Path, path: Path, chosen: Mapping[str, Any], schema: type[Strict]) -> None:
    """The model's YAML with these training keys, everything else as it stands there."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    tree = yaml.load(source.read_text(encoding="utf-8"))
    training = tree.setdefault("training", {})
    training.update(chosen)
    for key in idle(schema, training):
        del training[key]
    text = io.StringIO()
    yaml.dump(tree, text)
    write_bytes(path, text.getvalue().encode())


def _words(chosen: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in sorted(chosen.items())
    )
