"""The section `costs` of configs/fleet.yaml: prices, from which costs are made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from adire_assets.config.yaml_file import Strict

Price = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
# A GPU as its driver names it, or "cuda" for any other; "cpu".
Hardware = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/()+-]{0,99}$")]
HOUR = 3600.0  # seconds


@dataclass(frozen=True)
class Cost:
    """What work cost: `seconds` on `count` pieces of `hardware`, each at `cost_per_hour`."""

    amount: float
    currency: str
    seconds: float
    cost_per_hour: float
    hardware: str
    count: int = 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class CostConfig(Strict):
    """What serving and steps cost; all prices are in `currency`."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    # Of an hour of each kind of hardware. A GPU's price is that of one, with its part of the host.
    cost_per_hour: Annotated[dict[Hardware, Price], Field(min_length=1)]
    storage_per_gib_month: Price = 0.0  # of the project's home
    transfer_per_gib: Price = 0.0  # of what gateways send to clients
    budget_per_day: Annotated[float, Field(gt=0, le=1e9)] | None = None

    def of_work(
        self, hardware: Mapping[str, Any], device: str, seconds: float, *, every: bool = False
    ) -> Cost | None:
        """The cost of a step that computed on `device` ("cpu", "cuda") of a machine with this
        `hardware` (as in a manifest), with one of its GPUs or `every` one; None without a price."""
        gpus: Sequence[str] = hardware.get("gpus") or []
        on_gpu = device != "cpu"
        kinds = (*gpus[:1], device) if on_gpu else (device,)
        kind = next((one for one in kinds if one in self.cost_per_hour), None)
        if kind is None:
            return None
        count = max(len(gpus), 1) if on_gpu and every else 1
        price = self.cost_per_hour[kind]
        amount = price * count * seconds / HOUR
        return Cost(amount, self.currency, seconds, price, kind, count)
