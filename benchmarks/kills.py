"""`kill -9` of every part at random moments of rollouts, under clients that send all along.

    python -m benchmarks.kills --kills 30 --seed 1

Killed are the active slot, the idle slot, Envoy, the supervisor, the watcher that takes over what
was left, and the Dagster run that carries a rollout out. The clients have gRPC's own retry policy.
After a kill of the supervisor comes what a person or a service manager would do: `adire up`. After
each kill the rollout must come to an end and everything served must be what the record says.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet import processes
from benchmarks.clients import Clients
from tests.support.house import TARGET, House
from tests.support.light import MODEL, ROOT, add_light, light_house

VICTIMS = ("active slot", "idle slot", "gateway", "supervisor", "watcher", "run")
CONSISTENT_SECONDS = 120.0
DEFINITIONS = '''
"""A Dagster run that deploys a light release: `dagster job execute -f FILE -j deploy`."""
import os
from pathlib import Path
import dagster as dg
from adire_assets.core.project import Project
from adire_assets.config.fleet import FleetConfig
from tests.support.house import House

house = os.environ["LIGHT_HOUSE"].split("|")
fleet = FleetConfig.model_validate_json(house[2])
light = House(Project(Path(house[0]), Path(house[1])), fleet, "light")


@dg.op
def deploy_release() -> None:
    light.deploy(int(os.environ["LIGHT_RELEASE"]))


@dg.job(executor_def=dg.in_process_executor)
def deploy() -> None:
    deploy_release()
'''
WATCHER = """
import os, time
from pathlib import Path
from adire_assets.core.project import Project
from adire_assets.config.fleet import FleetConfig
from adire_assets.serving import record; from adire_assets.serving.rollout import rollout
from adire_assets.serving.rollout.controller import Callbacks
from tests.support.house import TARGET, House
from tests.support.light import MODEL

house = os.environ["LIGHT_HOUSE"].split("|")
fleet = FleetConfig.model_validate_json(house[2])
light = House(Project(Path(house[0]), Path(house[1])), fleet, "light")
while True:
    now = record.read(light.project, TARGET, MODEL).rollout
    if now and now.abandoned():
        callbacks = Callbacks(light.open_judge, print)
        rollout.carry_out(light.project, light.fleet, MODEL, callbacks)
    time.sleep(1)
"""


class Harness:
    """The processes around the fleet."""

    def __init__(self, light: House, folder: Path) -> None:
        self.light, self.folder = light, folder
        project = light.project
        self.environment = {
            **os.environ,
            "LIGHT_HOUSE": f"{project.root}|{project.home}|{light.fleet.model_dump_json()}",
            "DAGSTER_HOME": str(processes.dagster_home(project)),
            "PYTHONPATH": str(ROOT),
        }
        (folder / "deploy.py").write_text(DEFINITIONS)
        self.watcher = self._start(sys.executable, "-c", WATCHER)
        self.run: subprocess.Popen | None = None

    def _start(self, *command: str, **extra: str) -> subprocess.Popen:
        with (self.folder / "processes.log").open("ab") as log:
            environment = {**self.environment, **extra}
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)

    def deploy(self, number: int) -> None:
        """A Dagster run that rolls a release out, until the rollout has begun."""
        self.run = self._start(
            *(sys.executable, "-m", "dagster", "job", "execute"),
            *("-f", str(self.folder / "deploy.py"), "-j", "deploy"),
            LIGHT_RELEASE=str(number),
        )
        begun = wait_until(lambda: bool(self.light.record.rollout), 60)
        assert begun, (self.folder / "processes.log").read_text()[-3000:]

    def kill(self, victim: str) -> None:
        """kill -9, and what would start the victim again if it is not in the fleet."""
        state = self.light.record
        active = state.active
        idle = next(name for name in ("blue", "green") if name != active)
        rows = {row["name"]: row for row in processes.status(self.light.project, self.light.fleet)}
        if victim == "run":
            assert self.run
            self.run.kill()
            self.run.wait()
        elif victim == "watcher":
            self.watcher.kill()
            self.watcher.wait()
            self.watcher = self._start(sys.executable, "-c", WATCHER)
        elif victim == "supervisor":
            file = self.light.project.home / "fleet" / "supervisord.pid"
            os.kill(int(file.read_text()), signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(int(file.read_text())), 10)
            processes.up(self.light.project, self.light.fleet, only="serving")
        elif victim == "gateway":
            os.kill(rows[f"gateway-{TARGET}"]["pid"], signal.SIGKILL)
        else:
            guard = rows[f"slot-{TARGET}-{active if victim == 'active slot' else idle}"]["pid"]
            servers = [p for p in psutil.Process(guard).children() if "triton" in p.name()]
            (servers or [psutil.Process(guard)])[0].kill()

    def consistent(self) -> bool:
        """The rollout has ended, and what is served is what the record says."""
        ended = wait_until(lambda: self.light.record.rollout is None, CONSISTENT_SECONDS)
        same = wait_until(lambda: not self.light.differences(), CONSISTENT_SECONDS)
        if self.run:
            self.run.wait()
        if not (ended and same):
            print(f"  not consistent: {self.light.record} {self.light.differences()}", flush=True)
        return ended and same

    def close(self) -> None:
        self.watcher.kill()
        self.watcher.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    # What is killed is the point: a step goes on after some twenty answers.
    rollout = RolloutConfig(
        minimum_seconds=1.0,
        error_rate_maximum=0.2,
        promotion_quantiles=["p50"],
        quality_drop_maximum=0.3,
    )
    consistent = 0
    outcomes: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        light_house(Path(name) / "p", rollout).up() as light,
    ):
        light.deploy(add_light(light))
        harness = Harness(light, Path(name))
        try:
            with Clients(light.gateway.address, MODEL, options.clients, retry=True) as clients:
                for kill in range(options.kills):
                    number = add_light(light)
                    harness.deploy(number)
                    pause = rng.uniform(0.0, 8.0)
                    wait_until(lambda: light.record.rollout is None, pause)
                    victim = VICTIMS[kill % len(VICTIMS)]
                    now = light.record.rollout
                    where = f"{now.stage} {now.percent} %" if now else "the end"
                    before = len(clients.failed)
                    harness.kill(victim)
                    consistent += harness.consistent()
                    last = light.record.last_rollout or {}
                    outcome = last.get("outcome", "none")
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                    print(
                        f"kill {kill + 1}: {victim} at {where}: release {number} {outcome}, "
                        f"{len(clients.failed) - before} failed",
                        flush=True,
                    )
                    for answer in clients.failed[before : before + 3]:
                        print(f"  {answer}", flush=True)
        finally:
            harness.close()
    print(json.dumps(outcomes))
    print(
        f"kills: kills={options.kills} requests={len(clients.answers)} "
        f"failed={len(clients.failed)} consistent={consistent}"
    )


if __name__ == "__main__":
    main()
