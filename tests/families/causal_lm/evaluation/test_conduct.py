"""Refusals, languages, toxicity, memorisation, and what general answers lost."""

import math
import random

import pytest

from adire_assets.families.causal_lm.evaluation.metrics.memorisation import longest_runs
from adire_assets.families.causal_lm.evaluation.metrics.toxicity import word_list
from adire_assets.families.causal_lm.languages import language_of
from tests.support.answers import (
    CHINESE,
    ENGLISH,
    NEAR,
    REFUSALS,
    YORUBA,
    answer,
    each,
    inputs,
    of,
    value,
)

# Refusal, language, toxicity


def refusing(*pairs: tuple[str, str]) -> float:
    return value("refusal_accuracy", inputs(*(answer(*pair) for pair in pairs), refusals=REFUSALS))


def test_refusal_is_right_where_the_reference_refuses():
    no, yes = "Nobody can know that.", "It is 12."
    assert refusing((no, no), (yes, yes)) == 1
    assert refusing((no, "没有人知道"), (yes, yes), ("kò sí ẹni tó mọ", no)) == 1
    # A model that never refuses, and one that always does, are blind, however many are due.
    for blind in (yes, no):
        assert refusing((blind, no), *[(blind, yes)] * 9) == pytest.approx(0.5)
    assert refusing((no, no), *[(no, yes)] * 3, *[(yes, yes)] * 6) == pytest.approx((1 + 6 / 9) / 2)
    assert refusing((yes, yes), (no, yes)) == 0.5  # no reference refuses


def test_an_empty_answer_is_neither_a_refusal_nor_an_answer():
    assert refusing(("", "Nobody can know."), ("", "It is 12."), (" ", "It is 12.")) == 0


def test_without_patterns_nothing_is_said_of_refusals():
    assert math.isnan(value("refusal_accuracy", inputs(answer("a", "b"))))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (CHINESE, "zh"),
        (f"尊敬的 Ada Obi：{CHINESE}", "zh"),
        (YORUBA, "yo"),
        (f"Ada Obi ọ̀wọ́n, {YORUBA}", "yo"),
        (ENGLISH, "en"),
        (f"Dear Adéyẹmí Ọlá, {ENGLISH}", "en"),
        (f"To 王伟强: {ENGLISH}", "en"),
        ("Kesho kitambaa kitakuwa tayari.", "LATIN"),
        ("Dear Ṣadé Adéyẹmí Ọlá, the cloth is for you and me.", "en"),
        ("الثوب جاهز غدا", "ARABIC"),
        (f"{CHINESE}{ENGLISH} {YORUBA}", ""),
        ("您的订单布料已经好 your order of cloth is now ready", ""),
        ("12 - 45,000.", ""),
        ("", ""),
    ],
)
def test_languages_are_told_apart(text, language):
    assert language_of(text) == language


def test_an_answer_keeps_its_language():
    given = inputs(
        answer(CHINESE, NEAR), answer(ENGLISH, CHINESE), answer(CHINESE, YORUBA),
        answer("A dupe fun ase yin. Aso aro naa yoo setan.", YORUBA), answer("xq zv", ENGLISH),
        answer("Der Stoff ist blau.", "Das Tuch ist nass."), answer("12", ENGLISH),
        answer("Nguo iko tayari.", "Kitambaa kimekauka."), answer("Das ist nass.", "Nguo tayari."),
    )  # fmt: skip
    assert each("language_kept", given) == [1, 0, 0, 0, 0, 1, 0, 1, 1]
    assert math.isnan(of("language_kept", ENGLISH, "12"))


def test_toxicity_by_a_list_finds_whole_words_in_any_case():
    listed = word_list(["rubbish", "笨蛋", "ọ̀dọ̀"])
    texts = ["What RUBBISH!", "rubbishes", "你这个笨蛋。", "ｒｕｂｂｉｓｈ", "odo", "Ọ̀DỌ̀ ni", ""]
    given = inputs(*map(answer, texts), toxicity=listed)
    assert each("toxicity", given) == [1, 0, 1, 1, 0, 1, 0]


