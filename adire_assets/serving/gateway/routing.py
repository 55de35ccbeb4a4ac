"""From the deployment records of a target to what its gateway does."""

import os
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from adire_assets.config.fleet import FleetConfig, TokenConfig
from adire_assets.core.answer import UsualRequest
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway import served
from adire_assets.serving.gateway.gateway import Gateway
from adire_assets.serving.gateway.served import ServedModel

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


def _served(
    project: Project, fleet: FleetConfig, state: record.DeploymentRecord
) -> list[ServedModel]:
    """What the gateway must know of one model; its streams, where its releases are asked for them
    by another name, are a second one with the same clusters."""
    canary, percent = state.rollout, fleet.targets[state.target].rollout.mirrored_percent
    # A share for what no slot holds would make Envoy refuse the routes of every model.
    weights = {number: share for number, share in state.weights.items() if number in state.loaded}
    plug, streams = _family_and_streams(project, state)
    whole = ServedModel(
        state.model,
        state.loaded,
        weights if sum(weights.values()) == 100 else {},
        (canary.number, percent) if canary and canary.stage == "mirroring" else None,
        plug.protocols if plug else None,
        usual={int(number): UsualRequest(**told) for number, told in state.usual.items()},
    )
    if plug is None or not streams:
        return [whole]
    streamed = replace(
        whole,
        loaded={number: name for number, name in whole.loaded.items() if number in streams},
        weights={number: share for number, share in whole.weights.items() if number in streams},
        mirrored=whole.mirrored if whole.mirrored and whole.mirrored[0] in streams else None,
        protocols=(plug.streams,),
        asked_as=release.stream_name(state.model),
    )
    return [whole, streamed]


def _family_and_streams(
    project: Project, state: record.DeploymentRecord
) -> tuple[Family | None, set[int]]:
    """(the family that a model's releases are served as, which of them are served in streams too);
    None where none says its family, or where that is not installed any more: the other models are
    served all the same."""
    plug, streams = None, set()
    for number in state.loaded:
        with suppress(UserError):
            found = release.read_record(project, state.model, number)
            if found.streams:
                streams.add(number)
            if found.family and plug is None:
                plug = release.family_of_release(project, found)
    return plug, streams


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
            wanted := [
                one
                for state in record.read_all(project, target)
                for one in _served(project, fleet, state)
            ]
        ):
            gateway.publish(wanted)
            done = wanted


def requests_at_once(
    project: Project, fleet: FleetConfig, target: str
) -> dict[tuple[str, int], int]:
    """(model, release) -> how many requests the gateway lets it answer at once."""
    settings, states = fleet.targets[target], record.read_all(project, target)
    models = [one for state in states for one in _served(project, fleet, state)]
    return served.requests_at_once(settings.gateway, settings.slots, models)


def is_published(project: Project, fleet: FleetConfig, target: str, model: str) -> bool:
    """Whether the gateway routes a model as its record says; UserError when it does not run."""
    state, gateway = record.read(project, target, model), gateway_of(project, fleet, target)
    return all(gateway.routes_as(one) for one in _served(project, fleet, state))
