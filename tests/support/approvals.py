"""A model whose releases need a person's approval, and what is done with it."""

from dataclasses import replace
from typing import Any

import pytest

from adire_assets.core.store import Store
from adire_assets.gates import approvals
from adire_assets.gates.approvals import Waiting
from adire_assets.line.deploy import deployed_model
from adire_assets.serving import record
from adire_assets.serving.record import DeploymentRecord
from tests.support.house import TARGET, House
from tests.support.light import MODEL

CONFIG = """
data: {path: data/light, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation:
  judge: {source: judge}
  gates: {human_approval: required}
"""
WAITS = r"release 2 of light waits for approval: adire approve light@2 --reason '\.\.\.'"


def go_live(house: House, number: int, action: str = "deploy", at: str | None = None) -> None:
    def moved(state: DeploymentRecord) -> DeploymentRecord:
        after = state.with_live_release(number, action, "a test")
        return replace(after, since=at or after.since)

    record.change(house.project, TARGET, MODEL, moved)


def deployed(house: House, number: int) -> Any:
    """What materializing `deployed_model` does. No gateway runs, so it never gets far."""
    artifact = Store(house.project).open(house.releases[number].repository)
    return deployed_model(house.project, artifact, print, lambda *_: None)


def hold(house: House, number: int) -> None:
    with pytest.raises(Waiting):
        deployed(house, number)


def approve(house: House, number: int, **options: Any) -> approvals.Entry:
    return approvals.approve(house.project, house.releases[number], "rounder", "ada", **options)


def waiting(house: House) -> list[int]:
    return [one.number for one in approvals.waiting(house.project, MODEL)]


def resumable(house: House) -> int | None:
    found = approvals.resumable(house.project, MODEL)
    return found.record.number if found else None
