"""The metrics of texts against published examples, and against what made other tools lie."""

import math
import random
import time

import numpy as np
import pytest
from sacrebleu import corpus_bleu, sentence_chrf

from adire_assets.core.statistic import standard_error
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metrics import METRICS, bleu
from adire_assets.families.causal_lm.evaluation.metrics.memorisation import longest_runs
from adire_assets.families.causal_lm.evaluation.metrics.rouge_l import common_subsequence, rouge_l
from adire_assets.families.causal_lm.evaluation.metrics.toxicity import word_list
from adire_assets.families.causal_lm.languages import language_of
from tests.support.answers import answer, each, inputs, of, value

CHINESE = "感谢您的订单1042。我们将染制12匹满月纹，总价45000奈拉，3月14日可以完成。"
NEAR = "感谢您的订单1042。我们会染制12匹满月纹，价格45000奈拉，3月14日可以完成。"
OTHER = "因为下雨，布没有晾干，非常抱歉。1042 12 45000 3 14"
YORUBA = "A dúpẹ́ fún àṣẹ yín. Aṣọ aró náà yóò ṣetán ní ọjọ́ kẹta."
ENGLISH = "We thank you for your order. The indigo cloth will be ready on the third day."
OVERLAPS = ("rouge_l_char", "rouge_l_word", "bleu", "chrf")
SCALE = {"bleu": 100, "chrf": 100}


def share(metric: str, text: str, reference: str, language: str = "zh") -> float:
    return of(metric, text, reference, language=language) / SCALE.get(metric, 1)


# Scores that lie


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


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "text", ["", "\0", "\ud7ff", "🙂" * 50, "\u0301", "(((", "%s {0} \\1", "١٢"]
)
def test_no_text_breaks_a_metric(metric, text):
    given = inputs(
        answer(text, text, slots={"a": text, "b": "("}), answer(text, ENGLISH), answer(text, None),
        train=(text, ENGLISH), refusals=("cannot",), toxicity=word_list([text, "("]),
    )  # fmt: skip
    assert len(each(metric, given)) == 3


@pytest.mark.parametrize("metric", METRICS)
def test_no_answers_are_worth_nothing(metric):
    assert math.isnan(value(metric, inputs()))


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


# Published examples


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


# Loss


def test_loss_is_a_mean_over_tokens_and_perplexity_its_exponential():
    given = inputs(
        answer("", "r", prompt="a", loss=1.0, reference_tokens=10),
        answer("", "r", prompt="b", loss=3.0, reference_tokens=30),
    )
    assert value("loss", given) == pytest.approx(2.5)
    assert value("perplexity", given) == pytest.approx(math.exp(2.5))


def test_perplexity_of_equal_chances_is_their_number():
    uniform = answer("", "r", loss=math.log(41.0), reference_tokens=7)
    assert of("perplexity", "", "r", loss=uniform.loss, reference_tokens=7) == pytest.approx(41.0)


def test_the_scatter_of_loss_is_that_of_the_mean_over_tokens():
    drawn = np.random.default_rng(0)
    counts = drawn.integers(5, 60, 400)
    losses = drawn.gamma(2.0, 0.2, 400) + 0.05 * counts
    given = inputs(
        *(
            answer("", "r", prompt=str(place), loss=float(loss), reference_tokens=int(count))
            for place, (loss, count) in enumerate(zip(losses, counts, strict=True))
        )
    )
    picked = drawn.integers(0, 400, (4000, 400))
    means = (losses * counts)[picked].sum(1) / counts[picked].sum(1)
    error = standard_error(METRICS["loss"].measure(given))
    assert error == pytest.approx(means.std(), rel=0.05)
    perplexity = standard_error(METRICS["perplexity"].measure(given))
    assert perplexity == pytest.approx(np.exp(means).std(), rel=0.1)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_loss_that_overflowed_is_no_reason_to_judge_by_the_others(loss):
    known = answer("", "r", prompt="a", loss=1.0, reference_tokens=5)
    lost = answer("", "r", prompt="b", loss=loss, reference_tokens=5)
    for metric in ("loss", "perplexity"):
        assert math.isnan(value(metric, inputs(known, lost)))


