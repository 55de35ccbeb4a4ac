"""The YAML of a language model: what ships, and the sentences for what cannot be."""

import re
from pathlib import Path

import pytest

from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project

ROOT = Path(__file__).parents[3]
GOOD = """\
family: causal_lm
data:
  path: data/letters
base_model: {source: base}
training:
  learning_rate: 1e-4
serving: {}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    return Project(tmp_path, tmp_path / "home")


@pytest.mark.parametrize("name", ["adire_letters", "qwen_lora"])
def test_what_ships_can_be_read_with_the_files_that_it_names(name: str) -> None:
    shipped = Project(ROOT, ROOT / ".adire")
    config = load_model(shipped, name)
    assert not config.enabled and config.family == "causal_lm"
    prompts = config.evaluation.settings(shipped)["general_prompts"]
    assert {"en", "zh", "yo"} == {one["language"] for one in prompts}
    assert all(one["reference"] for one in prompts)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("learning_rate: 1e-4", "adapter_type: dora", r"6: training\.adapter_type: vLLM serves no"),
        ("learning_rate: 1e-4", "rank: 32", r"6: training\.rank: is 32, but serving\.maximum_lora"),
        (
            "serving: {}",
            "serving: {maximum_tokens: 100}",
            "evaluation.max_tokens: is 256, but serv",
        ),
        ("serving: {}", "serving: {engine: tgi}", r"serving\.engine: .*vllm.*triton"),
        ("serving: {}", "serving: {moderation: refuse}", "moderation_words names no list"),
        ("serving: {}", "serving: {moderation_words: words.txt}", "moderation: flag or refuse"),
        ("serving: {}", "search: {parameters: {ranks: {choices: [1, 2]}}}", "no such key"),
        (
            "serving: {}",
            "search: {parameters: {max_length: {choices: [64, 128]}}}",
            r"search\.parameters\.max_length: it changes what the validation loss measures",
        ),
        (
            "serving: {}",
            "search: {validation_steps: 800, parameters: {rank: {choices: [1, 2]}}}",
            "validation_steps has no effect while max_train_steps is 800",
        ),
        (
            "data:\n",
            "search: {parameters: {rank: {choices: [1, 2]}}}\ndata:\n  validation_fraction: 0\n",
            "search: trials are compared by validation examples, and no example is a validation",
        ),
        (
            "learning_rate: 1e-4\n",
            "validation_steps: 5\ndata: {path: data/letters, validation_fraction: 0}\n",
            r"training\.validation_steps: has no effect, because no example is a validation",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(
    project: Project, old: str, new: str, told: str
) -> None:
    text = GOOD if "data: {" not in new else GOOD.replace("data:\n  path: data/letters\n", "")
    project.model_file("letters").write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_model(project, "letters")
    assert re.search(told, str(caught.value)) and "letters.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_general_prompt_that_cannot_be_read_is_told_with_its_line(project: Project) -> None:
    text = GOOD + "evaluation: {general_prompts: general.jsonl}\n"
    project.model_file("letters").write_text(text)
    (project.root / "general.jsonl").write_text('{"prompt": "Why?"}\n{"promt": "Why?"}\n')
    with pytest.raises(UserError, match=r"general\.jsonl:2: .*promt"):
        load_model(project, "letters")
    (project.root / "general.jsonl").write_text('{"prompt": "Why?"}\n')
    [asked] = load_model(project, "letters").evaluation.settings(project)["general_prompts"]
    assert asked["messages"] == [{"role": "user", "content": "Why?"}]


def test_the_words_that_are_moderated_are_those_of_the_file(project: Project) -> None:
    text = GOOD.replace("serving: {}", "serving: {moderation: flag, moderation_words: words.txt}")
    project.model_file("letters").write_text(text)
    serving = load_model(project, "letters").serving
    assert serving.files() == ["words.txt"]
    with pytest.raises(UserError, match=r"serving\.moderation_words: .*words\.txt does not exist"):
        serving.settings(project)
    (project.root / "words.txt").write_text("b\n\n a \n")
    assert serving.settings(project)["moderation_words"] == ["a", "b"]
