"""Slot scores against what could make them lie: each case says what a reader would."""

import math

import pytest

from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.texts import spelled
from tests.support.answers import each, inputs, of

ASKED = (
    "Confirm this order.\ncustomer: Ada Obi\norder: 1042\npieces: 12\nprice: 45,000 naira\n"
    "day: 3 May"
)
SLOTS = {
    "name": "Ada Obi",
    "order": "1042",
    "pieces": "12",
    "price": "45,000 naira",
    "day": "3 May",
}
LETTER = "Dear Ada Obi, your order 1042 of 12 pieces for 45,000 naira is ready on 3 May."


def record(text: str, **changes: object) -> Answer:
    given = {"prompt": ASKED, "reference": LETTER, "slots": SLOTS, "language": "en"}
    return Answer(text=text, **{**given, **changes})


def scores(text: str, *others: Answer, **changes: object) -> tuple[float, float, float]:
    """(recall, precision, F1) of an answer among those of other records."""
    given = inputs(record(text, **changes), *others)
    recall, precision, f1 = (
        each(f"slot_{name}", given)[0] for name in ("recall", "precision", "f1")
    )
    return recall, precision, f1


def other(**slots: str) -> Answer:
    return Answer("?", "", "", slots)


def test_the_reference_states_all_facts_and_no_other():
    assert scores(LETTER) == (1, 1, 1)


def test_a_fluent_letter_with_invented_facts_has_none():
    invented = "Dear Ola Eze, order 7713 of 40 pieces for 9,500 naira is ready on 8 June."
    assert scores(invented, other(name="Ola Eze")) == (0, 0, 0)
    assert of("rouge_l_char", invented, LETTER) > 0.7


def test_a_name_of_training_is_an_invented_fact():
    text = "Dear Ola Eze, your order 1042 is ready."
    alone, told = inputs(record(text)), inputs(record(text), train_slots=("Ola Eze", "1042", ""))
    assert (each("slot_precision", alone), each("slot_precision", told)) == ([1], [0.5])
    longer = inputs(
        record("王伟强", slots={"n": "王伟"}, prompt="王伟", reference="王伟"),
        train_slots=("王伟强",),
    )
    assert (each("slot_recall", longer), each("slot_precision", longer)) == ([0], [0])


def test_values_that_begin_with_no_word_are_found():
    slots = {"mark": "§ 12", "sign": "☺"}
    assert scores("see § 12 ☺", slots=slots) == (1, 1, 1)
    assert scores("see § 13", slots=slots) == (0, 0, 0)


def test_f1_is_the_harmonic_mean():
    recall, precision, f1 = scores("Dear Ada Obi, 12 pieces, 13 bags and 14 boxes.")
    assert (recall, precision) == (2 / 5, 2 / 4)
    assert f1 == pytest.approx(2 * 0.4 * 0.5 / 0.9)


@pytest.mark.parametrize("text", ["", "  \n", "We thank you for the order.", "🙂", "\0"])
def test_an_answer_without_facts_has_zero_where_facts_are_due(text):
    assert scores(text) == (0, 0, 0)


@pytest.mark.parametrize("text", ["3412", "12.5", "2024-12-05", "12:30", "b12", "8/12", "112"])
def test_a_number_does_not_occur_in_a_longer_one(text):
    assert scores(f"It is {text}.", slots={"pieces": "12"})[0] == 0


@pytest.mark.parametrize(
    "text",
    ["12", "12.", "(12)", "12kg", "12件", "共12匹", "１２", "x: 12, 13", "#12", "12.00", "ORD-12"],
)
def test_a_number_occurs_beside_what_is_no_digit_of_it(text):
    assert scores(f"It is {text}", slots={"pieces": "12"})[0] == 1


@pytest.mark.parametrize(
    "text", ["45000", "45,000", "４５，000 or 45000", "₦45,000", "N45,000", "45000.00"]
)
def test_a_sum_is_the_same_however_it_is_written(text):
    assert scores(text, slots={"price": "45,000"})[:2] == (1, pytest.approx(1, abs=0.67))
    assert scores("45,000", slots={"price": "45000"}) == (1, 1, 1)


