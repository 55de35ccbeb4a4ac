"""Tokens as the product itself reads them, the roles in them among them."""

import sys
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest

from adire_assets.cli import main
from adire_assets.config.roles import PERMISSIONS, ROLES, may
from adire_assets.core.errors import UserError
from adire_assets.serving.gateway import tokens

CLAIMS = {"issuer": "adire", "audience": "adire"}
Adire = Callable[..., tuple[int, str, str]]


@pytest.fixture
def adire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Adire:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["adire", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out.strip(), told.err

    return run


def test_a_token_says_who_and_what_roles(tmp_path: Path, adire: Adire) -> None:
    adire("auth", "keys")
    _, token, _ = adire("auth", "token", "ada", "--role", "designer", "--role", "approver")
    found = tokens.verify(tmp_path / "auth" / "keys.json", token, **CLAIMS)
    assert (found.subject, found.roles) == ("ada", {"designer", "approver"})
    _, bare, _ = adire("auth", "token", "bo")
    assert tokens.verify(tmp_path / "auth" / "keys.json", bare, **CLAIMS).roles == frozenset()
    adire("auth", "keys")  # of two keys each signs its own
    assert tokens.verify(tmp_path / "auth" / "keys.json", token, **CLAIMS) == found


def test_a_role_that_there_is_not_is_refused(adire: Adire) -> None:
    adire("auth", "keys")
    status, _, said = adire("auth", "token", "ada", "--role", "king")
    assert status == 1 and "there is no role 'king'; roles are viewer, designer" in said


def test_what_is_no_token_of_ours_is_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        tokens.make_keys(folder)
    good = tokens.issue(ours, "ada", **CLAIMS, days=1)
    head, body, sign = good.split(".")
    key = {"kid": jwt.get_unverified_header(good)["kid"]}
    bad = {
        "": "is not valid",
        "a.b.c": "is not valid",
        f"{head}.{body}.": "is not valid",
        f"{head}.{body[:-2]}.{sign}": "is not valid",
        tokens.issue(theirs, "ada", **CLAIMS, days=1): "is not valid",
        tokens.issue(ours, "ada", **CLAIMS | {"audience": "shop"}, days=1): "is not valid",
        tokens.issue(ours, "ada", **CLAIMS | {"issuer": "shop"}, days=1): "is not valid",
        tokens.issue(ours, "ada", **CLAIMS, days=-1): "has expired",
        # Unsigned, and signed with a secret, by the name of our key.
        jwt.encode({"sub": "ada"}, None, "none", headers=key): "is not valid",
        jwt.encode({"sub": "ada"}, "x" * 64, "HS256", headers=key): "is not valid",
    }
    for token, why in bad.items():
        with pytest.raises(UserError, match=f"the token {why}"):
            tokens.verify(ours / "keys.json", token, **CLAIMS)


def test_each_action_has_somebody_who_may_do_it() -> None:
    for action, roles in PERMISSIONS.items():
        assert may(roles, action) and {*roles} <= {*ROLES}
        assert not may(["viewer"], action) and not may([], action)
