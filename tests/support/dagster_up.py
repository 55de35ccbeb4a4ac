"""A project's Dagster as `adire up` starts it: webserver and daemon, each on its own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.child_environment import child_environment
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet.processes import dagster_home
from adire_assets.serving.fleet.supervisor import programs

START_SECONDS = 90.0
# Words in the command lines of code servers, of their runs, and of the runs' children.
OF_RUNS = ("dagster", "multiprocessing.spawn", "adire_assets.core.worker")


@contextmanager
def running(project: Project, fleet: FleetConfig, name: str) -> Iterator[subprocess.Popen]:
    """The program `name` of the fleet, ready, until the block ends."""
    [program] = [one for one in programs(project, fleet) if one.name == name]
    folders = {"ADIRE_PROJECT": project.root, "ADIRE_HOME": project.home}
    folders["DAGSTER_HOME"] = dagster_home(project)
    log = project.home / f"{name}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            program.command,
            cwd=project.root,
            env=child_environment(**{key: str(folder) for key, folder in folders.items()}),
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
        )
    try:
        ready = wait_until(program.ready, START_SECONDS, alive=lambda: process.poll() is None)
        assert ready, log.read_text()[-3000:]
        yield process
    finally:
        process.terminate()
        process.wait(60)


def end_all(project: Project) -> None:
    """End what is left of Dagster's runs: a code server waits for the end of those it has begun."""
    for process in psutil.process_iter(["environ", "cmdline"]):
        home = (process.info["environ"] or {}).get("ADIRE_HOME")
        words = " ".join(process.info["cmdline"] or [])
        if home == str(project.home) and any(one in words for one in OF_RUNS):
            with suppress(psutil.NoSuchProcess):
                process.kill()
