"""What a base answers, with and without an adapter, and how an evaluation asks it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adire_assets.core.statistic import load_statistics
from adire_assets.core.store import read_json
from adire_assets.families.causal_lm.adapter_files import CONFIG, WEIGHTS, problems_of
from adire_assets.families.causal_lm.evaluation import write_answers
from adire_assets.families.causal_lm.evaluation.answers import FILE, read_answers
from adire_assets.families.causal_lm.evaluation.drawing import drawing_of
from adire_assets.families.causal_lm.evaluation.samples import samples
from adire_assets.families.causal_lm.gates import GateConfig
from adire_assets.families.causal_lm.generation import Request, Writer
from adire_assets.families.causal_lm.steps import evaluate
from adire_assets.gates.promotion import comparisons
from tests.support import language
from tests.support.training import silent

MESSAGES = [{"role": "user", "content": "Confirm this order.\norder: 4821"}]
EVALUATION: dict[str, Any] = {
    "prompts_maximum": 3,
    "samples": 1,
    "temperature": 0.8,
    "top_p": 0.9,
    "max_tokens": 12,
    "latency_answers": 3,
    "refusal_patterns": [],
    "judge": None,
    "general_prompts": [
        {
            "messages": [{"role": "user", "content": "Repeat this:\nblue"}],
            "reference": "blue",
            "slots": {},
            "language": "en",
        }
    ],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def adapter(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.run(tmp_path_factory.mktemp("adapter"), base, dataset)


@pytest.fixture(scope="module")
def writer(base: Path) -> Writer:
    return Writer(base, None, "cpu")


def test_a_greedy_answer_is_that_of_transformers_alone_and_in_a_batch(
    base: Path, writer: Writer
) -> None:
    longer = [*MESSAGES, {"role": "assistant", "content": "ok"}, *MESSAGES]
    asked = [Request(messages, 10) for messages in (MESSAGES, longer)]
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = writer.tokenizer
    for request, together in zip(asked, writer.answer(asked), strict=True):
        ids = tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        generated = model.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
        expected = tokenizer.decode(generated, skip_special_tokens=True)
        [alone] = writer.answer([request])
        assert together.text == alone.text == expected


def test_a_drawn_answer_follows_its_seed_and_nothing_beside_it(writer: Writer) -> None:
    def drawn(seed: int, **others: Any) -> Request:
        return Request(MESSAGES, 12, temperature=1.5, seed=seed, **others)

    [first], [again] = writer.answer([drawn(3)]), writer.answer([drawn(3)])
    assert first.text == again.text
    pair = writer.answer([drawn(3), drawn(4)])
    assert pair[0].text == first.text != pair[1].text
    greedy = writer.answer([Request(MESSAGES, 12)])[0].text
    assert writer.answer([drawn(3, top_p=1e-6)])[0].text == greedy


def test_the_loss_of_a_reference_is_that_of_its_tokens(base: Path, writer: Writer) -> None:
    mean, tokens = writer.loss(MESSAGES, "蓝 4821")
    tokenizer = writer.tokenizer
    start = len(tokenizer(f"<|im_start|>user\n{MESSAGES[0]['content']}<|im_end|>\n")["input_ids"])
    start += len(tokenizer("<|im_start|>assistant\n")["input_ids"])
    said = tokenizer("蓝 4821<|im_end|>")["input_ids"]
    whole = tokenizer(
        f"<|im_start|>user\n{MESSAGES[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        "蓝 4821<|im_end|>",
        return_tensors="pt",
    )["input_ids"]
    with torch.no_grad():
        logs = AutoModelForCausalLM.from_pretrained(base)(whole).logits[0].log_softmax(-1)
    expected = -sum(logs[start - 1 + n, token] for n, token in enumerate(said)) / len(said)
    assert (mean, tokens) == (pytest.approx(float(expected), rel=1e-5), len(said))


@pytest.fixture(scope="module")
def evaluated(
    base: Path, dataset: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    drawing = drawing_of(EVALUATION, dataset)
    for name, lora in (("adapter", adapter), ("base", None), ("report", None), ("judge", None)):
        (folder / name).mkdir()
        if name in ("adapter", "base"):
            write_answers.write(
                base=str(base),
                adapter=str(lora) if lora else None,
                drawing=drawing,
                output=str(folder / name),
                device="cpu",
                progress=silent,
            )
    (folder / "judge" / "words.json").write_text('["blue"]')
    score(folder, dataset)
    return folder


def score(folder: Path, dataset: Path) -> dict[str, Any]:
    return evaluate.score(
        dataset=str(dataset),
        adapter_images=str(folder / "adapter"),
        base_images=str(folder / "base"),
        judge=str(folder / "judge"),
        evaluation=EVALUATION,
        output=str(folder / "report"),
        device="cpu",
        progress=silent,
    )


def test_an_evaluation_asks_held_out_and_general_questions(evaluated: Path) -> None:
    answers = read_answers(evaluated / "adapter")
    kinds = [(one.kind, one.sample) for one in answers]
    assert kinds == [("held_out", 0), ("held_out", 1)] * 3 + [("general", 0), ("general", 1)]
    assert all(one.tokens <= 12 and one.loss and one.question_tokens for one in answers)
    seeds = [one.seed for one in answers if one.sample]
    assert len(set(seeds)) == len(seeds)
    timings = read_json(evaluated / "adapter" / "timings.json")
    assert len(timings["seconds_per_answer"]) == 3 and timings["peak_memory_bytes"] > 2**20


def test_scores_stand_beside_the_bases_and_answers_can_be_shown(
    evaluated: Path, dataset: Path
) -> None:
    report = read_json(evaluated / "report" / "report.json")
    assert report["scores"]["loss"] < report["base_scores"]["loss"]
    assert report["prompts"] == 4 and report["adapter_problems"] == []
    assert load_statistics(evaluated / "report")["loss"].answers == 8
    assert (evaluated / "report" / FILE).read_text() == (evaluated / "adapter" / FILE).read_text()
    shown = samples(evaluated / "report", dataset)
    first = read_answers(evaluated / "adapter")[0]
    assert shown[0].adapter.show() == first.text and shown[0].real.show() == first.reference
    assert len({one.name for one in shown}) == 8


def spoil(adapter: Path, folder: Path, change: Any) -> Path:
    tensors = change(load_file(adapter / WEIGHTS))
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text((adapter / CONFIG).read_text())
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {k.removeprefix("base_model."): v for k, v in t.items()}, "no layer of the"),
        (lambda t: {k: v * float("nan") for k, v in t.items()}, "not finite"),
        (lambda t: {k: v[:, :3].contiguous() for k, v in t.items()}, "its layer"),
        (lambda t: {k: v * 0 for k, v in t.items()}, "changes nothing"),
        (lambda t: {}, "no weights"),
    ],
)
def test_an_adapter_that_is_not_sound_is_told_and_answers_nothing(
    base: Path, dataset: Path, adapter: Path, tmp_path: Path, change: Any, sentence: str
) -> None:
    spoilt = spoil(adapter, tmp_path / "spoilt", change)
    assert problems_of(adapter, base) == []
    assert any(sentence in one for one in problems_of(spoilt, base))
    output = tmp_path / "output"
    output.mkdir()
    given = {"base": str(base), "drawing": drawing_of(EVALUATION, dataset), "device": "cpu"}
    write_answers.write(adapter=str(spoilt), output=str(output), progress=silent, **given)
    assert (output / FILE).read_text() == "" and json.loads((output / "problems.json").read_text())


def test_a_report_of_an_unsound_adapter_has_no_scores_and_says_why(
    evaluated: Path, dataset: Path, tmp_path: Path
) -> None:
    for name in ("adapter", "base", "judge"):
        (tmp_path / name).symlink_to(evaluated / name)
    (tmp_path / "adapter").unlink()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / FILE).write_text("")
    (tmp_path / "adapter" / "problems.json").write_text('["wrong"]')
    (tmp_path / "adapter" / "timings.json").write_text("{}")
    (tmp_path / "report").mkdir()
    report = score(tmp_path, dataset)
    assert report["adapter_problems"] == ["wrong"] and report["scores"]["loss"] is None
    found = comparisons(tmp_path / "report", evaluated / "report", GateConfig())
    assert found and not any(one.passed for one in found)
    assert "loss cannot be compared: the challenger has no value" in {
        one.explanation for one in found
    }
