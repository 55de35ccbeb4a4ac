"""The line from outside, where that takes trainings of its own: only `make test-all` runs these."""

import json
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from adire_assets.core.store import Store
from adire_assets.serving import release
from tests.line.test_line import PROMPT
from tests.support.line import alive, descendants, outcome, wait_for

pytestmark = pytest.mark.full


def test_the_adapter_behind_a_picture_is_made_again_bit_by_bit(line, first, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    line.adire("generate", PROMPT, "--seed", "7", "--out", str(out))
    adapter = Store(line.project).artifacts("indigo", "lora_weights")[0]
    digest = adapter.manifest["files"]["pytorch_lora_weights.safetensors"]
    made_again = line.adire("reproduce", str(out)).stdout.splitlines()
    assert made_again[-1] == f"reproduce: indigo@1 equal sha256={digest}"


def test_two_runs_together_end_with_one_of_everything(line, first) -> None:
    line.configure("training", seed=43, num_processes=2)
    before = len(Store(line.project).artifacts("indigo", "lora_weights"))
    command = (sys.executable, "-m", "adire_assets.cli", "materialize", "indigo")
    runs = [line.start(*command) for _ in range(2)]
    texts = [run.communicate(timeout=500)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], texts
    assert sorted(outcome(text)["lora_weights"] for text in texts) == ["made", "reused"]
    assert len(Store(line.project).artifacts("indigo", "lora_weights")) == before + 1
    live = line.live()
    history = json.loads((line.project.home / "deployments" / "local" / "indigo.json").read_text())[
        "history"
    ]
    assert [entry["number"] for entry in history].count(live) == 1


def test_a_killed_training_needs_no_cleaning_and_goes_on(line, first) -> None:
    line.configure("training", seed=50, num_processes=2)
    select = ("materialize", "indigo", "--select", "training_config,lora_weights")
    for victim, step in (("worker", "step 20/60"), ("run", "step 40/60")):  # after a checkpoint
        run = line.start(sys.executable, "-m", "adire_assets.cli", *select)
        assert run.stdout
        assert any(step in text for text in run.stdout)
        workers = descendants(run.pid, "adire_assets.core.worker")
        assert workers
        os.kill(workers[-1] if victim == "worker" else run.pid, signal.SIGKILL)
        run.communicate(timeout=60)
        assert run.returncode
        wait_for(lambda pids=workers: not any(alive(pid) for pid in pids))
    done = line.adire(*select)
    assert "going on from the checkpoint at step 40" in done.stdout
    assert outcome(done.stdout)["lora_weights"] == "made"


def test_a_new_torch_retrains_and_the_old_one_finds_its_adapter(
    line, first, tmp_path: Path
) -> None:
    """The installed torch goes on computing: a folder ahead of it claims another version."""
    public, plus, build = version("torch").partition("+")
    folder = tmp_path / f"torch-{public}.post1{plus}{build}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch\nVersion: {public}.post1{plus}{build}\n"
    )
    select = ("materialize", "indigo", "--select", "dataset,lora_weights")
    newer = line.adire(*select, PYTHONPATH=os.pathsep.join((str(tmp_path), str(line.root))))
    assert outcome(newer.stdout) == {"dataset": "reused", "lora_weights": "made"}
    older = line.adire(*select)
    assert outcome(older.stdout) == {"dataset": "reused", "lora_weights": "reused"}


def test_a_release_that_is_served_by_other_libraries_stays_out(line, first) -> None:
    """The backend claims another peft than the one that trained."""
    live = line.live()
    trained = release.read_record(line.project, "indigo", live).provenance["hyperparameters"]
    line.configure("training", **{name: trained[name] for name in ("seed", "num_processes")})
    backend = line.root / "triton_models" / "diffusion" / "model.py"
    before = backend.read_text()
    told = '"software": software}'
    assert told in before
    backend.write_text(before.replace(told, '"software": {**software, "peft": "0.99.0"}}'))
    sentence = f"peft is {version('peft')} at training and evaluation, 0.99.0 at serving"
    try:
        refused = line.adire("materialize", "indigo", check=False)
        assert refused.returncode == 1
        assert f"refused by the gate compatibility: {sentence}" in refused.stderr
        alone = line.adire("materialize", "indigo", "--select", "deployed_model", check=False)
        assert alone.returncode == 1 and sentence in alone.stderr
        assert line.live() == live
    finally:
        backend.write_text(before)
    line.adire("materialize", "indigo")
    assert line.live() == live
