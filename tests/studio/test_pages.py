"""The studio's pages in a real browser: what they show, to whom, and what their buttons do."""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from adire_assets.config.fleet import FleetConfig, GatewayConfig, TokenConfig
from adire_assets.families.diffusion.answers import save_png
from adire_assets.serving import record
from adire_assets.serving.gateway import tokens
from adire_assets.studio import lineage
from tests.support import studio
from tests.support.fleets import make_fleet
from tests.support.provenance import FACTS
from tests.support.shop import MODEL, Shop
from tests.support.studio import NARROW, WIDE, opened, running_studio, serious_faults, visit

pytestmark = studio.needs_chromium
RELEASES = f"/models/{MODEL}/releases"
PAGES = (
    "/",
    f"/models/{MODEL}/generate",
    f"/models/{MODEL}/training",  # where no Dagster answers
    RELEASES,
    f"/models/{MODEL}/feedback",
    "/lineage",
    "/watch",
)
NUMBER = re.compile(r'\w+(\{(\w+="[\w.@-]*",?)+\})? [0-9.e+-]+')
SCRIPT = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{ 1 + 1 }}'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with studio.browser() as found:
        yield found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Release 1 is live, 2 is quarantined, 3 is new."""
    made = Shop(tmp_path_factory.mktemp("studio"))
    for number, score in enumerate((1.5, 1.55, 1.45), 1):
        evaluation = made.evaluation(str(number), score)
        made.release(number, evaluation, made.decide(evaluation).artifact)
        if number == 1:
            made.bring_live(1)
    return made


@pytest.fixture(scope="module")
def url(shop: Shop) -> Iterator[str]:
    """Of the studio where nobody needs a token."""
    with running_studio(shop.project, make_fleet()) as found:
        yield found


@pytest.fixture
def quarantined(shop: Shop) -> None:
    record.quarantine(shop.project, MODEL, 2, f"too pale in the sun {SCRIPT}")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_pages_are_usable_by_everybody(
    browser: Browser, url: str, quarantined: None, width: int, dark: bool
) -> None:
    with opened(browser, url, width=width, dark=dark) as page:
        for path in PAGES:
            visit(page, path)
            expect(page.get_by_label("Loading")).to_have_count(0)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert serious_faults(page) == []
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} px wide"
            if path.endswith("/feedback"):
                expect(page.locator("main")).to_contain_text("all visitors count as one user")


def test_the_releases_say_what_is_live_and_why(
    browser: Browser, url: str, quarantined: None
) -> None:
    with opened(browser, url) as page:
        visit(page, RELEASES)
        cards = page.locator(".q-card")
        expect(cards).to_have_count(3)
        expect(cards.nth(2)).to_contain_text("live on local")
        expect(cards.nth(1)).to_contain_text("Quarantined: too pale in the sun")
        expect(cards.nth(0)).to_contain_text("passed all 6 gates")
        # What somebody wrote is shown as it is, and nothing else.
        expect(cards.nth(1)).to_contain_text(SCRIPT)
        assert page.evaluate("window.hacked") is None
        cards.nth(0).get_by_role("button", name="Gates of release 3").click()
        expect(cards.nth(0)).to_contain_text("passed: clip_s")


def test_a_quarantine_is_lifted_with_a_reason_by_the_keyboard(
    browser: Browser, url: str, shop: Shop, quarantined: None
) -> None:
    with opened(browser, url) as page:
        visit(page, RELEASES)
        lift = page.get_by_role("button", name="Lift the quarantine: release 2")
        lift.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Lift the quarantine").click()
        expect(dialog).to_contain_text("Say why")
        assert record.quarantine_reason(shop.project, MODEL, 2)
        dialog.get_by_label("Reason").fill(f"looked at it again {SCRIPT}")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_text("release 2 may be deployed again")).to_be_visible()
        expect(lift).to_have_count(0)
        assert page.evaluate("window.hacked") is None
    assert record.quarantine_reason(shop.project, MODEL, 2) is None
    told = record.lift_reason(shop.project, MODEL, 2)
    assert told and f"looked at it again {SCRIPT} (local, in the studio)" in told


def test_a_mistake_is_shown_in_its_sentence(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        visit(page, "/lineage")
        page.get_by_label("A file of the data").fill("data/nothing.png")
        page.get_by_role("button", name="Find its uses").click()
        expect(page.get_by_role("alert")).to_contain_text("data/nothing.png")
        visit(page, "/models/silk/releases")
        expect(page.locator("body")).to_contain_text("there is no model silk; models: cloth")


def test_a_report_is_shown_in_an_origin_of_its_own(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        answer = page.request.get(f"{RELEASES}/9/report")
        assert (answer.status, "9" in answer.text()) == (404, True)
        visit(page, RELEASES)
        address = page.get_by_role("link", name="Report on release 3").get_attribute("href")
        assert address == f"{RELEASES}/3/report"


def upload(page: Page, name: str, content: bytes) -> None:
    field = page.get_by_label("An image or a text that a served model has made")
    field.set_input_files([{"name": name, "mimeType": "image/png", "buffer": content}])


def test_the_way_from_an_image_to_what_it_was_made_from(
    browser: Browser, url: str, tmp_path: Path
) -> None:
    facts = {**FACTS, "model": MODEL, "release": 9, "mlflow_run_id": "run-3"}
    facts["request"] = {"prompt": SCRIPT, "seed": 7}
    save_png(np.zeros((8, 8, 3), np.uint8), tmp_path / "x.png", facts)
    with opened(browser, url) as page:
        visit(page, "/lineage")
        upload(page, "x.png", (tmp_path / "x.png").read_bytes())
        shown = page.locator("main")
        expect(shown).to_contain_text(f"the answer: release 9 of {MODEL}")
        expect(shown).to_contain_text("image 0 of the request, seed 7")
        expect(shown).to_contain_text("MLflow run: run-3")
        assert page.evaluate("window.hacked") is None


def png_of(width: int, height: int) -> bytes:
    """A PNG that says so of itself."""

    def chunk(content: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(content))
        return struct.pack(">I", len(content) - 4) + content + end

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(head) + chunk(b"IDAT" + zlib.compress(b"\0"))


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "is no "),
        ("x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no "),
        ("x.png", png_of(10_000, 10_000), "10000 x 10000 pixels, too many to read"),
        ("x.png", png_of(8, 8), "is not an image that can be read"),
        ("x.json", b"[" * 200_000, "is no "),
        ("x\u202e\0/../../y.png", b"", "is no "),
        ("", b"{}", "is no "),
    ],
    ids=["svg", "eps", "large", "cut off", "deep", "name", "nameless"],
)
def test_what_is_no_answer_is_refused_in_a_sentence(
    browser: Browser, url: str, name: str, content: bytes, said: str
) -> None:
    with opened(browser, url) as page:
        place = f"{lineage.ANSWER}?name={quote(name)}"
        answer = page.request.post(place, data=content, headers={"origin": url})
        assert answer.status == 400 and said in answer.text()
        assert answer.text().startswith("the file ") and "/" not in answer.text()


def test_a_refused_file_is_told_on_the_page(browser: Browser, url: str) -> None:
    with opened(browser, url, known="400") as page:
        visit(page, "/lineage")
        upload(page, "x.svg", b"<svg onload='alert(1)'/>")
        expect(page.get_by_role("alert")).to_contain_text("the file is no ")


class TestRoles:
    """Each sees the buttons of what he may do."""

    @pytest.fixture(scope="class")
    def guarded(self, shop: Shop) -> Iterator[str]:
        fleet = make_fleet()
        target = fleet.targets["local"]
        keys = TokenConfig(keys="auth/keys.json")
        gateway = GatewayConfig(**{**target.gateway.model_dump(), "tokens": keys})
        targets = {"local": target.model_copy(update={"gateway": gateway})}
        tokens.make_keys(shop.project.root / "auth")
        with running_studio(
            shop.project, FleetConfig(**{**fleet.model_dump(), "targets": targets})
        ) as found:
            yield found

    def token(self, shop: Shop, name: str, *roles: str) -> str:
        claims = {"issuer": "adire", "audience": "adire", "days": 1.0}
        return tokens.issue(Path(shop.project.root / "auth"), name, **claims, roles=roles)

    def test_nobody_comes_in_without_a_token(self, browser: Browser, guarded: str) -> None:
        with opened(browser, guarded, known="401") as page:
            page.goto(RELEASES)
            expect(page.get_by_label("Your token")).to_be_visible()
            assert serious_faults(page) == []
            page.get_by_label("Your token").fill("nonsense")
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("alert")).to_contain_text("ask for a new one")

    def test_prometheus_needs_no_token_and_sees_numbers_alone(
        self, browser: Browser, guarded: str
    ) -> None:
        with opened(browser, guarded, known="401") as page:
            answer = page.request.get("/metrics")
            assert answer.status == 200 and f'model="{MODEL}"' in answer.text()
            assert all(NUMBER.fullmatch(line) for line in answer.text().splitlines())
            page.goto("/watch")
            expect(page.get_by_label("Your token")).to_be_visible()

    @pytest.mark.parametrize(
        "role, shown",
        [
            ("viewer", set()),
            ("designer", set()),
            ("operator", set()),
            ("approver", {"Approve", "Lift the quarantine"}),
        ],
    )
    def test_what_a_role_lacks_is_not_shown(
        self, browser: Browser, guarded: str, shop: Shop, quarantined: None, role: str, shown: set
    ) -> None:
        with opened(browser, guarded, token=self.token(shop, "ada", role)) as page:
            visit(page, RELEASES)
            expect(page.locator(".q-card")).to_have_count(3)
            buttons = page.locator("main button").all_inner_texts()
            assert set(buttons) == shown
            visit(page, f"/models/{MODEL}/generate")
            may = "you may not generate" if role == "viewer" else "no release of cloth is loaded"
            expect(page.locator("main")).to_contain_text(may)
            page.get_by_role("button", name="Sign out (ada)").click()
            expect(page.get_by_label("Your token")).to_be_visible()
