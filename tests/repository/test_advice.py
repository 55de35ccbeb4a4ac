"""What messages, the README and pages of docs advise exists: commands, and files by their names."""

import ast
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from adire_assets.cli import main
from adire_assets.config.fleet import SlotConfig, TokenConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving.fleet import orphans
from adire_assets.serving.gateway import routing, tokens
from adire_assets.serving.slot_server import server_of
from tests.support.fleets import make_fleet
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IN_A_MESSAGE = re.compile(r"`(adire [^`]+)`")
ADVICE = re.compile(r"(?<!that )(?<!by )`(adire [^`]+)`")  # "that `adire backup` has made" is none
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


def messages() -> Iterator[tuple[str, str]]:
    """(file, text) of each string of the code that is no docstring, `x` for what is filled in."""
    for path in (ROOT / "adire_assets").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        parts = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in node.values
        }
        for node in ast.walk(tree):
            if id(node) not in statements | parts and (text := _text(node)):
                yield path.relative_to(ROOT).as_posix(), text


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "x" for part in node.values)
    return ""


def wrong(text: str, complete: bool = False) -> str | None:
    """What the command line does not know of a command, or (`complete`) what it asks for besides;
    None when there is nothing."""
    words = shlex.split(text)[1:]
    command = typer.main.get_command(main.app)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    if hasattr(command, "commands"):
        return None  # a group by its name alone
    known = {option for one in command.params for option in one.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    if unknown or not complete:
        return f"no option {unknown[0]}" if unknown else None
    given, _, _ = command.make_parser(typer.Context(command)).parse_args(list(words))
    needed = [one.name for one in command.params if one.required]
    lacking = [name for name in needed if not isinstance(given.get(name), str)]
    return f"without {lacking[0]}" if lacking else None


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


IN_MESSAGES = sorted({found for _, text in messages() for found in ADVICE.findall(text)})


@pytest.mark.parametrize("text", IN_MESSAGES)
def test_a_message_advises_a_command_with_all_that_it_asks_for(text: str) -> None:
    assert wrong(text, complete=True) is None


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("adire measure", "without name"),
        ("adire rollback x", "without reason"),
        ('adire rollback --reason "..."', "without model"),
        ("adire auth token --folder auth", "without subject"),
    ],
)
def test_what_a_command_lacks_is_noticed(text: str, lacks: str) -> None:
    assert wrong(text, complete=True) == lacks


def test_no_message_names_a_file_that_a_variable_can_replace() -> None:
    """`fleet_file_name()` is the name of the fleet file, `project.home` the place of the home."""
    own = "adire_assets/config/fleet.py"
    fixed = [(file, text) for file, text in messages() if "fleet.yaml" in text and file != own]
    assert fixed == []


def test_the_fleet_file_is_called_by_the_name_that_the_user_gave_it(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for named, shown in (("/srv/eu.yaml", "/srv/eu.yaml"), ("", "configs/fleet.yaml")):
            monkeypatch.setenv("ADIRE_FLEET", named)
            with pytest.raises(UserError, match=f"set dagster.port in {shown} to a free port"):
                orphans.require_free_ports({port: "dagster.port"})
            with pytest.raises(UserError, match=f"correct the address in {shown}$"):
                slot = SlotConfig(grpc_port=free_port())
                server_of(slot).require_live(slot, 2)


def test_the_command_for_a_token_makes_one_that_the_gateway_takes(tmp_path: Path) -> None:
    fleet = make_fleet()
    settings = TokenConfig(keys="door keys/keys.json", issuer="weavers", audience="shop")
    gateway = fleet.targets["local"].gateway.model_copy(
        update={"tokens": settings, "launch": "remote"}
    )
    target = fleet.targets["local"].model_copy(update={"gateway": gateway})
    fleet = fleet.model_copy(update={"targets": {"local": target}})
    folder = tmp_path / "door keys"
    with pytest.raises(UserError, match=rf"make a key with `adire auth keys --folder '{folder}'`"):
        tokens.issue(folder, "me", issuer="weavers", audience="shop", days=1)
    command = routing.endpoint_of(
        Project(tmp_path, tmp_path / "home"), fleet, "local"
    ).token_command
    assert wrong(command, complete=True) is None
    words = shlex.split(command)
    assert words[words.index("--folder") + 1] == str(folder)
    assert ("--issuer weavers" in command, "--audience shop" in command) == (True, True)
