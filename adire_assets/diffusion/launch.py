"""How a training child is started: the `accelerate launch` that goes before the worker.

Everything that accelerate would otherwise guess or ask is said here, so that neither a machine's
saved accelerate configuration nor its number of GPUs changes what is trained.
"""

import sys

from adire_assets import lineage


def launcher(device: str, mixed_precision: str) -> tuple[str, ...]:
    """The launcher for `worker.command`: one process on one "cpu" or "cuda" device."""
    return (
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--quiet",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        mixed_precision,
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        str(lineage.threads()),
        *(("--cpu",) if device == "cpu" else ()),
    )
