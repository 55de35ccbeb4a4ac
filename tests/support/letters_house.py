"""Releases of a random language model of a few thousand weights, served by real engines."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import (
    FleetConfig,
    GatewayConfig,
    RolloutConfig,
    SlotConfig,
    TargetConfig,
    WebConfig,
)
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.families.causal_lm import FAMILY
from adire_assets.families.causal_lm.artifacts import BASE, WORDS
from adire_assets.families.causal_lm.evaluation import drawing, write_answers
from adire_assets.families.causal_lm.judge_process import open_judge
from adire_assets.families.causal_lm.steps import evaluate
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout.replay import Judge
from tests.support import language
from tests.support.house import TARGET, House
from tests.support.ports import free_ports
from tests.support.training import silent

MODEL = "letters"
SERVING: dict[str, Any] = {
    "maximum_model_length": 512,
    "maximum_tokens": 64,
    "maximum_lora_rank": 8,
    "parity_answers": 2,
}
ASKED: dict[str, Any] = {
    "prompts_maximum": 4,
    "general_prompts": [],
    "samples": 1,
    "temperature": 0.7,
    "top_p": 0.9,
    "max_tokens": 16,
    "latency_answers": 3,
    "refusal_patterns": [],
    "judge": None,
}
YAML = """
family: causal_lm
data: {path: data/letters}
base_model: {source: base}
"""


class LettersHouse(House):
    """Its judge reads the answers."""

    def open_judge(self, evaluation: Path) -> AbstractContextManager[Judge]:
        return open_judge(self.project.root, evaluation, "cpu")


def letters_house(
    folder: Path, rollout: RolloutConfig | None = None, server: str = "vllm"
) -> LettersHouse:
    """A project in the new folder `folder`, without releases, whose two slots are vLLMs, or Tritons
    with one inside."""
    models = folder / "configs" / "models"
    models.mkdir(parents=True)
    (models / f"{MODEL}.yaml").write_text(f"{YAML}serving: {{engine: {server}}}\n")
    language.write_dataset(folder / "dataset", train=24)
    language.write_base(folder / BASE, head_dim=32)  # an engine on a CPU computes no smaller heads
    return LettersHouse(Project(folder, folder / "home"), language_fleet(rollout, server), MODEL)


def language_fleet(rollout: RolloutConfig | None = None, server: str = "vllm") -> FleetConfig:
    ports = iter(free_ports(9))
    slots = {
        name: SlotConfig(
            server=server, http_port=next(ports), grpc_port=next(ports), metrics_port=next(ports)
        )
        for name in ("violet", "teal")
    }
    gateway = GatewayConfig(port=next(ports), admin_port=next(ports))
    target = TargetConfig(slots=slots, gateway=gateway, rollout=rollout or RolloutConfig())
    return FleetConfig(targets={"local": target}, dagster=WebConfig(port=next(ports)), device="cpu")


def add_letters(
    house: House,
    steps: int = 16,
    *,
    spoil: Callable[[Path], None] | None = None,
    training: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
    **serving: Any,
) -> int:
    """Another release, of an adapter trained for so many steps; its number. `spoil` changes the
    adapter behind the back of its evaluation, `serving` its limits; `training` and `asked` are
    other settings of its training and evaluation."""
    store, root, number = Store(house.project), house.project.root, len(house.releases) + 1
    engine = next(iter(house.fleet.targets[TARGET].slots.values())).server
    asked = {**ASKED, **(asked or {})}
    base = built(store, "base_model", {}, lambda made: shutil.copytree(root / BASE, made / BASE))
    inputs = {"number": str(number)}

    def train(folder: Path) -> None:
        settings = {"max_train_steps": steps, "checkpointing_steps": steps, "rank": 8}
        settings |= training or {}
        made = language.run(root / f"run-{number}", root / BASE, root / "dataset", **settings)
        for name in FAMILY.adapter_files:
            shutil.copyfile(made / name, folder / name)

    adapter = built(store, "lora_weights", inputs, train)
    evaluation = built(
        store, "evaluation_report", inputs, lambda made: _evaluate(root, adapter.path, made, asked)
    )
    served = root / f"served-{number}"
    shutil.copytree(adapter.path, served)
    if spoil:
        spoil(served)

    def release_of(folder: Path) -> None:
        release.write_release(
            house.project,
            FAMILY,
            folder,
            model=house.model,
            adapter=served,
            base=base,
            serving={**SERVING, "engine": engine, **serving},
        )

    content = built(store, "triton_repository", inputs, release_of)
    house.releases[number] = release.write_record(
        house.project,
        ReleaseRecord(
            model=house.model,
            number=number,
            repository=content.reference(),
            adapter=adapter.reference(),
            base_model=base.reference(),
            evaluation=evaluation.reference(),
            verdict=evaluation.reference(),
            family=FAMILY.name,
            engine=engine,
            mlflow_run_id=f"run-{number}",
            provenance={"code": {"commit": "c" * 40}, "dvc_hash": "d.dir"},
        ),
    )
    return number


def built(
    store: Store, kind: str, inputs: dict[str, str], make: Callable[[Path], object]
) -> Artifact:
    recipe = Recipe(kind, MODEL, inputs=inputs, environment={"device": "cpu"})
    return store.build(recipe, lambda folder: (make(folder), None)[1]).artifact


def _evaluate(root: Path, adapter: Path, output: Path, evaluation: dict[str, Any]) -> None:
    scratch = root / "scratch" / adapter.parent.name / adapter.name
    places = {name: scratch / name for name in ("adapter", "base", "judge")}
    for place in places.values():
        place.mkdir(parents=True)
    write_json(places["judge"] / WORDS, [])
    asked = drawing.drawing_of(evaluation, root / "dataset")
    for name, with_it in (("adapter", str(adapter)), ("base", None)):
        write_answers.write(
            base=str(root / BASE),
            adapter=with_it,
            drawing=asked,
            output=str(places[name]),
            device="cpu",
            progress=silent,
        )
    evaluate.score(
        dataset=str(root / "dataset"),
        adapter_images=str(places["adapter"]),
        base_images=str(places["base"]),
        judge=str(places["judge"]),
        evaluation=evaluation,
        output=str(output),
        device="cpu",
        progress=silent,
    )
