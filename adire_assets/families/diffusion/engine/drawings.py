"""What the engine works on: requests, their drawings, and the images of these row by row."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from .adapters import Mix
from .architecture import Conditioning


@dataclass(frozen=True)
class Request:
    """What one caller wants; a guidance scale of 1 or less draws without the negative prompt.
    `scheduler` is the name of diffusers' class, None the base's own."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    num_images: int = 1
    scheduler: str | None = None


@dataclass(eq=False)
class Drawing:
    """A request in the engine; `images` is whole once `done` is set, unless `error` says why not.

    `passes` counts those that its images have had, of `passes_in_all` once they have begun.
    `seconds` are its parts of the engine's time, of denoising and of decoding: what images share is
    divided among them.
    """

    request: Request
    mix: Mix
    images: np.ndarray  # uint8 [num_images, H, W, 3], RGB
    on_end: Callable[["Drawing"], None]
    on_preview: Callable[["Drawing", int, np.ndarray], None]  # image, uint8 [H, W, 3]
    preview_steps: int  # 0: none
    on_step: Callable[["Drawing"], None]
    left: int
    error: Exception | None = None
    cancelled: bool = False
    passes: int = 0
    passes_in_all: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"denoising": 0.0, "decoding": 0.0})


@dataclass(eq=False)
class Row:
    """One image of a drawing, between two passes."""

    drawing: Drawing
    image: int
    scheduler: Any
    timesteps: Sequence[Tensor]
    latents: Tensor  # [1, C, h, w]
    told: Conditioning  # one row
    away: Conditioning | None  # what guidance leads away from
    options: dict[str, Any]  # of the scheduler's step
    turns: int
    kind: Hashable  # rows of one kind share passes
    step: int = 0
    clean: Tensor | None = None  # what a preview shows

    @property
    def timestep(self) -> Tensor:
        return self.timesteps[self.step]


@dataclass(frozen=True)
class Text:
    """What decides how a text is encoded: with which adapters, and of a negative one into which
    shapes, those of the positive one."""

    text: str
    mix: Mix
    shapes: tuple[tuple[int, ...], ...] | None
