"""The report of a project's artifacts: `adire report`, and what is read from their files."""

import json
import shutil
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Store, write_json
from adire_assets.families.diffusion.evaluation import samples
from adire_assets.families.diffusion.evaluation.samples import picture
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.gates import ratings
from adire_assets.gates.comparison import Comparison
from adire_assets.gates.report import pages
from adire_assets.gates.report.document import MAXIMUM_PAIRS, html, shuffle_of, view_of
from adire_assets.gates.verdict import decide
from adire_assets.serving import release
from tests.support.compared import compared_releases, evaluated
from tests.support.pages import Nesting, rated, sheet_data


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return compared_releases(tmp_path)


def test_the_report_of_a_release_says_what_its_artifacts_say(project: Project) -> None:
    path = pages.report(project, "cloth@2", None)
    assert path == project.home / "reports" / "cloth-2.html"
    page = path.read_text()
    assert "<h1>cloth, release 2</h1>" in page
    assert "Passed all 1 gates" in page and "Not required" in page
    weakest, strongest = page.index("cloth 0</h3>"), page.index("cloth 24</h3>")
    assert page.index("Where it is weakest") < weakest < strongest
    assert "CLIP-S 1.5<" in page and "CLIP-S 1<" in page  # challenger and champion
    assert page.count("Real, held out: cloth 0") == 1
    assert page.count('class="dot champion"') == 100  # two metrics of 50 images
    for fact in ("d00d.dir", "da7a", "base_models/tiny", "to_q, to_k", "1,024 MiB"):
        assert fact in page


def test_the_champion_is_not_compared_with_itself(project: Project) -> None:
    page = pages.report(project, "cloth@1", project.root / "one.html").read_text()
    assert "<h1>cloth, release 1</h1>" in page and 'class="dot champion"' not in page


def test_the_newest_evaluation_is_taken_without_a_number(project: Project) -> None:
    report, _ = evaluated(project, 0.75)
    made = json.loads((report.path / "manifest.json").read_text())
    (report.path / "manifest.json").chmod(0o644)
    write_json(report.path / "manifest.json", {**made, "created": "2999-01-01T00:00:00+00:00"})
    page = pages.report(project, "cloth", None).read_text()
    assert f"<h1>cloth, adapter {made['lora_weights']['key'][:12]}</h1>" in page
    with pytest.raises(UserError, match="no release number"):
        pages.blind_sheet(project, "cloth", None)


def test_a_blind_sheet_of_the_project_is_counted_with_its_secret(
    project: Project, tmp_path: Path
) -> None:
    path, rule = pages.blind_sheet(project, "cloth@2", None)
    assert path.name == "cloth-2-blind.html"
    assert rule.startswith("release 2 must win 18 of 25 prompts; a prompt goes to the release")
    assert "Release 2 must win 18 of 25 prompts<" in path.read_text()
    data = sheet_data(path.read_text())
    assert (data["challenger"], data["champion"]) == (2, 1)
    names = [pair["name"] for pair in data["pairs"]]
    assert len(names) == MAXIMUM_PAIRS and {"000-seed0", "024-seed1"} <= set(names)
    # Who prefers the challenger everywhere, whose pictures are known by a page without a shuffle.
    judged = [release.read_record(project, "cloth", number).evaluation for number in (2, 1)]
    challenger, champion = (Store(project).open(reference) for reference in judged)
    view = view_of(project, challenger, 2, None, champion, 1, pairs=True)
    own = {pair.name: pair.challenger.uri for pair in view.pairs}
    choices = {
        pair["name"]: "left" if pair["left"] == {"picture": own[pair["name"]]} else "right"
        for pair in data["pairs"]
    }
    answer = tmp_path / "ratings.json"
    write_json(answer, {**rated(path.read_text(), None), "choices": choices})
    wanted = release.read_record(project, "cloth", 2)
    found = ratings.count_ratings(project, wanted, 1, [answer], GateConfig())
    assert (found["wins"], found["losses"], found["pairs"]["wins"]) == (25, 0, 40)
    assert stat.S_IMODE((project.home / "rating_secret").stat().st_mode) == 0o600


