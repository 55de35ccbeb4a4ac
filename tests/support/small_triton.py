"""A real Triton whose model answers at once: the interface of a diffusion release, no images."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

import psutil

from adire_assets.config.fleet import SlotConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet import guard
from adire_assets.serving.fleet.triton import SERVER
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys
sys.path[:0] = [os.environ["ADIRE_SITE_PACKAGES"]]
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.number = int(args["model_version"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        prompt = pb.get_input_tensor_by_name(request, "prompt")
        if prompt is None or prompt.as_numpy().size != 1:
            wrong = pb.TritonError("one prompt per request", pb.TritonError.INVALID_ARG)
            return pb.InferenceResponse(error=wrong)
        return pb.InferenceResponse([
            pb.Tensor("images", np.zeros((1, 4, 4, 3), np.uint8)),
            pb.Tensor("release", np.array([self.number], np.int32)),
            pb.Tensor("provenance", np.array([b"{}"], object)),
        ])
"""


@dataclass
class SmallTriton:
    """A tritonserver that runs and has one release of one model."""

    process: psutil.Process
    grpc_port: int
    http_port: int

    def alive(self) -> bool:
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def kill_stub(self) -> None:
        """What the kernel does to a stub that takes too much memory."""
        for child in self.process.children(recursive=True):
            if child.name() == "triton_python_backend_stub":
                child.kill()


@contextmanager
def small_triton(root: Path, model: str, number: int) -> Iterator[SmallTriton]:
    folder = root / f"slot-{number}"
    version = folder / "models" / model / str(number)
    version.mkdir(parents=True)
    config = (ROOT / "triton_models" / "diffusion" / "config.pbtxt").read_text()
    described = Template(config).substitute(name=model, maximum_batch_size=4)
    (version.parent / "config.pbtxt").write_text(described)
    (version / "model.py").write_text(SCRIPT)
    ports = {"grpc_port": free_port(), "http_port": free_port()}
    slot = SlotConfig(**ports, metrics_port=free_port())
    command = SERVER.command(Project(root, root / ".adire"), folder, slot, [model])
    with (folder / "triton.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=SERVER.environment("cpu", 1),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def ready() -> bool:
        try:
            return number in SERVER.held(slot, model)
        except UserError:
            return False

    try:
        assert wait_until(ready, 60, alive=lambda: process.poll() is None)
        yield SmallTriton(psutil.Process(process.pid), **ports)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for left in Path("/dev/shm").glob(f"{guard.mark(folder)}*"):
            left.unlink()
