"""A LoRA of a language model: what it learns from, its exactness, and what it writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json_lines
from adire_assets.core.lineage import file_digest
from adire_assets.core.shown import Shown
from adire_assets.families.causal_lm.adapter_files import CONFIG, WEIGHTS
from adire_assets.families.causal_lm.chat import encode, load_tokenizer
from adire_assets.families.causal_lm.shows import of_validation
from adire_assets.families.causal_lm.training.attention import lay_side_by_side
from adire_assets.families.causal_lm.training.examples import Examples
from adire_assets.families.causal_lm.training.learning import Learner
from adire_assets.families.causal_lm.training.settings import TrainingConfig
from tests.support import language
from tests.support.training import curve


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def trained(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.run(tmp_path_factory.mktemp("trained"), base, dataset)


def test_only_what_the_assistant_says_is_learnt(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好 ọjọ́"},
        {"role": "assistant", "content": "蓝 12,500"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "ẹ jọ̀wọ́"},
    ]
    marked = encode(tokenizer, messages)
    said = tokenizer.decode([i for i, own in zip(marked.ids, marked.said, strict=True) if own])
    assert said == "蓝 12,500<|im_end|>ẹ jọ̀wọ́<|im_end|>"
    template = tokenizer.chat_template
    for mark in ("{% generation %}", "{% endgeneration %}"):
        tokenizer.chat_template = tokenizer.chat_template.replace(mark, "")
    assert tokenizer.chat_template != template
    assert encode(tokenizer, messages) == marked


def losses(base: Path, dataset: Path, **settings: object) -> list[float]:
    """Of the first three steps, without an adapter."""
    config = TrainingConfig.model_validate({**language.SETTINGS, **settings})
    model = AutoModelForCausalLM.from_pretrained(base)
    if config.packing:
        lay_side_by_side(model, base)
    learner = Learner(model)
    examples = Examples(dataset, config, load_tokenizer(base), device=torch.device("cpu"))
    with torch.no_grad():
        return [
            float(sum(learner(batch) * batch.weight for batch in examples.batches(step)))
            for step in range(3)
        ]


def test_examples_of_one_row_do_not_see_each_other(base: Path, dataset: Path) -> None:
    alone = losses(base, dataset, packing=False)
    assert losses(base, dataset, packing=True) == pytest.approx(alone, rel=1e-5)
    accumulated = losses(base, dataset, train_batch_size=2, gradient_accumulation_steps=2)
    assert accumulated == pytest.approx(alone, rel=1e-5)
    [row], [rectangle] = (_batches(base, dataset, packing=packing) for packing in (True, False))
    assert row.ids.numel() < rectangle.ids.numel()  # no padding


def test_a_pass_holds_no_more_tokens_than_the_settings_name(base: Path, dataset: Path) -> None:
    for packing in (True, False):
        small = {"train_batch_size": 2, "gradient_accumulation_steps": 4, "max_length": 256}
        passes = _batches(base, dataset, packing=packing, **small)
        assert 1 < len(passes) < 8
        assert all(batch.ids.numel() <= 2 * 256 for batch in passes)


def _batches(base: Path, dataset: Path, **settings: object) -> list:
    config = TrainingConfig.model_validate({**language.SETTINGS, **settings})
    examples = Examples(dataset, config, load_tokenizer(base), device=torch.device("cpu"))
    return list(examples.batches(0))


def test_several_processes_learn_what_one_learns(base: Path, dataset: Path) -> None:
    whole = TrainingConfig.model_validate({**language.SETTINGS, "train_batch_size": 6})
    half = TrainingConfig.model_validate({**language.SETTINGS, "train_batch_size": 3})
    model = AutoModelForCausalLM.from_pretrained(base)
    lay_side_by_side(model, base)
    learner = Learner(model)
    tokenizer, device = load_tokenizer(base), torch.device("cpu")

    def gradient(settings: TrainingConfig, rank: int, processes: int) -> torch.Tensor:
        learner.zero_grad()
        taken = Examples(
            dataset, settings, tokenizer, device=device, rank=rank, processes=processes
        )
        for batch in taken.batches(1):
            (learner(batch) * batch.weight).backward()
        return torch.cat([weight.grad.flatten() for weight in learner.parameters()])

    alone = gradient(whole, 0, 1)
    together = (gradient(half, 0, 2) + gradient(half, 1, 2)) / 2
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-7)


def test_it_learns_and_a_killed_run_ends_in_the_same_bytes(
    base: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    losses = curve(trained)
    assert losses[8] < 0.97 * losses[1]

    class Killed(Exception):
        pass

    def kill(message: str, step: int = 0, **numbers: float) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        language.run(tmp_path, base, dataset, progress=kill)
    told: list[str] = []
    output = language.run(tmp_path, base, dataset, lambda message, **numbers: told.append(message))
    assert any("going on from the checkpoint at step 4" in message for message in told)
    for name in (WEIGHTS, CONFIG, "loss.csv", "training.json"):
        assert file_digest(output / name) == file_digest(trained / name), name


def test_answers_are_shown_at_each_validation_and_change_no_byte(
    base: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    shown: dict[int, list[Shown]] = {}

    def follow(message: str, step: int = 0, **others: Any) -> None:
        if folder := others.get("shown"):
            shown[step] = of_validation(folder)

    output = language.run(
        tmp_path, base, dataset, follow, num_validation_answers=2, validation_steps=4
    )
    assert file_digest(output / WEIGHTS) == file_digest(trained / WEIGHTS)
    asked = [one["messages"][0]["content"] for one in read_json_lines(dataset / "validation.jsonl")]
    assert sorted(shown) == [4, 8]
    for found in shown.values():
        assert [one.name for one in found] == asked[:2]
        assert all(isinstance(one.content, str) for one in found)
    assert not list((tmp_path / "work").glob("tmp*"))


def test_peft_reads_the_adapter_and_it_changes_the_answer(base: Path, trained: Path) -> None:
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits
        after = PeftModel.from_pretrained(model, trained)(ids).logits
    assert (after - before).abs().max() > 1e-3
    tensors, config = load_file(trained / WEIGHTS), json.loads((trained / CONFIG).read_text())
    assert all(name.startswith("base_model.model.model.layers.") for name in tensors)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert str(base) not in (trained / CONFIG).read_text()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target_modules": ["qq_proj"]}, "has no linear or convolution layer"),
        ({"rank": 33}, "lower it, or for these alone"),
        ({"max_length": 1024}, "1024 tokens are more than the 512"),
        ({"max_length": 16}, "no answer of"),
        ({"rank_pattern": {"nowhere": 2}}, "no layer that is trained has a name that ends in"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    base: Path, dataset: Path, tmp_path: Path, settings: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        language.run(tmp_path, base, dataset, **settings)
    assert not list((tmp_path / "output").iterdir())


def test_what_is_cut_is_told_once(base: Path, dataset: Path, tmp_path: Path) -> None:
    told: list[str] = []
    language.run(
        tmp_path,
        base,
        dataset,
        lambda message, **numbers: told.append(message),
        max_length=160,
        max_train_steps=1,
    )
    [cut] = [message for message in told if "are cut" in message]
    assert "training.max_length, 160 tokens" in cut and "letters.jsonl:" in cut


def test_no_dora_because_nothing_would_serve_it() -> None:
    with pytest.raises(ValueError, match="vLLM serves no DoRA"):
        TrainingConfig.model_validate({"adapter_type": "dora"})
