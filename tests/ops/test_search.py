"""`adire search`: what it tries, what it gives up, and that it goes on."""

import os
import shutil
from pathlib import Path

import optuna
import pytest
from ruamel.yaml import YAML

from adire_assets.config import held_weights
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.embedded.cloth.sample_images import draw_sample_data
from adire_assets.ops import search
from adire_assets.tracking import backend
from tests.support import tiny

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
CONFIG = """
# The house's cloth.
data: {path: data/cloth, resolution: 64, instance_prompt: cloth, held_out_fraction: 0.3}
family: diffusion
base_model: {source: base_models/random}
training:
  max_train_steps: 6
  checkpointing_steps: 6
  train_batch_size: 2          # of the small machine
  gradient_accumulation_steps: 1
evaluation: {judge: {source: base_models/none}}
search:
  trials: 1
  validation_steps: 2
  parameters:
    learning_rate: {low: 1e-4, high: 1e-1, log: true}
    rank: {low: 2, high: 4}
    optimizer: {choices: [adamw, adafactor]}
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of which only the configuration is there."""
    for name in [name for name in os.environ if name.startswith(("ADIRE_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("ADIRE_THREADS", "1")
    made = Project(tmp_path, tmp_path / ".adire")
    (tmp_path / "configs" / "models").mkdir(parents=True)
    made.model_file(MODEL).write_text(CONFIG)
    shutil.copy(ROOT / "configs" / "fleet.yaml", tmp_path / "configs")
    return made


@pytest.fixture
def project(settings: Project) -> Project:
    from dvc.repo import Repo

    root = settings.root
    tiny.make_random_base(root / "base_models" / "random")
    draw_sample_data(root / "data" / MODEL, count=24, seed=1, resolution=64)
    with Repo.init(str(root), no_scm=True) as repo:
        repo.add([str(root / "data")])

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    held_weights.held(settings, MODEL, "base_model", never)
    return settings


def study(project: Project) -> optuna.Study:
    [path] = (project.home / "search").glob("*.db")
    return optuna.load_study(study_name=path.stem, storage=f"sqlite:///{path}")


def test_a_search_goes_on_where_it_was_left_and_writes_the_best(project: Project) -> None:
    said: list[str] = []
    search.search(project, MODEL, None, None, said.append)
    assert len(study(project).trials) == 1
    # A process that is killed leaves a trial that nobody carries out.
    study(project).ask()
    best = search.search(project, MODEL, 2, None, said.append)
    trials = study(project).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    done = [trial for trial in trials if trial.value is not None]
    assert best == min(done, key=lambda trial: trial.value).params
    assert all(list(trial.intermediate_values) == [2, 4, 6] for trial in done)
    assert all(2 <= trial.params["rank"] <= 4 for trial in done)
    written = (project.home / "search" / f"{MODEL}.yaml").read_text()
    assert "# of the small machine" in written and "# The house's cloth." in written
    assert YAML(typ="safe").load(written)["training"] == {
        **YAML(typ="safe").load(CONFIG)["training"],
        **best,
    }
    shutil.copy(project.home / "search" / f"{MODEL}.yaml", project.model_file(MODEL))
    assert load_model(project, MODEL).training.rank == best["rank"]
    assert said[-1].startswith(f"search: {MODEL} trial={min(done, key=lambda t: t.value).number}")

    with backend.client(project) as mlflow:
        experiment = mlflow.get_experiment_by_name(MODEL)
        runs = mlflow.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {parent.info.run_id}
    losses = {run.info.run_name: run.data.metrics["validation_loss"] for run in nested}
    assert losses["trial 0"] == pytest.approx(trials[0].value, rel=1e-4)
    assert {run.info.status for run in nested} == {"FINISHED"}


@pytest.mark.full
def test_hopeless_trials_are_given_up_and_impossible_ones_say_why(project: Project) -> None:
    text = CONFIG.replace("trials: 1", "trials: 7").replace(
        "learning_rate: {low: 1e-4, high: 1e-1, log: true}",
        "learning_rate: {choices: [1e-3, 90.0]}",
    )
    text = text.replace("rank: {low: 2, high: 4}", "rank: {choices: [4, 300]}")
    project.model_file(MODEL).write_text(text)
    said: list[str] = []
    search.search(project, MODEL, None, None, said.append)
    trials = study(project).trials
    assert len(trials) == 7
    refused = [trial for trial in trials if trial.params["rank"] == 300]
    assert refused and all("training.rank: 300" in t.user_attrs["refused"] for t in refused)
    states = {trial.state.name for trial in trials}
    assert states <= {"COMPLETE", "PRUNED", "FAIL"} and "COMPLETE" in states


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("", "has no section search"),
        ("search: {parameters: {lerning_rate: {low: 1, high: 2}}}", "training has no such key"),
        ("search: {parameters: {rank: {low: 0, high: 2}}}", "search.parameters.rank: 0: Input"),
        ("search: {parameters: {rank: {low: 2}}}", "either choices, or low and high"),
        ("search: {parameters: {rank: {low: 4, high: 2}}}", "is not below high"),
        ("search: {parameters: {optimizer: {choices: [adamw, x]}}}", "there is no optimizer x"),
    ],
)
def test_what_cannot_be_searched_is_said(settings: Project, section: str, sentence: str) -> None:
    text = CONFIG[: CONFIG.index("search:")] + section
    settings.model_file(MODEL).write_text(text)
    with pytest.raises(UserError, match=sentence):
        search.search(settings, MODEL, None, None, print)


def test_a_resumed_search_tries_what_an_undisturbed_one_would(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[dict] = []

    def train(*given: object, **_: object) -> dict:
        training = given[2]["training"]  # type: ignore[index]
        tried.append({name: training[name] for name in ("learning_rate", "rank", "optimizer")})
        return {"given_up_at": None, "validation_loss": training["learning_rate"] ** 2}

    monkeypatch.setattr(search, "run_step", train)
    monkeypatch.setattr(search.runs, "plain_run", lambda *_: "run")
    for name in ("log_parameters", "finish"):
        monkeypatch.setattr(search.runs, name, lambda *_: None)
    other = Project(project.root, project.root / "other")
    shutil.copytree(project.home, other.home)
    search.search(project, MODEL, 14, None, print)  # ten at random, then what TPE makes of them
    undisturbed = list(tried)
    tried.clear()
    for trials in (3, 11, 14):
        search.search(other, MODEL, trials, None, print)
        study(other).ask()  # what a process that is killed leaves
    assert tried == undisturbed
    assert len({trial["learning_rate"] for trial in tried}) == 14
    seeded = project.model_file(MODEL).read_text() + "  seed: 1\n"
    project.model_file(MODEL).write_text(seeded)
    search.search(project, MODEL, 1, None, print)
    assert tried[-1] not in undisturbed
