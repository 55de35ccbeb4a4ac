"""An adapter leaves as a folder for other programs, and comes back from one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.steps.exchange import export, import_
from tests.support import language

FACTS = {"adire.model": "letters", "adire.release": "3"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the adapter's folder, the folder of the base's artifact)."""
    root = tmp_path_factory.mktemp("made")
    base = language.write_base(root / "artifact" / "base")
    dataset = language.write_dataset(root / "dataset")
    return language.run(root / "run", base, dataset, max_train_steps=2), root / "artifact"


def test_a_peft_folder_holds_the_same_weights_and_comes_back(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter, artifact = made
    assert export(adapter, artifact, None, tmp_path / "out", FACTS) == "peft"
    weights = tmp_path / "out" / "adapter_model.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata() == {"format": "pt", **FACTS}
    assert import_(weights, artifact, tmp_path / "back") == "peft"
    own, back = (load_file(one / weights.name) for one in (adapter, tmp_path / "back"))
    assert own.keys() == back.keys() and all(torch.equal(own[name], back[name]) for name in own)
    with pytest.raises(UserError, match="out exists already; merged is a folder"):
        export(adapter, artifact, "merged", tmp_path / "out", FACTS)


def test_a_merged_model_answers_as_base_and_adapter_do(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter, artifact = made
    assert export(adapter, artifact, "merged", tmp_path / "out", FACTS) == "merged"
    assert json.loads((tmp_path / "out" / "adire.json").read_text()) == FACTS
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    ids = torch.arange(3, 20)[None]
    bare = AutoModelForCausalLM.from_pretrained(artifact / "base")
    before = bare(ids).logits
    bare.load_adapter(str(adapter))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert torch.allclose(merged, bare(ids).logits, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)


def test_what_is_no_adapter_of_the_base_is_refused_and_leaves_nothing(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter, artifact = made
    other = tmp_path / "other"
    language.write_base(other / "base", intermediate_size=48)
    with pytest.raises(UserError, match=r"no adapter of this base: .*its layer \(48, 32\)"):
        import_(adapter / "adapter_model.safetensors", other, tmp_path / "back")
    with pytest.raises(UserError, match=r"name the adapter_model\.safetensors of a folder"):
        import_(other / "base" / "model.safetensors", artifact, tmp_path / "back")
    assert {path.name for path in tmp_path.iterdir()} == {"other"}
    with pytest.raises(UserError, match="there is no format kohya; formats: peft, merged"):
        export(adapter, artifact, "kohya", tmp_path / "out", FACTS)
