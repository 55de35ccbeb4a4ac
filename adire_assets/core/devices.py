"""The devices of this machine, the CPU and every GPU, and one lock for each.

Nothing here imports torch.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from adire_assets.core.locks import Locks

CPU = "device"  # the lock of the CPU; a GPU's is device-<name>
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
LOOK_SECONDS = 0.5  # between two looks for a free GPU


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Empty where the driver names none; a child then gets no CUDA_VISIBLE_DEVICES.
    """
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [uuid for uuid, _ in _driver_tells() if uuid]


def gpu_names() -> list[str]:
    """Of the GPUs that this process may use, what NVIDIA's driver calls each ("NVIDIA H200").

    Numbers in CUDA_VISIBLE_DEVICES are taken in the order of the bus, as with
    CUDA_DEVICE_ORDER=PCI_BUS_ID; among GPUs of one kind any order gives the same.
    """
    known = list(_driver_tells())
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [name for _, name in known if name]
    return [
        name
        for visible in gpus()
        for place, (uuid, name) in enumerate(known)
        if name and (visible == str(place) or uuid.startswith(visible))
    ]


def _driver_tells() -> Iterator[tuple[str, str]]:
    """(UUID, name) of each GPU of the machine, in the order of the bus; "" is not told."""
    for path in sorted(NVIDIA_GPUS.glob("*/information")):
        told = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
        yield told.get("GPU UUID", "").strip(), told.get("Model", "").strip()


def locks_of(device: str) -> list[str]:
    """The locks of all devices of a class: cpu, or cuda."""
    return [CPU] if device == "cpu" else [f"{CPU}-{name}" for name in gpus() or ["cuda"]]


@contextmanager
def exclusive_device(locks: Locks, device: str, *, every: bool = False) -> Iterator[dict[str, str]]:
    """Lock a free device of a class ("cpu" or "cuda"), or `every` one of it; waits for it.

    Yields the environment variables by which a child uses this device.
    """
    names = locks_of(device)
    if every or len(names) == 1:
        with ExitStack() as held:
            for name in sorted(names):  # in one order, so that no two wait for each other
                held.enter_context(locks.acquire(name))
            yield {}
        return
    while True:
        for name in names:
            with locks.try_acquire(name) as lease:
                if lease:
                    yield {"CUDA_VISIBLE_DEVICES": name.removeprefix(f"{CPU}-")}
                    return
        time.sleep(LOOK_SECONDS)
