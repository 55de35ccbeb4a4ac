"""Worker functions: those that do not end well, and those that tell of the child."""

import os
import signal
import sys
import time
from pathlib import Path

from adire_assets.core.errors import UserError
from adire_assets.core.worker import Progress


def echo(*, text: str, progress: Progress, **_: object) -> dict[str, str]:
    progress(f"echo {text}")
    return {"text": text}


def device(*, device: str, progress: Progress) -> dict[str, str]:
    progress("computing")
    return {"device": device}


def die(*, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(*, progress: Progress) -> None:
    raise UserError("there is no cloth to dye")


def refuse_alone(*, progress: Progress) -> None:
    """In the first of several processes; the others wait for it, as in a collective operation."""
    if os.environ["RANK"] != "0":
        time.sleep(600)
    refuse(progress=progress)


def surroundings(*, progress: Progress) -> dict[str, str]:
    """The environment of the child."""
    return dict(os.environ)


def facts(*, progress: Progress) -> dict[str, object]:
    """What is imported in the child, and what numeric libraries are told."""
    loaded = {name: name in sys.modules for name in ("torch", "numpy")}
    return {**loaded, "threads": os.environ["OMP_NUM_THREADS"]}


def wait(*, file: str, progress: Progress) -> dict[str, str]:
    """Say that it has begun, and be busy for longer than a test waits."""
    Path(file).with_suffix(".new").write_text(str(os.getpid()))
    Path(file).with_suffix(".new").rename(file)
    time.sleep(30)
    return {}


def crash(*, progress: Progress) -> None:
    raise RuntimeError("the vat leaks")


def fill(*, folder: str, progress: Progress) -> None:
    """Keep tensors, as a training does, until the disk is full."""
    from safetensors.torch import save_file
    from torch import zeros

    for number in range(1000):
        save_file({"latents": zeros(2**18)}, Path(folder) / f"{number}.safetensors")
