"""Feedback through the studio: programs that send it, who may, and the page of what was said."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from adire_assets.config.fleet import FleetConfig, GatewayConfig, TokenConfig
from adire_assets.core.project import Project
from adire_assets.families.diffusion.answers import save_png
from adire_assets.monitoring import feedback, feedback_review
from adire_assets.serving import answer_keys, record
from adire_assets.serving.gateway import tokens
from adire_assets.serving.release import ReleaseRecord, write_record
from tests.support import studio
from tests.support.fake_engine import FakeEngine, install
from tests.support.feedback import token_of
from tests.support.fleets import make_fleet
from tests.support.served_door import served_door
from tests.support.shop import MODEL, Shop
from tests.support.studio import NARROW, WIDE, opened, running_studio, serious_faults, visit

LETTERS = "family: causal_lm\ndata: {path: data/letters}\nbase_model: {source: base}\n"
PAGE = f"/models/{MODEL}/feedback"
SCRIPT = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{ 1 + 1 }}'


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Release 1 is live; so is one of a model that chats."""
    made = Shop(tmp_path_factory.mktemp("feedback"))
    evaluation = made.evaluation("1", 1.5)
    made.release(1, evaluation, made.decide(evaluation).artifact)
    made.bring_live(1)
    made.project.model_file("letters").write_text(LETTERS)
    nothing = {"key": "", "content_hash": ""}
    facts = dict.fromkeys(("repository", "adapter", "base_model", "evaluation", "verdict"), nothing)
    more = {"mlflow_run_id": None, "provenance": {}, "family": "causal_lm", "engine": "vllm"}
    write_record(made.project, ReleaseRecord("letters", 1, **facts, **more))
    record.change(
        made.project,
        "local",
        "letters",
        lambda state: replace(state, live=1, active="blue", slots={"blue": 1}),
    )
    return made


@pytest.fixture(scope="module")
def url(shop: Shop) -> Iterator[str]:
    """Of the studio behind tokens; the door of a vLLM stands for the gateway."""
    fleet, slot = make_fleet(), shop.project.root / "slot"
    install(slot, 1)
    answer_keys.ensure(shop.project)
    tokens.make_keys(shop.project.root / "auth")
    target = fleet.targets["local"]
    with pytest.MonkeyPatch.context() as patch, served_door(slot, FakeEngine()) as port:
        for name, value in answer_keys.environment(shop.project).items():
            patch.setenv(name, value)
        keys = TokenConfig(keys="auth/keys.json")
        gateway = GatewayConfig(launch="remote", port=port, tokens=keys)
        targets = {"local": target.model_copy(update={"gateway": gateway})}
        guarded = FleetConfig(**{**fleet.model_dump(), "targets": targets})
        with running_studio(shop.project, guarded) as found:
            yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with studio.browser() as found:
        yield found


def bearer(project: Project, name: str, *roles: str) -> str:
    claims = {"issuer": "adire", "audience": "adire", "days": 1.0}
    return tokens.issue(project.root / "auth", name, **claims, roles=roles)


