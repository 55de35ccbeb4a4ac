"""Keys that are each sound and cannot work together are refused before anything is made."""

import re
from pathlib import Path

import pytest

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project

MODEL = """\
data: {path: data/cloth, instance_prompt: a cloth, DATA}
family: diffusion
base_model: {source: base}
training: {TRAINING}
evaluation: {judge: {source: judge}, EVALUATION}
serving: {SERVING}
SEARCH
"""
PROMPTS = """\
attributes: {motif: {circles: tied circles, grid: a painted grid}}
prompts: [{id: rows, text: circles in rows}, {id: grids, text: a grid, tags: [eleko]}]
"""
SLOTS = "slots: {blue: {}, green: {http_port: 1024, grpc_port: 1025, metrics_port: 1026}}"
LONG = "x" * 501


def written(project: Project, prompts: str, **sections: str) -> None:
    text = MODEL
    for name in ("DATA", "TRAINING", "EVALUATION", "SERVING", "SEARCH"):
        text = text.replace(name, sections.get(name.lower(), ""))
    project.model_file("cloth").parent.mkdir(parents=True, exist_ok=True)
    project.model_file("cloth").write_text(text)
    (project.root / "prompts.yaml").write_text(prompts)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, tmp_path / "home")


WARM = "lr_scheduler: cosine, lr_warmup_steps"
SEARCHED = "search: {validation_steps: VALIDATION, parameters: {rank: {choices: [4, 8]}}}"


@pytest.mark.parametrize(
    ("section", "wrong", "right", "sentence"),
    [
        (
            "training",
            f"{WARM}: 50, max_train_steps: 40",
            f"{WARM}: 50, max_train_steps: 51",
            r"cloth.yaml:4: training.lr_warmup_steps: lr_warmup_steps is 50 and max_train_steps 40",
        ),
        (
            "training",
            f"{WARM}: 800",
            f"{WARM}: 799",
            "lr_warmup_steps is 800 and max_train_steps 800, so that the rate never",
        ),
        (
            "training",
            "validation_steps: 801",
            "validation_steps: 800",
            "validation_steps has no effect while max_train_steps is 800",
        ),
        (
            "data",
            "resolution: 512, maximum_pixels: 262143",
            "resolution: 512, maximum_pixels: 262144",
            "data.maximum_pixels: maximum_pixels is 262143, and an image of resolution 512 has",
        ),
        (
            "evaluation",
            f"prompts: [a cloth, {LONG}]",
            f"prompts: [a cloth, {LONG[1:]}]",
            "evaluation.prompts.1: has 501 characters, but serving.maximum_prompt_characters is 50",
        ),
        (
            "evaluation",
            f"negative_prompt: {LONG}",
            f"negative_prompt: {LONG[1:]}",
            "evaluation.negative_prompt: has 501 characters",
        ),
        (
            "search",
            SEARCHED.replace("VALIDATION", "800"),
            SEARCHED.replace("VALIDATION", "799"),
            "search.validation_steps: validation_steps has no effect while max_train_steps is 800",
        ),
    ],
)
def test_two_keys_of_a_model_that_cannot_work_together(
    project: Project, section: str, wrong: str, right: str, sentence: str
) -> None:
    written(project, PROMPTS, **{section: wrong})
    with pytest.raises(UserError, match=sentence):
        load_model(project, "cloth")
    written(project, PROMPTS, **{section: right})
    load_model(project, "cloth")


def test_two_ranges_of_a_search_that_meet_where_no_training_can_be(project: Project) -> None:
    ranges = "max_train_steps: {low: LOW, high: 200}, lr_warmup_steps: {low: 10, high: 50}"
    search = f"search: {{parameters: {{{ranges}}}}}"
    training = "lr_scheduler: cosine"
    written(project, PROMPTS, training=training, search=search.replace("LOW", "40"))
    told = "max_train_steps: 40 beside lr_warmup_steps: 50: lr_warmup_steps is 50 and max_tr"
    with pytest.raises(UserError, match=told):
        load_model(project, "cloth")
    written(project, PROMPTS, training=training, search=search.replace("LOW", "51"))
    load_model(project, "cloth")


def test_a_short_training_takes_the_defaults(project: Project) -> None:
    written(project, PROMPTS, training="max_train_steps: 1, lr_scheduler: cosine")
    load_model(project, "cloth")


@pytest.mark.parametrize(
    ("prompts", "more", "sentence"),
    [
        (
            PROMPTS,
            "prompt_set: prompts.yaml, gates: {attribute_accuracy_minimum: 0.8}",
            "attribute_accuracy_minimum: no prompt says what its image should show",
        ),
        (
            PROMPTS,
            "prompts: [a cloth], gates: {attribute_accuracy_minimum: 0.8}",
            "attribute_accuracy_minimum: no prompt says what its image should show",
        ),
        (
            PROMPTS.replace("a grid,", f"{LONG},"),
            "prompt_set: prompts.yaml",
            "evaluation.prompt_set: grids of prompts.yaml has 501 characters",
        ),
        (
            PROMPTS.replace("a painted grid", "Tied  circles"),
            "prompt_set: prompts.yaml",
            "attributes.motif.grid: is the text of circles too",
        ),
    ],
)
def test_prompts_that_what_is_asked_of_them_cannot_be_done_with(
    project: Project, prompts: str, more: str, sentence: str
) -> None:
    written(project, prompts, evaluation=more)
    with pytest.raises(UserError, match=sentence):
        load_model(project, "cloth")
    sound = PROMPTS.replace("in rows}", "in rows, expected: {motif: circles}}")
    written(
        project, sound, evaluation=re.sub("prompts: .a cloth.", "prompt_set: prompts.yaml", more)
    )
    load_model(project, "cloth")


