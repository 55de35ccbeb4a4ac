"""Fleets on free ports."""

from collections.abc import Sequence

import yaml

from adire_assets.config.fleet import (
    FleetConfig,
    GatewayConfig,
    RolloutConfig,
    SlotConfig,
    StudioConfig,
    TargetConfig,
    WebConfig,
)
from adire_assets.core.project import Project
from tests.support.ports import free_ports


def make_fleet(
    rollout: RolloutConfig | None = None,
    targets: Sequence[str] = ("local",),
    sample_share: float = 0.0,
) -> FleetConfig:
    """A fleet of local targets on loopback, on the CPU."""
    made = {}
    for name in targets:
        ports = iter(free_ports(8))
        slots = {
            slot: SlotConfig(http_port=next(ports), grpc_port=next(ports), metrics_port=next(ports))
            for slot in ("blue", "green")
        }
        gateway = GatewayConfig(port=next(ports), admin_port=next(ports), sample_share=sample_share)
        made[name] = TargetConfig(slots=slots, gateway=gateway, rollout=rollout or RolloutConfig())
    web, studio = free_ports(2)
    return FleetConfig(
        targets=made, dagster=WebConfig(port=web), studio=StudioConfig(port=studio), device="cpu"
    )


def write_fleet(project: Project, fleet: FleetConfig) -> None:
    """Let the processes of a project find this fleet by themselves."""
    text = yaml.safe_dump(fleet.model_dump(mode="json", exclude_none=True))
    (project.root / "configs" / "fleet.yaml").write_text(text)
