"""What serving costs: as Prometheus says it, against what an hour's counters come to by hand."""

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from adire_assets.config.fleet import FleetConfig
from adire_assets.config.yaml_file import load
from adire_assets.core.errors import UserError
from adire_assets.serving.gateway import prometheus
from tests.support.promtool import labels, needs_prometheus, needs_promtool, promtool
from tests.support.replayed import Replayed, Samples, replayed

SCRAPE_SECONDS, HOUR = 15, 3600
PRICES = {"blue": 0.4, "green": 1.0, "violet": 4.2, "teal": 4.2}
# Slot -> model -> (up to so many units in a scrape, seconds of each).
WORK = {
    "blue": {"cloth": (6, 0.9), "thread": (3, 1.4)},
    "green": {"cloth": (9, 0.5)},
    "violet": {"letters": (400, 0.02)},
}
UNITS = {"cloth": "image", "thread": "image", "letters": "token"}


def fleet(budget: float = 5.0, **own: dict[str, object]) -> FleetConfig:
    def slot(name: str, **more: object) -> dict[str, object]:
        server = {"server": more.pop("server")} if "server" in more else {}
        price = own.get(name, more)
        return {
            "launch": "remote",
            "host": f"{name}.eu",
            "folder": f"/mnt/{name}",
            **price,
            **server,
        }

    slots = {
        "blue": slot("blue", hardware="cpu"),
        "green": slot("green", cost_per_hour=1.0),
        "violet": slot("violet", server="vllm", hardware="NVIDIA H200"),
        "teal": slot("teal", server="vllm", hardware="NVIDIA H200"),
    }
    costs = {
        "currency": "EUR",
        "cost_per_hour": {"cpu": 0.4, "NVIDIA H200": 4.2},
        "storage_per_gib_month": 0.73,
        "transfer_per_gib": 0.1,
        "budget_per_day": budget,
    }
    target = {"slots": slots, "gateway": {"launch": "remote", "host": "gateway.eu"}}
    return FleetConfig.model_validate({"targets": {"eu": target}, "costs": costs})


class Hour:
    """An hour and a bit of scrapes, and what is to be paid for the last hour of it by hand.

    Blue's engine is started again in the middle of it; green is there for the first 40 minutes.
    """

    def __init__(self, end: float) -> None:
        self.end = end
        chance, self.series = random.Random(7), defaultdict[str, list[tuple[float, float]]](list)
        self.cost, self.made = defaultdict[str, float](float), defaultdict[str, float](float)
        self.hours, self.busy = defaultdict[str, float](float), defaultdict[str, float](float)
        scrapes = HOUR // SCRAPE_SECONDS
        first = -20
        counters = defaultdict[str, float](float)
        for scrape in range(first, scrapes + 1):
            at = end - HOUR + scrape * SCRAPE_SECONDS
            for slot, models in (*WORK.items(), ("teal", {})):
                place = {"target": "eu", "slot": slot}
                answers = slot != "green" or scrape <= scrapes * 2 // 3
                self.add(f"up{{{labels(job='adire-slot', **place)}}}", at, answers)
                if not answers:
                    continue
                counted = scrape > 0
                self.hours[slot] += counted * SCRAPE_SECONDS / HOUR
                if slot == "blue" and scrape == scrapes // 2:
                    counters = defaultdict(
                        float,
                        {name: v for name, v in counters.items() if 'slot="blue"' not in name},
                    )
                for model, (most, each) in models.items():
                    of = labels(**place, model=model, release="3")
                    units = chance.randint(0, most) if scrape > first else 0
                    seconds = units * each * chance.uniform(0.8, 1.2)
                    made = f'adire_made_total{{{of}, unit="{UNITS[model]}"}}'
                    busy = f"adire_busy_seconds_total{{{of}}}"
                    for name, more in ((made, units), (busy, seconds)):
                        counters[name] += more
                        self.add(name, at, counters[name])
                    self.cost[model] += counted * seconds / HOUR * PRICES[slot]
                    self.busy[slot] += counted * seconds / HOUR
                    self.made[model] += counted * units

    def add(self, name: str, at: float, value: float) -> None:
        self.series[name].append((at, float(value)))

    def idle(self, slot: str) -> float:
        return (self.hours[slot] - self.busy[slot]) * PRICES[slot]


@pytest.fixture(scope="module")
def hour() -> Hour:
    return Hour(time.time())