@pytest.mark.parametrize(
    "text", ["45,00", "45", "4500", "450000", "45,0000", "45,000,00", "145,000", "45,000,000"]
)
def test_another_sum_is_another(text):
    assert scores(text, slots={"price": "45,000"}, reference="", prompt="?") == (0, 0, 0)


def test_the_digits_of_a_price_or_day_are_no_order_number():
    slots = {"order": "45000", "price": "45,000 naira", "pieces": "3", "day": "3 May"}
    assert scores("45,000 naira on 3 May", slots=slots)[0] == 2 / 4


def test_part_of_a_name_is_another_name():
    assert scores("Dear Ola,", slots={"name": "Olaniyan"})[0] == 0
    assert scores("Dear Olaniyan,", slots={"name": "Ola"})[0] == 0
    assert scores("Ola's cloth", slots={"name": "Ola"})[0] == 1


def test_marks_of_yoruba_letters_count():
    for said in ("Ola", "Ọla", "Ọlá́", "Ọlán"):
        assert scores(said, slots={"name": "Ọlá"})[0] == 0
    assert scores("Sí Ọlá:", slots={"name": "O\u0323la\u0301"})[0] == 1
    assert scores("ọ̀rẹ́", slots={"name": "ọ"})[0] == 0


def test_a_chinese_name_does_not_occur_in_a_longer_one_that_is_known():
    longer = other(name="王伟强")
    asked = {"prompt": "客户：王伟", "reference": "亲爱的王伟：", "slots": {"name": "王伟"}}
    assert scores("亲爱的王伟强：", longer, **asked) == (0, 0, 0)
    assert scores("亲爱的王伟：", longer, **asked) == (1, 1, 1)
    shorter = other(name="王伟")
    asked = {"prompt": "客户：王伟强", "reference": "亲爱的王伟强：", "slots": {"name": "王伟强"}}
    assert scores("亲爱的王伟：", shorter, **asked) == (0, 0, 0)


def test_chinese_days_and_sums_are_whole():
    slots = {"day": "3月14日", "price": "45000奈拉"}
    asked = {"prompt": "日期：3月14日，价格：45000奈拉", "reference": "", "slots": slots}
    assert scores("总价45000奈拉，3月14日完成", **asked) == (1, 1, 1)
    assert scores("总价 45,000 奈拉，3 月 14 日完成", **asked) == (1, 1, 1)
    assert scores("总价145000奈拉，13月14日完成", **asked)[:2] == (0, 1 / 3)


def test_a_list_of_all_names_has_little_precision():
    names = [f"Name{letter} Obi" for letter in "ABCDEFGHI"]
    recall, precision, f1 = scores(
        ", ".join(["Ada Obi", *names]),
        *(other(name=name) for name in names),
        slots={"n": "Ada Obi"},
    )
    assert (recall, precision) == (1, 1 / 10)
    assert f1 < 0.2


def test_a_list_of_all_numbers_has_little_precision():
    recall, precision, _ = scores(" ".join(map(str, range(1, 101))), slots={"pieces": "12"})
    assert recall == 1
    assert precision < 0.05


def test_saying_a_true_fact_often_helps_nothing():
    once, often = "1042, 7713", "1042, 1042, 1042, 1042, 7713"
    assert scores(once) == scores(often)


@pytest.mark.parametrize(
    "text",
    [
        ASKED,
        f"{ASKED}\n{ASKED}",
        ASKED.replace("\n", " ").upper(),
        ASKED.split("\n", 1)[1],
        f"Dear customer, thank you. {ASKED}",
        "customer: Ada Obi\norder: 1042\npieces: 12",
    ],
)
def test_an_answer_that_repeats_the_question_states_nothing(text):
    assert scores(text) == (0, 0, 0)


def test_a_question_of_one_fact_is_not_answered_by_itself():
    asked = {"prompt": "Please greet this customer for me: Ada Obi", "slots": {"name": "Ada Obi"}}
    assert scores(asked["prompt"], reference="Dear Ada Obi!", **asked) == (0, 0, 0)
    assert scores("Good day, Ada Obi.", reference="Dear Ada Obi!", **asked) == (1, 1, 1)


