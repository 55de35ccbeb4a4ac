"""A key that is set and can have no effect beside the others is refused, with both named."""

import re
from pathlib import Path
from typing import Any

import pytest

from adire_assets.config.fleet import FleetConfig, RolloutConfig, SlotConfig
from adire_assets.config.model import ModelConfig, load_model
from adire_assets.config.yaml_file import Strict
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.families.causal_lm import config as language
from adire_assets.families.causal_lm import gates as language_gates
from adire_assets.families.diffusion.config import EvaluationConfig
from adire_assets.families.diffusion.gates import ChampionGates
from adire_assets.families.diffusion.training.settings import TrainingConfig

LOCAL, US = (
    {
        "slots": {
            "blue": {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2},
            "green": {"http_port": port + 3, "grpc_port": port + 4, "metrics_port": port + 5},
        },
        "gateway": {"port": port + 6, "admin_port": port + 7},
    }
    for port in (1024, 1034)
)
JUDGE = {"judge": {"source": "judge"}}
PRIOR = {"with_prior_preservation": True, "class_prompt": "cloth"}
SHOWN = {"validation_prompt": "cloth"}
# section, the key with a value, what it must have beside it, what the message names
KEYS: list[tuple[type[Strict], dict[str, Any], dict[str, Any], str]] = [
    (TrainingConfig, {"lr_warmup_steps": 50}, {"lr_scheduler": "linear"}, "constant_with_warmup"),
    (TrainingConfig, {"lr_warmup_steps": 5}, {"lr_scheduler": "constant_with_warmup"}, "constant"),
    (TrainingConfig, {"ema_decay": 0.9}, {"use_ema": True}, "use_ema is false"),
    (TrainingConfig, {"adam_beta1": 0.5}, {"optimizer": "adamw"}, "optimizer is adafactor"),
    (TrainingConfig, {"adam_beta2": 0.5}, {"optimizer": "adamw_8bit"}, "optimizer is adafactor"),
    (TrainingConfig, {"adam_epsilon": 1e-5}, {"optimizer": "adamw"}, "optimizer is adafactor"),
    (
        TrainingConfig,
        {"text_encoder_target_modules": ["q_proj"]},
        {"train_text_encoder": True},
        "train_text_encoder is false",
    ),
    (TrainingConfig, {"class_prompt": "cloth"}, PRIOR, "with_prior_preservation is false"),
    (TrainingConfig, {"num_class_images": 7}, PRIOR, "with_prior_preservation is false"),
    (TrainingConfig, {"prior_loss_weight": 0.0}, PRIOR, "with_prior_preservation is false"),
    (TrainingConfig, {"num_validation_images": 1}, SHOWN, "validation_prompt is not given"),
    (TrainingConfig, {"validation_num_inference_steps": 2}, SHOWN, "validation_prompt"),
    (TrainingConfig, {"validation_num_inference_steps": 2}, PRIOR, "with_prior_preservation"),
    (TrainingConfig, {"validation_guidance_scale": 2.0}, PRIOR, "validation_prompt"),
    (TrainingConfig, {"validation_scheduler": "DDIMScheduler"}, SHOWN, "validation_prompt"),
    (TrainingConfig, {"validation_scheduler": "DDIMScheduler"}, PRIOR, "validation_prompt"),
    (TrainingConfig, {"distribution": "fsdp"}, {"num_processes": 2}, "num_processes"),
    (TrainingConfig, {"distribution": "fsdp"}, {"num_machines": 2}, "num_machines is 1"),
    (TrainingConfig, {"validation_steps": 900}, {"max_train_steps": 900}, "max_train_steps is 80"),
    (TrainingConfig, {"keep_checkpoint": "best"}, {"validation_steps": 10}, "validation_steps"),
    (EvaluationConfig, {"negative_prompt": "blue"}, {"guidance_scale": 2.0}, "guidance_scale is 1"),
    (language.EvaluationConfig, {"temperature": 0.5}, {"samples": 1}, "samples is 0"),
    (language.EvaluationConfig, {"top_p": 0.5}, {"samples": 2}, "samples is 0"),
    (
        language.ServingConfig,
        {"moderation_words": "words.txt"},
        {"moderation": "flag"},
        "moderation is off",
    ),
    (
        language_gates.ChampionGates,
        {"confidence": 0.9},
        {"margins": {"loss": 0.1}},
        "margins is {}",
    ),
    (ChampionGates, {"confidence": 0.9}, {"margins": {"kid": 0.1}}, "margins is {}"),
    (SlotConfig, {"folder": "/mnt/triton"}, {"launch": "remote"}, "launch is local"),
    (RolloutConfig, {"steps": [50, 100]}, {"strategy": "canary"}, "strategy is blue_green"),
    (RolloutConfig, {"mirrored_percent": 5}, {"strategy": "shadow"}, "strategy is blue_green"),
    *(
        (RolloutConfig, given, {"latency_increase_maximum": 0.5}, "latency_increase_maximum is not")
        for given in (
            {"latency_slack_seconds": 0.2},
            {"inter_token_slack_seconds": 0.2},
            {"cut_off_increase_maximum": 0.2},
        )
    ),
    (FleetConfig, {"on_failure": "keep"}, {"targets": {"local": LOCAL, "us": US}}, "targets is"),
]
# What a key stands beside when it has no effect, where that is not the defaults.
BESIDE: dict[str, dict[str, Any]] = {
    "adam_beta1": {"optimizer": "adafactor"},
    "adam_beta2": {"optimizer": "adafactor"},
    "adam_epsilon": {"optimizer": "adafactor"},
    "keep_checkpoint": {"validation_steps": 800},
    "negative_prompt": {**JUDGE, "guidance_scale": 1.0},
    "temperature": {"samples": 0},
    "top_p": {"samples": 0},
    "confidence": {"margins": {}},
    "steps": {"strategy": "blue_green"},
    "mirrored_percent": {"strategy": "blue_green"},
    "latency_slack_seconds": {"latency_increase_maximum": None},
    "inter_token_slack_seconds": {"latency_increase_maximum": None},
    "cut_off_increase_maximum": {"latency_increase_maximum": None},
    "on_failure": {"targets": {"local": LOCAL}},
}


