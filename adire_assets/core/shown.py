"""What a family shows of an artifact, in Dagster, in MLflow and in the terminal."""

import base64
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Shown:
    """One thing to look at. `content` by `kind`:

    picture    the file of one
    markdown   a text, or the file of one
    text       a line, which the log of the run says as well
    value      plain JSON
    """

    name: str
    kind: Literal["picture", "markdown", "text", "value"]
    content: Any

    def markdown(self) -> str:
        """A picture or a markdown as one Markdown text, which contains the picture as data."""
        if self.kind == "picture":
            return inline(self.content)
        return self.content.read_text("utf-8") if isinstance(self.content, Path) else self.content


@dataclass(frozen=True)
class Item:
    """One image or record of a dataset, or of a file of the data.

    `identity` is a hash of its content, equal in every dataset.
    """

    split: str  # a key of `core.splits.SPLITS`; "" of what is in no dataset yet
    file: str  # in the folder of the data
    line: int | None  # of a record in a file with several
    identity: str
    text: str = ""  # the beginning of a record

    def told(self, file: str) -> str:
        """Such as data/letters/letters.jsonl:12; `file` is where its file is."""
        return file if self.line is None else f"{file}:{self.line}"


def inline(picture: Path) -> str:
    """A picture's file in Markdown."""
    media = mimetypes.guess_type(picture.name)[0]
    data = base64.b64encode(picture.read_bytes()).decode()
    return f"![{picture.stem}](data:{media};base64,{data})"


def table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    """The `columns` of the rows as a Markdown table; "none" without rows."""
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else "none"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
