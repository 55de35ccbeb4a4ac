"""The data page in a real browser: upload, mend, publish, go back; and who may."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from adire_assets.config.fleet import FleetConfig, GatewayConfig, TokenConfig
from adire_assets.core.project import Project
from adire_assets.serving.gateway import tokens
from adire_assets.studio import data
from tests.support import git_project, hostile, studio
from tests.support.fleets import make_fleet
from tests.support.git_project import git, is_clean
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records
from tests.support.picture_folders import picture
from tests.support.studio import NARROW, WIDE, opened, running_studio, serious_faults, visit

pytestmark = studio.needs_chromium
PAGE = "/models/indigo/data"
FILES = re.compile(r"\d+ files")  # what the data that is there is behind
SCRIPT = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{ 1 + 1 }}'
CLAIMS = {"issuer": "adire", "audience": "adire", "days": 1.0}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with studio.browser() as found:
        yield found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("data page")
    with pytest.MonkeyPatch.context() as patch:
        git_project.isolate(patch, folder / "dvc")
        made = git_project.make(folder / "project")
        tokens.make_keys(made.root / "auth")
        (made.root / ".gitignore").write_text(".adire/\nauth/\n/data\n/configs/fleet.yaml\n")
        git(made, "rm", "--quiet", "--cached", "configs/fleet.yaml")
        git_project.commit(made)
        yield made


@pytest.fixture(scope="module")
def url(project: Project) -> Iterator[str]:
    fleet = make_fleet()
    target = fleet.targets["local"]
    keys = TokenConfig(keys="auth/keys.json")
    gateway = GatewayConfig(**{**target.gateway.model_dump(), "tokens": keys})
    targets = {"local": target.model_copy(update={"gateway": gateway})}
    with running_studio(project, FleetConfig(**{**fleet.model_dump(), "targets": targets})) as at:
        yield at


def token(project: Project, name: str, role: str) -> str:
    return tokens.issue(Path(project.root / "auth"), name, **CLAIMS, roles=[role])


def png(number: int) -> bytes:
    made = io.BytesIO()
    picture(number).save(made, "PNG")
    return made.getvalue()


def send(page: Page, **files: bytes) -> None:
    sent = [
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        for name, content in files.items()
    ]
    page.get_by_label("Choose or drop files here").set_input_files(sent)


def test_the_way_of_a_designer_from_files_to_a_version_and_back(
    browser: Browser, url: str, project: Project
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cloths/one.png", png(202))
        archive.writestr("cloths/metadata.csv", "file_name,text\none.png,a cloth from the zip\n")
    with opened(browser, url, token=token(project, "ada", "designer"), known="-") as page:
        visit(page, PAGE)
        files = {
            "a.png": png(200),
            "b.png": png(201),
            "same.png": png(3),
            "zip.zip": packed.getvalue(),
        }
        send(page, **files, **{"x.svg": b"<svg onload='window.hacked=1'/>"})
        new = page.get_by_role("list", name="New").get_by_role("listitem")
        expect(new).to_have_count(3, timeout=60_000)
        main = page.locator("main")
        expect(main).to_contain_text("same.png: the same image as p3.png")
        expect(main).to_contain_text("x.svg: is not taken: this model's data are images")
        expect(page.get_by_label("Caption of cloths/one.png")).to_have_value("a cloth from the zip")
        shown = new.nth(0).get_by_role("img")
        expect(shown).to_have_js_property("naturalWidth", 36)
        field = page.get_by_label("Caption of a.png")
        field.fill(f"a caption {SCRIPT}")
        field.press("Enter")
        page.get_by_role("button", name="Remove: b.png").click()
        expect(new).to_have_count(2)
        expect(page.get_by_label("Caption of a.png")).to_have_value(f"a caption {SCRIPT}")
        page.get_by_role("button", name="20 files").click()
        page.get_by_role("button", name="Remove: p2.png").click()
        expect(page.get_by_role("button", name="Keep: p2.png")).to_be_visible()
        page.get_by_role("button", name="Publish").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Publish").click()
        expect(dialog).to_contain_text("Say why")
        dialog.get_by_label("Reason").fill("two cloths, one less")
        dialog.get_by_role("button", name="Publish").click()
        expect(page.get_by_role("list", name="Versions")).to_contain_text(
            "ada, 22 files: two cloths, one less", timeout=90_000
        )
        assert page.evaluate("window.hacked") is None
        assert is_clean(project) and git(project, "log", "-1", "--format=%an") == "ada"
        folder = project.root / "data" / "indigo"
        assert (folder / "cloths" / "one.png").read_bytes() == png(202)
        assert "a caption <img" in (folder / "metadata.csv").read_text()
        page.get_by_role("button", name="Go back").click()
        dialog.get_by_label("Reason").fill("it was better")
        dialog.get_by_role("button", name="Go back").click()
        expect(page.get_by_role("list", name="Versions")).to_contain_text(
            "it was better", timeout=90_000
        )
        assert (folder / "p2.png").is_file() and is_clean(project)


def test_a_caption_alone_is_a_change(browser: Browser, url: str, project: Project) -> None:
    with opened(browser, url, token=token(project, "ngozi", "designer")) as page:
        visit(page, PAGE)
        page.get_by_role("button", name=FILES).click()
        field = page.get_by_label("Caption of p5.png")
        field.fill("a mended caption")
        field.press("Tab")
        expect(page.get_by_role("button", name="Publish")).to_be_visible()
        expect(field).to_have_value("a mended caption")
        page.get_by_role("button", name="Discard").click()
        expect(field).to_have_value("")


def test_a_writers_records_are_shown_one_by_one(
    browser: Browser, url: str, project: Project, tmp_path: Path
) -> None:
    records = [alpaca(70), {"instruction": 7}, alpaca(71)]
    file = write_records(tmp_path / "new.jsonl", records)
    with opened(browser, url, token=token(project, "wole", "designer")) as page:
        visit(page, "/models/letters/data")
        send(page, **{"new.jsonl": file.read_bytes()})
        rows = page.get_by_role("list", name="New").get_by_role("listitem")
        expect(rows).to_have_count(2, timeout=60_000)
        expect(rows.nth(1)).to_contain_text(alpaca(71)["instruction"][:20])
        expect(page.locator("main")).to_contain_text("new.jsonl:2: instruction: text is expected")
        page.get_by_role("button", name="Discard").click()
        expect(rows).to_have_count(0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_page_is_usable_by_everybody(
    browser: Browser, url: str, project: Project, width: int, dark: bool
) -> None:
    with opened(
        browser, url, width=width, dark=dark, token=token(project, "uche", "designer")
    ) as page:
        visit(page, PAGE)
        send(page, **{f"uche{width}{dark}.png": png(300), "no.txt": b"of nothing"})
        expect(page.get_by_role("list", name="New")).to_be_visible(timeout=60_000)
        page.get_by_role("button", name=FILES).click()
        assert serious_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="Discard").click()
        expect(page.get_by_role("list", name="New")).to_have_count(0)


def test_who_may_not_change_the_data_sees_it_only(
    browser: Browser, url: str, project: Project
) -> None:
    with opened(browser, url, token=token(project, "vic", "viewer"), known="403") as page:
        visit(page, PAGE)
        expect(page.get_by_role("list", name="Versions")).to_be_visible()
        assert page.locator("main button").all_inner_texts() == []
        expect(page.locator("input[type=file]")).to_have_count(0)
        place = f"{data.UPLOAD}?model=indigo&name=x.png"
        answer = page.request.post(place, data=png(9), headers={"origin": url})
        assert (answer.status, answer.text()) == (
            403,
            "you may not change data; roles that may: designer, operator\n",
        )
        assert page.request.get(f"{data.PICTURE}/indigo/{quote('../known')}").status == 404
    assert not list(project.home.glob("drafts/indigo/vic-*"))


def test_hostile_uploads_are_answered_in_a_sentence_each(
    browser: Browser, url: str, project: Project
) -> None:
    uploads = [one for one in hostile.for_images() if "\ud800" not in one[0]][::12]
    with opened(browser, url, token=token(project, "mallory", "designer")) as page:
        for name, content in uploads:
            place = f"{data.UPLOAD}?model=indigo&name={quote(name)}"
            answer = page.request.post(place, data=content, headers={"origin": url})
            assert answer.status == 200 and answer.text()
            assert answer.headers["content-type"].startswith("text/plain")
        visit(page, PAGE)
        page.get_by_role("button", name="Check").click()
        expect(page.locator("main")).to_contain_text("Not taken", timeout=60_000)
        expect(page.get_by_text("not checked")).to_have_count(0, timeout=60_000)
        page.get_by_role("button", name="Discard").click()
        expect(page.get_by_text("Not taken")).to_have_count(0)
        for place in ("?model=../x&name=a.png", "?model=indigo", ""):
            answer = page.request.post(data.UPLOAD + place, data=b"x", headers={"origin": url})
            assert answer.status in (200, 400) and answer.text()
        foreign = page.request.post(data.UPLOAD, data=b"x", headers={"origin": "http://evil"})
        assert foreign.status == 403
