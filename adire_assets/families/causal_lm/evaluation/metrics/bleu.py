"""BLEU: how many runs of up to four words does the answer share with the reference?

    E_i = 100 * brevity penalty * (p_1 p_2 p_3 p_4)^(1/4), mean over the answers

as sacreBLEU computes it for a sentence: orders longer than the answer are left out, a precision of
none is smoothed ("exp"). Range 0 to 100, higher is better; an empty answer has 0. NaN without a
reference. It is a mean over answers, and not the corpus BLEU of papers, which is no mean.

Words are those of the language: sacreBLEU's tokenizer `zh` where the reference has a Han character
(`13a` reads a Chinese sentence as one word), `13a` for English, `char` for Japanese, Korean and
Thai, else `intl`. BLEU of different tokenizers cannot be compared.

Source: Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation"; Post
2018, "A Call for Clarity in Reporting BLEU Scores" (arXiv:1804.08771).
"""

from functools import cache

import regex
from sacrebleu.metrics import BLEU

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)

TOKENIZERS = {"zh": "zh", "en": "13a", "ja": "char", "ko": "char", "th": "char"}
OTHERS = "intl"
_HAN = regex.compile(r"\p{Han}")


def measure(inputs: MetricInputs) -> Statistic:
    """Sentence BLEU of each answer, 0 to 100."""
    return Statistic(each_with_reference(inputs, _score))


def tokenizer(language: str, reference: str) -> str:
    """sacreBLEU's name of the tokenizer for a reference; `language` such as "zh-CN" or ""."""
    named = TOKENIZERS.get(language.lower().split("-")[0], OTHERS)
    return "zh" if named != "char" and _HAN.search(reference) else named


def _score(answer: Answer, reference: str) -> float:
    bleu = _bleu(tokenizer(answer.language, reference))
    # Rounding puts an equal text slightly above 100.
    return min(bleu.sentence_score(answer.text, [reference]).score, 100.0)


@cache
def _bleu(name: str) -> BLEU:
    return BLEU(tokenize=name, effective_order=True)
