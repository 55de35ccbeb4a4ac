"""Language kept: the share of answers in the language of their reference.

    E_i = 1 when language(answer i) = language(reference i), else 0

Range 0 to 1, higher is better; an empty answer, or one of no letters, has 0. NaN without a
reference, or where that has no letters. Languages are told apart by letters and small words:

    zh     at least twice as many Han characters as words in other letters
    yo     Latin letters, of whose words 25 % or more have a dot below (ẹ ọ ṣ) or a tone mark
    en     Latin letters, 15 % or more of whose words are among 40 frequent English ones
    other  the script that most letters are of ("LATIN", "ARABIC", ...); "" without one

A text of two scripts in equal parts is of none. A reference told by its script alone is kept by
any text of that script, so French for German passes; Yoruba without its marks is no Yoruba.

Source: none; frequent words as in Grefenstette 1995, "Comparing Two Language Identification
Schemes".
"""

import math
import unicodedata
from collections import Counter
from functools import cache

import regex

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)
from adire_assets.families.causal_lm.evaluation.metrics.texts import words

_FREQUENT = """
a all and are as at be but by can do for from has have i in is it me my no not of on or our please
that the this to us was we what will with you your
"""
ENGLISH = frozenset(_FREQUENT.split())
_DOT_OR_TONE = regex.compile("[\u0323\u0300\u0301\u0304]")
_DIGIT = regex.compile(r"\d")


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each answer keeps the language of its reference, 1 or 0."""

    def kept(answer: Answer, reference: str) -> float:
        expected = language_of(reference)
        found = language_of(answer.text)
        if not expected:
            return math.nan
        return float(found == expected or _SCRIPTS.get(found, found) == expected)

    return Statistic(each_with_reference(inputs, kept))


_SCRIPTS = {"zh": "CJK", "yo": "LATIN", "en": "LATIN"}


def language_of(text: str) -> str:
    """ "zh", "yo", "en", else the name of the script, else ""."""
    found = [one for one in words(text.casefold()) if not _DIGIT.match(one)]
    scripts = Counter(_script(one[0]) for one in found)
    if not scripts:
        return ""
    script, count = scripts.most_common(1)[0]
    if 3 * count < 2 * len(found):
        return ""
    if script == "CJK":
        return "zh"
    if script != "LATIN":
        return script
    latin = [one for one in found if _script(one[0]) == "LATIN"]
    marked = [bool(_DOT_OR_TONE.search(unicodedata.normalize("NFD", one))) for one in latin]
    yoruba = sum(marked) / len(latin)
    english = sum(one in ENGLISH for one in latin) / len(latin)
    if yoruba >= 0.25 and yoruba > english:
        return "yo"
    return "en" if english >= 0.15 else script


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ")[0]