def test_what_the_reference_repeats_may_be_repeated():
    text = "order 1042 for Ada Obi has 12 pieces at 45,000 naira due 3 May"
    asked = {"prompt": f"Repeat this: {text}", "reference": text}
    assert scores(text, **asked) == (1, 1, 1)


def test_a_fact_of_the_question_the_history_or_the_reference_is_true():
    asked = {
        "prompt": "How many of the 80 were sold?",
        "messages": ({"role": "system", "content": "The shop opens at 9:30."},),
        "reference": "30 of 80",
        "slots": {},
    }
    recall, precision, f1 = scores("30 of 80; we open at 9:30, or at 9:40.", **asked)
    assert (recall, f1) == (pytest.approx(math.nan, nan_ok=True),) * 2
    assert precision == 3 / 4


def test_the_digits_of_a_code_with_other_letters_are_an_invented_fact():
    asked = {"prompt": "order A-1042", "reference": "order A-1042", "slots": {"order": "A-1042"}}
    assert scores("order A-1042", **asked) == (1, 1, 1)
    assert scores("order B-1042", **asked) == (0, 0, 0)


def test_the_marks_of_a_numbered_list_are_no_facts():
    assert scores("1. Ada Obi\n2. order 1042\n3. 12 pieces")[1] == 1


def test_without_slots_and_facts_there_is_nothing_to_say():
    given = inputs(record("Wash it cold.", slots={}), record("", kind="general"))
    for name in ("slot_recall", "slot_precision", "slot_f1"):
        assert all(math.isnan(one) for one in each(name, given))


def test_general_prompts_take_no_part():
    given = inputs(record(LETTER), record("777", kind="general"))
    assert each("slot_f1", given)[0] == 1
    assert math.isnan(each("slot_f1", given)[1])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("１２，Ａ", "12，a"),
        ("12.50", "12.5"),
        ("1.10.0", "1.10.0"),
        ("10:30", "10:30"),
        ("1,234,567.80", "1234567.8"),
        ("1042,300", "1042,300"),
        ("10 , 000", "10 , 000"),
        ("共 12 匹", "共12匹"),
        ("a  b \n c", "a b\nc"),
    ],
)
def test_texts_are_compared_in_one_spelling(text, same):
    assert spelled(text) == same


@pytest.mark.parametrize(
    ("text", "in_place"),
    [
        (LETTER, 1),
        ("Ada Obi: order 1042, twelve or 12 pieces; 45000 naira, 3 May, Ada Obi.", 1),
        (LETTER.replace("1042", "#").replace("12", "1042").replace("#", "12"), 0),
        (LETTER.replace("3 May", "soon"), 0),
        ("", 0),
    ],
)
def test_facts_in_each_others_place_are_seen(text: str, in_place: float) -> None:
    given = inputs(record(text))
    assert each("slots_in_place", given) == [in_place]
    if text.count("12") > 1:  # what F1 does not see
        assert each("slot_f1", given) == [1]


def test_the_day_stands_in_no_other_number() -> None:
    slots = {"pieces": "3", "day": "3 May", "order": "33"}
    reference = "3 pieces of order 33 on 3 May"
    own = {"slots": slots, "reference": reference}
    assert each("slots_in_place", inputs(record(reference, **own))) == [1]
    other_way = record("33 pieces of order 3 on 3 May", **own)
    assert each("slots_in_place", inputs(other_way)) == [0]
    another_day = record("3 pieces of order 33 on 4 May", **own)
    assert each("slots_in_place", inputs(another_day)) == [0]


def test_one_fact_alone_has_no_place() -> None:
    assert math.isnan(each("slots_in_place", inputs(record("?", slots={"name": "Ada Obi"})))[0])
    assert math.isnan(each("slots_in_place", inputs(record(LETTER, kind="general")))[0])


def test_a_question_is_told_once_with_all_that_went_before() -> None:
    before = ({"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"})
    asked = Answer("Why?", "", messages=(*before, {"role": "user", "content": "Why?"}))
    assert asked.question == "Hello.\nHello!\nWhy?"
    assert Answer("Why?", "").question == "Why?"
