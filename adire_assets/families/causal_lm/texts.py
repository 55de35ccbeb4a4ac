"""Texts as the metrics compare them: in one spelling, and cut into words.

Letters of all scripts count, and so do their marks: Yoruba's "ọ̀" is not "o". A Han character, and
one of kana, is a word of its own.
"""

import unicodedata
from functools import lru_cache

import regex

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}"  # scripts that put no spaces between words
LETTER = rf"[[\p{{L}}\p{{M}}]--[{UNSPACED}]]"  # of a script that does
NUMBER = r"\d+(?:[.:/\-]\d+)*"  # decimals, times, dates and codes are one number each

_WORD = regex.compile(rf"(?V1)[{UNSPACED}]|{LETTER}+|\d+")
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code).isalnum()}
_THOUSANDS = regex.compile(r"(?<![\d.,:/\-])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_NUMBER = regex.compile(NUMBER)
_SPACE_BY_HAN = regex.compile(r"(?V1)(?<=\p{Han})[ \t]+|[ \t]+(?=\p{Han})")


def spelled(text: str) -> str:
    """A text in the one spelling in which facts are compared.

    NFC, small letters, digits and letters of full width as ASCII's, single spaces, none beside a
    Han character. Numbers by their value: "45,000.00" is "45000" and "12.50" is "12.5"; a comma
    that does not part thousands stays.
    """
    text = unicodedata.normalize("NFC", text).translate(_WIDE).casefold()
    text = "\n".join(" ".join(line.split()) for line in text.splitlines())
    text = _SPACE_BY_HAN.sub("", unicodedata.normalize("NFC", text))
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return _NUMBER.sub(lambda found: _shortest(found[0]), text)


def _shortest(number: str) -> str:
    whole, point, decimals = number.partition(".")
    if not point or not decimals.isdigit() or not whole.isdigit():
        return number  # no decimal, but a date, a time or a code
    return f"{whole}.{decimals}".rstrip("0").rstrip(".")


def words(text: str) -> list[str]:
    """The words and numbers of a text, without punctuation."""
    return _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word of `words` stands: (first character, one behind the last)."""
    return [found.span() for found in _WORD.finditer(text)]


# Written before a sum without a space; other letters before digits make a code of them.
_CURRENCIES = ("n", "ngn", "usd", "us", "eur", "gbp", "cny", "rmb")
_CURRENCY = "|".join(rf"(?<=\b{name})" for name in _CURRENCIES)
# What may stand beside a whole unit that begins or ends with a digit, or with a letter.
_BEFORE_DIGIT = rf"(?<!\d)(?<!\d[.:/\-])(?:(?<!{LETTER})|{_CURRENCY})"
_BEFORE_LETTER = rf"(?<!{LETTER}|\d)"
_AFTER_DIGIT = r"(?!\d)(?![.:/\-]\d)(?!\p{M})"
_AFTER_LETTER = rf"(?!{LETTER}|\d)"
_CODE = regex.compile(rf"(?V1)(?P<letters>{LETTER}+-?)?(?P<number>{NUMBER})")
_LIST_MARK = regex.compile(r"(?m)^\d{1,2}[.)、](?!\d)(?=[ \t]*\S)")
_LETTER = regex.compile(f"(?V1){LETTER}")


@lru_cache(maxsize=10_000)
def whole(value: str) -> "regex.Pattern[str]":
    """Finds a spelled value as a whole unit: "12" stands neither in "3412" nor in "12.5", a price
    or a date, and "ola" not in "olaniyan". A Han character ends a unit wherever it stands."""
    before = _edge(value[0], _BEFORE_DIGIT, _BEFORE_LETTER)
    after = _edge(value[-1], _AFTER_DIGIT, _AFTER_LETTER)
    return regex.compile(f"(?V1){before}{regex.escape(value)}{after}")


def _edge(character: str, digit: str, letter: str) -> str:
    if character.isdigit():
        return digit
    return letter if _LETTER.match(character) else ""


def numbers(text: str) -> set[str]:
    """The numbers of a spelled text, with letters before them where these make a code ("b-12").

    The marks of a numbered list are none, nor are numbers in words.
    """
    return {
        found["number"]
        if (found["letters"] or "n").rstrip("-") in _CURRENCIES
        else found["letters"] + found["number"]
        for found in _CODE.finditer(_LIST_MARK.sub("", text))
    }
