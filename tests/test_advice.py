"""Each command of `adire` that a message, the README or a page of docs advises exists."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from adire_assets import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IN_A_MESSAGE = re.compile(r"`(adire [^`]+)`")
IN_A_PAGE = re.compile(r"(?:^|`|\.venv/bin/)(adire (?!assets)[a-z-]+[^`\n#]*)", re.MULTILINE)


def advised() -> set[str]:
    """The commands, with `x` for what a message fills in."""
    found = set()
    for path in (ROOT / "adire_assets").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= set(IN_A_MESSAGE.findall(_text(node)))
    for page in PAGES:
        found |= set(IN_A_PAGE.findall(page.read_text(encoding="utf-8")))
    return {" ".join(text.split()) for text in found}


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "x" for part in node.values)
    return ""


def wrong(text: str) -> str | None:
    """What the command line does not know of a command; None when it knows all of it."""
    words = shlex.split(text)[1:]
    command = typer.main.get_command(cli.app)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    if hasattr(command, "commands"):
        return None  # a group by its name alone
    known = {option for one in command.params for option in one.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"no option {unknown[0]}" if unknown else None


def test_advice_is_found() -> None:
    found = advised()
    assert len(found) > 30
    assert any(text.startswith("adire lift-quarantine x x --reason") for text in found)


@pytest.mark.parametrize("text", sorted(advised()))
def test_what_is_advised_exists(text: str) -> None:
    assert wrong(text) is None


@pytest.mark.parametrize(
    "text",
    ["adire launch", "adire rollout abort x", "adire gc --all", "adire auth token --hours 1"],
)
def test_what_does_not_exist_is_noticed(text: str) -> None:
    assert wrong(text) is not None
