"""The plug `Placement`: where the work of a step is carried out; and children of this process.

    result = run_step(project, "package.module:function", arguments, progress=print)

A job is plain JSON that names files by their place in the home or the project, so that it can be
carried out wherever both are. `core.worker` carries it out.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from adire_assets.core import job_folder, lineage
from adire_assets.core.child_environment import child_environment
from adire_assets.core.devices import exclusive_device
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json
from adire_assets.core.folders import temporary_folder
from adire_assets.core.lineage import Facts

if TYPE_CHECKING:
    from adire_assets.core.project import Project

STOP_SECONDS = 20.0  # what a cancelled child may take to end
# The hardware that carried out the latest `run_step` of this context, for the artifact made of it.
computed_on: ContextVar[Mapping[str, Any] | None] = ContextVar("computed_on", default=None)
# Of the same, the seconds that it had its device for, without those that it waited for it.
computed_for: ContextVar[float | None] = ContextVar("computed_for", default=None)


@dataclass(frozen=True)
class Job:
    """One call of "module:function". The argument `device` (cpu, cuda) is a resource as well: the
    job has one such device alone, and every one of the machine behind a launcher.

    `launcher`: the command that starts the worker, with its interpreter. `sources`: where the
    worker finds the code, when that is not here; such a job gets plain paths, as all code of
    earlier versions reads them. `attempt` counts from 1 and tells one try from another.
    """

    function: str
    arguments: Mapping[str, Any]
    threads: int
    launcher: Sequence[str] = ()
    recorder: Mapping[str, str] | None = None
    sources: Path | None = None
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """`done` with a result, `failed` for a reason that another attempt has as well, or `lost`: it
    was ended from outside. `sentence` tells why it is not done, `hardware` what computed."""

    status: Literal["done", "failed", "lost"]
    result: dict[str, Any] | None = None
    sentence: str = ""
    hardware: Mapping[str, Any] | None = None

    def returned(self) -> dict[str, Any]:
        """The result. UserError with the sentence when there is none."""
        if self.result is None:
            raise UserError(self.sentence)
        return self.result


class StartedStep(Protocol):
    """A job that was started."""

    def events(self) -> Iterator[str]:
        """The lines that it prints, until it has ended."""

    def cancel(self) -> None:
        """End it and all that it started; nothing to do when it has ended."""

    def outcome(self) -> Outcome:
        """How it ended; waits for that. Read all `events` first."""


class Placement(Protocol):
    """Where jobs run. No job outlives the block, or the process, that started it."""

    def facts(self) -> Facts:
        """The facts of the machines that jobs run on; for recipe keys, before a job is started."""

    def start(
        self, job: Job, environment: Mapping[str, str] | None = None
    ) -> AbstractContextManager[StartedStep]:
        """Carry out a job, cancelled when the block ends before it. `environment` adds to what a
        child is given (`core.child_environment`). Waits for the job's device."""


@dataclass(frozen=True)
class LocalPlacement:
    """Jobs are children of this process."""

    project: "Project"

    def facts(self) -> Facts:
        return lineage.facts()

    @contextmanager
    def start(
        self, job: Job, environment: Mapping[str, str] | None = None
    ) -> Iterator[StartedStep]:
        project, device = self.project, job.arguments.get("device")
        own = dict(environment or {})
        with ExitStack() as held:
            if device:
                every = bool(job.launcher)
                own |= held.enter_context(exclusive_device(project.locks, device, every=every))
            folder = held.enter_context(temporary_folder(project, project.home / "jobs"))
            places = {} if job.sources else {"home": project.home, "project": project.root}
            told = (job.function, job.arguments, job.threads, job.recorder, places)
            job_folder.write_job(folder, *told)
            child = subprocess.Popen(
                job_folder.command(folder, launcher=tuple(job.launcher), sources=job.sources),
                cwd=project.root,
                env=child_environment(
                    ADIRE_PROJECT=str(project.root),
                    ADIRE_HOME=str(project.home),
                    ADIRE_THREADS=str(job.threads),
                    ADIRE_ATTEMPT=str(job.attempt),
                    OMP_NUM_THREADS=str(job.threads),
                    GOMP_SPINCOUNT=lineage.SPIN_COUNT,
                    PYTHONPATH=str(job.sources or Path(__file__).parents[2]),
                    PYTHONSAFEPATH="1",  # the code of PYTHONPATH, whatever lies in the folder
                )
                | own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            started = _Child(job, folder, child)
            try:
                yield started
            finally:
                started.cancel()


@dataclass(frozen=True)
class _Child:
    job: Job
    folder: Path
    child: subprocess.Popen[str]

    def events(self) -> Iterator[str]:
        assert self.child.stdout
        yield from (line.rstrip() for line in self.child.stdout)

    def cancel(self) -> None:
        if self.child.poll() is not None:
            return
        # A launcher between us and the worker is asked by nobody else: all of them at once.
        for number in (signal.SIGINT, signal.SIGKILL):
            os.killpg(self.child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(STOP_SECONDS)
                return

    def outcome(self) -> Outcome:
        status = self.child.wait()
        if status and not (self.folder / job_folder.ERROR).is_file():
            name = self.job.function.rpartition(":")[2]
            return Outcome(
                "lost" if status < 0 else "failed",
                sentence=f"the worker of {name} ended unexpectedly (exit status {status}); its own "
                "words stand in the terminal or the run's compute log above",
            )
        try:
            result = job_folder.result_of(self.folder)
        except UserError as error:
            return Outcome("failed", sentence=str(error))
        told = self.folder / job_folder.FACTS  # which the code of an earlier version does not write
        hardware = read_json(told)["hardware"] if told.is_file() else None
        return Outcome("done", result, hardware=hardware)


def run_step(
    project: "Project",
    function: str,
    arguments: Mapping[str, Any],
    *,
    threads: int | None = None,
    launcher: Sequence[str] = (),
    sources: Path | None = None,
    recorder: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The result of "module:function", carried out where the project places steps.

    `progress` is called with each line that the worker prints. UserError with the worker's own
    sentence when it refuses; an interrupt here ends it and all that it started.
    """
    job = Job(function, arguments, threads or lineage.threads(), launcher, recorder, sources)
    with project.placement.start(job, environment) as started:
        began = time.monotonic()
        for line in started.events():
            progress(line)
        outcome = started.outcome()
        computed_for.set(time.monotonic() - began)
    computed_on.set(outcome.hardware)
    return outcome.returned()
