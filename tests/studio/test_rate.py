"""Rating in a real browser: by the keyboard, blind, and on where it stopped."""

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from nicegui import Client, events, ui
from playwright.sync_api import Browser, Page, expect

from adire_assets.config.fleet import FleetConfig, GatewayConfig, TokenConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates import approvals, sheets
from adire_assets.gates.report import pages
from adire_assets.gates.sheets import Sheet
from adire_assets.serving import release
from adire_assets.serving.gateway import tokens
from adire_assets.studio import rate
from adire_assets.studio.frame import Visitor
from adire_assets.studio.guard import LOCAL_USER
from tests.support import studio
from tests.support.compared import TEXT, bring_live, compared_releases
from tests.support.fleets import make_fleet
from tests.support.studio import NARROW, WIDE, opened, running_studio, serious_faults, visit

pytestmark = studio.needs_chromium
RATE, TEXTS = "/models/cloth/rate", "/models/sayings/rate"
BEGIN = "Which is the better"
BY_HAND = 10  # pairs that are rated in the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with studio.browser() as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return compared_releases(tmp_path_factory.mktemp("rate"))


@pytest.fixture
def project(made: Project) -> Project:
    """Release 1 is live, and nobody has rated release 2."""
    for folder in ("approvals", "sheets"):
        shutil.rmtree(made.home / folder, ignore_errors=True)
    return made


@pytest.fixture(scope="module")
def url(made: Project) -> Iterator[str]:
    """Of the studio where nobody needs a token."""
    with running_studio(made, make_fleet()) as found:
        yield found


def begin(page: Page, path: str, rater: str = "Ada") -> None:
    visit(page, path)
    page.get_by_label("Your name").fill(rater)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text(BEGIN)).to_be_visible()


def status(page: Page) -> str:
    return page.get_by_role("region", name="Your sheet").get_by_role("status").inner_text()


def press(page: Page, key: str, then: str) -> None:
    """A key, and what the sheet shows after it."""
    page.keyboard.press(key)
    expect(page.get_by_role("region", name="Your sheet")).to_contain_text(then)


def choices(project: Project, rater: str = "Ada", model: str = "cloth") -> tuple[str, ...]:
    found = sheets.find(project, release.read_record(project, model, 2), rater)
    return found.choices if found else ()


def fill(project: Project, rater: str) -> Sheet:
    """Somebody who prefers the challenger rates what is left of the sheet."""
    sheet = sheets.start(project, release.read_record(project, "cloth", 2), rater)
    while not sheet.complete:
        mine = sheet.shuffle.challenger_is_left(sheet.order[len(sheet.choices)])
        sheet = sheets.answer(project, sheet, "left" if mine else "right")
    return sheet


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (NARROW, True)])
def test_the_page_is_usable_by_everybody(
    browser: Browser, url: str, project: Project, width: int, dark: bool
) -> None:
    def check() -> None:
        expect(page.get_by_label("Loading")).to_have_count(0)
        assert serious_faults(page) == []
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{wide} px wide"

    with opened(browser, url, width=width, dark=dark) as page:
        visit(page, RATE)
        expect(page.get_by_label("Your name")).to_be_visible()
        check()
        for path in (RATE, TEXTS):
            begin(page, path)
            check()


