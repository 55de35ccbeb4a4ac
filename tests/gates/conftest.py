"""What tests of gates share: releases that wait for approval, and made-up evaluations."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from adire_assets.config import held_weights
from adire_assets.core.store import Built
from adire_assets.families.diffusion.config import EvaluationConfig
from adire_assets.gates import promotion, upgrades
from tests.support.approvals import CONFIG, go_live
from tests.support.fleets import make_fleet
from tests.support.house import House
from tests.support.light import MODEL, add_light, light_house
from tests.support.shop import SETTINGS, Shop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path)

    def evaluate(project, images, base, adapter, config, worker, tracked, write_metrics=True):
        name = (adapter.path / "name").read_text()
        shop.evaluated.append(name)
        assert not write_metrics  # metrics/ shows the challenger
        data = (images.path / "name").read_text()
        return Built(shop.evaluation(name, 1.6, data=data), reused=False)

    monkeypatch.setattr("adire_assets.line.verdict.evaluation_report", evaluate)
    monkeypatch.setattr(EvaluationConfig, "settings", lambda *arguments: SETTINGS)
    judge = SimpleNamespace(artifact=SimpleNamespace(content_hash="judge"))
    monkeypatch.setattr(held_weights, "held", lambda *arguments: judge)
    facts = {"passed": True, "software": {}}
    parity = SimpleNamespace(artifact=SimpleNamespace(json=lambda name: facts))
    monkeypatch.setattr(promotion, "parity_report", lambda *arguments: parity)
    monkeypatch.setattr(upgrades, "refusal", lambda *arguments: None)
    yield shop


@pytest.fixture(scope="module")
def three_releases(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = light_house(tmp_path_factory.mktemp("approvals") / "project")
    for _ in range(3):
        add_light(house)
    return house


@pytest.fixture
def house(three_releases: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """Releases 1 to 3 that pass every gate, of which 1 is live; nothing is approved."""
    for folder in ("approvals", "deployments", "quarantine"):
        for path in (three_releases.project.home / folder).rglob("*.json"):
            path.unlink()
    configs = three_releases.project.root / "configs"
    (configs / "fleet.yaml").write_text(make_fleet().model_dump_json(exclude_none=True))
    (configs / "models" / f"{MODEL}.yaml").write_text(CONFIG)
    # What a light release has instead of an evaluation is nothing that gates could judge.
    monkeypatch.setattr(promotion, "require_passable", lambda *_: None)
    go_live(three_releases, 1, at="2020-01-01T00:00:00+00:00")
    return three_releases
