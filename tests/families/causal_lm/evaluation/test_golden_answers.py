"""What a release answered is answered again, and is the same or says how it differs."""

import json
from pathlib import Path
from typing import Any

import pytest

from adire_assets.core import lineage
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, read_json, write_json
from adire_assets.families.causal_lm import FAMILY
from adire_assets.families.causal_lm.evaluation import golden, write_answers
from adire_assets.families.causal_lm.evaluation.drawing import drawing_of
from adire_assets.families.causal_lm.evaluation.golden import Comparison
from tests.support import language
from tests.support.training import silent

SETTINGS: dict[str, Any] = {
    "prompts_maximum": 4,
    "samples": 1,
    "temperature": 0.8,
    "top_p": 0.9,
    "max_tokens": 12,
    "latency_answers": 4,
    "general_prompts": [],
}
Made = tuple[Path, Path, dict[str, Any]]  # the golden set, its release and base; conditions of then


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    base = language.write_base(root / "artifact" / "base")
    dataset = language.write_dataset(root / "dataset")
    adapter = language.run(root / "run", base, dataset, max_train_steps=4)
    (root / "release").mkdir()
    (root / "release" / "adapter").symlink_to(adapter)

    def answer(folder: Path) -> None:
        write_answers.write(
            base=str(base),
            adapter=str(adapter),
            drawing=drawing_of(SETTINGS, dataset),
            output=str(folder),
            device="cpu",
            progress=silent,
        )

    recipe = Recipe(
        "evaluation_report",
        "letters",
        config=SETTINGS,
        environment=lineage.environment(*FAMILY.packages, device="cpu"),
    )
    evaluation: Artifact = Store(Project(root, root / "home")).build(recipe, answer).artifact
    kept = root / "golden"
    kept.mkdir()
    golden.write_evaluated(evaluation, kept)
    return kept, root, read_json(kept / "golden.json")["conditions"]


def redrawn(made: Made, folder: Path, now: dict[str, Any], **changes: Any) -> Comparison:
    """Compared with a golden set whose first answer is changed."""
    kept, root, _ = made
    settings = read_json(kept / "golden.json")
    settings["answers"][0] |= changes
    write_json(folder / "golden.json", settings)
    golden.redraw(
        golden=str(folder),
        release=str(root / "release"),
        base=str(root / "artifact"),
        device="cpu",
        now=now,
        output=str(folder),
        progress=silent,
    )
    return Comparison.from_dict(json.loads((folder / "comparison.json").read_text()))


def test_only_the_greedy_answers_that_were_made_alone_are_kept(made: Made) -> None:
    kept = read_json(made[0] / "golden.json")["answers"]
    assert len(kept) == 3  # of five answers to three questions, two were drawn
    assert all(one["loss"] and one["reference"] and one["messages"] for one in kept)


def test_the_same_software_gives_the_same_texts_and_losses(made: Made, tmp_path: Path) -> None:
    found = redrawn(made, tmp_path, made[2])
    assert found.verdict == "exact" and found.must_be_equal and not found.changed
    assert found.sentence() == (
        "exact: 3 of 3 answers and their losses are the same (software and machine are the same)"
    )


@pytest.mark.parametrize(("nats", "verdict"), [(0.01, "within tolerance"), (0.05, "changed")])
def test_other_software_may_move_a_loss_a_little(
    made: Made, tmp_path: Path, nats: float, verdict: str
) -> None:
    loss = read_json(made[0] / "golden.json")["answers"][0]["loss"] - nats
    found = redrawn(made, tmp_path, {**made[2], "torch": "9.9"}, loss=loss)
    assert found.verdict == verdict and found.changed == (verdict == "changed")
    assert f"loss +{nats:.4f} nats" in found.sentence() and "-> 9.9" in found.sentence()


def test_another_text_is_a_change_where_software_and_machine_are_the_same(
    made: Made, tmp_path: Path
) -> None:
    text = read_json(made[0] / "golden.json")["answers"][0]["text"]
    found = redrawn(made, tmp_path, made[2], text=f"{text}!")
    assert found.changed and "all must be equal" in found.sentence()
    assert "of the characters agree" in found.sentences()[0]
    other = redrawn(made, tmp_path, {**made[2], "torch": "9.9"}, text="quite another")
    assert other.changed
