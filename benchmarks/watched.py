"""Children of a benchmark, each run to its end with its time and memory watched."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from adire_assets.core import lineage
from adire_assets.core.job_folder import command, write_job
from adire_assets.core.project import Project
from adire_assets.core.store import read_json

SAMPLE_SECONDS = 0.1
SPIN = {"GOMP_SPINCOUNT": lineage.SPIN_COUNT}  # of threads that wait for each other


@dataclass(frozen=True)
class Finished:
    """A child that ended well: its whole time, and the peak of its process tree."""

    seconds: float
    peak_bytes: int


def run(project: Project, arguments: Sequence[str], log: Path, **extra: str) -> Finished:
    """Run a child to its end and watch its memory; SystemExit with its last words if it fails."""
    environment = {
        **os.environ,
        "ADIRE_PROJECT": str(project.root),
        "OMP_NUM_THREADS": str(lineage.threads()),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(project.root), os.environ.get("PYTHONPATH")])
        ),
        **extra,
    }
    peak, began = 0, time.monotonic()
    with log.open("wb") as output:
        child = psutil.Popen(
            arguments, cwd=project.root, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        while True:
            try:
                child.wait(SAMPLE_SECONDS)
                break
            except psutil.TimeoutExpired:
                peak = max(peak, _resident(child))
    seconds = time.monotonic() - began
    if child.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise SystemExit(f"{tail}\n{' '.join(arguments)} ended with {child.returncode}")
    return Finished(seconds, peak)


def _resident(child: psutil.Process) -> int:
    total = 0
    for process in (child, *child.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def job(
    project: Project,
    folder: Path,
    function: str,
    launch: tuple[str, ...] = (),
    **arguments: Any,
) -> tuple[Any, Finished]:
    """(what a function `module:name` returns, what it took), in a worker as the graph starts it."""
    folder.mkdir()
    write_job(folder, function, arguments, lineage.threads())
    finished = run(
        project,
        command(folder, launcher=launch),
        folder / "log",
        **SPIN,
    )
    return read_json(folder / "result.json"), finished


@contextmanager
def step_clock(clock: Callable[[], float] = time.monotonic) -> Iterator[list[float]]:
    """What `clock` said when each step of any optimizer of this process ended."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ends: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: ends.append(clock()))
    try:
        yield ends
    finally:
        handle.remove()


def machine(packages: Sequence[str]) -> str:
    """The processor, the cores and the versions of `packages`."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ", ".join(f"{name} {version(name)}" for name in packages)
    name = names[0] if names else platform.processor()
    return f"{name}, {lineage.threads()} of {os.cpu_count()} cores, {libraries}"