def sent(
    url: str, body: Any, method: str = "POST", path: str = "/feedback", **headers: str
) -> tuple[int, str]:
    """(status, what was answered)."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def program(shop: Shop, name: str, *roles: str) -> dict[str, str]:
    return {"authorization": f"Bearer {bearer(shop.project, name, *roles)}"}


def test_a_program_rates_an_answer_with_its_token(url: str, shop: Shop) -> None:
    ada, token = program(shop, "ada", "designer"), token_of(shop.project, MODEL)
    status, text = sent(url, {"token": token, "rating": 4, "model": MODEL}, **ada)
    assert (status, json.loads(text)["said"][:9]) == (200, "thank you")
    status, text = sent(url, {"token": token, "rating": 2, "flags": ["unsafe"]}, **ada)
    assert status == 200 and "is changed" in text
    found = [one for one in feedback.all_given(shop.project, MODEL) if one.user == "ada"]
    assert [(one.rating, one.flags) for one in found] == [(2, ("unsafe",))]


@pytest.mark.parametrize(
    "roles, allowed",
    [
        ([], False),
        (["viewer"], False),
        (["designer"], True),
        (["operator"], True),
        (["approver"], True),
    ],
)
def test_who_may_give_feedback_and_who_may_see_what_is_attached(
    url: str, shop: Shop, tmp_path: Path, roles: list[str], allowed: bool
) -> None:
    save_png(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png", {"request": {"prompt": "rings"}})
    token = token_of(shop.project, MODEL, contents=(bytes(192),))
    body = {"token": token, "rating": 1}
    body["attached"] = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    who = program(shop, "eze", *roles)
    status, text = sent(url, body, **who)
    assert status == (200 if allowed else 403), text
    others = program(shop, "ngo", "designer")
    assert sent(url, body, **others)[0] == 200
    name = feedback.all_given(shop.project, MODEL)[-1].name
    seen = sent(url, None, "GET", f"{PAGE}/{name}", **who)[0] if roles else 403
    assert seen == (200 if {"operator", "approver"} & {*roles} else 403)
    sender = program(shop, "obi", "operator")
    assert sent(url, None, "GET", f"{PAGE}/nothing", **sender)[0] == 404


@pytest.mark.parametrize(
    "body, said",
    [
        (b"{", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        ({"rating": 3}, "token: Field required"),
        ({"token": "x", "rating": 3}, "is none that an answer carries"),
        ({"token": "x", "rating": 3.5}, "rating: Input should be a valid integer"),
        ({"token": "x", "user": "obi"}, "user: Extra inputs are not permitted"),
        ({"token": "x", "rating": 3, "attached": "%"}, "attached is no base64"),
    ],
)
def test_what_is_no_feedback_is_answered_with_a_sentence(
    url: str, shop: Shop, body: Any, said: str
) -> None:
    status, text = sent(url, body, **program(shop, "ada", "designer"))
    assert status == 400 and said in json.loads(text)["error"]


def test_other_sites_and_other_tokens_give_none(url: str, shop: Shop) -> None:
    body = {"token": token_of(shop.project, MODEL), "rating": 1}
    ada = bearer(shop.project, "ada", "designer")
    own, cookie = {"origin": url}, {"cookie": f"adire_session={ada}"}
    before = len(feedback.all_given(shop.project, MODEL))
    for headers, status in (
        ({}, 403),
        (own, 401),
        (cookie, 403),  # a browser without an Origin is none
        ({**cookie, "origin": "https://evil.example"}, 403),
        ({"authorization": f"Bearer {ada}", "origin": "https://evil.example"}, 403),
        ({"authorization": "Bearer nonsense"}, 401),
        ({**cookie, "authorization": "Bearer ", **own}, 401),
    ):
        assert sent(url, body, **headers)[0] == status, headers
    assert len(feedback.all_given(shop.project, MODEL)) == before
    assert sent(url, body, **cookie, **own)[0] == 200
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=30)) as connection:
        length = {"content-length": str(2**24 + 1)}
        connection.request("POST", "/feedback", headers={**cookie, **own, **length})
        assert connection.getresponse().status == 413


@studio.needs_chromium
@pytest.mark.parametrize("width, dark", [(WIDE, False), (NARROW, True)])
def test_what_was_said_is_reviewed_by_the_keyboard(
    browser: Browser, url: str, shop: Shop, width: int, dark: bool
) -> None:
    ada = program(shop, f"ada{width}{dark}", "designer")
    body = {"token": token_of(shop.project, MODEL), "rating": 1, "text": SCRIPT}
    assert sent(url, body, **ada)[0] == 200
    one = next(one for one in feedback_review.to_review(shop.project, MODEL) if one.text == SCRIPT)
    who = bearer(shop.project, "obi", "operator")
    with opened(browser, url, width=width, dark=dark, token=who) as page:
        visit(page, PAGE)
        expect(page.locator("main")).to_contain_text(SCRIPT)
        assert serious_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        review = page.get_by_role("button", name=f"Review {one.name}")
        review.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("heading", name="Review")).to_be_visible()
        assert serious_faults(page) == []
        dialog.get_by_role("button", name="Done").click()
        expect(page.get_by_role("alert")).to_contain_text("needs a note")
        prompt = dialog.get_by_role("radio", name="Prompt")
        prompt.focus()
        page.keyboard.press("Space")
        dialog.get_by_label("The correction").fill("indigo rings on white")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(review).to_have_count(0)
        assert page.evaluate("window.hacked") is None
    found = [
        review for review in feedback_review.reviews(shop.project, MODEL) if review.name == one.name
    ]
    assert [(each.outcome, each.note, each.by) for each in found] == [
        ("prompt", "indigo rings on white", "obi")
    ]


@studio.needs_chromium
@pytest.mark.parametrize("role", ["viewer", "designer"])
def test_who_may_not_review_sees_the_figures_alone(
    browser: Browser, url: str, shop: Shop, role: str
) -> None:
    ada = program(shop, "ada", "designer")
    body = {"token": token_of(shop.project, MODEL), "rating": 1, "text": "nobody reads this"}
    assert sent(url, body, **ada)[0] == 200
    with opened(browser, url, token=bearer(shop.project, "ada", role)) as page:
        visit(page, PAGE)
        expect(page.locator("main")).to_contain_text("release 1: ")
        expect(page.locator("main")).not_to_contain_text("nobody reads this")
        expect(page.locator("main button")).to_have_count(0)


@studio.needs_chromium
def test_an_answer_of_a_chat_is_reported_with_what_was_asked(
    browser: Browser, url: str, shop: Shop
) -> None:
    with opened(browser, url, token=bearer(shop.project, "ada", "designer")) as page:
        visit(page, "/models/letters/generate")
        page.get_by_label("Message").fill("Write to Ada.")
        page.get_by_role("button", name="Send").click()
        conversation = page.get_by_role("region", name="Conversation")
        conversation.get_by_role("button", name="Rate or report").click()
        dialog = page.get_by_role("dialog", name="Rate or report")
        expect(dialog).to_contain_text("the answer of release 1 to 'Write to Ada.'")
        dialog.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("give a rating of 1 to 5, or a flag")
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_role("alert")).to_have_count(0)  # it fades away
        dialog.get_by_role("checkbox", name="Wrong fact").click()
        dialog.get_by_role("checkbox", name="Attach the whole conversation").click()
        dialog.get_by_label("Remarks").fill("Ada has two")
        assert serious_faults(page) == []
        dialog.get_by_role("button", name="Send").click()
        expect(page.get_by_text("thank you")).to_be_visible()
        conversation.get_by_role("button", name="Change your rating").click()
        replaces = "This replaces what you said before, and what you attached."
        expect(page.get_by_role("dialog", name="Rate or report")).to_contain_text(replaces)
    [one] = feedback.all_given(shop.project, "letters")
    assert (one.user, one.flags, one.text) == ("ada", ("wrong fact",), "Ada has two")
    kept = feedback.attachment(shop.project, "letters", one.name)
    assert kept
    content = json.loads(kept.read_text())
    assert content["text"].startswith("three cloths for Ada")
    asked = content["provenance"]["request"]["messages"]
    assert asked == [{"role": "user", "content": "Write to Ada."}]