def test_a_sheet_is_rated_by_the_keyboard_and_blind_until_it_is_handed_in(
    browser: Browser, url: str, project: Project
) -> None:
    told: list[str] = []
    with opened(browser, url) as page:
        page.on("request", lambda request: told.append(request.url))
        page.on(
            "websocket",
            lambda one: one.on(
                "framereceived",
                lambda frame: told.append(
                    frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
                ),
            ),
        )
        begin(page, RATE)
        view = {pair.name: pair for pair in pages.blind_view(project, "cloth@2").pairs}
        sheet = sheets.find(project, release.read_record(project, "cloth", 2), "Ada")
        assert sheet
        left = page.get_by_role("img", name="Image A")
        right = page.get_by_role("img", name="Image B")
        keys = []
        for place, name in enumerate(sheet.order[:BY_HAND]):
            expect(page.get_by_text(f"Pair {place + 1} of 40")).to_be_visible()
            shown = [one.get_attribute("src") for one in (left, right)]
            pair = view[name]
            assert {*shown} == {pair.challenger.uri, pair.champion.uri}
            mine = shown.index(pair.challenger.uri)
            expect(page.get_by_text(pair.prompt, exact=True)).to_be_visible()
            if place == 1:  # taken back, and answered again
                press(page, "ArrowDown", "Pair 3 of 40")
                press(page, "Backspace", "Pair 2 of 40")
                assert choices(project) == tuple(keys)
            keys.append(("left", "right")[mine])
            page.keyboard.press(("ArrowLeft", "ArrowRight")[mine])
        expect(page.get_by_text(f"Pair {BY_HAND + 1} of 40")).to_be_visible()
        assert choices(project) == tuple(keys)
        fill(project, "Ada")
        expect(page.get_by_text("All pairs are rated")).to_be_visible()
        expect(page.get_by_text("Agreement")).to_have_count(0)
        page.get_by_role("button", name="Hand in").click()
        expect(page.get_by_text("Your ratings are handed in")).to_be_visible()
        expect(page.get_by_text("Ada: 40 of 40 pairs, handed in")).to_be_visible()
        expect(page.get_by_text("no pair was rated by two raters yet")).to_be_visible()
        assert serious_faults(page) == []
        everything = "\n".join(told)
    words = [sheet.shuffle.nonce, "seed0", "seed1", "challenger", "champion"]
    assert [word for word in words if word in everything] == []
    [rated] = [one for one in approvals.history(project, "cloth", 2) if one.action == "rated"]
    assert rated.rating and {vote["outcome"] for vote in rated.rating["votes"]} == {"won"}


def test_a_session_goes_on_where_it_stopped_and_in_another_browser(
    browser: Browser, url: str, project: Project
) -> None:
    with opened(browser, url) as page:
        begin(page, RATE)
        press(page, "ArrowLeft", "Pair 2 of 40")
        press(page, "ArrowDown", "Pair 3 of 40")
        here = page.url
        with opened(browser, url) as other:
            visit(other, here.removeprefix(url))
            expect(other.get_by_text("Pair 3 of 40")).to_be_visible()
            press(other, "ArrowRight", "Pair 4 of 40")
        expect(page.get_by_text("Pair 4 of 40")).to_be_visible()
    assert choices(project) == ("left", "tie", "right")
    with opened(browser, url) as page:
        begin(page, RATE, " ada")
        expect(page.get_by_text("Pair 4 of 40")).to_be_visible()


def test_a_key_answers_the_pair_that_was_shown(
    browser: Browser, url: str, project: Project
) -> None:
    """Pressed again before the next pair came: at once, and when the studio has gone on."""
    with opened(browser, url) as page:
        begin(page, RATE)
        page.evaluate("adireChoose('left'); adireChoose('left')")
        expect(page.get_by_text("Pair 2 of 40")).to_be_visible()
        late = "document.querySelector('[data-place]').dataset.place = 0; adireChoose('right')"
        page.evaluate(late)
        page.get_by_text("What it takes").click()
        expect(page.get_by_text("release 2 must win 18 of 25 prompts")).to_be_visible()
        assert choices(project) == ("left",)


def test_a_key_is_judged_by_the_sheet_that_is_shown_whatever_went_live_meanwhile(
    project: Project,
) -> None:
    wanted = release.read_record(project, "cloth", 2)
    first = sheets.start(project, wanted, "Ada")
    bring_live(project, None)
    second = sheets.start(project, wanted, "Ada")

    async def run() -> None:
        with Client(ui.page("/rate")) as client, client.content:
            page = rate._Page(project, wanted, "release 1", "image", Visitor(LOCAL_USER), "Ada")
            page.place = ui.element()

            def shown() -> set[str]:
                return {picture.props["src"] for picture, _ in page.sides}

            def key() -> events.GenericEventArguments:
                place = int(page.pair.props["data-place"])
                about = {"sender": page.pair, "client": client}
                return events.GenericEventArguments(**about, args=["left", place])

            await page.show(second)
            of_second, late = shown(), key()
            bring_live(project, 1)
            await page.show(first)
            assert shown() != of_second
            await page.choose(late)
            assert choices(project) == ()
            now = key()
            bring_live(project, None)
            page.sheet = sheets.find(project, wanted, "Ada")  # found, and not drawn yet
            await page.choose(now)
            assert choices(project) == ()
            bring_live(project, 1)
            page.sheet = first
            await page.choose(key())
            assert choices(project) == ("left",)

    try:
        with ThreadPoolExecutor(1) as pool:  # the browser's driver has a loop in this thread
            pool.submit(asyncio.run, run()).result()
    finally:
        bring_live(project, 1)


