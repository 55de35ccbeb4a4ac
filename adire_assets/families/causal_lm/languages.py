"""Which language a text is in, by letters and small words; no model is needed.

    zh ja    at least twice as many Han characters and kana as words in other letters; ja with kana
    ko th el he   two thirds or more of the words are in its letters
    yo       25 % or more of the Latin words have a dot below e, o or s or a tone mark, and few have
             other marks; Yoruba without its marks is no Yoruba
    en fr de es pt   15 % or more of the Latin words are among its frequent ones
    other    the script that most words are in ("LATIN", "ARABIC", ...); "" without one

A text of two scripts in equal parts is of none. Source: none; frequent words as in Grefenstette
1995, "Comparing Two Language Identification Schemes".
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

import regex

from adire_assets.families.causal_lm.texts import words

_FREQUENT = {
    "en": "all and are as at be but by can do for from has have in is it me my no not of on or our "
    "please that the this to us was we what will with you your",
    "fr": "au avec ce de des du en est et il je la le les ne nous ou par pas pour que qui sur un "
    "une votre vous",
    "de": "auf das dem den der die ein eine er es für ich ihr im in ist mit nicht sie sind und von "
    "war was wir zu",
    "es": "con de del el en es la las lo los no nos para pero por que se su sus un una usted",
    "pt": "ao as com de do dos em mais na não no nos os para por que se seu um uma você",
}
FREQUENT = {language: frozenset(listed.split()) for language, listed in _FREQUENT.items()}
LANGUAGES = {"HANGUL": "ko", "THAI": "th", "GREEK": "el", "HEBREW": "he"}
SCRIPTS = {"yo": "LATIN", **dict.fromkeys(FREQUENT, "LATIN"), "zh": "CJK", "ja": "CJK"}
KANA = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")
LEAST_KANA = 0.05  # of Chinese characters and kana: Japanese is written with both
_DOT_OR_TONE = regex.compile("[\u0323\u0300\u0301\u0304]")
_OTHER_MARK = regex.compile("(?<![eos])\u0323|[\\p{M}--[\u0323\u0300\u0301\u0304]]", regex.V1)
_DIGIT = regex.compile(r"\d")


def language_of(text: str) -> str:
    """The BCP 47 tag of the language, in small letters, else the name of the script, else ""."""
    found = [one for one in words(text.casefold()) if not _DIGIT.match(one)]
    each = [_script(one[0]) for one in found]
    scripts = Counter("CJK" if one in KANA else one for one in each)
    if not scripts:
        return ""
    script, count = scripts.most_common(1)[0]
    if 3 * count < 2 * len(found):
        return ""
    if script == "CJK":
        return "ja" if sum(one in KANA for one in each) >= LEAST_KANA * count else "zh"
    if script != "LATIN":
        return LANGUAGES.get(script, script)
    latin = [one for one, own in zip(found, each, strict=True) if own == "LATIN"]
    shares = {name: sum(one in own for one in latin) / count for name, own in FREQUENT.items()}
    (language, share), (_, second) = Counter(shares).most_common(2)
    yoruba = _yoruba(latin)
    if yoruba >= 0.25 and yoruba > share:
        return "yo"
    return language if share >= 0.15 and share > second else script


def _yoruba(latin: Iterable[str]) -> float:
    """The share of words that have marks of Yoruba; 0 where other marks are not rare."""
    marked = [unicodedata.normalize("NFD", one) for one in latin]
    other = sum(_OTHER_MARK.search(one) is not None for one in marked)
    own = sum(_DOT_OR_TONE.search(one) is not None for one in marked) - other
    return own / len(marked) if 4 * other <= own else 0.0


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ")[0]
