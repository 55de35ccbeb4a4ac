"""Long training that survives kill -9: a loop with atomic checkpoints and progress lines.

Contract: a step depends on its number and the state alone (each draws its batch from a generator
seeded by the step), so a run that was killed and resumed ends in the same bits as one that was
not, given the same thread count.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adire_assets.core.errors import UserError


@dataclass(frozen=True)
class Loop:
    """One stage of training: `step(number)` returns the loss that it has already applied."""

    name: str
    folder: Path  # holds <name>.pt
    steps: int
    fingerprint: str  # of everything that would make an old checkpoint the wrong one
    save_every: float = 60.0  # seconds between checkpoints
    report_every: float = 8.0  # seconds between progress lines

    @property
    def path(self) -> Path:
        """Where the checkpoint lies."""
        return self.folder / f"{self.name}.pt"

    def run(self, state: Mapping[str, Any], step: Callable[[int], Tensor]) -> float:
        """Take the steps that are still to take; `state` maps names to anything with state_dict
        and load_state_dict. Returns the CPU seconds that the stage took over all its runs."""
        done, spent = self.restore(state)
        started, cpu_started = time.monotonic(), time.process_time()
        saved = reported = started
        first = done
        while done < self.steps:
            loss = step(done)
            done += 1
            now = time.monotonic()
            if now - reported >= self.report_every or done == self.steps:
                value = float(loss)
                if not math.isfinite(value):
                    raise UserError(
                        f"{self.name}: the loss became {value} at step {done}; lower the learning "
                        f"rate and remove {self.path}."
                    )
                rate = (done - first) / (now - started)
                left = (self.steps - done) / rate / 60
                print(
                    f"{self.name} {done}/{self.steps}  loss {value:.4f}  {rate:.2f} steps/s  "
                    f"{left:.1f} min left",
                    flush=True,
                )
                reported = now
            if now - saved >= self.save_every or done == self.steps:
                self.save(state, done, spent + time.process_time() - cpu_started)
                saved = now
        return spent + time.process_time() - cpu_started

    def save(self, state: Mapping[str, Any], done: int, spent: float) -> None:
        """Write the checkpoint under another name, sync, rename: it is whole or not there."""
        content = {name: part.state_dict() for name, part in state.items()}
        content["progress"] = {"done": done, "cpu_seconds": spent, "fingerprint": self.fingerprint}
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path)

    def restore(self, state: Mapping[str, Any]) -> tuple[int, float]:
        """Load the checkpoint if there is one: (steps done, CPU seconds spent)."""
        if not self.path.exists():
            return 0, 0.0
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        progress = content["progress"]
        self.require_own(progress)
        for name, part in state.items():
            part.load_state_dict(content[name])
        if progress["done"]:
            print(f"{self.name}: {progress['done']} steps found in {self.path}", flush=True)
        return int(progress["done"]), float(progress["cpu_seconds"])

    def require_own(self, progress: Mapping[str, Any]) -> None:
        """UserError when the checkpoint with this progress was made from something else."""
        if progress["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.path} was made with other settings (seed, sizes or corpus), code or "
                "libraries; give another --work folder or remove this one."
            )


class AveragedWeights:
    """Exponential moving average of a module's parameters, kept in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follow the module; early on faster, so that the random start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        shadow = list(self.shadow.values())
        torch._foreach_lerp_(shadow, [p.detach() for p in module.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the average in place of the module's own parameters."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.shadow[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return self.shadow

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over averages that `state_dict` gave."""
        for name, value in state.items():
            self.shadow[name].copy_(value)


def cosine(step: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate at a step: linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min((step - warmup) / max(1, steps - warmup), 1.0)
    return peak * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * share)))


def batch_rng(seed: int, stage: int, step: int) -> np.random.Generator:
    """The source of all chance in one step of one stage."""
    return np.random.default_rng([seed, stage, step])


def as_input(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
