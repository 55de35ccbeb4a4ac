"""The base of a language model comes into the store whole, or is refused in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from adire_assets.config import held_weights
from adire_assets.core.errors import UserError
from adire_assets.core.model_files import content_hash
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact
from adire_assets.families.causal_lm import weights
from tests.support import language

MODEL = "letters"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.write_base(tmp_path_factory.mktemp("made") / "base")


@pytest.fixture
def project(tmp_path: Path, made: Path) -> Project:
    """One with a copy of the base in the folder `base`."""
    shutil.copytree(made, tmp_path / "base")
    (tmp_path / "configs" / "models").mkdir(parents=True)
    configure(found := Project(tmp_path, tmp_path / "home"))
    return found


def configure(project: Project, **sections: Any) -> None:
    base: dict[str, Any] = {
        "family": "causal_lm",
        "data": {"path": "data/letters"},
        "base_model": {"source": "base"},
        "training": {"max_length": 512},
        "evaluation": {},
        "serving": {"maximum_model_length": 512},
    }
    with project.model_file(MODEL).open("w") as file:
        YAML().dump(base | sections, file)


def held(project: Project, kind: str = "base_model") -> Artifact:
    return held_weights.held(project, MODEL, kind).artifact


def refusal(project: Project, **sections: Any) -> str:
    configure(project, **sections)
    with pytest.raises(UserError) as caught:
        held(project)
    told = str(caught.value)
    assert len(told.splitlines()) == 1
    return told


def test_it_is_held_with_all_its_files_and_found_again(project: Project, tmp_path: Path) -> None:
    (tmp_path / "base" / ".gitignore").write_text("/model.safetensors")
    artifact = held(project)
    assert not (artifact.path / "base" / ".gitignore").exists()
    assert content_hash(artifact.path / "base") == content_hash(tmp_path / "base")
    assert held(project).key == artifact.key
    assert weights.find_again(project, artifact, tmp_path / "again") == "base"
    assert content_hash(tmp_path / "again" / "base") == content_hash(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is other weights now; put those of then back"):
        weights.find_again(project, artifact, tmp_path / "third")


def test_a_pin_holds_it_to_its_bytes(project: Project, tmp_path: Path) -> None:
    pin = content_hash(tmp_path / "base")
    configure(project, base_model={"source": "base", "sha256": pin})
    held(project)
    (tmp_path / "base" / "generation_config.json").write_text("{}")
    told = refusal(project, base_model={"source": "base", "sha256": pin})
    assert told.startswith("base_model.sha256: ") and "change the pin" in told


def test_more_tokens_than_it_reads_are_refused_before_anything_is_made(project: Project) -> None:
    told = refusal(project, serving={"maximum_model_length": 513})
    assert "serving.maximum_model_length: 513 tokens are more than the 512 that" in told
    told = refusal(project, training={"max_length": 600})
    assert "training.max_length: 600 tokens are more than the 512 that" in told
    assert not (project.home / "store").exists()


def without_template(base: Path) -> None:
    (base / "chat_template.jinja").unlink()


def other_tokenizer(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_template, "has no chat template; take an instruction-tuned base"),
        (other_tokenizer, r"has tokens up to \d+, its model 300: it is another base's"),
        (lambda base: (base / "tokenizer.json").unlink(), "has no tokenizer.json; name a model's"),
        (lambda base: (base / "model.safetensors").unlink(), r"has no \.safetensors file; convert"),
        (shutil.rmtree, "is no folder; `adire pull` fetches the embedded"),
    ],
)
def test_a_folder_that_is_no_whole_base_is_refused(
    project: Project, tmp_path: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    spoil(tmp_path / "base")
    with pytest.raises(UserError, match=told):
        held(project)


def test_it_has_no_variants(project: Project) -> None:
    told = refusal(project, base_model={"source": "base", "variant": "fp16"})
    assert "base_model.variant: a language model has no variants; take it out" in told


def test_the_words_that_no_answer_may_say_are_the_judge(project: Project, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("fool\n\n idiot \nfool\n")
    configure(project, evaluation={"toxic_words": "words.txt"})
    assert held(project, "judge").json("words.json") == ["fool", "idiot"]
    (tmp_path / "words.txt").unlink()
    with pytest.raises(UserError, match=r"toxic_words: .*words\.txt does not exist"):
        held(project, "judge")
