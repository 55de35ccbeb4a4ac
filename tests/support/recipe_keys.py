"""A project of which each ingredient can be changed alone, and the keys that come of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from adire_assets.config import held_weights
from adire_assets.config.model import load_model
from adire_assets.core import lineage
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store, write_json
from adire_assets.embedded.base.train import Stages, smoke_settings
from adire_assets.embedded.letters import train as letters_training
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.training import encoding, lora
from adire_assets.families.diffusion.training.class_images import key_of
from adire_assets.gates import promotion, upgrades
from adire_assets.gates.report import pages
from adire_assets.line import sources
from adire_assets.line.dataset import build as build_dataset
from adire_assets.line.evaluate import evaluation_report as make_evaluation_report
from adire_assets.line.release import triton_repository as make_triton_repository
from adire_assets.line.train import lora_weights as make_lora_weights
from adire_assets.ops import search
from adire_assets.serving import release
from adire_assets.tracking.dvc import versions

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
CONFIG = """
data: {path: data/cloth, resolution: 64, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation:
  judge: {source: judge}
  prompts: [cloth]
search:
  parameters: {learning_rate: {low: 1e-4, high: 1e-2}}
"""
FLEET = (ROOT / "configs" / "fleet.yaml").read_text()
TREE = {"a.png": "0" * 32}


class Asked(Exception):
    """Carries the key that a step asks for."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


@dataclass
class Line:
    """Everything that a step may be made from; a test changes one part of it."""

    project: Project
    monkeypatch: pytest.MonkeyPatch
    content: str = "1"  # of the artifact that `changed` names
    changed: str = ""
    tree: str = "f" * 32

    def configure(self, section: str, **values: Any) -> None:
        path = self.project.model_file(MODEL)
        tree = YAML().load(path.read_text())
        tree.setdefault(section, {}).update(values)
        with path.open("w") as file:
            YAML().dump(tree, file)

    def device(self, name: str) -> None:
        path = self.project.root / "configs" / "fleet.yaml"
        path.write_text(FLEET.replace("device: auto", f"device: {name}"))

    def weights(self, folder: str, text: str = "1") -> Path:
        """What `base.resolve` takes for a model, with one number in it."""
        place = self.project.root / folder
        place.mkdir(exist_ok=True)
        index = '{"_class_name": "StableDiffusionPipeline"}'
        (place / "model_index.json").write_text(index)
        (place / "config.json").write_text("{}")
        save_file({"weight": np.array([float(text)])}, place / "model.safetensors")
        return place

    def made(self, kind: str, **facts: Any) -> Artifact:
        """An artifact with what steps read of it, and a content that a test may change."""
        content = self.content if kind == self.changed else "1"

        def make(folder: Path) -> dict[str, Any]:
            (folder / "content").write_text(content)
            for name in ("train", "validation", "held_out"):
                (folder / f"{name}.jsonl").write_text('{"file_name": "a.png", "text": "cloth"}\n')
            write_json(folder / "timings.json", {})
            write_json(folder / "base.json", {"variant": None})
            write_json(folder / "golden.json", {"threads": 1, "conditions": {}})
            return {"resolution": 64, "dvc_hash": "d", "data_hash": "d", **facts}

        recipe = Recipe(f"made_{kind}", MODEL, config={"content": content, **facts})
        return Store(self.project).build(recipe, make).artifact

    def asks(self, kind: str, step: Callable[[], Any]) -> str:
        """The key under which `step` looks for an artifact of `kind`; others are there, empty."""
        build = Store.build

        def ask(store: Store, recipe: Recipe, make: Callable) -> Built:
            if recipe.kind == kind:
                raise Asked(recipe.key)
            return build(store, recipe, make if recipe.kind.startswith("made_") else empty)

        def empty(folder: Path) -> None:
            (folder / "content").write_text("")

        with self.monkeypatch.context() as patched:
            patched.setattr(Store, "build", ask)
            with pytest.raises(Asked) as asked:
                step()
        return asked.value.key

    # --- the steps -----------------------------------------------------------------------------

    def root(self, name: str) -> str:
        subtree = versions.Subtree(self.tree, "d", TREE)
        with self.monkeypatch.context() as patched:
            patched.setattr(versions, "subtree", lambda *_: subtree)
            return sources.source_key(self.project, MODEL, name)

    def judge(self) -> str:
        return self.asks("judge", lambda: held_weights.held(self.project, MODEL, "judge"))

    def single_file(self) -> str:
        self.weights("config")
        file = self.project.root / "base.safetensors"
        save_file({"weight": np.array([float(self.content)])}, file)
        self.configure("base_model", source=file.name, config={"source": "config"})
        return self.root("base_model")

    def dataset(self) -> str:
        data = self.made("training_data", data_hash=self.tree)
        config = load_model(self.project, MODEL).data.model_dump()
        with self.monkeypatch.context() as patched:
            values = {"data.json": {"family": "diffusion", "data": config}, "files.json": TREE}
            patched.setattr(Artifact, "json", lambda _, name: values[name])
            return self.asks("dataset", lambda: build_dataset(self.project, data))

    def settings(self, name: str) -> Artifact:
        return getattr(sources, name)(self.project, MODEL).artifact

    def lora_weights(self) -> str:
        config = self.settings("training_config")

        def step() -> None:
            make_lora_weights(
                self.project, self.made("dataset"), self.made("base"), config, never, untracked
            )

        return self.asks("lora_weights", step)

    def report(self, kind: str) -> str:
        config = self.settings("evaluation_config")

        def step() -> None:
            make_evaluation_report(
                self.project, self.made("dataset"), self.made("base"), self.made("lora"),
                config, never, untracked,
            )  # fmt: skip

        return self.asks(kind, step)

    def base_statistics(self) -> str:
        """From what the worker is told."""
        config = self.settings("evaluation_config")

        def worker(function: str, **arguments: Any) -> dict:
            if function.endswith(":score"):
                raise Asked(Path(arguments["base_statistics"]).name)
            write_json(Path(arguments["output"]) / "timings.json", {})
            return {}

        with pytest.raises(Asked) as asked:
            make_evaluation_report(
                self.project, self.made("dataset"), self.made("base"), self.made("lora"),
                config, worker, untracked,
            )  # fmt: skip
        return asked.value.key

    def verdict(self) -> str:
        policy = load_model(self.project, MODEL).evaluation.gates
        return self.asks(
            "promotion_verdict",
            lambda: promotion.verdict_of(
                self.project, self.made("evaluation"), policy, self.made("champion")
            ),
        )

    def repository(self) -> str:
        base, adapter = self.made("base"), self.made("lora")
        references = {"lora_weights": adapter.reference(), "base_model": base.reference()}
        evaluation = self.made("evaluation", **references)
        verdict = self.made("verdict", evaluation=evaluation.reference())
        config = self.settings("evaluation_config")
        with self.monkeypatch.context() as patched:
            patched.setattr(promotion, "require_passed", lambda _: None)
            return self.asks(
                "triton_repository",
                lambda: make_triton_repository(self.project, adapter, base, verdict, config),
            )

    def golden_set(self) -> str:
        evaluation = self.made("evaluation")
        return self.asks(
            "golden_set", lambda: upgrades.golden_set(self.project, FAMILY, evaluation)
        )

    def of_release(self, kind: str) -> str:
        parts = {
            name: self.made(name).reference()
            for name in ("repository", "adapter", "base_model", "evaluation", "verdict", "golden")
        }
        record = release.ReleaseRecord(MODEL, 1, mlflow_run_id=None, provenance={}, **parts)
        shutil.rmtree(self.project.home / "releases", ignore_errors=True)
        release.write_record(self.project, record)
        if kind == "golden_report":
            step = lambda: upgrades.golden_report(self.project, record, never)  # noqa: E731
        else:
            step = lambda: promotion.parity_report(self.project, MODEL, 1, print)  # noqa: E731
        return self.asks(kind, step)

    def page(self) -> str:
        return pages.page_path(self.project, self.made("verdict")).name

    def study(self) -> str:
        device = sources.device_class(self.project)
        config = load_model(self.project, MODEL)
        made_from = self.made("dataset"), self.made("base"), lineage.facts()
        return search.recipe_of(config, *made_from, device).key

    def tiny_base(self) -> str:
        folder = self.project.home
        stages = Stages(folder, int(self.content), smoke_settings(), torch.device("cpu"), 60.0)
        return lineage.digest([stages._loop(name, 1).fingerprint for name in ("judge", "unet")])

    def letters_base(self) -> str:
        return letters_training.recipe_of(1, int(self.content)).key

    # --- what a training keeps -----------------------------------------------------------------

    def encoded(self, what: str) -> str:
        settings = load_model(self.project, MODEL).training
        device = sources.device_class(self.project)
        facts = encoding.facts_of(self.project.root / "base", None, settings, device)
        folder = self.project.home / what
        match what:
            case "latents":
                return encoding.latents_cache(None, folder, facts).key
            case "texts":
                return encoding.texts_cache(None, folder, facts, settings, device).key
            case "class_images":
                return key_of(settings, facts)
        return lineage.digest(lora.identity_of(settings, self.content, facts, 64))


def never(*_: object, **__: object) -> Any:
    raise AssertionError("nothing is to be made here")


@contextmanager
def untracked(recipe_key: str) -> Iterator[Any]:
    yield SimpleNamespace(set_tags=never, log_params=never)


def look_anew() -> None:
    """At which files are the sources; `lineage.clear_caches` would parse all of them again."""
    for cached in (lineage.code_hash, lineage.sources, lineage.all_sources, lineage.libraries):
        cached.cache_clear()


@contextmanager
def changed(line: Line, ingredient: str, value: Any) -> Iterator[None]:
    """One ingredient is another inside of the block."""
    model, fleet = line.project.model_file(MODEL), line.project.root / "configs" / "fleet.yaml"
    files = {path: path.read_text() for path in (model, fleet)}
    installed, source, threads = lineage.installed, lineage._source, torch.get_num_threads()
    with line.monkeypatch.context() as patched:
        match ingredient:
            case "code":
                copy = line.project.root / value.replace("/", "_")
                copy.write_text(f"{(ROOT / 'adire_assets' / value).read_text()}\nEDITED = True\n")
                name = f"adire_assets.{value.removesuffix('.py').replace('/', '.')}"
                patched.setattr(
                    lineage, "_source", lambda other: copy if other == name else source(other)
                )
            case "library":
                patched.setattr(
                    lineage, "installed", lambda n: "9.9" if n == value else installed(n)
                )
            case "threads":
                patched.setenv("ADIRE_THREADS", str(value))
                torch.set_num_threads(value)
            case "device":
                line.device(value)
            case "input":
                line.changed, line.content = value, "2"
            case "config":
                line.configure(value[0], **{value[1]: value[2]})
        look_anew()
        yield
    line.changed, line.content = "", "1"
    torch.set_num_threads(threads)
    look_anew()
    for path, text in files.items():
        path.write_text(text)
