"""What is measured of answers that users got, without a reference. It asks no model.

with open_signals(judge, evaluation, device) as signals:
    signals(prompts, contents)    # {name: number} of each

runs_away         1 when the answer repeats itself (see metrics/runaway.py), else 0
language_changed  1 when it is in another language than the prompt, else 0; NaN where either
                  has no letters
characters        its length
prompt_distance   1 - the largest Jaccard similarity of the prompt's character 5-grams with
                  those of an evaluated one; 0 for one that was evaluated
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from adire_assets.families.causal_lm.data.duplicates import shingles
from adire_assets.families.causal_lm.evaluation import answers
from adire_assets.families.causal_lm.evaluation.metrics.runaway import repeats
from adire_assets.families.causal_lm.languages import language_of

SIGNALS = ("runs_away", "language_changed", "characters", "prompt_distance")
Signals = Callable[[Sequence[str], Sequence[str]], list[dict[str, float]]]


def open_signals(judge: Path, evaluation: Path, device: str) -> AbstractContextManager[Signals]:
    """By the artifact of a release's evaluation."""
    known = [shingles(one) for one in {one.prompt for one in answers.read_answers(evaluation)}]

    def measure(prompts: Sequence[str], contents: Sequence[str]) -> list[dict[str, float]]:
        return [
            dict(zip(SIGNALS, _measured(*one, known), strict=True))
            for one in zip(prompts, contents, strict=True)
        ]

    return nullcontext(measure)


def _measured(
    prompt: str, text: str, known: Sequence[set[str]]
) -> tuple[float, float, float, float]:
    asked, answered, mine = language_of(prompt), language_of(text), shingles(prompt)
    similar = max((len(mine & one) / len(mine | one) for one in known), default=0.0)
    changed = float(asked != answered) if asked and answered else math.nan
    return float(repeats(text)), changed, float(len(text)), 1 - similar
