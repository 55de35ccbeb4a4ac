"""Golden answers: what a release answered when it was evaluated, to be answered again after an
upgrade.

A golden set is a folder with golden.json: answers (messages, max_tokens, text, reference and its
loss), threads, device, conditions (all that decides the bits, see `conditions`). They are the
greedy answers that the evaluation made one by one.

`redraw` answers the same questions with the same thread count by the software of now. Under the
recorded conditions every text and every loss must come out equal; under others an answer is as good
as equal when

    its text agrees    in 0.9 of its characters (ROUGE-L), as `serve.parity` asks of a GPU: one
                       other word may turn all behind it
    its loss agrees    to 0.02 nats per token of the reference, which is 2 % of the perplexity

Nothing here imports torch at module level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from adire_assets.core.store import Artifact, read_json, write_json
from adire_assets.core.worker import Progress, importing
from adire_assets.families.causal_lm import FAMILY
from adire_assets.families.causal_lm.artifacts import BASE
from adire_assets.families.causal_lm.evaluation.answers import read_answers
from adire_assets.families.causal_lm.evaluation.metrics.rouge_l import rouge_l

MAXIMUM_ANSWERS = 8
SMALLEST_AGREEMENT = 0.9
LARGEST_LOSS_DIFFERENCE = 0.02  # nats
EXACT, WITHIN, CHANGED = "exact", "within tolerance", "changed"
FILE = "golden.json"
SHOWN = 40  # characters of a question


@dataclass(frozen=True)
class Difference:
    """One answer made again; `loss_difference` is None where there is no reference."""

    prompt: str
    text: str
    same_text: bool
    agreement: float  # of the characters, 0 to 1
    loss_difference: float | None

    @property
    def exact(self) -> bool:
        return self.same_text and not self.loss_difference

    @property
    def visible(self) -> bool:
        moved = abs(self.loss_difference or 0.0)
        return self.agreement < SMALLEST_AGREEMENT or moved > LARGEST_LOSS_DIFFERENCE

    def sentence(self) -> str:
        name = " ".join(self.prompt.split())[:SHOWN]
        if self.exact:
            return f"{name!r}: equal"
        loss = "" if self.loss_difference is None else f", loss {self.loss_difference:+.4f} nats"
        return f"{name!r}: {self.agreement:.3f} of the characters agree{loss}"


@dataclass(frozen=True)
class Comparison:
    """`verdict`: "exact", "within tolerance" or "changed"; the answers come worst first."""

    verdict: str
    answers: tuple[Difference, ...]
    must_be_equal: bool  # software and machine are the same, and no GPU
    conditions: dict[str, list[str | None]]  # what is another: [then, now]

    @property
    def changed(self) -> bool:
        """Whether the release answers otherwise."""
        return self.verdict == CHANGED

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> "Comparison":
        return Comparison(**{**value, "answers": tuple(Difference(**o) for o in value["answers"])})

    def sentences(self) -> list[str]:
        """One line for each answer."""
        return [one.sentence() for one in self.answers]

    def sentence(self) -> str:
        """One line for people, without the name of what answered."""
        count, other = len(self.answers), sum(not one.exact for one in self.answers)
        moved = ", ".join(
            name if name == "cpu_features" else f"{name} {then} -> {now}"
            for name, (then, now) in self.conditions.items()
        )
        why = moved or "software and machine are the same"
        if not other:
            return f"exact: {count} of {count} answers and their losses are the same ({why})"
        allowed = (
            "all must be equal where software and machine are"
            if self.must_be_equal
            else f"allowed are {SMALLEST_AGREEMENT} of the characters and "
            f"{LARGEST_LOSS_DIFFERENCE} nats"
        )
        worst = self.answers[0].sentence()
        return (
            f"{self.verdict}: {other} of {count} answers differ, worst {worst}; {allowed} ({why})"
        )


def conditions(
    environment: Mapping[str, str], hardware: Mapping[str, Any], threads: int | None = None
) -> dict[str, str | None]:
    """All that decides the bits of an answer: libraries, device, and the CPU or the driver.

    `environment` and `hardware` as in a manifest; `threads` takes the place of those in there.
    """
    found: dict[str, str | None] = {name: environment.get(name) for name in FAMILY.packages}
    found["device"] = environment.get("device")
    if found["device"] == "cuda":
        return found | {"cuda": environment.get("cuda"), "driver": hardware.get("driver")}
    return found | {
        "threads": str(threads) if threads else environment.get("threads"),
        "machine": environment.get("machine"),
        "cpu": hardware.get("cpu"),
        "cpu_features": hardware.get("cpu_features"),
    }


def write_evaluated(evaluation: Artifact, folder: Path) -> None:
    """The greedy ones of an evaluation's first answers as the golden set in the empty `folder`."""
    manifest = evaluation.manifest
    settings = manifest["recipe"]["config"]
    alone = read_answers(evaluation.path)[: settings["latency_answers"] + 1]
    made_with = conditions(manifest["recipe"]["environment"], manifest["hardware"])
    threads = made_with.get("threads")
    kept = [
        {
            "prompt": one.prompt,
            "messages": [dict(message) for message in one.messages],
            "max_tokens": settings["max_tokens"],
            "text": one.text,
            "reference": one.reference,
            "loss": one.loss,
        }
        for one in alone
        if one.sample == 0
    ]
    write_json(
        folder / FILE,
        {
            "answers": kept[:MAXIMUM_ANSWERS],
            "device": made_with["device"],
            "threads": int(threads) if threads else None,
            "conditions": made_with,
        },
    )


def redraw(
    *,
    golden: str,
    release: str,
    base: str,
    device: str,
    now: dict[str, str | None],
    output: str,
    progress: Progress,
) -> dict[str, Any]:
    """Answer a golden set again and compare; for a worker child.

    The folders of a golden set, of a release's content and of a base's artifact. `now` are the
    `conditions` of this process. Writes comparison.json into `output`, and returns it.
    """
    with importing():
        from adire_assets.families.causal_lm.generation import Request, Writer

    settings = read_json(Path(golden) / FILE)
    progress(f"golden answers: asking {len(settings['answers'])} again")
    writer = Writer(Path(base) / BASE, Path(release) / "adapter", device)
    differences = []
    for one in settings["answers"]:
        [written] = writer.answer([Request(one["messages"], one["max_tokens"])])
        moved = None
        if one["reference"] is not None:
            moved = writer.loss(one["messages"], one["reference"])[0] - one["loss"]
        text = normalize("NFC", written.text)
        agreement = rouge_l(text, one["text"])
        same = text == one["text"]
        differences.append(Difference(one["prompt"], text, same, agreement, moved))
    result = asdict(compared(differences, settings, now))
    write_json(Path(output) / "comparison.json", result)
    return result


def compared(
    answers: Sequence[Difference], settings: Mapping[str, Any], now: Mapping[str, str | None]
) -> Comparison:
    """What the differences come to under the `conditions` of now; `settings` is golden.json."""
    then = settings["conditions"]
    moved = {
        name: [then.get(name), now.get(name)]
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }
    # A GPU need not give the same bits twice.
    must_be_equal = not moved and settings["device"] == "cpu"
    verdict = CHANGED
    if all(one.exact for one in answers):
        verdict = EXACT
    elif not must_be_equal and not any(one.visible for one in answers):
        verdict = WITHIN
    worst_first = sorted(answers, key=lambda one: (one.agreement, -abs(one.loss_difference or 0)))
    return Comparison(verdict, tuple(worst_first), must_be_equal, moved)
