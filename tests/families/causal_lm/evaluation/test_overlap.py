"""ROUGE-L, BLEU and chrF in every script, and against published examples."""

import math
import random

import pytest
from sacrebleu import corpus_bleu, sentence_chrf

from adire_assets.families.causal_lm.evaluation.metrics import bleu
from adire_assets.families.causal_lm.evaluation.metrics.rouge_l import common_subsequence, rouge_l
from tests.support.answers import CHINESE, ENGLISH, NEAR, OTHER, YORUBA, of

OVERLAPS = ("rouge_l_char", "rouge_l_word", "bleu", "chrf")
SCALE = {"bleu": 100, "chrf": 100}


def share(metric: str, text: str, reference: str, language: str = "zh") -> float:
    return of(metric, text, reference, language=language) / SCALE.get(metric, 1)


@pytest.mark.parametrize("metric", OVERLAPS)
@pytest.mark.parametrize("text", [CHINESE, YORUBA, ENGLISH, "订单", "ọ̀"])
def test_a_text_is_itself_in_every_script(metric, text):
    for language in ("zh", "yo", "en", ""):
        assert share(metric, text, text, language) == pytest.approx(1)


@pytest.mark.parametrize("metric", OVERLAPS)
def test_other_chinese_around_the_same_digits_is_another_text(metric):
    assert share(metric, OTHER, CHINESE) < 0.4
    assert 0.7 < share(metric, NEAR, CHINESE) < 1


@pytest.mark.parametrize("metric", OVERLAPS)
def test_yoruba_letters_and_marks_count(metric):
    bare = YORUBA.replace("ẹ", "e").replace("ọ", "o").replace("ṣ", "s").replace("ú", "u")
    assert share(metric, bare, YORUBA, "yo") < 0.92
    assert share(metric, "ẹ ọ ṣ", "à é í", "yo") < 0.41


@pytest.mark.parametrize("metric", (*OVERLAPS, "length_ratio", "language_kept"))
@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_answer_has_nothing(metric, text):
    for reference, language in ((CHINESE, "zh"), (YORUBA, "yo"), (ENGLISH, "en")):
        assert of(metric, text, reference, language=language) == 0


def test_a_chinese_text_is_read_by_the_chinese_tokenizer():
    assert corpus_bleu([CHINESE], [[CHINESE]], tokenize="13a").score < 100  # so it would lie
    assert of("bleu", NEAR, CHINESE, language="zh") > 60
    # A wrong or missing label of the language changes nothing.
    for language in ("en", "", "yo", "zh-CN"):
        assert of("bleu", NEAR, CHINESE, language=language) == of(
            "bleu", NEAR, CHINESE, language="zh"
        )
    assert [bleu.tokenizer(one, ENGLISH) for one in ("en", "en-GB", "yo", "ja", "")] == [
        "13a", "13a", "intl", "char", "intl",
    ]  # fmt: skip


def test_rouge_l_is_that_of_its_paper():
    # Lin 2004, section 3.1: S1 is the reference; S2 scores 3/4, S3 2/4.
    first, second, third = (
        text.split()
        for text in ("police killed the gunman", "police kill the gunman", "the gunman kill police")
    )
    assert rouge_l(second, first) == 3 / 4
    assert rouge_l(third, first) == 2 / 4
    # Section 3.2: the sentences of its summary share "w1 w2" and "w1 w3 w5" with the reference.
    reference = ["w1", "w2", "w3", "w4", "w5"]
    assert common_subsequence(["w1", "w2", "w6", "w7", "w8"], reference) == 2
    assert common_subsequence(["w1", "w3", "w8", "w9", "w5"], reference) == 3


def test_rouge_l_by_character_by_hand():
    # LCS of "abcde" and "acexy" is "ace".
    assert of("rouge_l_char", "abcde", "acexy") == pytest.approx(2 * 3 / 10)
    assert of("rouge_l_char", "a  b\n", "a b") == 1
    assert of("rouge_l_word", "the cloth, dry", "The cloth is dry!".lower()) == pytest.approx(6 / 7)


def test_the_longest_common_subsequence_is_that_of_the_plain_table():
    def table(one: str, other: str) -> int:
        row = [0] * (len(other) + 1)
        for a in one:
            left = 0
            for place, b in enumerate(other):
                above = row[place + 1]
                row[place + 1] = left + 1 if a == b else max(above, row[place])
                left = above
        return row[-1]

    drawn = random.Random(0)
    for _ in range(200):
        one, other = ("".join(drawn.choices("abc布", k=drawn.randrange(90))) for _ in range(2))
        assert common_subsequence(one, other) == table(one, other)


def test_bleu_and_chrf_are_sacrebleus():
    # Precisions 5/6, 3/5, 1/4 and, smoothed, 1/6 of "the cat is on the mat" in Papineni's words.
    text, reference = "the cat sat on the mat", "the cat is on the mat"
    by_hand = 100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / (2 * 3)) ** (1 / 4)
    assert of("bleu", text, reference, language="en") == pytest.approx(by_hand)
    assert of("chrf", "", "") == 100
    assert of("chrf", text, reference) == pytest.approx(sentence_chrf(text, [reference]).score)
    # Brevity: exp(1 - 6/3) of a perfect half, by orders up to three words.
    assert of("bleu", "the cat is", reference, language="en") == pytest.approx(100 * math.exp(-1))
