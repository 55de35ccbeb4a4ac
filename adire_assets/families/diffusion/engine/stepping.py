"""Guidance and scheduler steps after a pass of the denoiser."""

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .drawings import Row

# diffusers' schedulers that keep no state between steps but their position. Rows at the same
# position share a call, which takes as long as that of one row.
STATELESS = frozenset(
    {
        "DDIMScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
    }
)


def scaled(row: Row) -> Tensor:
    """The latents as the denoiser takes them at this step."""
    scale = getattr(row.scheduler, "scale_model_input", None)
    return row.latents if scale is None else scale(row.latents, row.timestep)


def guided(rows: Sequence[Row], predicted: Tensor) -> Tensor:
    """[rows, C, h, w]: the guidance of Ho and Salimans 2022. Of guided rows `predicted` has two,
    [away from, towards], of others one."""
    parts = predicted.split([1 + (row.away is not None) for row in rows])
    away = torch.cat([part[:1] for part in parts])
    towards = torch.cat([part[-1:] for part in parts])
    # Of a row without guidance both are the same.
    scales = torch.tensor([row.drawing.request.guidance_scale for row in rows], dtype=torch.float32)
    scales = scales.to(predicted.device, non_blocking=True)
    scales = scales.view(-1, *[1] * (predicted.dim() - 1))
    return (away + scales * (towards - away)).to(predicted.dtype)


def rows_in_step(rows: Sequence[Row]) -> list[list[int]]:
    """The indices of rows whose schedulers can step in one call, group by group."""
    found: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        # Copies of one prepared schedule share its config (`architecture._copied`).
        shared = type(row.scheduler).__name__ in STATELESS
        same = (id(row.scheduler.config), len(row.timesteps), row.step) if shared else index
        found.setdefault(same, []).append(index)
    return list(found.values())


def step_together(rows: Sequence[Row], towards: Tensor) -> list[tuple[Tensor, ...]]:
    """One scheduler step for one group of `rows_in_step`, by the prediction [rows, C, h, w]. For
    each row the latents of the next step and, if the scheduler gives them, the clean ones."""
    first = rows[0]
    options = dict(first.options)
    if "generator" in options:
        options["generator"] = [one for row in rows for one in row.options["generator"]]
    latents = torch.cat([row.latents for row in rows])
    found = first.scheduler.step(towards, first.timestep, latents, return_dict=False, **options)
    for row in rows[1:]:  # their schedules continue from the same position
        if hasattr(row.scheduler, "_step_index"):
            row.scheduler._step_index = first.scheduler._step_index
    parts = (one.split(1) for one in found if isinstance(one, Tensor))
    return list(zip(*parts, strict=True))


@cache
def step_arguments(step: Callable[..., Any]) -> frozenset[str]:
    """The names of the arguments of a scheduler's step."""
    return frozenset(signature(step).parameters)