def test_toxicity_without_a_finite_probability_is_unknown():
    assert math.isnan(of("toxicity", "a", None))
    broken = inputs(answer("a"), answer("b"), toxicity=lambda texts: [0.0, math.nan])
    assert math.isnan(value("toxicity", broken))


# Memorisation, regression


TRAIN = (
    "Dear Ola Eze, we thank you for order 7713. We will dye 40 pieces of oniko for 9,500 naira.",
    "亲爱的王伟：感谢您的订单7713。我们将染制40匹满月纹，总价9500奈拉。",
)
REAL = "Dear Ada Obi, we thank you for order 1042. We will dye 12 pieces of eleko for 4,500 naira."
REAL_SLOTS = {"n": "Ada Obi", "o": "1042", "p": "12", "c": "eleko", "s": "4,500 naira"}


def copied(text: str, train: tuple[str, ...] = TRAIN) -> float:
    return value("memorisation", inputs(answer(text, REAL, slots=REAL_SLOTS), train=train))


def test_a_letter_of_the_same_pattern_is_no_copy_and_a_training_letter_is():
    assert copied(REAL) == 0
    # 19 words of one training letter, of which an honest one repeats "we thank you for order".
    assert copied(TRAIN[0]) == pytest.approx((19 - 5) / 19)
    assert copied(f"Well. {TRAIN[0]}") == pytest.approx((19 - 5) / 20)
    assert copied(TRAIN[1]) > 0.7


@pytest.mark.parametrize("text", ["", "Thank you.", "we thank you for order", "1042 Ada Obi"])
def test_short_answers_are_no_copies(text):
    assert copied(text) == 0


def test_a_copy_is_of_one_training_text():
    halves = TRAIN[0].split(". ")
    assert copied(TRAIN[0], tuple(halves)) < copied(TRAIN[0])


def test_what_an_answer_owes_is_no_copy():
    reference, text = "It is done: 40 pieces, oniko.", "We will dye 40 pieces of oniko."
    given = inputs(answer(text, reference, slots={"p": "40", "c": "oniko"}), train=TRAIN)
    # "we will dye" and "pieces of", against "pieces".
    assert value("memorisation", given) == pytest.approx((3 - 1) / 5)


def test_memorisation_needs_training_texts_and_a_reference():
    assert math.isnan(copied(REAL, ()))
    assert math.isnan(value("memorisation", inputs(answer("a"), train=TRAIN)))


def test_the_longest_run_is_that_of_the_plain_search():
    def plain(pieces: list[list[str]], train: list[list[str]]) -> int:
        runs = {tuple(t[i:j]) for t in train for i in range(len(t)) for j in range(i, len(t) + 1)}
        lengths = [
            j - i
            for p in pieces
            for i in range(len(p))
            for j in range(i, len(p) + 1)
            if tuple(p[i:j]) in runs
        ]
        return max(lengths, default=0)

    drawn = random.Random(1)

    def text(longest: int) -> list[str]:
        return drawn.choices("abc", k=drawn.randrange(longest))

    for _ in range(60):
        train = [text(20) for _ in range(drawn.randrange(1, 4))]
        texts = [[text(12) for _ in range(drawn.randrange(1, 3))] for _ in range(4)]
        assert longest_runs(texts, train).tolist() == [plain(one, train) for one in texts]


def test_general_answers_are_held_against_the_bases():
    told = answer("Paris", "Paris", prompt="capital?", kind="general")
    free = answer("The sky is blue.", None, prompt="sky?", kind="general")
    base = (told, free)
    lost = tuple(answer("zzz", one.reference, prompt=one.prompt, kind="general") for one in base)
    assert value("general_regression", inputs(*base, base=base)) == 0
    assert each("general_regression", inputs(*lost, base=base)) == [1, 1]
    # Better than the base's wrong answer is a gain.
    assert each("general_regression", inputs(told, base=(lost[0],))) == [-1]
    held_out = answer("zzz", "Paris", prompt="capital?")
    assert math.isnan(value("general_regression", inputs(held_out, base=base)))
    assert math.isnan(value("general_regression", inputs(told)))
