"""Declaring a model in a real browser: the form, its mistakes, the file and the commit."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from adire_assets.config.fleet import FleetConfig, GatewayConfig, TokenConfig
from adire_assets.config.model import load_model
from adire_assets.core.project import Project
from adire_assets.serving.gateway import tokens
from adire_assets.studio.new_model import mistakes_in
from tests.support import studio
from tests.support.fleets import make_fleet
from tests.support.studio import NARROW, WIDE, opened, running_studio, serious_faults, visit

pytestmark = studio.needs_chromium
PAGE = "/new-model"
FILLED = {
    "data.instance_prompt (required)": "yes",  # first: the form of the other family has none
    "data.path (required)": "data/silk",
    "base_model.source (required)": "base",
    "evaluation.judge.source (required)": "judge",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with studio.browser() as found:
        yield found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout whose studio asks for tokens."""
    root = tmp_path_factory.mktemp("new_model")
    (root / "configs" / "models").mkdir(parents=True)
    (root / ".gitignore").write_text("/.adire\n/auth\n")
    for command in (
        ("init", "-q"),
        ("config", "user.name", "the checkout"),
        ("config", "user.email", "checkout@example.org"),
        ("add", "."),
        ("commit", "-qm", "begun"),
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    tokens.make_keys(root / "auth")
    return Project(root, root / ".adire")


@pytest.fixture(scope="module")
def url(project: Project) -> Iterator[str]:
    fleet = make_fleet()
    target = fleet.targets["local"]
    keys = TokenConfig(keys="auth/keys.json")
    gateway = GatewayConfig(**{**target.gateway.model_dump(), "tokens": keys})
    targets = {"local": target.model_copy(update={"gateway": gateway})}
    with running_studio(project, FleetConfig(**{**fleet.model_dump(), "targets": targets})) as one:
        yield one


def token(project: Project, name: str, role: str) -> str:
    claims = {"issuer": "adire", "audience": "adire", "days": 1.0}
    return tokens.issue(Path(project.root / "auth"), name, **claims, roles=[role])


def fill(page: Page, name: str) -> None:
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Family").click()
    page.get_by_role("option", name="diffusion").click()
    for label, value in FILLED.items():
        page.get_by_label(label, exact=True).fill(value)


def test_a_model_is_declared_and_committed_from_the_form(
    browser: Browser, url: str, project: Project
) -> None:
    with opened(browser, url, token=token(project, "obi", "operator")) as page:
        visit(page, PAGE)
        fill(page, "silk")
        page.get_by_label("training.rank", exact=True).fill("many")
        page.get_by_role("button", name="Check").click()
        expect(page.get_by_role("alert").first).to_contain_text("found 'many'")
        expect(page.get_by_role("button", name="Write the file")).to_have_count(0)
        page.get_by_label("training.rank", exact=True).fill("8")
        page.get_by_role("button", name="Check").click()
        expect(page.locator("main")).to_contain_text("+++ b/configs/models/silk.yaml")
        expect(page.locator("main")).to_contain_text('instance_prompt: "yes"')
        page.get_by_role("button", name="Write the file").click()
        page.get_by_role("button", name="Commit").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("silk for the shop")
        dialog.get_by_role("button", name="Commit").click()
        expect(page.get_by_text("configs/models/silk.yaml is committed as")).to_be_visible()
        # Again under a name that is taken by now.
        page.get_by_role("button", name="Check").click()
        expect(page.get_by_role("alert").last).to_contain_text("silk.yaml exists already")
    config = load_model(project, "silk")
    assert (config.data.model_dump()["instance_prompt"], config.training.rank) == ("yes", 8)
    log = ["git", "log", "-1", "--format=%an: %s"]
    told = subprocess.run(log, cwd=project.root, check=True, capture_output=True, text=True).stdout
    assert told == "obi: silk for the shop\n"


@pytest.mark.parametrize(
    ("line", "key", "what"),
    [
        ("/p/silk.yaml:3: training.rank: too low", "training.rank", "too low"),
        ("/p/silk.yaml: data.path: it is: no folder", "data.path", "it is: no folder"),
        ("/p: x/silk.yaml:9: evaluation.seeds.0: wrong", "evaluation.seeds", "wrong"),
        ("training.rank: this is not valid YAML: x", "training.rank", "this is not valid YAML: x"),
    ],
)
def test_a_mistake_is_found_with_and_without_its_line(line: str, key: str, what: str) -> None:
    assert (key, what) in mistakes_in(line)


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (NARROW, True)])
def test_the_form_is_usable_by_everybody(
    browser: Browser, url: str, project: Project, width: int, dark: bool
) -> None:
    signed_in = token(project, "obi", "operator")
    with opened(browser, url, width=width, dark=dark, token=signed_in) as page:
        visit(page, PAGE)
        page.get_by_role("button", name="serving").first.click()
        expect(page.get_by_label("serving.maximum_tokens")).to_be_visible()
        page.get_by_role("button", name="Check").click()
        expect(page.get_by_role("alert").first).to_be_visible()
        assert serious_faults(page) == []
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{wide} px wide"


def test_a_designer_declares_no_model(browser: Browser, url: str, project: Project) -> None:
    with opened(browser, url, token=token(project, "ada", "designer")) as page:
        visit(page, PAGE)
        main = page.locator("main")
        expect(main).to_contain_text("you may not declare a model; roles that may: operator")
        expect(main.get_by_role("button")).to_have_count(0)
        expect(page.get_by_role("link", name="New model")).to_have_count(0)
