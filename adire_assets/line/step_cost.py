"""What a step of the line cost: its seconds by the price of the hardware that it ran on."""

from typing import Any

from adire_assets.config.costs import Cost, CostConfig
from adire_assets.core.placement import computed_for, computed_on
from adire_assets.core.project import Project


def step_cost(
    project: Project, costs: CostConfig | None, device: str, *, every: bool = False
) -> dict[str, Any] | None:
    """The fields of a `config.costs.Cost` of the step that ran last in this context, on one GPU or
    `every` one; None without a price of its hardware.

    Read `costs` before the step: what is done must not be lost to a mistake that came into the
    fleet file in the meantime.

    It belongs into a manifest, never into a recipe: prices change what nothing is made from.
    """
    seconds = computed_for.get()
    if costs is None or seconds is None:
        return None
    hardware = computed_on.get() or project.placement.facts().hardware
    found: Cost | None = costs.of_work(hardware, device, seconds, every=every)
    return found.as_dict() if found else None
