"""What is personal or secret in a text is found, and what only looks like it is left alone."""

from random import Random
from time import process_time

import pytest

from adire_assets.families.causal_lm.config import DataConfig
from adire_assets.families.causal_lm.data.personal_data import find
from tests.support.instruction_data import alpaca, built, by_source, fill, refused, words, write

REGIONS = DataConfig(path="x").phone_regions

PERSONAL = {
    "email": (
        ("jane.doe+cloth@example.com", "Write to {} please."),
        ("zhang_wei@mail.example.cn", "请写信给{}，谢谢。"),
        ("a@b.ng", "<{}>"),
    ),
    "phone": (
        ("+234 803 123 4567", "Call {}."),
        ("0803 123 4567", "Nọ́mbà wa ni {}."),
        ("08031234567", "tel:{}"),
        ("13812345678", "请打电话{}找我"),
        ("138-1234-5678", "电话：{}。"),
        ("+8613812345678", "{}"),
        ("(212) 555-0123", "Call {} today"),
        ("212-456-7890", "fax {}"),
        ("+49 30 901820", "Berlin: {}"),
        ("07911 123456", "or {} in London"),
    ),
    "card": (
        ("4111 1111 1111 1111", "card {}, valid"),
        ("5500005555555559", "{}"),
        ("3782-822463-10005", "Amex {}."),
        ("6200000000000005", "银联卡{}"),
    ),
    "iban": (
        ("GB82 WEST 1234 5698 7654 32", "Pay to {} BANK soon"),
        ("DE89370400440532013000", "IBAN:{}."),
        ("NO93 8601 1117 947", "({})"),
    ),
    "secret": (
        ("AKIAIOSFODNN7EXAMPLE", "key {} of AWS"),
        ("-----BEGIN RSA PRIVATE KEY-----", "{}\nMIIE"),
        ("-----BEGIN PRIVATE KEY-----", "{}"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----", "{}"),
        ("ghp_" + "a1B2" * 9, "use {}"),
        ("sk-proj-" + "a1B2c3" * 6, "{}"),
        ("hf_" + "abCD" * 9, "HF_TOKEN={}"),
        ("xoxb-123456789012-abcdef", "{}"),
        ("AIza" + "a1-B_" * 7, "{}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "Bearer {}"),
        ("postgres://adire:s3cret@", "{}db.example/x"),
        ("password: Indigo2024", "The {}"),
        ("api_key='0123456789abcdef", "{}'"),
        ("密码：Indigo2024", "您的{}。"),
    ),
}
LOOKS_ALIKE = (
    "Order 13429 of 34 pieces costs 125,500 naira on 26 July 2026.",
    "您的订单13429，60匹，总价137500奈拉，12月26日",
    "Àṣẹ 27801: náírà 223,000 ní 9 Ọ̀wẹ́wẹ̀",
    "order 2024061512, invoice 13812345678, 订单号20260712001, 订单13812345678, #08031234567",
    "2026-11-29 12:30, 29.11.2026, 12/11/2026, 2026.11.29 12:30:45",
    "1,500,000.00 1.500.000.000 NGN 250000000 $1,234,567.89",
    "ISBN 978-3-16-148410-0, ISBN 9783161484100, UPC 012345678905, SKU 8001234567",
    "192.168.100.200 and 3.14159265358979323846 and 1764382614",
    "4111 1111 1111 1112 and 1234567890123456 and 0000 0000 0000 0000",
    "GB82 WEST 1234 5698 7654 33 and AB12 CDEF 3456 7890 1234",
    "@adire on 3@ 5 naira, user@localhost, a @ b.com",
    "Your password must have 8-16 characters. Password: ask for it. The secret: patience.",
    "sk-learn and task-oriented-dialogues-of-the-workshop, hf_transfer, AKIA",
    "https://example.com:8080/path@2 and 34 x 125500",
)


def found(text: str) -> list[tuple[str, str]]:
    return [*find(text, REGIONS)]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [(kind, value, text) for kind, cases in PERSONAL.items() for value, text in cases],
)
def test_it_is_found_once_whole_and_as_what_it_is(kind: str, value: str, text: str):
    assert found(text.format(value)) == [(kind, value)]


@pytest.mark.parametrize("text", LOOKS_ALIKE)
def test_what_only_looks_like_it_is_left_alone(text: str):
    assert found(text) == []


def test_all_of_a_text_are_found():
    text = " / ".join(value for cases in PERSONAL.values() for value, _ in cases[:2])
    assert sorted(found(text)) == sorted(
        (kind, value) for kind, cases in PERSONAL.items() for value, _ in cases[:2]
    )


def test_numbers_as_people_write_them_are_no_telephone_numbers():
    """Amounts, days and numbers of orders, up to eight digits in a row or grouped by commas."""
    random = Random(0)
    for _ in range(1000):
        amount = random.randrange(10 ** random.randrange(1, 9))
        day = f"{random.randrange(1, 29)}.{random.randrange(1, 13)}.{random.randrange(1990, 2040)}"
        parts = [f"{amount:,}", str(amount), day, f"{amount / 100:,.2f}", f"{amount} 匹", "naira"]
        text = random.choice([", ", " / ", "; ", "，"]).join(random.sample(parts, 4))
        assert found(text) == [], text


def test_a_number_without_a_plus_belongs_to_a_region():
    assert [*find("Ruf 030 901820 an", ["DE"])] == [("phone", "030 901820")]
    assert found("Ruf 030 901820 an") == []


@pytest.mark.parametrize("kind", PERSONAL)
def test_what_is_not_allowed_is_refused_with_its_place_and_masked(tmp_path, kind: str):
    value, text = PERSONAL[kind][0]
    turns = [("user", words(1)), ("assistant", words(2)), ("user", text.format(value))]
    turns.append(("assistant", words(3)))
    source = fill(tmp_path / "in")
    write(source / "b.jsonl", [alpaca(90), {**alpaca(91), "input": text.format(value)}])
    chat = {"messages": [{"role": role, "content": said} for role, said in turns]}
    write(source / "c.jsonl", [chat])
    others = [one for one in PERSONAL if one != kind]
    head, *told = refused(source, tmp_path / "out", allow_personal_data=others).split("\n")
    assert head.endswith("have 2 mistakes:")
    for line, place in zip(
        told, ("b.jsonl:2: input", "c.jsonl:1: messages[2].content"), strict=True
    ):
        assert line.startswith(f"{place}: holds a")
        assert f"({value[:3]}***)" in line
        assert line.endswith(f"or name {kind} in data.allow_personal_data")
        assert value not in line
    summary = built(source, tmp_path / "out", allow_personal_data=[kind])
    masked = value[:3] + "***"
    assert [(one.file, one.line, one.kind, one.found) for one in summary.personal_data] == [
        ("b.jsonl", 2, kind, masked),
        ("c.jsonl", 1, kind, masked),
    ]
    assert value not in (tmp_path / "out" / "summary.json").read_text(encoding="utf-8")
    assert value in by_source(tmp_path / "out")["b.jsonl:2"]["messages"][0]["content"]


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "1 " * 40_000, "a@" * 100_000, "sk-" * 70_000, "GB82 " * 20_000,
             "password:" * 20_000, "a.b-" * 50_000, "eyJ" * 60_000, "x://" * 50_000],
)  # fmt: skip
def test_long_texts_are_read_in_time(text: str):
    """In seconds of this process; what tries every pair of places takes minutes."""
    began = process_time()
    found(text)
    assert process_time() - began < 10
