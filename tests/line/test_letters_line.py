"""A language model on the line: from letters under DVC to the verdict, told in the words of texts.

A tiny random base is trained for a few steps. The tests share one project and follow its life in
order.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.embedded.letters.letters import letters
from adire_assets.families.causal_lm import FAMILY
from adire_assets.families.causal_lm.config import ServingConfig
from adire_assets.gates import promotion
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from tests.line.toy import FOREIGN, write_yaml
from tests.support import language
from tests.support.fleets import make_fleet
from tests.support.garbage import discard

ROOT = Path(__file__).parents[2]
MODEL = "letters"
CONFIG: dict[str, Any] = {
    "family": "causal_lm",
    "require_clean_commit": False,
    "data": {"path": f"data/{MODEL}", "license": "CC0-1.0"},
    "base_model": {"source": "base"},
    "training": {
        "max_train_steps": 3,
        "train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_length": 256,
        "learning_rate": 0.01,
    },
    "evaluation": {
        "prompts_maximum": 2,
        "general_prompts": "general.jsonl",
        "max_tokens": 6,
        "latency_answers": 3,
    },
    "serving": {"maximum_model_length": 512},
}
LOW = {"rouge_l_char_minimum": 0.0, "loss_below_base": False}


@dataclass
class Letters:
    root: Path
    environment: dict[str, str]

    @property
    def project(self) -> Project:
        return Project(self.root, self.root / ".adire")

    def told(self, *words: str, fails: bool = False) -> str:
        """What a command of a user said; nothing of it is about images."""
        done = subprocess.run(
            [sys.executable, "-m", "adire_assets.cli", *words],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        said = done.stdout + done.stderr
        assert bool(done.returncode) == fails, said
        assert not re.findall(FOREIGN, said.replace("evaluation_images", ""), re.IGNORECASE), said
        return said

    def configure(self, **gates: Any) -> None:
        evaluation = {**CONFIG["evaluation"], "gates": gates}
        write_yaml(self.project.model_file(MODEL), {**CONFIG, "evaluation": evaluation})

    def data(self, *records: dict[str, Any]) -> None:
        folder = self.root / "data" / MODEL
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        (folder / "letters.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        command = (sys.executable, "-m", "dvc", "add", "-q", "data")
        subprocess.run(command, cwd=self.root, check=True)


@pytest.fixture(scope="module")
def line(
    tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str]
) -> Iterator[Letters]:
    root = tmp_path_factory.mktemp("letters") / "project"
    path = os.pathsep.join([str(ROOT), *sys.path[1:]])
    found = Letters(root, {**clean_environment, "PYTHONPATH": path, "ADIRE_THREADS": "1"})
    language.write_base(root / "base")
    (root / "dagster_defs.py").write_text((ROOT / "dagster_defs.py").read_text())
    asked = {"prompt": "How many days has a week?", "reference": "Seven.", "language": "en"}
    (root / "general.jsonl").write_text(json.dumps(asked) + "\n")
    fleet = make_fleet().model_dump(mode="json", exclude_none=True)
    write_yaml(root / "configs" / "fleet.yaml", fleet)
    found.configure()
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
    found.data(*letters(60, 0))
    yield found


def test_an_adapter_that_learned_nothing_is_refused_by_its_texts(line: Letters) -> None:
    said = line.told("materialize", MODEL, "--select", "*promotion_verdict", fails=True)
    assert re.search(r"refused: rouge_l_char 0\.\d+ is below 0\.45", said)
    assert "ROUGE-L F1 over characters" in said and "Loading weights" not in said
    shown = json.loads((line.root / "metrics" / f"{MODEL}.json").read_text())
    assert shown["scores"]["loss"] > 1 and shown["base_scores"]["loss"] > 1


def test_a_lowered_bar_lets_it_through_and_makes_nothing_anew(line: Letters) -> None:
    line.configure(**LOW)
    said = line.told("materialize", MODEL, "--select", "*promotion_verdict")
    made = set(re.findall(rf"{MODEL}/(\w+): made", said))
    assert made == {"evaluation_config", "promotion_verdict"}
    assert re.search(r"passed all \d gates: .*rouge_l_char 0\.\d+", said)
    [adapter] = Store(line.project).artifacts(MODEL, "lora_weights")
    assert adapter.manifest["mlflow_run_id"]


def test_its_page_shows_texts(line: Letters) -> None:
    page = line.root / "page.html"
    line.told("report", MODEL, "--output", str(page))
    html = re.sub(r"<(style|script)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    text = unescape(re.sub(r"<[^>]*>", " ", html))
    [evaluation] = Store(line.project).artifacts(MODEL, "evaluation_report")
    asked = {one["prompt"] for one in evaluation.json("report.json")["per_answer"]}
    assert any(" ".join(one.split()) in " ".join(text.split()) for one in asked)
    assert "ROUGE-L by character" in text and "chrF" in text
    assert not re.findall(FOREIGN, text, re.IGNORECASE)


@pytest.mark.full
def test_a_search_compares_settings_by_their_loss(line: Letters) -> None:
    tried = {"trials": 2, "parameters": {"rank": {"choices": [2, 4]}}}
    write_yaml(line.project.model_file(MODEL), {**CONFIG, "search": tried})
    line.told("materialize", MODEL, "--select", "base_model")
    said = line.told("search", MODEL)
    assert re.search(rf"search: {MODEL} trial=\d validation_loss=\d\.\d+ rank=[24]", said)
    line.configure(**LOW)


def test_a_bad_record_is_told_with_its_file_and_line_and_nothing_is_made(line: Letters) -> None:
    good = list(letters(59, 0))
    line.data(*good, {**good[0], "input": "another", "output": ""})
    said = line.told("materialize", MODEL, "--select", "*dataset", fails=True)
    assert re.search(r"letters\.jsonl:60: .*output", said) and "dataset: made" not in said
    assert len(Store(line.project).artifacts(MODEL, "dataset")) == 1


def test_the_adapter_of_a_release_is_made_again_from_what_was_recorded(line: Letters) -> None:
    """Without its dataset, which DVC still has; neither the data nor the YAML of today counts."""
    project, store = line.project, Store(line.project)
    [adapter], [base], [evaluation], [dataset] = (
        store.artifacts(MODEL, kind)
        for kind in ("lora_weights", "base_model", "evaluation_report", "dataset")
    )

    def write(folder: Path) -> None:
        serving = ServingConfig().model_dump()
        given = {"model": MODEL, "adapter": adapter.path, "base": base, "serving": serving}
        release.write_release(project, FAMILY, folder, **given)

    content = store.build(Recipe("triton_repository", MODEL), write).artifact
    record = ReleaseRecord(
        model=MODEL,
        number=1,
        repository=content.reference(),
        adapter=adapter.reference(),
        base_model=base.reference(),
        evaluation=evaluation.reference(),
        verdict=evaluation.reference(),
        mlflow_run_id=adapter.manifest["mlflow_run_id"],
        provenance=promotion.provenance(adapter, base, evaluation),
    )
    assert record.provenance["evaluation"]["rouge_l_char"] >= 0
    release.write_record(project, record)
    discard(store, dataset)
    said = line.told("reproduce", f"{MODEL}@1")
    assert "made again from the data that DVC holds" in said
    sha256 = adapter.manifest["files"]["adapter_model.safetensors"]
    assert said.endswith(f"reproduce: {MODEL}@1 equal sha256={sha256}\n")
