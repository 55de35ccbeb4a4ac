"""`kill -9` of every part at random moments of rollouts, under clients that send all along.

    python -m benchmarks.kills --kills 30 --seed 1
    python -m benchmarks.kills --kills 12 --family diffusion
    python -m benchmarks.kills --kills 20 --clients 8 --family causal_lm

Killed are the active slot's server, the idle slot's, Envoy, the supervisor, the watcher that takes
over what was left, and the Dagster run that carries a rollout out; of diffusion models and of
language models the engine below the active slot's server too. The clients have the retries of their
protocol's own client, which sends nothing again once an answer has begun: streams that break off
are counted by themselves. After a kill of the supervisor comes what a person or a service manager
would do: `adire up`. After each kill the rollout must come to an end and everything served must be
what the record says.
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
from benchmarks import houses
from benchmarks.clients import Clients
from tests.support.house import TARGET, House
from tests.support.light import ROOT

# Of each kind of release, in turn; a language model's slot has an engine in a process of its own.
VICTIMS = {
    "light": ("active slot", "idle slot", "gateway", "supervisor", "watcher", "run"),
    "diffusion": ("active slot", "engine core", "idle slot", "gateway", "supervisor", "watcher"),
    "causal_lm": ("active slot", "engine core", "gateway", "watcher"),
}
# What the command lines of the processes hold.
SERVERS, ENGINE = ("tritonserver ", "vllm.entrypoints"), ("VLLM::EngineCore", "_engine_")
# What is killed is the point: a step goes on after some twenty answers.
LIGHT_ROLLOUT = RolloutConfig(
    minimum_seconds=1.0,
    error_rate_maximum=0.2,
    promotion_quantiles=["p50"],
    quality_drop_maximum=0.3,
)
RELEASE = "BENCHMARK_RELEASE"
DEFINITIONS = f'''
"""A Dagster run that deploys a release: `dagster job execute -f FILE -j deploy`."""
import os
import dagster as dg
from benchmarks import houses


@dg.op
def deploy_release() -> None:
    houses.opened().deploy(int(os.environ["{RELEASE}"]))


@dg.job(executor_def=dg.in_process_executor)
def deploy() -> None:
    deploy_release()
'''
WATCHER = """
import time
from adire_assets.serving import record; from adire_assets.serving.rollout import rollout
from adire_assets.serving.rollout.controller import Callbacks
from benchmarks import houses
from tests.support.house import TARGET

house = houses.opened()
while True:
    now = record.read(house.project, TARGET, house.model).rollout
    if now and now.abandoned():
        callbacks = Callbacks(house.open_judge, print)
        rollout.carry_out(house.project, house.fleet, house.model, callbacks)
    time.sleep(1)
"""


class Harness:
    """The processes around the fleet."""

    def __init__(self, house: House, kind: str, folder: Path) -> None:
        self.house, self.folder = house, folder
        self.start_seconds = houses.KINDS[kind].start_seconds
        self.environment = {
            **os.environ,
            **houses.told(house, kind),
            "DAGSTER_HOME": str(processes.dagster_home(house.project)),
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
            **{RELEASE: str(number)},
        )
        begun = wait_until(lambda: bool(self.house.record.rollout), self.start_seconds)
        assert begun, (self.folder / "processes.log").read_text()[-3000:]

    def kill(self, victim: str) -> None:
        """kill -9, and what would start the victim again if it is not in the fleet."""
        state = self.house.record
        active = state.active
        idle = next(name for name in ("blue", "green") if name != active)
        rows = {row["name"]: row for row in processes.status(self.house.project, self.house.fleet)}
        if victim == "run":
            assert self.run
            self.run.kill()
            self.run.wait()
        elif victim == "watcher":
            self.watcher.kill()
            self.watcher.wait()
            self.watcher = self._start(sys.executable, "-c", WATCHER)
        elif victim == "supervisor":
            file = self.house.project.home / "fleet" / "supervisord.pid"
            os.kill(int(file.read_text()), signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(int(file.read_text())), 10)
            processes.up(self.house.project, self.house.fleet, only="serving")
        elif victim == "gateway":
            os.kill(rows[f"gateway-{TARGET}"]["pid"], signal.SIGKILL)
        else:
            slot = idle if victim == "idle slot" else active
            guard = psutil.Process(rows[f"slot-{TARGET}-{slot}"]["pid"])
            wanted = ENGINE if victim == "engine core" else SERVERS
            below = [
                one
                for one in guard.children(recursive=True)
                if any(part in " ".join(one.cmdline()) for part in wanted)
            ]
            [*below, guard][0].kill()

    def consistent(self) -> bool:
        """The rollout has ended, and what is served is what the record says."""
        ended = wait_until(lambda: self.house.record.rollout is None, self.start_seconds)
        same = wait_until(lambda: not self.house.differences(), self.start_seconds, pause=1.0)
        if self.run:
            self.run.wait()
        if not (ended and same):
            print(f"  not consistent: {self.house.record} {self.house.differences()}", flush=True)
        return ended and same

    def close(self) -> None:
        for process in (self.watcher, self.run):
            if process:
                process.kill()
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--family", dest="kind", choices=list(VICTIMS), default="light")
    options = parser.parse_args()
    rng, kind = random.Random(options.seed), houses.KINDS[options.kind]
    victims = VICTIMS[options.kind]
    consistent = 0
    outcomes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        limits = kind.rollout if options.kind == "causal_lm" else LIGHT_ROLLOUT
        house = kind.make(Path(name) / "p", limits)
        numbers = [kind.add(house) for _ in range(options.kills + 1)]
        with house.up():
            house.deploy(numbers[0])
            harness = Harness(house, options.kind, Path(name))
            asking = Clients(
                house.gateway.address,
                house.model,
                options.clients,
                retry=True,
                streams=options.kind == "causal_lm",
            )
            try:
                with asking as clients:
                    for kill, number in enumerate(numbers[1:]):
                        harness.deploy(number)
                        pause = rng.uniform(0.0, 8.0)
                        wait_until(lambda: house.record.rollout is None, pause)
                        victim = victims[kill % len(victims)]
                        now = house.record.rollout
                        where = f"{now.stage} {now.percent} %" if now else "the end"
                        failed, broken = len(clients.failed), len(clients.broken)
                        harness.kill(victim)
                        consistent += harness.consistent()
                        last = house.record.last_rollout or {}
                        outcome = last.get("outcome", "none")
                        outcomes[outcome] = outcomes.get(outcome, 0) + 1
                        broke = clients.broken[broken:]
                        told = sum(answer.told for answer in broke)
                        print(
                            f"kill {kill + 1}: {victim} at {where}: release {number} {outcome}, "
                            f"{len(clients.failed) - failed} failed, {len(broke)} broke off "
                            f"({told} said so)",
                            flush=True,
                        )
                        for answer in [*clients.failed[failed:], *broke][:3]:
                            print(f"  {answer}", flush=True)
            finally:
                harness.close()
    print(json.dumps(outcomes))
    print(
        f"kills: kills={options.kills} requests={len(clients.answers)} "
        f"failed={len(clients.failed)} broken={len(clients.broken)} "
        f"told={sum(answer.told for answer in clients.broken)} consistent={consistent}"
    )


if __name__ == "__main__":
    main()
