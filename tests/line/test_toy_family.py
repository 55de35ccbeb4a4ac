"""A family from outside the package goes the whole way: texts instead of images, and no torch.

Once with the whole package, and once without the folders of the diffusion family and of the
embedded base: what is left knows nothing of either. The tests share one project and follow its life
in order.
"""

import json
import re
from collections.abc import Iterator
from html import unescape

import pytest

from adire_assets.core.store import Store
from tests.line.toy import FOREIGN, MODEL, TEXTS, Toy, toy_project

pytestmark = pytest.mark.full
PARTS = ("families/diffusion", "embedded")
HEAVY = rf"{FOREIGN}|torch"


@pytest.fixture(scope="module", params=[(), PARTS], ids=["whole", "without_diffusion"])
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    with toy_project(tmp_path_factory.mktemp("toy") / "project", without=request.param) as toy:
        yield toy


def told(toy: Toy, *arguments: str, fails: bool = False) -> str:
    """What a command said; nothing of it is foreign."""
    done = toy.adire(*arguments, check=False)
    said = done.stdout + done.stderr
    assert bool(done.returncode) == fails, said
    assert not re.findall(HEAVY, said.replace("evaluation_images", ""), re.IGNORECASE), said
    return said


def status(toy: Toy) -> str:
    return told(toy, "status")


def test_it_goes_live_from_its_texts(toy: Toy) -> None:
    said = told(toy, "materialize", MODEL)
    assert re.search(r"passed all \d gates: .*perplexity 1\.\d", said)
    assert "4 of 4 texts are those of the evaluation" in said
    assert f"{MODEL}: release 1 is live" in status(toy)
    again = told(toy, "materialize", MODEL)
    assert f"{MODEL}/lora_weights: reused" in again and "lora_weights: made" not in again


def test_an_answer_is_asked_for_and_traced(toy: Toy) -> None:
    out = toy.root / "answer.json"
    said = told(toy, "generate", "the dyer", "--model", MODEL, "--seed", "7", "--out", str(out))
    assert "release 1: " in said
    answer = json.loads(out.read_text())
    assert any(text.startswith("the dyer" + answer["text"][:8]) for text in TEXTS)
    traced = told(toy, "trace", str(out))
    assert f"release 1 of {MODEL}" in traced and answer["dvc_hash"] in traced
    assert "agrees" in traced


def test_a_sabotaged_training_is_refused(toy: Toy) -> None:
    toy.configure(training={"shuffled": True})
    said = told(toy, "materialize", MODEL, fails=True)
    assert re.search(r"refused: perplexity \d+\.?\d* is above 3", said)
    assert f"{MODEL}: release 1 is live" in status(toy)
    toy.configure()


def test_a_release_whose_served_texts_are_worse_is_sent_back(toy: Toy) -> None:
    toy.data(*TEXTS, *(text.replace("dawn", "dusk") for text in TEXTS))
    slots = list(toy.project.home.glob("fleet/slots/*/*"))
    assert slots
    for slot in slots:
        (slot / "spoilt").touch()
    said = told(toy, "materialize", MODEL, fails=True)
    assert "against the champion perplexity" in said
    assert "was sent back" in said
    assert re.search(r"\d served texts score a likeness of 0\.0\d+", said)
    assert f"{MODEL}: release 1 is live" in status(toy)
    for slot in slots:
        (slot / "spoilt").unlink()


def test_it_goes_live_when_they_are_not_and_back_on_demand(toy: Toy) -> None:
    assert "quarantined" in told(toy, "materialize", MODEL, fails=True)
    told(toy, "lift-quarantine", MODEL, "2", "--reason", "the file is gone")
    told(toy, "materialize", MODEL)
    assert f"{MODEL}: release 2 is live" in status(toy)
    told(toy, "rollback", MODEL, "--reason", "a test")
    assert f"{MODEL}: release 1 is live" in status(toy)


def test_its_weights_are_made_again(toy: Toy) -> None:
    said = told(toy, "reproduce", f"{MODEL}@1")
    assert f"reproduce: {MODEL}@1 equal" in said


def test_its_page_and_its_blind_sheet_show_texts(toy: Toy) -> None:
    for options in ((), ("--blind",)):
        page = toy.root / "page.html"
        told(toy, "report", f"{MODEL}@2", *options, "--output", str(page))
        assert "the old man" in page.read_text()
        html = re.sub(r"<(style|script)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        text = unescape(re.sub(r"<[^>]*>", " ", html))
        assert not re.findall(HEAVY, text, re.IGNORECASE)


def test_mlflow_and_dvc_hold_its_metric(toy: Toy) -> None:
    shown = json.loads((toy.root / "metrics" / f"{MODEL}.json").read_text())
    assert 1 < shown["scores"]["perplexity"] < shown["base_scores"]["perplexity"]
    adapters = Store(toy.project).artifacts(MODEL, "lora_weights")
    assert all(one.manifest["mlflow_run_id"] for one in adapters)
