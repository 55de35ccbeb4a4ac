"""A designer trains a model in the browser: starts, follows, stops, goes on, and gets a release.

A tiny random base is trained. The tests share one project and follow its life in order; the long
ones are begun anew where the others were left out.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from adire_assets.config.fleet import FleetConfig, GatewayConfig, RolloutConfig, TokenConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.ops import dagster_runs, training
from adire_assets.serving.fleet import processes
from adire_assets.serving.gateway import tokens
from tests.line.toy import write_yaml
from tests.support import dagster_up, picture_folders, studio, tiny
from tests.support.fleets import make_fleet, write_fleet
from tests.support.studio import NARROW, opened, running_studio, serious_faults, visit

pytestmark = [studio.needs_chromium, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
MODEL = "cloth"
PAGE = f"/models/{MODEL}/training"
STEPS = 100_000  # more than the fastest machine does before somebody stops it
FEW_STEPS = 300
PATIENT = 240_000  # ms; what Dagster does takes a while on a busy machine
WHOLE_LINE = 480_000  # ms
CONFIG: dict[str, Any] = {
    "family": "diffusion",
    "require_clean_commit": False,
    "data": {
        "path": f"data/{MODEL}",
        "resolution": tiny.RESOLUTION,
        "instance_prompt": "cloth",
        "held_out_fraction": 0.3,
        "validation_fraction": 0.2,
    },
    "base_model": {"source": "base"},
    "training": {
        "rank": 2,
        "learning_rate": 0.001,
        "max_train_steps": STEPS,
        "checkpointing_steps": 10,
        "validation_steps": 100,
        "validation_prompt": "cloth",
        "num_validation_images": 1,
        "validation_num_inference_steps": 1,
        "num_processes": 1,
    },
    "evaluation": {
        "judge": {"source": "judge"},
        "prompts": ["cloth", "cloth with rings", "cloth with stripes", "pale cloth"],
        "seeds": [0, 1],
        "num_inference_steps": 2,
        "latency_images": 3,
        "gates": {
            "clip_s_minimum": 0.0,
            "kid_below_base": False,
            "nsfw_probability_maximum": 1.0,
        },
    },
}
SHORT = {**CONFIG, "training": {**CONFIG["training"], "max_train_steps": FEW_STEPS}}
QUICK = RolloutConfig(
    strategy="blue_green",
    minimum_seconds=0.0,
    error_rate_maximum=0.45,
    latency_increase_maximum=None,
    latency_maximum_seconds=30.0,
    promotion_quantiles=["p50"],
    quality_drop_maximum=0.9,
)


@pytest.fixture(scope="module")
def fleet() -> FleetConfig:
    """Users need a token."""
    made = make_fleet(QUICK)
    target = made.targets["local"]
    gateway = GatewayConfig(
        **{**target.gateway.model_dump(), "tokens": TokenConfig(keys="auth/keys.json")}
    )
    targets = {"local": target.model_copy(update={"gateway": gateway})}
    return FleetConfig(**{**made.model_dump(), "targets": targets})


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str], fleet: FleetConfig
) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("training") / "project"
    made = Project(root, root / ".adire")
    write_yaml(made.model_file(MODEL), CONFIG)
    write_fleet(made, fleet)
    made.home.mkdir()
    (root / "triton_models").symlink_to(ROOT / "triton_models")
    (root / "dagster_defs.py").write_text((ROOT / "dagster_defs.py").read_text())
    tiny.make_random_base(root / "base")
    tiny.make_random_judge(root / "judge", seed=4)
    for number in range(20):
        size = (tiny.RESOLUTION, tiny.RESOLUTION)
        image = picture_folders.picture(number, size)
        picture_folders.save(root / "data" / MODEL, f"{number}.png", image)
    for words in (["init", "--no-scm", "-q"], ["add", "-q", "data"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True)
    tokens.make_keys(root / "auth")
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(clean_environment):
            if name != "ADIRE_PASS":
                patch.delenv(name)
        patch.setenv("ADIRE_THREADS", "1")
        yield made


@pytest.fixture(scope="module")
def webserver(project: Project, fleet: FleetConfig) -> Iterator[None]:
    """From the first test that asks for it on; at the end no run is left."""
    with dagster_up.running(project, fleet, "dagster-webserver"):
        yield
    dagster_up.end_all(project)


@pytest.fixture(scope="module")
def daemon(project: Project, fleet: FleetConfig, webserver: None) -> Iterator[None]:
    with dagster_up.running(project, fleet, "dagster-daemon"):
        yield


@pytest.fixture(scope="module")
def slots(project: Project, fleet: FleetConfig) -> Iterator[None]:
    processes.up(project, fleet, only="serving")
    yield
    processes.down(project, fleet)


@pytest.fixture(scope="module")
def url(project: Project, fleet: FleetConfig) -> Iterator[str]:
    with running_studio(project, fleet) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with studio.browser() as found:
        yield found


@pytest.fixture
def page(browser: Browser, url: str, project: Project) -> Iterator[Page]:
    """The page of a designer."""
    with opened(browser, url, token=token(project, "ada", "designer")) as found:
        visit(found, PAGE)
        yield found


def token(project: Project, name: str, *roles: str) -> str:
    claims = {"issuer": "adire", "audience": "adire", "days": 1.0}
    return tokens.issue(project.root / "auth", name, **claims, roles=roles)


def step_of(page: Page, steps: int) -> str:
    """The latest step of so many, as the page tells it."""
    told = page.get_by_text(re.compile(rf"^Step [\d,]+ of {steps:,}, loss "))
    expect(told).to_be_visible(timeout=PATIENT)
    [number] = re.findall(r"^Step ([\d,]+) of", told.inner_text())
    return str(number)


def says(project: Project, text: str) -> bool:
    """Whether the latest run has said this."""
    run = dagster_runs.latest_run(project, MODEL)
    return bool(run) and any(text in one for one in dagster_runs.log_of(project, run).said)


def test_without_dagster_the_page_says_so_once_and_has_no_button(page: Page) -> None:
    expect(page.get_by_text("Dagster does not answer at http://127.0.0.1")).to_be_visible()
    expect(page.get_by_text("There is no release yet")).to_be_visible()
    expect(page.get_by_text("Dagster does not answer")).to_have_count(1)
    expect(page.get_by_role("button", name="Start")).to_have_count(0)


def test_who_starts_a_run_sees_what_it_waits_for(
    page: Page, project: Project, webserver: None
) -> None:
    expect(page.get_by_text("No run yet.")).to_be_visible()
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("ada started it in the studio")).to_contain_text(
        "waits in Dagster's queue, and Dagster's daemon, which would start it, does not run"
    )
    expect(page.get_by_role("button", name="Start")).to_have_count(0)
    with pytest.raises(UserError, match=r"\(ada started it in the studio\) is under way"):
        training.start(project, MODEL, "obi")


def test_a_viewer_follows_and_has_no_button(browser: Browser, url: str, project: Project) -> None:
    with opened(browser, url, token=token(project, "eve", "viewer")) as page:
        visit(page, PAGE)
        expect(page.get_by_text("ada started it in the studio")).to_be_visible()
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)


@pytest.mark.full
def test_a_training_is_followed_stopped_and_goes_on_from_its_checkpoint(
    page: Page, project: Project, daemon: None
) -> None:
    with suppress(UserError):  # it waits already
        training.start(project, MODEL, "ada")
    expect(page.get_by_text("training: now")).to_be_visible(timeout=PATIENT)
    step = step_of(page, STEPS)
    chart = page.get_by_role("img", name="The loss by step")
    expect(chart).to_be_visible()
    later = re.compile(rf"^Step (?!{step} )[\d,]+ of {STEPS:,}")
    expect(page.get_by_text(later)).to_be_visible(timeout=PATIENT)
    assert serious_faults(page) == []
    page.get_by_role("button", name="Stop").press("Enter")
    stopped = page.get_by_text("was stopped by ada; unless something has changed")
    expect(stopped).to_be_visible(timeout=PATIENT)
    [kept] = re.findall(r"from the checkpoint at step (\d+)", stopped.inner_text())
    assert 0 < int(kept) < STEPS
    page.get_by_role("button", name="Start").click()
    goes_on = f"going on from the checkpoint at step {kept}"
    assert wait_until(lambda: says(project, goes_on), PATIENT / 1000)
    page.get_by_role("button", name="Stop").click()
    expect(stopped).to_be_visible(timeout=PATIENT)


@pytest.mark.full
def test_its_samples_and_its_release_come_out(
    page: Page, project: Project, daemon: None, slots: None
) -> None:
    write_yaml(project.model_file(MODEL), SHORT)
    with suppress(UserError):  # the sensor may have been faster
        training.start(project, MODEL, "obi")
    live = page.get_by_text("has ended: release 1 is live on local")
    expect(live).to_be_visible(timeout=WHOLE_LINE)
    assert step_of(page, FEW_STEPS) == str(FEW_STEPS)
    expect(page.get_by_role("heading", name=f"Step {FEW_STEPS}")).to_be_visible()
    picture = page.get_by_role("img", name=f"Image 1, Step {FEW_STEPS}")
    expect(picture).to_be_visible()
    address = page.locator("img[src*='/training/']").first.get_attribute("src")
    for other in (address.replace("/300/", "/7/"), address[:-1] + "9", f"{PAGE}/x'y/300/0"):
        assert page.request.get(other).status == 404
    page.wait_for_function("() => [...document.images].some((one) => one.naturalWidth == 64)")
    expect(page.get_by_text("Nothing has changed since release 1")).to_be_visible()
    page.set_viewport_size({"width": NARROW, "height": 900})
    assert serious_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
    page.get_by_role("link", name="Release 1: verdict, gates and report").click()
    expect(page.get_by_role("heading", name="Release 1")).to_be_visible()


@pytest.mark.full
def test_a_refusal_is_told_in_the_gates_own_sentence(
    page: Page, project: Project, daemon: None, slots: None
) -> None:
    gates = {**CONFIG["evaluation"]["gates"], "clip_s_minimum": 2.5}
    evaluation = {**CONFIG["evaluation"], "gates": gates}
    write_yaml(project.model_file(MODEL), {**SHORT, "evaluation": evaluation})
    with suppress(UserError):  # the sensor may have been faster
        training.start(project, MODEL, "obi")
    refused = page.get_by_text(re.compile("refused by the gate clip_s .* is below 2.5"))
    expect(refused).to_be_visible(timeout=WHOLE_LINE)
    expect(page.get_by_text(re.compile(r"^Run .* was refused at "))).to_be_visible()
    # Nothing was trained: the curve is that of the adapter, which is there.
    assert step_of(page, FEW_STEPS) == str(FEW_STEPS)
