"""Runs diffusers' own training script unedited, and writes down its steps and losses.

    python -m benchmarks.peer.start RECORD SCRIPT [ARGUMENT ...]

What the script lacks here is supplied around it: torchvision by the folder beside this file, a
tracker by `Accelerator.log`, which the script calls after each micro-batch and which reaches nobody
when no tracker is installed. RECORD gets {"steps": [seconds, ...], "losses": [...]}: when each
optimizer step ended, and the mean loss of its micro-batches.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - with transformers, which must not take the stand-in for torchvision
from accelerate import Accelerator

from adire_assets.core.store import write_json
from benchmarks.watched import step_clock


def main() -> None:
    record, script = sys.argv[1:3]
    del sys.argv[:2]
    sys.path.insert(0, str(Path(__file__).parent))
    losses: list[float] = []
    ends: list[int] = []

    def log(self: Accelerator, values: dict[str, Any], **_: Any) -> None:
        losses.append(values["loss"])
        if self.sync_gradients:
            ends.append(len(losses))

    Accelerator.log = log
    with step_clock() as steps:
        runpy.run_path(script, run_name="__main__")
    means = [
        sum(losses[first:last]) / (last - first)
        for first, last in zip([0, *ends], ends, strict=False)
    ]
    write_json(Path(record), {"steps": steps, "losses": means})


if __name__ == "__main__":
    main()