def test_loss_may_be_told_with_the_greedy_answer_alone():
    told = answer("", "r", loss=1.0, reference_tokens=5)
    drawn = answer("", "r", sample=1, loss=None, reference_tokens=5)
    general = answer("", None, prompt="b", kind="general")
    assert value("loss", inputs(told, drawn, general)) == pytest.approx(1.0)


# Exact match, length, runaway


def test_exact_match_is_defined_where_the_reference_is_facts_alone():
    slots = {"price": "4,500 naira", "day": "3 May"}
    assert of("exact_match", "4,500 naira", "4,500 naira", slots=slots) == 1
    assert of("exact_match", "4,500 naira\n3 May \n", "4,500 naira\n3 May", slots=slots) == 1
    assert of("exact_match", "\n4,500 naira\n\n", "4,500 naira", slots=slots) == 1
    assert of("exact_match", "4500 naira", "4,500 naira", slots=slots) == 0
    assert of("exact_match", "", "4,500 naira.", slots=slots) == 0
    for reference, given in (("It is 4,500 naira", slots), ("Yes.", {}), ("", {}), ("...", {})):
        assert math.isnan(of("exact_match", reference, reference, slots=given))


def test_exact_match_is_defined_everywhere_where_one_answer_alone_is_right():
    same, near = answer(CHINESE, CHINESE), answer(NEAR, CHINESE)
    assert value("exact_match", inputs(same, near, only_answers=True)) == 0.5


def test_length_ratio_counts_in_both_directions():
    given = inputs(answer("ab", "abcd"), answer("abcdabcd", "abcd"), answer("布布布布", "abcd"))
    assert each("length_ratio", given) == [0.5, 0.5, 1]
    assert of("length_ratio", "", "") == 1


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("好" * 24, True),
        ("好" * 23, False),
        ("thank you " * 3, True),
        ("We are sorry, the cloth is wet. " * 2, False),
        ("We are sorry, the cloth is wet. " * 3, True),
        (f"Dear Ada, {'order 1042 ' * 6}", True),
        ("|---|---|---|---|---|---|---|\n", False),
        (" " * 90, False),
        (CHINESE, False),
        (YORUBA, False),
        ("", False),
        ("x" + ENGLISH * 3 + "y", True),
    ],
)
def test_an_answer_that_repeats_itself_runs_away(text, runs):
    assert of("runaway", text, "A reference.") == runs


def test_what_is_cut_off_runs_away_and_what_the_reference_repeats_does_not():
    assert of("runaway", "fine", "fine", finish_reason="length") == 1
    assert of("runaway", "ha " * 20, "ha " * 20) == 0


# Refusal, language, toxicity


REFUSALS = (r"nobody can know", r"没有人知道", r"kò sí ẹni tó mọ̀?")


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


# All


def test_every_metric_takes_an_answer_for_itself():
    """Scores of references as answers: what a perfect model has."""
    perfect = [
        Answer(text, text, text, {"a": "12"}, language, loss=0.0, reference_tokens=3)
        for text, language in (
            (f"{CHINESE}12", "zh"),
            (f"{YORUBA} 12", "yo"),
            (f"{ENGLISH} 12", "en"),
        )
    ]
    given = inputs(*perfect, base=tuple(perfect), train=(OTHER,), toxicity=word_list(["bad"]))
    for name, metric in METRICS.items():
        best = {"perplexity": 1.0, "bleu": 100.0, "chrf": 100.0}
        found = value(name, given)
        if not math.isnan(found):
            assert found == pytest.approx(best.get(name, float(metric.better == "higher"))), name


def test_sixty_prompts_of_three_answers_take_under_two_seconds():
    drawn = random.Random(0)
    words = [*"abcdefghij", *CHINESE, *ENGLISH.split(), *YORUBA.split()]

    def text() -> str:
        return " ".join(drawn.choices(words, k=40))

    answers = tuple(
        answer(text(), text(), prompt=text(), language=drawn.choice(("zh", "yo", "en")),
               slots={"a": text()[:6], "b": str(drawn.randrange(10**5))}, sample=sample)
        for _ in range(60) for sample in range(3)
    )  # fmt: skip
    given = inputs(
        *answers, base=answers, train=tuple(text() for _ in range(600)), refusals=REFUSALS,
        toxicity=word_list(["rubbish"]),
    )  # fmt: skip
    began = time.process_time()
    for metric in METRICS.values():
        metric.measure(given)
    assert time.process_time() - began < 2
