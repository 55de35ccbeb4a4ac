"""How soon a bad release is off, in answers and in seconds; and going back.

    python -m benchmarks.detection

In answers: simulated canaries of which 30 % of the answers fail, looked at after each, through the
product's own signals; the median and the 95 % quantile of what they answered until they were sent
back. In seconds, from the canary's tenth answer to its last: a release that fails in 30 % of them,
one that takes 400 ms longer, one that draws noise from the beginning and one that begins to after
the checks; the embedded judge looks at the images. Then one that hangs after the checks while no
user asks, from the check to its end; a sound release, how long it takes to be live; and `adire
rollback`, from the command to the first answer of the release before.
"""

import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np

from adire_assets.config.fleet import RolloutConfig
from adire_assets.serving.rollout import analysis
from adire_assets.tracking import registry
from benchmarks import looks
from benchmarks.clients import Clients
from tests.support.house import House
from tests.support.light import (
    MODEL,
    ROOT,
    Behaviour,
    JudgedHouse,
    add_light,
    light_house,
)

CHECKED = 4  # answers that the check in the slot has seen, and more than it needs
SEEDS = range(1, 6)  # the median of as many releases that fail, each in other answers
CASES = {
    "latency": [Behaviour(seconds=0.43)],
    "noise": [Behaviour(noise=True)],
    "late_noise": [Behaviour(noise=True, sound_answers=CHECKED)],
}
RUNS = 2000


def answers_until_off(share: float) -> tuple[float, float]:
    """(median, 95 % quantile) of the answers of a canary that fails in `share` of them."""
    errors = analysis.signals(RolloutConfig())["errors"]
    found = looks.until_back(errors, share, RUNS, np.random.default_rng(0))
    return float(np.median(found)), float(np.quantile(found, 0.95))


def detect(light: House, behaviour: Behaviour, clients: Clients) -> tuple[float, float]:
    """(seconds from the canary's tenth answer to its last, its largest share of the requests)."""
    number = add_light(light, behaviour)
    light.deploy(number)
    assert light.record.live != number, "it went live"
    last = light.record.last_rollout
    weight = max(decision["percent"] for decision in last["decisions"])
    print(f"{behaviour}: {last['reason']}", flush=True)
    # A failed answer names no release: those came from the only one that fails.
    answers = [a for a in clients.answers if a.release == number or a.error]
    seconds = answers[-1].at - answers[9].at if len(answers) > 9 else 0.0
    print(f"off after {seconds:.2f} s, {len(answers)} of its answers went to users", flush=True)
    return seconds, weight


def hang(light: House) -> float:
    """Seconds from the check of a release that hangs after it until it is off; no user asks."""
    end = light.project.home / "end"
    light.deploy(add_light(light, Behaviour(hangs_until=str(end), sound_answers=CHECKED)))
    end.touch()
    last = light.record.last_rollout
    assert last["outcome"] == "rolled_back"
    print(f"hangs: {last['reason']}", flush=True)
    check, back = (datetime.fromisoformat(last["decisions"][place]["at"]) for place in (0, -1))
    return (back - check).total_seconds()


def roll_back(light: House, clients: Clients) -> float:
    """Seconds from the start of `adire rollback` to the first answer of the release before."""
    before, began = light.record.live, time.time()
    light.deploy(add_light(light))
    print(f"a sound release is live after {time.time() - began:.1f} s", flush=True)
    for number, one in light.releases.items():  # MLflow's alias is to follow
        registered = registry.register_release(
            light.project,
            MODEL,
            content_hash=one.repository["content_hash"],
            run_id=None,
            source=light.project.home,
        )
        assert registered == number
    began = time.time()
    command = ("-m", "adire_assets.cli", "rollback", MODEL, "--reason", "a drill")
    fleet = light.project.root / "configs" / "fleet.yaml"
    fleet.write_text(light.fleet.model_dump_json(exclude_none=True))  # JSON is YAML
    names = {"ADIRE_PROJECT": str(light.project.root), "ADIRE_HOME": str(light.project.home)}
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env={**os.environ, **names})
    clients.wait(lambda: any(a.at > began and a.release == before for a in clients.answers))
    return next(a.at for a in clients.answers if a.at > began and a.release == before) - began


def main() -> None:
    rollout = RolloutConfig(minimum_seconds=1.0)
    middle, most = answers_until_off(0.3)
    found = {"errors_answers": middle, "errors_answers_p95": most}
    with (
        tempfile.TemporaryDirectory() as name,
        light_house(Path(name) / "p", rollout, JudgedHouse).up() as light,
    ):
        light.deploy(add_light(light))
        failing = [Behaviour(fault_share=0.3, sound_answers=CHECKED, seed=seed) for seed in SEEDS]
        for case, behaviours in {"errors": failing, **CASES}.items():
            measured = []
            for behaviour in behaviours:
                with Clients(light.gateway.address, MODEL, 8) as clients:
                    measured.append(detect(light, behaviour, clients))
            found[f"{case}_s"] = median(seconds for seconds, _ in measured)
            found[f"{case}_weight"] = max(weight for _, weight in measured)
        found["hang_s"] = hang(light)
        with Clients(light.gateway.address, MODEL, 8) as clients:
            found["rollback_s"] = roll_back(light, clients)
            assert not clients.failed, clients.failed[:3]
    print("detection: " + " ".join(f"{name}={value:.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
