"""The examples of a dataset, without duplicates, split in three by the content of their questions.

Examples with the same question fall into one split. Duplicates are looked for in the order of the
splits, held-out first, so that what is like a held-out example is neither trained on nor validated
with; within a split the order is that of the contents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from adire_assets.core import splits
from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.config import DataConfig
from adire_assets.families.causal_lm.data.duplicates import near_duplicates, plain
from adire_assets.families.causal_lm.data.records import Example

MINIMUM_HELD_OUT = 4
MINIMUM_TRAIN = 4
SHOWN_REASONS = 5


@dataclass(frozen=True)
class Rejection:
    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Placed:
    """An example with the digest of its question, which says where it falls."""

    example: Example
    question: str
    split: str


def split_examples(
    examples: Sequence[Example], config: DataConfig
) -> tuple[dict[str, list[Placed]], list[Rejection]]:
    """({split: its examples, in the order of their contents}, duplicates, which are left out)."""
    first: dict[str, Example] = {}
    rejected: list[Rejection] = []
    for example in sorted(examples, key=lambda one: (one.file, one.line)):
        earlier = first.setdefault(_digest(example.question, example.answer), example)
        if earlier is not example:
            reason = f"the same question and answer as {earlier.source}"
            rejected.append(Rejection(example.file, example.line, reason))
    placed = [_placed(first[key], config) for key in sorted(first)]
    placed.sort(key=lambda one: one.question)  # by score; of one question, by the whole content
    texts = [f"{one.example.question}\n{one.example.answer}" for one in placed]
    left_out = set()
    for near in near_duplicates(texts, config.near_duplicate_similarity):
        late, other = placed[near.index].example, placed[near.of]
        reason = (
            f"a near duplicate ({near.similarity:.3f}) of the {splits.SPLITS[other.split]} "
            f"{other.example.source}"
        )
        rejected.append(Rejection(late.file, late.line, reason))
        left_out.add(near.index)
    kept: dict[str, list[Placed]] = {name: [] for name in splits.SPLITS}
    for index, one in enumerate(placed):
        if index not in left_out:
            kept[one.split].append(one)
    return kept, sorted(rejected, key=lambda item: (item.file, item.line))


def same_questions(split: Sequence[Placed]) -> list[list[str]]:
    """The sources of the examples that ask the same and are answered in different ways."""
    groups: dict[str, list[str]] = {}
    for one in split:
        groups.setdefault(one.question, []).append(one.example.source)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def refuse_too_few(
    source: Path,
    config: DataConfig,
    by_split: Mapping[str, Sequence[Placed]],
    rejected: Sequence[Rejection],
) -> None:
    there = sum(map(len, by_split.values()))
    held_out, train = len(by_split["held_out"]), len(by_split["train"])
    if there < config.minimum_examples:
        problem = (
            f"{config.minimum_examples} examples are needed (data.minimum_examples), {there} are "
            "usable; add records"
        )
    elif held_out < MINIMUM_HELD_OUT:
        problem = (
            f"{MINIMUM_HELD_OUT} held-out examples are needed to evaluate, {held_out} of {there} "
            f"fall there; {_advice(config, by_split)}"
        )
    elif train < MINIMUM_TRAIN:
        problem = (
            f"{MINIMUM_TRAIN} examples are needed to train on, {train} of {there} fall there; "
            f"{_advice(config, by_split)}"
        )
    else:
        return
    shown = [f"left out: {one.file}:{one.line}: {one.reason}" for one in rejected[:SHOWN_REASONS]]
    if len(rejected) > SHOWN_REASONS:
        shown.append(f"... {len(rejected)} left out in all")
    raise UserError("\n".join([f"{source}: {problem}", *shown]))


def _advice(config: DataConfig, by_split: Mapping[str, Sequence[Placed]]) -> str:
    now = {key: getattr(config, key) for key in ("held_out_fraction", "validation_fraction")}
    scores = [splits.score(one.question) for split in by_split.values() for one in split]
    enough = splits.fractions_that_give(scores, now, MINIMUM_HELD_OUT, MINIMUM_TRAIN)
    if fractions := next(enough, None):
        return f"add records, or set {splits.told(fractions, now)}"
    return "add records with other questions"


def _placed(example: Example, config: DataConfig) -> Placed:
    question = _digest(plain(example.question))
    where = splits.score(question), config.held_out_fraction, config.validation_fraction
    return Placed(example, question, splits.split_of(*where))


def _digest(*texts: str) -> str:
    return sha256("\0".join(texts).encode()).hexdigest()