REMOTE = "{launch: remote, host: HOST, folder: FOLDER}"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (
            f"{SLOTS}, rollout: {{minimum_seconds: 60, maximum_seconds: 30}}",
            "rollout: minimum_seconds is 60 and maximum_seconds 30",
        ),
        (
            f"{SLOTS}, gateway: {{request_timeout_seconds: 3}}, "
            "rollout: {latency_maximum_seconds: 5}",
            "rollout.latency_maximum_seconds: .* no effect while request_timeout_seconds is 3",
        ),
        (
            "slots: {blue: "
            + REMOTE.replace("HOST", "gpu1").replace("FOLDER", "/mnt/a")
            + ", green: "
            + REMOTE.replace("HOST", "gpu1").replace("FOLDER", "/mnt/b")
            + "}",
            "green.grpc_port and targets.local.slots.blue.grpc_port are both gpu1:8001",
        ),
        (
            "slots: {blue: "
            + REMOTE.replace("HOST", "gpu1").replace("FOLDER", "/mnt/a")
            + ", green: "
            + REMOTE.replace("HOST", "gpu2").replace("FOLDER", "/mnt/a")
            + "}",
            "slots.green.folder and targets.local.slots.blue.folder are both /mnt/a",
        ),
        (
            "slots: {blue: {}, green: "
            + REMOTE.replace("HOST", "localhost").replace("FOLDER", "/mnt/a")
            + "}",
            "slots.green.grpc_port and targets.local.slots.blue.grpc_port are both 127.0.0.1:8001",
        ),
    ],
)
def test_two_keys_of_the_fleet_that_cannot_work_together(
    project: Project, target: str, sentence: str
) -> None:
    (project.root / "configs").mkdir()
    file = project.root / "configs" / "fleet.yaml"
    file.write_text(f"targets: {{local: {{{target}}}}}\n")
    with pytest.raises(UserError, match=sentence):
        load_fleet(project)
    file.write_text(
        f"targets: {{local: {{{SLOTS}, gateway: {{request_timeout_seconds: 1.5}}, "
        "rollout: {minimum_seconds: 30, maximum_seconds: 30}}}\n"
    )
    load_fleet(project)


@pytest.mark.parametrize(
    ("section", "wrong", "right", "key"),
    [
        ("training", "target_modules: [to_k, to_q, to_k]", "target_modules: [to_k]", "to_k"),
        (
            "training",
            "train_text_encoder: true, text_encoder_target_modules: [q_proj, q_proj]",
            "train_text_encoder: true, text_encoder_target_modules: [q_proj]",
            "q_proj",
        ),
        ("training", "augmentations: [random_half_turn, random_half_turn]", "", "entry twice"),
        ("evaluation", "seeds: [3, 3]", "seeds: [3, 4]", "evaluation.seeds: has the same entry"),
        (
            "search",
            "search: {parameters: {rank: {choices: [8, 8]}}}",
            "search: {parameters: {rank: {choices: [8, 16]}}}",
            "search.parameters.rank.choices: has the same entry twice: 8",
        ),
        (
            "search",
            "search: {parameters: {learning_rate: {choices: [1e-3, 0.001]}}}",
            "search: {parameters: {learning_rate: {choices: [1e-3, 0.01]}}}",
            "learning_rate.choices: has the same entry twice: 0.001",
        ),
    ],
)
def test_a_list_of_a_model_has_no_entry_twice(
    project: Project, section: str, wrong: str, right: str, key: str
) -> None:
    written(project, PROMPTS, **{section: wrong})
    with pytest.raises(UserError, match="has the same entry twice") as told:
        load_model(project, "cloth")
    assert key in str(told.value)
    written(project, PROMPTS, **{section: right})
    load_model(project, "cloth")


def test_a_list_of_prompts_or_of_the_fleet_has_no_entry_twice(project: Project) -> None:
    written(
        project, PROMPTS.replace("[eleko]", "[eleko, eleko]"), evaluation="prompt_set: prompts.yaml"
    )
    with pytest.raises(UserError, match=r"prompts\.1\.tags: has the same entry twice: eleko"):
        load_model(project, "cloth")
    quantiles = "rollout: {promotion_quantiles: [p50, p95, p50]}"
    file = project.root / "configs" / "fleet.yaml"
    file.write_text(f"targets: {{local: {{{SLOTS}, {quantiles}}}}}\n")
    with pytest.raises(UserError, match=r"promotion_quantiles: has the same entry twice: p50"):
        load_fleet(project)
