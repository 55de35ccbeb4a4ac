"""The language of a text is found without a model, and said to be unknown where nothing tells."""

import json

import pytest

from adire_assets.families.causal_lm.languages import language_of
from tests.support.instruction_data import LETTERS, built, by_source, fill, write


def test_every_letter_of_the_workshop_is_in_its_language():
    for line in LETTERS.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for key in ("instruction", "output"):
            assert language_of(record[key]) == record["language"], record[key]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Please wash it in cold water and dry it in the shade.", "en"),
        ("请用 Python 编写一个 function", "zh"),
        ("尊敬的Segun Nwosu：订单6306", "zh"),
        ("これは藍染めの布です", "ja"),
        ("감사합니다", "ko"),
        ("Dear 王伟强, please wash it in cold water and dry it in the shade.", "en"),
        ("Ẹ ṣé gan-an", "yo"),
        ("Bonjour, nous vous remercions pour votre commande", "fr"),
        ("Die Lieferung ist nicht da, und wir warten auf sie", "de"),
        ("Gracias por su pedido, no es para usted", "es"),
        ("Kedu ka ị mere? Ọ dị mma", "LATIN"),  # Igbo
        ("xin chào các bạn, tôi là người", "LATIN"),
        ("Dear Adéyẹmí Ọlá Ọláníyan, it is for you.", "en"),
        ("Para que se", "LATIN"),  # Spanish or Portuguese
        ("Zan tafi kasuwa gobe da safe", "LATIN"),  # Hausa
        ("E kaaro o, bawo ni", "LATIN"),  # Yoruba without its marks
        ("Você não está mais na região", "pt"),
        ("Привет, как дела", "CYRILLIC"),
        ("12,500", ""),
        ("", ""),
        ("ok", "LATIN"),
    ],
)
def test_a_language_is_told_by_letters_marks_and_words_or_else_the_script(text: str, language: str):
    assert language_of(text) == language


def test_what_a_record_says_wins_and_a_short_answer_is_told_by_its_question(tmp_path):
    source = fill(tmp_path / "in")
    write(
        source / "b.jsonl",
        [
            {
                "instruction": "What is the price of this cloth?",
                "output": "4,500",
                "language": "pcm",
            },
            {"instruction": "What is the price of the other cloth?", "output": "Certainly 4,500"},
            {"instruction": "Kitambaa", "output": "Nguo"},
        ],
    )
    built(source, tmp_path / "out")
    found = by_source(tmp_path / "out")
    assert found["b.jsonl:1"]["language"] == "pcm"
    assert found["b.jsonl:2"]["language"] == "en"
    assert found["b.jsonl:3"]["language"] == "und"
