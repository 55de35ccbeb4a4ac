"""Records of instruction data as tests write them, and a build of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.config import DataConfig
from adire_assets.families.causal_lm.data.dataset import Summary, build_dataset

SPLITS = ("train", "validation", "held_out")
LETTERS = Path(__file__).parents[1] / "families" / "causal_lm" / "data" / "letters.jsonl"


def config(**changes: Any) -> DataConfig:
    plain = {"path": "data/x", "minimum_examples": 8}
    fractions = {"held_out_fraction": 0.3, "validation_fraction": 0.2}
    return DataConfig(**{**plain, **fractions, **changes})


def words(seed: int, count: int = 12) -> str:
    """A text that shares hardly a 5-gram with that of another seed."""
    random = Random(seed)
    return " ".join("".join(random.choices("abdefgilmnorstuwy", k=6)) for _ in range(count))


def answer(seed: int) -> str:
    return words(seed + 10_000, 30)


def alpaca(seed: int) -> dict[str, Any]:
    return {"instruction": words(seed), "input": "", "output": answer(seed)}


def write(path: Path, records: Iterable[Any]) -> Path:
    """A JSONL file of `records`, texts as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (one if isinstance(one, str) else json.dumps(one) for one in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def fill(folder: Path, count: int = 40, first: int = 0) -> Path:
    write(folder / "a.jsonl", (alpaca(seed) for seed in range(first, first + count)))
    return folder


def built(source: Path, output: Path, **changes: Any) -> Summary:
    return build_dataset(source, output, config(**changes))


def refused(source: Path, output: Path, **changes: Any) -> str:
    """The sentence by which the folder is refused; nothing is written."""
    try:
        built(source, output, **changes)
    except UserError as error:
        assert not output.exists()
        return str(error)
    raise AssertionError("it was accepted")


def rows(output: Path, *names: str) -> list[dict[str, Any]]:
    """The examples of these splits (default: of all)."""
    return [
        json.loads(line)
        for name in names or SPLITS
        for line in (output / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def by_source(output: Path) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for row in rows(output)}
