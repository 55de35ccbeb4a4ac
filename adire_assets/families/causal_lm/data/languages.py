"""Which language a text is in, by its script and its commonest words; no model is needed."""

import re
import unicodedata
from collections import Counter

UNDETERMINED = "und"  # ISO 639-2
SCRIPTS = {
    "zh": "\u3400-\u4dbf\u4e00-\u9fff",
    "ja": "\u3040-\u30ff",
    "ko": "\uac00-\ud7af",
    "th": "\u0e00-\u0e7f",
    "el": "\u0370-\u03ff",
    "he": "\u0590-\u05ff",
}
LEAST_KANA = 0.05  # of Chinese characters and kana: Japanese is written with both
# Function words without accents; those of two languages tell nothing.
WORDS = {
    "en": "the of and to is you that it for with are we your will be this at not have from by our",
    "yo": "ti ni awon si fun pe lati naa yin ko se gba mo wa oun won yoo je pelu ninu ile kan mi",
    "fr": "le les des et est une vous nous pour dans que qui sur avec pas votre ce",
    "de": "der die und ist das ein eine nicht wir sie mit auf ihr zu den fur von",
    "es": "el los las y es una que por con para su del usted no mi se",
    "pt": "os um uma que com para seu nao por do da em voce mais se",
}
LEAST_SHARE = 0.1  # of the words
LEXICON: dict[str, list[str]] = {}
for language, words in WORDS.items():
    for word in words.split():
        LEXICON.setdefault(word, []).append(language)
DOT_BELOW = "\u0323"


def language_of(text: str) -> str:
    """The BCP 47 tag of the language of `text`; "und" when nothing tells."""
    found = {one: len(re.findall(f"[{letters}]", text)) for one, letters in SCRIPTS.items()}
    words = re.findall(r"[^\W\d_]+", re.sub(f"[{''.join(SCRIPTS.values())}]", " ", text))
    script, most = max(found.items(), key=lambda item: item[1])
    if most and most >= len(words):
        chinese, kana = found["zh"], found["ja"]
        if script in ("zh", "ja"):
            return "ja" if kana >= LEAST_KANA * (chinese + kana) else "zh"
        return script
    told = Counter(one for word in words for one in _languages_of(word))
    (best, hits), (_, second), *_ = (*told.most_common(2), ("", 0), ("", 0))
    return best if hits > second and hits >= LEAST_SHARE * len(words) else UNDETERMINED


def _languages_of(word: str) -> list[str]:
    """The languages that a word speaks for: Yoruba by its own letters, others by being common."""
    parts = unicodedata.normalize("NFD", word.casefold())
    below = {parts[place - 1] for place, sign in enumerate(parts) if sign == DOT_BELOW and place}
    if below:  # Igbo and Vietnamese have it below other letters too
        return ["yo"] if below <= set("eos") else [UNDETERMINED]
    plain = "".join(letter for letter in parts if not unicodedata.combining(letter))
    return LEXICON.get(plain, [])
