"""The project of evaluations that tests of verdicts and their pages share."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from adire_assets.config import held_weights
from adire_assets.core.store import Built
from adire_assets.families.diffusion.config import EvaluationConfig
from adire_assets.gates import promotion, upgrades
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