@pytest.mark.parametrize(("section", "given", "needed", "named"), KEYS)
def test_a_key_without_an_effect_is_refused_and_taken_beside_what_it_needs(
    section: type[Strict], given: dict[str, Any], needed: dict[str, Any], named: str
) -> None:
    [key] = given
    beside = BESIDE.get(key, {})
    with pytest.raises(ValueError, match=re.escape(named)) as refused:
        section.model_validate({**beside, **given})
    assert f"{key} has no effect" in str(refused.value)
    default = section.model_fields[key].default
    section.model_validate({**beside, key: default})  # the default is no wish
    if section is EvaluationConfig:
        needed = {**JUDGE, **needed}
    section.model_validate({**needed, **given})


def test_every_key_of_the_table_is_tried_here() -> None:
    sections = {section for section, *_ in KEYS}
    tried = {(section, key) for section, given, *_ in KEYS for key in given}
    assert tried == {(section, key) for section in sections for key in section.ONLY_WITH}

    def all_of(kind: type) -> set[type]:
        return {one for sub in kind.__subclasses__() for one in (sub, *all_of(sub))}

    with_table = {one for one in all_of(Strict) if one.ONLY_WITH and not one.__subclasses__()}
    for one in with_table:  # or what it has in common with others is tried there
        assert any(one.ONLY_WITH.items() <= tried.ONLY_WITH.items() for tried in sections), one


def test_a_resolved_section_is_taken_again() -> None:
    """Every key stands in it, with its default where it was left out."""
    for given in ({}, {"optimizer": "adafactor"}, {**PRIOR, "lr_scheduler": "cosine"}):
        resolved = TrainingConfig.model_validate(given).model_dump()
        assert TrainingConfig.model_validate(resolved).model_dump() == resolved


MODEL = """
data: {path: data/cloth, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
training:
  learning_rate: 1e-3
  TRAINING
evaluation: {judge: {source: judge}}
search: {parameters: {SEARCH}}
"""


def loaded(folder: Path, training: str, search: str = "rank: {choices: [4, 8]}") -> ModelConfig:
    (folder / "configs" / "models").mkdir(parents=True, exist_ok=True)
    text = MODEL.replace("TRAINING", training).replace("SEARCH", search)
    project = Project(folder, folder / ".adire")
    project.model_file("cloth").write_text(text)
    return load_model(project, "cloth")


def test_the_file_and_the_line_of_such_a_key_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cloth\.yaml:7: training\.lr_warmup_steps: lr_warmup"):
        loaded(tmp_path, "lr_warmup_steps: 50")


def test_a_search_may_try_what_takes_the_effect_from_another_key(tmp_path: Path) -> None:
    training = "lr_warmup_steps: 50\n  lr_scheduler: cosine\n  use_ema: true"
    loaded(tmp_path, training, "lr_scheduler: {choices: [constant, cosine]}")
    loaded(tmp_path, training, "ema_decay: {low: 0.9, high: 0.99}")
    with pytest.raises(UserError, match=r"search\.parameters\.ema_decay: 0\.9: .*use_ema is false"):
        loaded(tmp_path, "rank: 4", "ema_decay: {low: 0.9, high: 0.99}")


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ("objective: {choices: [mse, huber]}", "objective: it changes what the validation loss"),
        ("aspect_ratio_buckets: {choices: [true, false]}", "aspect_ratio_buckets: it changes what"),
        ("num_validation_images: {low: 1, high: 4}", "num_validation_images: it changes no"),
        ("validation_steps: {low: 1, high: 4}", "set search.validation_steps"),
    ],
)
def test_what_cannot_be_compared_is_not_searched(
    tmp_path: Path, search: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        loaded(tmp_path, "rank: 4", search)
