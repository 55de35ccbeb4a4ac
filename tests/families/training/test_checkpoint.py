"""A checkpoint holds whatever an optimizer keeps, and a resumed run ends in the same bits."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.families.training.checkpoint import Checkpoints, State
from adire_assets.families.training.optimizers import OPTIMIZERS
from tests.support import training


class Nested(torch.optim.SGD):
    """Momentum that is kept as newer bitsandbytes keep theirs: below one more name, quantized
    tensors beside a table that all weights share; and a counter in the group, as Prodigy has."""

    def __init__(self, weights: Sequence[torch.nn.Parameter], rate: float) -> None:
        super().__init__(weights, lr=rate)
        self.table = torch.linspace(-1, 1, 256)
        self.param_groups[0]["seen"] = {"steps": 0, "rates": (rate, 0.5)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        [group] = self.param_groups
        group["seen"]["steps"] += 1
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["quantized"] = {
                    "moment": torch.zeros_like(weight),
                    "tables": [self.table, (3, "nf4", None)],
                    "absmax": [self.table[10:20]],
                }
            inner = state["quantized"]
            inner["moment"].mul_(group["seen"]["rates"][1]).add_(weight.grad.sign())
            scale = float(inner["tables"][0][-1]) / group["seen"]["steps"]
            weight.sub_(group["lr"] * scale * inner["moment"])


class Unsaveable(torch.optim.SGD):
    """Keeps an object that is neither tensor nor JSON."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step()
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["history"] = {"norms": object()}


@pytest.fixture
def optimizers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def nested(weights: Sequence[Any], settings: TrainingConfig) -> torch.optim.Optimizer:
        return Nested(weights, settings.learning_rate)

    def unsaveable(weights: Sequence[Any], settings: TrainingConfig) -> torch.optim.Optimizer:
        return Unsaveable(weights, lr=settings.learning_rate)

    for function in (nested, unsaveable):
        monkeypatch.setitem(OPTIMIZERS, function.__name__, function)
    yield


class Stopped(Exception):
    pass


def test_a_run_goes_on_in_the_same_bits_whatever_its_optimizer_nests(
    tmp_path: Path, random_base: Path, dataset: Path, optimizers: None
) -> None:
    settings = {"optimizer": "nested", "max_train_steps": 6, "checkpointing_steps": 2}

    def stop(message: str, **numbers: float) -> None:
        if "loss" in numbers and numbers["step"] == 4:
            raise Stopped

    whole = training.run(tmp_path / "whole", random_base, dataset, **settings)
    with pytest.raises(Stopped):
        training.run(tmp_path / "broken", random_base, dataset, progress=stop, **settings)
    files = {path.name for path in (tmp_path / "broken" / "work").glob("step-*/*")}
    assert files == {"tensors.safetensors", "state.json"}
    again = training.run(tmp_path / "broken", random_base, dataset, **settings)
    assert (again / ADAPTER_FILE).read_bytes() == (whole / ADAPTER_FILE).read_bytes()


def test_an_optimizer_whose_state_cannot_be_kept_is_refused_after_its_first_step(
    tmp_path: Path, random_base: Path, dataset: Path, optimizers: None
) -> None:
    said: list[str] = []
    sentence = r"cannot hold optimizer\.state\.0\.history\.norms, a builtins\.object: .*optimizer"
    with pytest.raises(UserError, match=sentence):
        training.run(
            tmp_path,
            random_base,
            dataset,
            progress=lambda message, **numbers: said.append(message),
            optimizer="unsaveable",
        )
    assert not any(message.startswith("step") for message in said)
    assert not list((tmp_path / "work").glob("step-*"))


def test_what_is_nested_comes_back_as_it_was(tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    content = {
        "state": {0: {"a": table, "b": [table, table.T, table[:, 1]], "c": (1, (None, True))}},
        "a.b": {"c": torch.tensor(1, dtype=torch.uint8)},
        "a": {"b.c": torch.tensor(2.5, dtype=torch.bfloat16), "b": {"c": torch.zeros(0, 3)}},
        "$tensor": "a text of that name",
        "numbers": [0.1, float("inf"), 10**20],
    }
    Checkpoints(tmp_path, {"run": 1}).save(State(7, content))
    state = Checkpoints(tmp_path, {"run": 1}).load()
    assert state and state.step == 7
    found = state.content
    assert found["state"][0]["c"] == (1, (None, True)) and found["numbers"] == content["numbers"]
    assert found["$tensor"] == content["$tensor"]
    pairs = [
        (found["state"][0]["a"], table),
        *zip(found["state"][0]["b"], [table, table.T, table[:, 1]], strict=True),
        (found["a.b"]["c"], content["a.b"]["c"]),
        (found["a"]["b.c"], content["a"]["b.c"]),
        (found["a"]["b"]["c"], torch.zeros(0, 3)),
    ]
    assert all(one.dtype == two.dtype and torch.equal(one, two) for one, two in pairs)
