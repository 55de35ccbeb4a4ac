"""Words that a release's prompts and answers are looked through for.

`moderation` of its limits is off, flag (counted) or refuse; `moderation_words`
are the words and phrases. One is found as a whole word, whatever its case; in scripts that put no
spaces between words, wherever it stands.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]")


class Words:
    """A list of words; false without any, or where nobody is to look."""

    def __init__(self, words: tuple[str, ...], refuse: bool) -> None:
        self.refuse = refuse
        self.pattern = re.compile("|".join(map(_pattern, words))) if words else None

    def __bool__(self) -> bool:
        return self.pattern is not None

    def found_in(self, text: str) -> bool:
        return self.pattern is not None and self.pattern.search(_spelled(text)) is not None


def words_of(limits: Mapping[str, Any]) -> Words:
    """Those of a release's limits."""
    how = limits.get("moderation", "off")
    return _words(tuple(limits.get("moderation_words") or ()) if how != "off" else (), how)


@lru_cache(maxsize=64)
def _words(words: tuple[str, ...], how: str) -> Words:
    return Words(words, how == "refuse")


def _spelled(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _pattern(word: str) -> str:
    found = re.escape(_spelled(word))
    return found if UNSPACED.search(word) else rf"(?<!\w){found}(?!\w)"