def test_a_release_that_went_live_is_no_longer_rated(project: Project) -> None:
    wanted = release.read_record(project, "cloth", 2)
    page = rate._Page(project, wanted, "release 1", "image", Visitor(LOCAL_USER), "Ada")
    assert page.as_it_is() == (None, "release 1")
    try:
        bring_live(project, None)
        assert page.as_it_is() == (None, "the base")
        bring_live(project, 2)
        with pytest.raises(UserError, match="release 2 of cloth is live or quarantined now"):
            page.as_it_is()
    finally:
        bring_live(project, 1)


def test_texts_are_rated_as_texts(browser: Browser, url: str, project: Project) -> None:
    with opened(browser, url) as page:
        begin(page, TEXTS)
        sides = page.locator("figure")
        expect(sides.nth(0)).to_contain_text(TEXT)
        assert {sides.nth(place).inner_text().split()[1] for place in (0, 1)} == {"0", "0.5"}
        page.get_by_role("button", name="B is better").click()
        expect(page.get_by_text("Pair 2 of 16")).to_be_visible()
        assert page.evaluate("window.hacked") is None
    assert choices(project, model="sayings") == ("right",)


@pytest.fixture(scope="module")
def guarded(made: Project, url: str) -> Iterator[str]:
    fleet = make_fleet()
    target = fleet.targets["local"]
    keys = TokenConfig(keys="auth/keys.json")
    gateway = GatewayConfig(**{**target.gateway.model_dump(), "tokens": keys})
    targets = {"local": target.model_copy(update={"gateway": gateway})}
    tokens.make_keys(made.root / "auth")
    with running_studio(made, FleetConfig(**{**fleet.model_dump(), "targets": targets})) as one:
        yield one


def token(project: Project, name: str, *roles: str) -> str:
    claims = {"issuer": "adire", "audience": "adire", "days": 1.0}
    return tokens.issue(project.root / "auth", name, **claims, roles=roles)


def test_raters_are_counted_live_and_a_viewer_rates_nothing(
    browser: Browser, guarded: str, project: Project
) -> None:
    viewer, designer = (token(project, name, name) for name in ("viewer", "designer"))
    with (
        opened(browser, guarded, token=viewer) as looking,
        opened(browser, guarded, token=designer) as rating,
    ):
        visit(looking, f"{RATE}?rater=designer")
        sheet = looking.get_by_role("region", name="Your sheet")
        expect(sheet).to_contain_text("you may not rate; roles that may: designer")
        expect(looking.locator("main").get_by_role("button")).to_have_count(0)
        visit(rating, f"{RATE}?rater=somebody")
        rating.get_by_role("button", name="Start").click()
        expect(rating.get_by_text(BEGIN)).to_be_visible()
        press(rating, "ArrowLeft", "Pair 2 of 40")
        everybody = looking.get_by_role("region", name="All raters")
        expect(everybody).to_contain_text("designer: 1 of 40 pairs")
        expect(everybody).to_contain_text("of at least 10 that the gate asks for")
    assert choices(project, "designer") == ("left",)


def test_an_approver_counts_the_ratings_after_handing_in_their_own(
    browser: Browser, guarded: str, project: Project
) -> None:
    sheets.hand_in(project, fill(project, "bisi"))
    fill(project, "obi")
    with opened(browser, guarded, token=token(project, "obi", "approver")) as page:
        visit(page, RATE)
        count = page.get_by_role("button", name="Count the ratings")
        expect(page.get_by_text("Hand in your own sheet before you count")).to_be_visible()
        expect(count).to_have_count(0)
        page.get_by_role("button", name="Hand in").click()
        expect(page.get_by_text("Krippendorff's alpha")).to_have_count(0)
        expect(page.get_by_text("over 40 pairs: not defined")).to_be_visible()
        count.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("rated by two")
        dialog.get_by_role("button", name="Count the ratings").click()
        # The project has no judge, without which no release is approved.
        expect(page.get_by_role("alert").last).to_contain_text("evaluation.judge.source")