def test_answers_that_are_alike_are_not_rated(project: Project) -> None:
    judged = [release.read_record(project, "cloth", number).evaluation for number in (2, 1)]
    challenger, champion = (Store(project).open(reference) for reference in judged)
    image = champion.path / "images" / "adapter" / "000-seed0.png"
    image.chmod(0o644)
    shutil.copyfile(challenger.path / "images" / "adapter" / "000-seed0.png", image)
    view = view_of(project, challenger, 2, None, champion, 1, pairs=True)
    # Without it there are 49, of which as many are shown as before.
    assert len(view.pairs) == MAXIMUM_PAIRS
    assert "000-seed0" not in {pair.name for pair in view.pairs}
    place = [(own.prompt, own.seed) for own in view.pairs]
    assert place == sorted(place, key=lambda one: (int(one[0].split()[-1]), one[1]))
    alike = view_of(project, challenger, 2, None, challenger, 1, pairs=True)
    with pytest.raises(UserError, match="has answered the same prompts and seeds otherwise"):
        shuffle_of(alike, b"secret")


def test_only_the_pictures_that_a_sheet_shows_are_made(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, picture = [], samples.picture
    monkeypatch.setattr(samples, "picture", lambda path: made.append(path) or picture(path))
    assert len(pages.blind_view(project, "cloth@2").pairs) == MAXIMUM_PAIRS
    assert len(made) == 2 * MAXIMUM_PAIRS


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cloth@9", "no release 9 of cloth"),
        ("denim", "no model 'denim'"),
    ],
)
def test_what_is_not_there_is_said(project: Project, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        pages.report(project, name, None)


def test_a_place_that_cannot_be_written_is_said(project: Project) -> None:
    with pytest.raises(UserError, match="Is a directory; name another"):
        pages.report(project, "cloth@2", project.home)


def test_comparisons_of_a_verdict_become_gates_against_the_champion(project: Project) -> None:
    found = Comparison("style", 1.0, 1.01, 0.01, -0.03, 0.02, 0.06, False, False, "small")
    verdict = asdict(decide({}, {}, GateConfig(), (found,)))
    evaluation = Store(project).open(release.read_record(project, "cloth", 1).evaluation)
    judged = Store(project).build(
        Recipe("promotion_verdict", "cloth"),
        lambda folder: write_json(folder / "verdict.json", verdict),
    )
    view = view_of(project, evaluation, 1, judged.artifact, None, None)
    gate = view.gates[-1]
    assert gate.against_champion and (gate.name, gate.outcome) == ("style", "undecided")
    assert (gate.difference, gate.smallest_effect) == (0.01, 0.06)
    assert (gate.value, gate.threshold, gate.comparison) == (-0.03, -0.02, ">")
    assert gate.margin == pytest.approx(-0.01)


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1024, 2048, 3), np.uint8)).save(tmp_path / "large.png")
    drawn = picture(tmp_path / "large.png")
    assert (drawn.width, drawn.height) == (512, 256)


def test_an_evaluation_without_images_or_scores_still_has_a_report(project: Project) -> None:
    made = Store(project).open(release.read_record(project, "cloth", 1).evaluation).manifest

    def make(folder: Path) -> dict[str, Any]:
        report = {"adapter_problems": ["unet.x is NaN"], "per_image": []}
        write_json(folder / "report.json", report)
        write_json(folder / "timings.json", {})
        return {kind: made[kind] for kind in ("dataset", "lora_weights", "base_model")}

    unsound = Store(project).build(Recipe("evaluation_report", "cloth"), make).artifact
    page = html(view_of(project, unsound, None, None, None, None))
    assert "unet.x is NaN" in page and not Nesting(page).wrong
