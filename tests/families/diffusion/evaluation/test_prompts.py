"""Prompt sets: what is accepted, the sentences for what is not, and what is drawn without one."""

from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.evaluation.prompts import (
    choose_prompts,
    load_prompt_set,
    read_rows,
)
from tests.support import tiny

ROOT = Path(__file__).parents[4]
GOOD = """\
attributes:
  motif: {circles: round things, grid: square things}
prompts:
  - id: rows
    text: circles in rows
    tags: [oniko]
    expected: {motif: circles}
  - id: plain
    text: cloth
"""


def refusal(folder: Path, text: str) -> str:
    file = folder / "set.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_prompt_set(file)
    return str(caught.value)


def test_a_prompt_set_is_read_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text(GOOD)
    assert load_prompt_set(file).model_dump() == {
        "attributes": {"motif": {"circles": "round things", "grid": "square things"}},
        "prompts": [
            {
                "id": "rows",
                "text": "circles in rows",
                "tags": ["oniko"],
                "expected": {"motif": "circles"},
            },
            {"id": "plain", "text": "cloth", "tags": [], "expected": {}},
        ],
    }


def test_the_shipped_set_asks_for_every_value_of_every_motif() -> None:
    shipped = load_prompt_set(ROOT / "configs" / "prompts" / "adire.yaml")
    assert len(shipped.prompts) == 32
    asked = {prompt.expected["motif"] for prompt in shipped.prompts}
    assert asked == {*shipped.attributes["motif"]}
    assert all(prompt.expected["ground"] == "indigo" for prompt in shipped.prompts)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("tags:", "tag:"), "set.yaml:6: prompts.0.tag: unknown key; did you mean tags?"),
        (
            ("{motif: circles}", "{motive: circles}"),
            "set.yaml:7: prompts.0.expected.motive: no such attribute; attributes of this file: "
            "motif",
        ),
        (
            ("{motif: circles}", "{motif: rings}"),
            "set.yaml:7: prompts.0.expected.motif: 'rings' is no value of motif: circles, grid",
        ),
        (("text: cloth", "text: ' Circles  in rows'"), "prompts.1.text: is that of prompts.0 as"),
        (("id: plain", "id: rows"), "set.yaml:8: prompts.1.id: is that of prompts.0 as well"),
        (
            ("text: cloth", "text: circles in rows"),
            "set.yaml:9: prompts.1.text: is that of prompts.0 as well",
        ),
        (("id: rows", "id: ../rows"), "set.yaml:4: prompts.0.id: string should match pattern"),
        (("    text: cloth\n", ""), "set.yaml:8: prompts.1.text: this key is missing"),
        ((", grid: square things", ""), "set.yaml:2: attributes.motif: dictionary should have at"),
        (("id: plain", "id: 7"), "set.yaml:8: prompts.1.id: input should be a valid string"),
    ],
)
def test_mistakes_name_file_line_and_key(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    assert change[0] in GOOD
    assert expected in refusal(tmp_path, GOOD.replace(*change))


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    assert "set.yaml:1: prompts: list should have" in refusal(tmp_path, "prompts: []\n")


def test_captions_are_drawn_once_each_and_at_most_64() -> None:
    captions = [f"caption {number % 70}" for number in range(100)]
    nothing = {"prompts": [], "prompt_set": None}
    assert choose_prompts(nothing, captions) == (captions[:64], 6)
    alike = ["Blue", "red", "blue ", "Red  cloth", "red cloth"]
    assert choose_prompts(nothing, alike) == (["Blue", "red", "Red  cloth"], 0)
    assert choose_prompts(nothing | {"prompts": ["mine"]}, captions) == (["mine"], 0)
    chosen = {"prompts": [{"text": "theirs"}]}
    assert choose_prompts(nothing | {"prompt_set": chosen}, captions) == (["theirs"], 0)


def test_a_line_separator_in_a_caption_ends_no_row(tmp_path: Path) -> None:
    rows = [{"text": "blue\u2028cloth"}, {"text": "red\x85cloth"}]
    tiny.write_rows(tmp_path / "held_out.jsonl", rows)
    assert read_rows(tmp_path, "held_out") == rows
