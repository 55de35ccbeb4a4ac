"""What the project shows Prometheus of itself."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adire_assets.config.fleet import fleet_file
from adire_assets.core.lineage import Recipe
from adire_assets.core.store import Artifact, write_json
from adire_assets.monitoring.fleet_page import SIZE_SECONDS, STORE_SECONDS, FleetPage
from tests.support.garbage import discard
from tests.support.shop import MODEL, Shop


def values(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines()]
    return {name: float(value) for name, _, value in lines}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    with fleet_file(shop.project).open("a") as file:
        file.write("costs: {currency: EUR, cost_per_hour: {cpu: 0.4}}\n")
    return shop


def trained(
    shop: Shop, name: str, amount: float, days_ago: float = 0.0, currency: str = "EUR"
) -> Artifact:
    """An adapter whose training cost so much."""
    cost = {"amount": amount, "currency": currency, "seconds": 60.0}
    recipe = Recipe("lora_weights", MODEL, config={"name": name})

    def make(folder: Path) -> dict[str, object]:
        (folder / "name").write_text(name)
        created = datetime.now(UTC) - timedelta(days=days_ago)
        told = {"created": created.isoformat(), "seconds": 60.0}
        return {**told, "cost": cost, "training": {"loss": 0.25, "device": "cpu"}}

    return shop.store.build(recipe, make).artifact


def test_the_steps_of_the_last_day_are_summed(shop: Shop) -> None:
    trained(shop, "a", 0.5)
    trained(shop, "b", 0.25)
    trained(shop, "c", 9.0, days_ago=1.5)
    found = values(FleetPage(shop.project).lines())
    own = f'{{model="{MODEL}",step="lora_weights"}}'
    assert found[f"adire_steps_1d{own}"] == 2
    assert found[f"adire_step_seconds_1d{own}"] == 120
    assert found[f"adire_step_cost_1d{own}"] == 0.75
    assert found[f'adire_training_result{{model="{MODEL}",result="loss"}}'] == 0.25


def test_what_was_deleted_since_has_cost_as_much(shop: Shop) -> None:
    own = f'{{model="{MODEL}",step="lora_weights"}}'
    page = FleetPage(shop.project)
    gone = trained(shop, "a", 0.5)
    shop.store.remember(gone)  # about to be deleted
    assert values(page.lines())[f"adire_step_cost_1d{own}"] == 0.5
    discard(shop.store, gone)
    assert values(FleetPage(shop.project).lines())[f"adire_step_cost_1d{own}"] == 0.5


def test_amounts_of_another_currency_are_not_added(shop: Shop) -> None:
    trained(shop, "a", 0.5)
    trained(shop, "b", 40.0, currency="JPY")
    found = values(FleetPage(shop.project).lines())
    own = f'{{model="{MODEL}",step="lora_weights"}}'
    assert (found[f"adire_steps_1d{own}"], found[f"adire_step_cost_1d{own}"]) == (2, 0.5)


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_manifest_that_cannot_be_read_harms_nothing_beside_it(shop: Shop, content: str) -> None:
    trained(shop, "a", 0.5)
    manifest = trained(shop, "b", 0.25).path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(content)
    found = values(FleetPage(shop.project).lines())
    assert found[f'adire_step_cost_1d{{model="{MODEL}",step="lora_weights"}}'] == 0.5


def test_releases_show_their_share_and_what_they_were_evaluated_at(shop: Shop) -> None:
    evaluation = shop.evaluation("a", 1.5)
    shop.release(1, evaluation, shop.decide(evaluation).artifact)
    report = evaluation.path / "report.json"
    report.chmod(0o644)
    scores = {"scores": {"clip_s": 1.5, "note": "x"}, "base_scores": {"clip_s": 1.0}}
    write_json(report, {**evaluation.json("report.json"), **scores})
    shop.bring_live(1)
    found = values(FleetPage(shop.project).lines())
    own = f'model="{MODEL}",release="1"'
    assert found[f'adire_release_share{{target="local",{own}}}'] == 1
    assert found[f'adire_release_live{{target="local",{own}}}'] == 1
    assert found[f'adire_evaluation_score{{{own},metric="clip_s"}}'] == 1.5
    assert found[f'adire_evaluation_base_score{{{own},metric="clip_s"}}'] == 1.0
    assert not any("note" in name for name in found)


def test_the_store_is_read_once_a_minute_and_measured_every_ten(shop: Shop) -> None:
    now = [0.0]
    page = FleetPage(shop.project, lambda: now[0])
    before = values(page.lines())
    assert before["adire_disk_total_bytes"] > before["adire_disk_free_bytes"] > 0
    trained(shop, "a", 0.5)
    cost = f'adire_step_cost_1d{{model="{MODEL}",step="lora_weights"}}'
    assert cost not in values(page.lines())
    now[0] = STORE_SECONDS + 1
    after = values(page.lines())
    assert after[cost] == 0.5
    assert after["adire_stored_bytes"] == before["adire_stored_bytes"]
    now[0] = SIZE_SECONDS + 1
    assert values(page.lines())["adire_stored_bytes"] > before["adire_stored_bytes"]


def test_every_line_is_one_of_prometheus_format(shop: Shop) -> None:
    trained(shop, "a", 0.5)
    line = r'[a-z_0-9]+(\{([a-z_]+="([^"\\]|\\.)*",?)+\})? -?[0-9.e+-]+'
    for one in FleetPage(shop.project).lines().splitlines():
        assert re.fullmatch(line, one), one
