"""Training in several processes, on one machine and on two."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from safetensors.numpy import load_file

from adire_assets.core import job_folder
from adire_assets.families.diffusion.artifacts import link_weights
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.diffusion.steps.trial import UNPRUNED_TRIALS
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.families.training import launch
from tests.support import tiny, training
from tests.support.ports import free_port

CHILD_SECONDS = 300


@pytest.mark.parametrize(
    ("cores", "settings", "expected"),  # processes, train_batch_size, gradient_accumulation_steps
    [
        (1, {}, (1, 1, 4)),
        (2, {}, (2, 1, 2)),
        (3, {}, (2, 1, 2)),
        (64, {}, (4, 1, 1)),
        (2, {"train_batch_size": 8, "gradient_accumulation_steps": 1}, (2, 4, 1)),
        (8, {"train_batch_size": 6, "gradient_accumulation_steps": 4}, (8, 3, 1)),
        (6, {"train_batch_size": 6, "gradient_accumulation_steps": 4}, (6, 2, 2)),
        (2, {"train_batch_size": 3, "gradient_accumulation_steps": 1}, (1, 3, 1)),
        (2, {"num_processes": 1}, (1, 1, 4)),
        (2, {"num_machines": 3}, (3, 1, 4)),
    ],
)
def test_cores_share_the_batch_of_a_small_base(
    random_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    settings: dict[str, Any],
    expected: tuple[int, int, int],
) -> None:
    monkeypatch.setenv("ADIRE_THREADS", str(cores))
    names = ("num_processes", "train_batch_size", "gradient_accumulation_steps")
    shared = launch.split_batch_across_processes(settings, "cpu", random_base)
    resolved = TrainingConfig.model_validate(shared)
    assert tuple(getattr(resolved, name) for name in names) == expected
    assert launch.split_batch_across_processes(shared, "cpu", random_base) == shared
    assert launch.split_batch_across_processes(settings, "cuda", random_base).get(
        "train_batch_size"
    ) == settings.get("train_batch_size")


def test_a_large_base_has_one_process(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADIRE_THREADS", "2")
    monkeypatch.setattr(launch, "SMALL_BASE", 1000)
    assert launch.split_batch_across_processes({}, "cpu", random_base) == {"num_processes": 1}


def test_a_launcher_for_gpus_says_all_that_accelerate_would_guess() -> None:
    from accelerate.commands.launch import launch_command_parser

    training = {"num_processes": 2, "mixed_precision": "bf16"}
    _, *words = launch.launcher("cuda", training)
    assert words[:2] == ["-m", "accelerate.commands.launch"]
    said = launch_command_parser().parse_args([*words[2:], "-m", "adire_assets.core.worker"])
    assert (said.num_processes, said.num_machines, said.multi_gpu) == (2, 1, True)
    assert (said.mixed_precision, said.dynamo_backend) == ("bf16", "no")
    assert launch.launcher("cuda", {**training, "num_processes": 1}) == ()


def train_on(
    machines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, kill_at: str = ""
) -> None:
    """One launcher for each machine's arguments; all are killed once the first tells `kill_at`."""
    monkeypatch.setenv("ADIRE_MAIN_MACHINE", f"127.0.0.1:{free_port()}")
    started = []
    for rank, given in enumerate(machines):
        monkeypatch.setenv("ADIRE_MACHINE_RANK", str(rank))
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
        job = Path(tempfile.mkdtemp(dir=Path(given["output"]).parent))
        job_folder.write_job(
            job, "adire_assets.families.diffusion.training.lora:train", given, threads=1
        )
        child = subprocess.Popen(
            job_folder.command(job, launcher=launch.launcher("cpu", given["training"])),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(child)
    if kill_at:
        assert started[0].stdout
        assert any(kill_at in line for line in started[0].stdout)
        for child in started:
            os.killpg(child.pid, signal.SIGKILL)
    for child in started:
        told, _ = child.communicate(timeout=CHILD_SECONDS)
        assert kill_at or child.returncode == 0, told[-3000:]


@pytest.mark.parametrize(
    ("distribution", "architecture", "machines"),
    [
        ("ddp", "sd15", 1),
        pytest.param("fsdp", "sd15", 1, marks=pytest.mark.full),
        pytest.param("ddp", "sdxl", 1, marks=pytest.mark.full),
        pytest.param("ddp", "sd15", 2, marks=pytest.mark.full),
    ],
)
def test_two_processes_learn_what_one_learns_with_twice_the_batch(
    tmp_path: Path,
    bases: dict[tiny.Architecture, Path],
    dataset: Path,
    distribution: str,
    architecture: tiny.Architecture,
    machines: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random_base = bases[architecture]
    settings = {
        "max_train_steps": 6,
        "learning_rate": 1e-3,
        "train_text_encoder": True,
        "train_batch_size": 2,
        "checkpointing_steps": 2,
    }
    two = {**settings, "num_processes": 2, "num_machines": machines, "distribution": distribution}
    each = [
        training.arguments(tmp_path / f"machine-{rank}", random_base, dataset, **two)
        for rank in range(machines)
    ]
    if machines > 1:  # the second has never seen the checkpoint that the first one goes on from
        train_on(each, monkeypatch, kill_at="step 4/6")
        assert list((tmp_path / "machine-0" / "work").glob("step-*"))
    train_on(each, monkeypatch)
    whole = training.run(
        tmp_path / "one", random_base, dataset, **{**settings, "train_batch_size": 4}
    )
    parts = Path(each[0]["output"])
    assert list(training.curve(parts).values()) == pytest.approx(
        list(training.curve(whole).values()), rel=1e-4
    )
    adapters = [load_file(folder / ADAPTER_FILE) for folder in (parts, whole)]
    for name, values in adapters[0].items():
        assert np.allclose(values, adapters[1][name], atol=1e-4), name


@pytest.mark.full
def test_a_trial_in_two_processes_is_given_up_by_both(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    storage = tmp_path / "study.db"
    study = optuna.create_study(study_name="cloth", storage=f"sqlite:///{storage}")
    for _ in range(UNPRUNED_TRIALS):  # that were better than this one can be
        better = study.ask()
        better.report(0.0, 2)
        study.tell(better, 0.0)
    given = training.arguments(
        tmp_path, random_base, dataset, num_processes=2, validation_steps=2, max_train_steps=6
    )
    job = tmp_path / "job"
    job.mkdir()
    arguments = {**given, "storage": str(storage), "study": "cloth", "number": study.ask().number}
    for told_by_artifacts in ("base", "variant", "resolution"):
        del arguments[told_by_artifacts]
    arguments["base_model"] = str(link_weights(random_base, None, tmp_path / "base_model"))
    job_folder.write_job(
        job, "adire_assets.families.diffusion.steps.trial:run", arguments, threads=2
    )
    command = job_folder.command(job, launcher=launch.launcher("cpu", given["training"]))
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert job_folder.result_of(job) == {"validation_loss": None, "given_up_at": 2}
