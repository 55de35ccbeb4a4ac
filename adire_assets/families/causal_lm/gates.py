"""The gates of language models: thresholds of `evaluation.gates`, and the table that they are
judged by. It is part of every verdict's recipe key."""

from typing import Annotated

from pydantic import Field

from adire_assets.config import gates
from adire_assets.config.gates import Margin, Share, Versions
from adire_assets.core.gate import Facts, GateRule, latency, number, number_at

METRICS = (
    "rouge_l_char", "rouge_l_word", "loss", "perplexity", "bleu", "chrf", "exact_match",
    "slot_precision", "slot_recall", "slot_f1", "slots_in_place", "length_ratio", "runaway",
    "refusal_accuracy", "language_kept", "memorisation", "general_regression", "toxicity",
    "judge_score",
)  # fmt: skip


def _of_the_base(evaluation: Facts) -> str:
    bare = number_at(evaluation, "base_scores.rouge_l_char")
    return f"without the LoRA it is {number(bare)}" if bare is not None else ""


GATES = (
    GateRule(
        "rouge_l_char",
        "scores.rouge_l_char",
        ">=",
        "rouge_l_char_minimum",
        "ROUGE-L F1 over characters, mean over the held-out answers",
        asks="Answers are worded as the references are: ROUGE-L over characters is at or above "
        "gates.rouge_l_char_minimum.",
        note=_of_the_base,
    ),
    GateRule(
        "loss_below_base",
        "scores.loss",
        "<",
        "loss_below_base",
        "nats per token of the held-out references; the threshold is the base without the LoRA",
        asks="The held-out references are likelier than to the bare base.",
        base="base_scores.loss",
    ),
    GateRule(
        "slot_f1",
        "scores.slot_f1",
        ">=",
        "slot_f1_minimum",
        "F1 of the facts that an answer must state, mean over the answers with slots",
        asks="Answers state the facts of their questions, and invent none: slot F1 is at or above "
        "gates.slot_f1_minimum, where one is set.",
        advice="report.md shows answers beside their references",
    ),
    GateRule(
        "general_regression",
        "scores.general_regression",
        "<=",
        "general_regression_maximum",
        "chrF / 100 that answers to general prompts lose against the base's",
        asks="General prompts are answered as well as by the base, within "
        "gates.general_regression_maximum, where one is set.",
    ),
    GateRule(
        "safety",
        "toxicity_probability_maximum",
        "<=",
        "toxicity_probability_maximum",
        "probability of the most toxic answer, by the classifier or word list of the evaluation",
        asks="No answer is more toxic than gates.toxicity_probability_maximum, where one is set.",
    ),
    latency("answer"),
    *(
        GateRule(metric, f"scores.{metric}", comparison, f"{metric}_{bound}", unit)
        for metric, comparison, bound, unit in (
            ("rouge_l_word", ">=", "minimum", "ROUGE-L F1 over words and Han characters"),
            ("slot_precision", ">=", "minimum", "share of the stated facts that are true"),
            ("slot_recall", ">=", "minimum", "share of the slot values that answers repeat"),
            ("slots_in_place", ">=", "minimum", "share of answers with their facts in place"),
            ("exact_match", ">=", "minimum", "share of answers equal to their reference"),
            ("refusal_accuracy", ">=", "minimum", "balanced accuracy of refusing; 0.5 is blind"),
            ("language_kept", ">=", "minimum", "share of answers in their reference's language"),
            ("judge_score", ">=", "minimum", "mean grade by evaluation.judge, 0 to 1"),
            ("runaway", "<=", "maximum", "share of answers cut off or repeating themselves"),
            (
                "memorisation",
                "<=",
                "maximum",
                "share of an answer copied from a training text beyond what references share",
            ),
        )
    ),
)


class AllowedVersions(gates.AllowedVersions):
    """The packages that must agree; beside them CUDA."""

    torch: Versions = None
    # A vLLM has one of its own, for tokenizers and configurations alone; and no peft.
    transformers: Versions = ">=5.16,<6"
    peft: Versions = "*"


class CompatibilityConfig(gates.CompatibilityConfig):
    allow: AllowedVersions = AllowedVersions()


class ChampionGates(gates.ChampionGates):
    margins: dict[str, Margin] = {
        "rouge_l_char": 0.05,  # of 1
        "loss": 0.1,  # nats per token
        "slot_f1": 0.1,  # of 1
        "runaway": 0.1,  # share of the answers
        "language_kept": 0.1,  # share of the answers
        "memorisation": 0.15,  # share of an answer
    }


class GateConfig(gates.GateConfig):
    """The thresholds; the gate of each stands in GATES."""

    METRICS = METRICS
    NAMES = {
        "rouge_l_char": "ROUGE-L by character",
        "rouge_l_word": "ROUGE-L by word",
        "bleu": "BLEU",
        "chrf": "chrF",
        "slot_f1": "slot F1",
    }
    GATES = GATES

    # ROUGE-L F1 (Lin 2004). By character two texts of one workshop may share half in a Latin
    # script: it shows that the words are learned, and only slot_f1 that the facts are right.
    rouge_l_char_minimum: Share | None = 0.45
    loss_below_base: bool = True
    seconds_per_answer_maximum: Annotated[float, Field(gt=0, le=3600)] = 30.0
    # Not required unless given: they need slots, general prompts, a classifier or patterns.
    slot_f1_minimum: Share | None = None
    general_regression_maximum: Annotated[float, Field(ge=-1, le=1)] | None = None
    toxicity_probability_maximum: Share | None = None
    rouge_l_word_minimum: Share | None = None
    slot_precision_minimum: Share | None = None
    slot_recall_minimum: Share | None = None
    slots_in_place_minimum: Share | None = None
    exact_match_minimum: Share | None = None
    refusal_accuracy_minimum: Share | None = None
    language_kept_minimum: Share | None = None
    judge_score_minimum: Share | None = None
    runaway_maximum: Share | None = None
    memorisation_maximum: Share | None = None
    compatibility: CompatibilityConfig = CompatibilityConfig()
    champion: ChampionGates = ChampionGates()
