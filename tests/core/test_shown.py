"""What a family shows becomes Markdown."""

import base64
from pathlib import Path

import pytest

from adire_assets.core.shown import Shown, table


@pytest.mark.parametrize(("name", "media"), [("cloth.png", "image/png"), ("a.jpg", "image/jpeg")])
def test_a_picture_lies_in_the_text_as_what_it_is(tmp_path: Path, name: str, media: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"pixels")
    data = base64.b64encode(b"pixels").decode()
    shown = Shown("sheet", "picture", file).markdown()
    assert shown == f"![{file.stem}](data:{media};base64,{data})"


def test_a_markdown_is_a_text_or_the_file_of_one(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    file.write_text("# Cloth")
    assert [Shown("r", "markdown", one).markdown() for one in ("# Cloth", file)] == ["# Cloth"] * 2


def test_a_cell_of_a_table_stays_one_cell() -> None:
    rows = [{"file": "a|b.png", "reason": "cut\noff"}]
    *_, last = table(("file", "reason"), rows).splitlines()
    assert last == r"| a\|b.png | cut off |"
    assert table(("file",), []) == "none"
