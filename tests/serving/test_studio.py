"""The studio before a live model: drawing in a browser, what is kept of it, and going back."""

import json
import re
from collections.abc import Iterator
from io import BytesIO

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from adire_assets.config.costs import CostConfig
from adire_assets.monitoring import feedback
from tests.serving.conftest import MODEL
from tests.support import studio
from tests.support.asking import generate
from tests.support.house import House
from tests.support.studio import opened, running_studio, serious_faults, visit

pytestmark = studio.needs_chromium
YAML = """\
family: diffusion
data: {path: data/cloth, instance_prompt: cloth}
base_model: {source: base}
evaluation: {judge: {source: judge}}
"""
PAGE = f"/models/{MODEL}/generate"


@pytest.fixture(scope="module")
def url(served: House) -> Iterator[str]:
    served.ensure_live(1)
    file = served.project.model_file(MODEL)
    file.write_text(YAML)
    try:
        costs = CostConfig(currency="EUR", cost_per_hour={"cpu": 0.4})
        fleet = served.fleet.model_copy(update={"costs": costs})
        with running_studio(served.project, fleet) as found:
            yield found
    finally:
        file.unlink()
        (served.project.root / "configs" / "fleet.yaml").unlink()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with studio.browser() as found:
        yield found


def ask(page: Page, **values: str) -> None:
    for label, value in values.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(value)
    page.get_by_role("button", name="Generate").click()


def test_an_image_is_drawn_and_saved_with_where_it_comes_from(
    browser: Browser, url: str, served: House
) -> None:
    with opened(browser, url) as page:
        visit(page, PAGE)
        ask(page, Prompt="indigo rings", Seed="5", Num_inference_steps="6")
        gallery = page.get_by_role("region", name="Gallery")
        expect(gallery.get_by_text("release 1, seed 5")).to_be_visible(timeout=60_000)
        with page.expect_download() as saved:
            gallery.get_by_role("button", name="Save").click()
        assert saved.value.suggested_filename == f"{MODEL}-1.png"
        with Image.open(BytesIO(saved.value.path().read_bytes())) as image:
            facts = json.loads(image.text["adire"])
            drawn = image.convert("RGB").tobytes()
        asked = {"prompt": "indigo rings", "seed": 5, "num_inference_steps": 6}
        assert {name: facts["request"][name] for name in asked} == asked
        assert generate(served.address, MODEL, **asked).content[0].tobytes() == drawn
        gallery.get_by_text("Provenance").click()
        expect(gallery).to_contain_text('"release_hash"')
        assert serious_faults(page) == []


def test_an_image_is_rated_by_the_keyboard(browser: Browser, url: str, served: House) -> None:
    with opened(browser, url) as page:
        visit(page, PAGE)
        ask(page, Prompt="indigo rings", Seed="5", Num_inference_steps="2", Num_images="2")
        gallery = page.get_by_role("region", name="Gallery")
        opens = gallery.get_by_role("button", name="Rate or report: ")
        expect(opens).to_have_count(2, timeout=60_000)
        opens.nth(1).focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Rate or report")
        expect(dialog).to_contain_text("release 1, seed 6")
        for role, name in (("radio", "2"), ("checkbox", "Artefact"), ("checkbox", "Attach")):
            dialog.get_by_role(role, name=name).focus()
            page.keyboard.press("Space")
        assert serious_faults(page) == []
        dialog.get_by_role("button", name="Send").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text("thank you")).to_be_visible()
        changed = gallery.get_by_role("button", name="Change your rating: ")
        expect(changed).to_have_text("Change your rating")
    [one] = feedback.all_given(served.project, MODEL)
    assert (one.release, one.part, one.rating, one.flags) == (1, 1, 2, ("artefact",))
    kept = feedback.attachment(served.project, MODEL, one.name)
    drawn = generate(
        served.address, MODEL, "indigo rings", seed=5, num_inference_steps=2, num_images=2
    )
    with Image.open(kept) as image:
        assert image.convert("RGB").tobytes() == drawn.content[1].tobytes()
        assert json.loads(image.text["adire"])["request"]["prompt"] == "indigo rings"


def test_two_releases_draw_the_same_seed_side_by_side(
    browser: Browser, url: str, served: House
) -> None:
    served.ensure_live(1)
    served.ensure_live(2)
    with opened(browser, url) as page:
        visit(page, PAGE)
        page.get_by_label("Compare with").click()
        page.get_by_role("option", name="1", exact=True).click()
        ask(page, Prompt="indigo rings", Num_inference_steps="4")
        gallery = page.get_by_role("region", name="Gallery")
        first = gallery.get_by_text("release 2, seed ")
        expect(first).to_be_visible(timeout=60_000)
        seed = first.inner_text().split()[-1]
        expect(gallery.get_by_text(f"release 1, seed {seed}")).to_be_visible(timeout=60_000)
        gallery.get_by_role("button", name="Use this seed").first.click()
        expect(page.get_by_label("Seed", exact=True)).to_have_value(seed)


def test_what_cannot_be_drawn_is_said_in_its_place(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        visit(page, PAGE)
        ask(page, Prompt=" ")
        expect(page.get_by_role("alert")).to_contain_text("enter a prompt")
        ask(page, Prompt="rings", Num_inference_steps="900")
        gallery = page.get_by_role("region", name="Gallery")
        expect(gallery).to_contain_text("allowed is 1 to 20", timeout=60_000)
        expect(page.get_by_role("button", name="Generate")).to_be_enabled()


def test_the_watch_says_how_much_is_drawn_and_what_it_costs(
    browser: Browser, url: str, served: House
) -> None:
    served.ensure_live(2)
    with opened(browser, url) as page:
        visit(page, "/watch")
        shown = page.locator("main")
        expect(shown).to_contain_text(re.compile(r"The last \d+ seconds"), timeout=60_000)
        for seed in range(3):
            generate(served.address, MODEL, "rings", seed=seed, num_inference_steps=6)
        said = rf"{MODEL} release 2 on local: 100% of the requests; [\d.]+ requests/s; 0\.0% failed"
        expect(shown).to_contain_text(re.compile(rf"{said}.* images/s.* EUR per (1,000 )?image"))
        expect(shown).to_contain_text(re.compile(r"EUR per hour idle"))
        plot = page.get_by_role("img", name="Requests per second, over time")
        expect(plot).to_be_visible()
        expect(shown).to_contain_text(re.compile(rf"{MODEL} 2 on local: [\d.]+, between 0 and"))
        assert serious_faults(page) == []


def test_a_release_goes_back_with_a_reason(browser: Browser, url: str, served: House) -> None:
    served.ensure_live(2)
    with opened(browser, url) as page:
        visit(page, f"/models/{MODEL}/releases")
        first, second = (
            page.locator(
                ".q-card", has=page.get_by_role("heading", name=f"Release {one}", exact=True)
            )
            for one in (1, 2)
        )
        expect(second).to_contain_text("live on local")
        first.get_by_role("button", name="Roll back").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("too pale")
        dialog.get_by_role("button", name="Roll back").click()
        expect(first).to_contain_text("live on local", timeout=60_000)
        expect(second).to_contain_text("too pale (local, in the studio)")
    assert served.record.live == 1 and served.serving() == 1
