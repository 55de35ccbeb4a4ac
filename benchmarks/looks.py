"""How often a rollout decides wrongly when it looks after every answer, and how soon it decides.

    python -m benchmarks.looks --runs 2000

Simulated rollouts go through the product's own signals, tallies and thresholds. For each of errors,
p50, p95 and p99 the true share is set to the limit and looked at after every answer up to 5,000:
`false_promote` is the share of runs in which that signal is ever good (each as if it were asked
for), `false_rollback` that in which it is ever bad, the worst of them. Going on takes all signals
that are asked for, so a clean canary goes on when the slowest of them is good.

In streams, the answers of a language model also show the time to their first token and from one to
the next, and whether they were cut off: three signals more, between which the error rate of going
back is divided. What is cut off is held against a running release that has none.

In bursts, eight answers share their fate and come between two looks. As one look is one
observation, a clean canary takes eight times as many answers there.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from adire_assets.config.fleet import RolloutConfig
from adire_assets.serving.rollout import analysis
from adire_assets.serving.rollout.analysis import Signal, Tally

ANSWERS = 5000
BURST = 8
AT_ONCE = 200  # runs, so that they fit into memory
Outcomes = tuple[np.ndarray, np.ndarray]  # whether a signal is (good, bad) after each look


def decisions(signal: Signal, tally: Tally, shown: bool = False) -> Outcomes:
    """What `analyse` says about one signal, for arrays of tallies; `shown` as there."""
    below, above = analysis.share_evidence(signal, tally)
    on, back = analysis.thresholds(len(analysis.signals(RolloutConfig(), shown)) + 1)
    return below >= on, above >= back


def rollouts(
    signal: Signal,
    share: float,
    runs: int,
    looks: int,
    rng: np.random.Generator,
    burst: int = 1,
    shown: bool = False,
) -> Outcomes:
    """Runs whose answers are bad with this chance, `burst` of them at each look: [runs, looks]."""
    number = np.arange(1, looks + 1)
    bad = np.cumsum(rng.random((runs, looks)) < share, axis=1).astype(float)
    answers, shares = number * burst, bad
    bad = bad * burst
    return decisions(signal, Tally(answers, bad, bad, number, shares, shares), shown)


def ever(
    signal: Signal, runs: int, answers: int, rng: np.random.Generator, burst: int, shown: bool
) -> dict[str, float]:
    """The shares of runs, at the limit, that are ever good and ever bad."""
    counts = np.zeros(2)
    for start in range(0, runs, AT_ONCE):
        count = min(AT_ONCE, runs - start)
        found = rollouts(signal, signal.limit, count, answers // burst, rng, burst, shown)
        counts += [one.any(axis=1).sum() for one in found]
    promote, rollback = counts / runs
    return {"false_promote": float(promote), "false_rollback": float(rollback)}


def first(reached: np.ndarray) -> np.ndarray:
    """The number of the first look at which it holds in each run: [runs]; infinite if at none."""
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def until_on(signals: dict[str, Signal], runs: int, rng: np.random.Generator) -> float:
    """The median of looks until a canary without a fault goes on."""
    wanted = [one for one in signals.values() if one.wanted]
    each = [first(rollouts(one, 0.0, runs, 1000, rng)[0]) for one in wanted]
    return float(np.median(np.max(each, axis=0)))


def until_back(
    signal: Signal, share: float, runs: int, rng: np.random.Generator, shown: bool = False
) -> np.ndarray:
    """Looks until a canary with this share of bad answers is sent back: [runs]."""
    return first(rollouts(signal, share, runs, 1000, rng, shown=shown)[1])


def simulate(
    runs: int, answers: int = ANSWERS, seed: int = 0, burst: int = 1, shown: bool = False
) -> dict[str, Any]:
    """The rates at the limit of each signal, their worst, and the medians of answers."""
    rng = np.random.default_rng(seed)
    signals = analysis.signals(RolloutConfig(), shown)
    at_limit = {name: ever(one, runs, answers, rng, burst, shown) for name, one in signals.items()}
    errors, median = signals["errors"], signals["latency_p50"]
    bad = [(errors, 4 * errors.limit), (median, 0.9)]
    worst: Callable[[str], float] = lambda kind: max(one[kind] for one in at_limit.values())  # noqa: E731
    return {
        "at_limit": at_limit,
        "false_promote": worst("false_promote"),
        "false_rollback": worst("false_rollback"),
        "promote_after": burst * until_on(signals, min(runs, 500), rng),
        "rollback_after": burst
        * max(
            float(np.median(until_back(one, share, min(runs, 2000), rng, shown)))
            for one, share in bad
        ),
    }


def line(found: dict[str, Any]) -> str:
    return (
        f"false_promote={found['false_promote']:.3f} false_rollback={found['false_rollback']:.3f} "
        f"promote_after={found['promote_after']:.0f} rollback_after={found['rollback_after']:.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--answers", type=int, default=ANSWERS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = {}
    for name, burst, shown in (
        (f"bursts of {BURST}", BURST, False),
        ("streams", 1, True),
        ("looks", 1, False),
    ):
        found = simulate(options.runs, options.answers, options.seed, burst, shown)
        for signal, rates in found["at_limit"].items():
            print(f"{name}, {signal} at its limit: {rates}", flush=True)
        lines[name] = line(found)
    for name, text in lines.items():
        print(f"{name}: {text}")


if __name__ == "__main__":
    main()
