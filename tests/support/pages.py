"""What a test reads from the report's pages, and a person who rates the blind sheet."""

import json
import re
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Nesting(HTMLParser):
    """Every element that is opened is closed, in order; ids are unique."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "img" and not dict(attrs).get("alt"):
            self.wrong.append("img without alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")


def sheet_data(sheet: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="sheet">(.*?)</script>', sheet)
    assert found
    return json.loads(found[1])


def rated(sheet: str, prefer: str | None) -> dict[str, Any]:
    """ratings.json of somebody who prefers the picture with this URI, or this text; None: no
    difference."""
    data = sheet_data(sheet)
    choices = {
        pair["name"]: "left" if prefer in pair["left"].values() else "right" if prefer else "tie"
        for pair in data["pairs"]
    }
    kept = {name: data[name] for name in ("model", "challenger", "champion", "nonce")}
    return {**kept, "rater": "Ada", "choices": choices}
