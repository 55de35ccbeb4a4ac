"""The page of a report: when it is drawn, what it compares with, and that MLflow gets it once."""

import shutil
from pathlib import Path

import pytest

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.store import read_json, write_json
from adire_assets.gates.report import document, pages
from tests.support.shop import MODEL, Shop


def test_a_verdict_has_a_page_that_mlflow_gets_once(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    refused = shop.decide(shop.evaluation("second", 1.4)).artifact
    shop.decide(shop.evaluation("second", 1.4))
    path = pages.page_path(shop.project, refused)
    page = path.read_text()
    assert shop.logged[path.name] == page
    assert "Refused" in page and "Against the champion, release 1" in page


def test_a_page_is_drawn_again_when_its_templates_or_its_code_are_others(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = shop.evaluation("first", 1.6)
    judged = shop.decide(evaluation).artifact
    first = pages.page_path(shop.project, judged)
    changed = shutil.copytree(document.TEMPLATES, tmp_path / "templates")
    (changed / "page.css").write_text("body { outline: solid }")
    monkeypatch.setattr(document, "TEMPLATES", changed)
    assert not pages.page_path(shop.project, judged).exists()
    shop.decide(evaluation)
    second = pages.page_path(shop.project, judged)
    assert "outline: solid" in second.read_text()
    assert "outline: solid" not in first.read_text()
    assert shop.logged.keys() == {first.name, second.name}
    (changed / "report.html.j2").write_text("another page")
    found = {first, second, pages.page_path(shop.project, judged)}
    code = {"adire_assets.gates.report.document": "1"}
    monkeypatch.setattr(lineage, "code_hash", lambda modules: str([code.get(m) for m in modules]))
    found.add(pages.page_path(shop.project, judged))
    code["adire_assets.gates.report.document"] = "2"
    found.add(pages.page_path(shop.project, judged))
    assert len(found) == 5


def test_a_page_that_mlflow_did_not_get_is_written_again(shop: Shop) -> None:
    shop.mlflow_is_away = True
    with pytest.raises(UserError, match="away"):
        shop.decide(shop.evaluation("first", 1.6))
    assert not list((shop.project.home / "reports").glob("*"))
    shop.mlflow_is_away = False
    path = pages.page_path(shop.project, shop.decide(shop.evaluation("first", 1.6)).artifact)
    assert shop.logged == {path.name: path.read_text()}


def test_the_champion_on_the_page_is_the_release_that_is_live(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    for number in (1, 2, 3):  # the same adapter, served in three ways
        shop.release(number, first, shop.decide(first).artifact)
    for live in (2, 1):
        shop.bring_live(live)
        judged = shop.decide(shop.evaluation(f"after {live}", 1.6)).artifact
        page = pages.page_path(shop.project, judged).read_text()
        assert f"Against the champion, release {live}" in page


def test_a_page_shows_the_newest_evaluation_that_was_not_made_for_another(shop: Shop) -> None:
    shop.release(1, shop.evaluation("first", 1.6, steps=30))
    shop.bring_live(1)
    second = shop.evaluation("second", 1.6)
    shop.decide(second)  # evaluates the champion again, after its own
    assert shop.evaluated == ["first"]
    page = pages.report(shop.project, MODEL, None).read_text()
    assert f"adapter {second.manifest['lora_weights']['key'][:12]}" in page
    assert "verdict yet" not in page
    # Not judged yet, of an adapter that was.
    newest = shop.evaluation("second", 1.6, steps=40).path / "manifest.json"
    newest.chmod(0o644)
    write_json(newest, {**read_json(newest), "created": "2999-01-01T00:00:00+00:00"})
    assert "No verdict yet" in pages.report(shop.project, MODEL, None).read_text()