@pytest.fixture(scope="module")
def board(hour: Hour, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    series: dict[str, Samples] = dict(hour.series)
    folder = tmp_path_factory.mktemp("prometheus")
    with replayed(folder, fleet(), series, hour.end) as found:
        yield found


def near(value: float) -> object:
    return pytest.approx(value, rel=0.01)


@needs_prometheus
def test_the_cost_of_an_image_and_of_a_token_is_what_it_comes_to_by_hand(
    board: Replayed, hour: Hour
) -> None:
    for model, unit in UNITS.items():
        found = board.value("model:adire_cost_per_unit:ratio1h", model=model, unit=unit)
        assert found == near(hour.cost[model] / hour.made[model]), model
        assert board.value("model:adire_cost:sum1h", model=model) == near(hour.cost[model])


@needs_prometheus
def test_what_a_slot_costs_is_its_models_cost_and_idle_cost(board: Replayed, hour: Hour) -> None:
    for slot in PRICES:
        assert board.value("slot:adire_idle_cost:sum1h", slot=slot) == near(hour.idle(slot)), slot
    paid = sum(hour.hours[slot] * price for slot, price in PRICES.items())
    assert board.value("fleet:adire_slots_cost:sum1h") == near(paid)
    assert sum(hour.cost.values()) + sum(map(hour.idle, PRICES)) == pytest.approx(paid)


@needs_promtool
@pytest.mark.parametrize("budget, fires", [(9.0, True), (10.2, False)])
def test_an_alert_fires_when_a_day_costs_more_than_its_budget(
    tmp_path: Path, budget: float, fires: bool
) -> None:
    """Two slots for a day, 9.60; a training for 0.20, storage for 0.24."""
    series = {
        **{f'up{{job="adire-slot", target="eu", slot="{slot}"}}': "1x1500" for slot in WORK},
        'adire_step_cost_1d{model="cloth", step="lora_weights"}': "0.2x1500",
        "adire_stored_bytes": f"{10 * 2**30}x1500",
    }
    prices = {"blue": 0.1, "green": 0.3, "violet": 0.0, "teal": 0.0}
    made = fleet(budget, **{name: {"cost_per_hour": price} for name, price in prices.items()})
    prometheus.write(made, tmp_path)
    firing = {
        "labels": '{alertname="AdireCostAboveBudget", alertstate="firing", severity="warning"}'
    }
    content = {
        "rule_files": ["adire.limits.yml", "cost.rules.yml"],
        "group_eval_order": ["adire-limits", "adire-cost"],
        "evaluation_interval": "15m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": "round(fleet:adire_cost:sum1d, 0.1)",
                        "eval_time": "24h",
                        "exp_samples": [{"labels": "{}", "value": 10}],
                    },
                    {
                        "expr": "count by (alertname, alertstate, severity) (ALERTS)",
                        "eval_time": "24h",
                        "exp_samples": [{**firing, "value": 1}] if fires else [],
                    },
                ],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(json.dumps(content))
    promtool("test", "rules", str(tmp_path / "tests.yml"))


def test_a_step_costs_its_seconds_on_the_hardware_that_it_ran_on() -> None:
    costs = fleet().costs
    assert costs
    h200 = {"gpus": ["NVIDIA H200"] * 8}
    assert costs.of_work({}, "cpu", 1800).amount == pytest.approx(0.2)  # type: ignore[union-attr]
    one, all_of_them = (costs.of_work(h200, "cuda", 1800, every=every) for every in (False, True))
    assert one and one.amount == pytest.approx(2.1)
    assert all_of_them and all_of_them.amount == pytest.approx(16.8) and all_of_them.count == 8
    # Nobody has said what this one costs.
    assert costs.of_work({"gpus": ["NVIDIA L4"]}, "cuda", 1800) is None


@pytest.mark.parametrize(
    "slot, said",
    [
        ({}, r"targets\.eu\.slots\.blue: say with hardware which price .*cpu, NVIDIA H200"),
        ({"hardware": "TPU"}, r"costs\.cost_per_hour has no TPU; it has: cpu, NVIDIA H200"),
        ({"hardware": "cpu", "cost_per_hour": 1.0}, "hardware has no effect beside cost_per_hour"),
    ],
)
def test_a_slot_without_one_price_is_refused(
    tmp_path: Path, slot: dict[str, object], said: str
) -> None:
    written = fleet().model_dump(mode="json", exclude_none=True)
    blue = written["targets"]["eu"]["slots"]["blue"]
    del blue["hardware"]
    blue |= slot
    file = tmp_path / "fleet.yaml"
    file.write_text(json.dumps(written))
    with pytest.raises(UserError, match=said):
        load(file, FleetConfig)
