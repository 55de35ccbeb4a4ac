"""How training children are started: the launcher that goes before the worker.

Everything that accelerate would otherwise guess or ask is said here, so that neither a machine's
saved accelerate configuration nor its number of GPUs changes what is trained.
"""

import os
import sys
from collections.abc import Mapping
from math import gcd
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.families.training.settings import SharedTrainingConfig


class _Launched(SharedTrainingConfig):
    """What counts here of a family's section, which was checked where it was read."""

    ONLY_WITH = {}
    model_config = ConfigDict(extra="ignore", frozen=True)


SMALL_BASE = 256 * 2**20  # bytes of weights, of which every process may hold a copy


def launched(
    training: Mapping[str, Any], device: str, base_model: Path
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """(the launcher of a training, the section that its processes are told)."""
    settings = split_batch_across_processes(training, device, base_model)
    return launcher(device, settings), settings


def split_batch_across_processes(
    training: Mapping[str, Any], device: str, base: Path
) -> dict[str, Any]:
    """A `training` section with the number of processes filled in.

    On the CPU the operations of a small base are too small to be split among threads, so the cores
    share the examples of each step: as many processes as there are cores, or fewer that divide it
    evenly. A step learns from as many examples as before: `train_batch_size` and
    `gradient_accumulation_steps` become those of one process.
    """
    settings = _Launched.model_validate(training)
    weights = sum(file.stat().st_size for file in base.rglob("*.safetensors"))
    said = settings.num_processes or settings.num_machines > 1
    if said or device != "cpu" or weights > SMALL_BASE:
        return {**training, "num_processes": process_count(settings)}
    batch, passes = settings.train_batch_size, settings.gradient_accumulation_steps
    processes = max(n for n in range(1, lineage.threads() + 1) if batch * passes % n == 0)
    fewer_passes = gcd(processes, passes)
    return {
        **training,
        "num_processes": processes,
        "train_batch_size": batch // (processes // fewer_passes),
        "gradient_accumulation_steps": passes // fewer_passes,
    }


def process_count(settings: SharedTrainingConfig) -> int:
    """The number of processes on all machines, unless the batch is split on one CPU."""
    return settings.num_processes or settings.num_machines


def launcher(device: str, training: Mapping[str, Any]) -> tuple[str, ...]:
    """The launcher for `job_folder.command`, for "cpu" or "cuda" and a `training` section.

    One process needs none: what a launcher would tell it, `processes` says itself.
    On several machines each starts the same command with its own ADIRE_MACHINE_RANK (0, 1, ...) and
    the first one's address in ADIRE_MAIN_MACHINE (host:port).
    """
    settings = _Launched.model_validate(training)
    if process_count(settings) == 1:
        return ()
    machines = _machines() if settings.num_machines > 1 else ()
    if device == "cpu":
        # What `accelerate launch` starts for GPUs; for CPUs it asks for an MPI.
        per_machine = process_count(settings) // settings.num_machines
        return (
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nproc_per_node", str(per_machine), "--nnodes", str(settings.num_machines)),
            *(_torch_names(machines) if machines else ("--standalone",)),
        )
    return (
        *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),
        *("--num_processes", str(process_count(settings))),
        *("--num_machines", str(settings.num_machines)),
        *machines,
        *("--mixed_precision", settings.mixed_precision),
        *("--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", str(lineage.threads())),
        "--multi_gpu",
    )


def _torch_names(machines: tuple[str, ...]) -> list[str]:
    """The options of `_machines` as torch.distributed.run calls them."""
    names = {
        "--machine_rank": "--node_rank",
        "--main_process_ip": "--master_addr",
        "--main_process_port": "--master_port",
    }
    return [names.get(word, word) for word in machines]


def _machines() -> tuple[str, ...]:
    rank, address = os.environ.get("ADIRE_MACHINE_RANK"), os.environ.get("ADIRE_MAIN_MACHINE", "")
    host, _, port = address.rpartition(":")
    if rank is None or not rank.isdecimal() or not host or not port.isdecimal():
        raise UserError(
            "training.num_machines is above 1: set ADIRE_MACHINE_RANK to this machine's number "
            "(the first is 0) and ADIRE_MAIN_MACHINE to the first one's host:port"
        )
    return ("--machine_rank", rank, "--main_process_ip", host, "--main_process_port", port)
