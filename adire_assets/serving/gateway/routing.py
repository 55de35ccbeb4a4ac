"""From the deployment records of a target to what its gateway does."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

from adire_assets.config.fleet import FleetConfig, TokenConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway.config import ServedModel
from adire_assets.serving.gateway.gateway import Gateway

OWN_TOKEN_DAYS = 1.0


def gateway_of(project: Project, fleet: FleetConfig, target: str) -> Gateway:
    settings = fleet.targets[target]
    return Gateway(project, target, settings.gateway, settings.slots)


def endpoint_of(project: Project, fleet: FleetConfig, target: str) -> Endpoint:
    """How this project's own clients come in; the token is ADIRE_TOKEN, or one of its own.

    UserError when a local gateway does not run, or the one there is another project's.
    """
    gateway = gateway_of(project, fleet, target)
    gateway.require_ours()
    tls, config = gateway.config.tls, gateway.config.tokens
    token = os.environ.get("ADIRE_TOKEN")
    if config and not token:
        from adire_assets.serving.gateway import tokens

        keys = project.root / config.keys
        if tokens.can_issue(keys.parent):
            claims = {"issuer": config.issuer, "audience": config.audience}
            token = tokens.issue(keys.parent, "adire", **claims, days=OWN_TOKEN_DAYS)
    return Endpoint(
        gateway.address,
        project.root / (tls.authority or tls.certificate) if tls else None,
        tls.name if tls else None,
        token,
        _token_command(config, (project.root / config.keys).parent) if config else "",
    )


def _token_command(config: TokenConfig, folder: Path) -> str:
    """What makes a token that a gateway with these settings takes."""
    words = ["adire", "auth", "token", "NAME", "--folder", str(folder)]
    for key in ("issuer", "audience"):
        value = getattr(config, key)
        if value != TokenConfig.model_fields[key].default:
            words += [f"--{key}", value]
    return shlex.join(words)


def _served(project: Project, fleet: FleetConfig, state: record.DeploymentRecord) -> ServedModel:
    """What the gateway must know of one model."""
    canary, percent = state.rollout, fleet.targets[state.target].rollout.mirrored_percent
    # A share for what no slot holds would make Envoy refuse the routes of every model.
    weights = {number: share for number, share in state.weights.items() if number in state.loaded}
    return ServedModel(
        state.model,
        state.loaded,
        weights if sum(weights.values()) == 100 else {},
        (canary.number, percent) if canary and canary.stage == "mirroring" else None,
        _protocols(project, state),
    )


def _protocols(project: Project, state: record.DeploymentRecord) -> tuple[str, ...] | None:
    """Those that the releases of a model are asked by; None where none says its family, or where
    that is not installed any more: the other models are served all the same."""
    for number in state.loaded:
        with suppress(UserError):
            found = release.read_record(project, state.model, number)
            if found.family:
                return release.family_of_release(project, found).protocols
    return None


def publish(project: Project, fleet: FleetConfig, target: str) -> None:
    """Make the gateway route as the records say now.

    `GatewayDown` when it does not run: it routes so as soon as it does.
    """
    gateway = gateway_of(project, fleet, target)
    # Read inside, and again at the end: whoever publishes last has seen every change that was made
    # before, and who was held up in the middle brings the gateway to what was decided meanwhile.
    with project.locks.acquire(f"routes-{target}"):
        done = None
        while done != (
            wanted := [_served(project, fleet, one) for one in record.read_all(project, target)]
        ):
            gateway.publish(wanted)
            done = wanted


def is_published(project: Project, fleet: FleetConfig, target: str, model: str) -> bool:
    """Whether the gateway routes a model as its record says; UserError when it does not run."""
    state = record.read(project, target, model)
    return gateway_of(project, fleet, target).routes_as(_served(project, fleet, state))
