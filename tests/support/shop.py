"""A project of evaluations with made-up scores, whose verdicts are real."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from adire_assets.config.fleet import load_fleet
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.statistic import Statistic, save_statistics
from adire_assets.core.store import Artifact, Built, Store, write_json
from adire_assets.families.diffusion.gates import ChampionGates, GateConfig
from adire_assets.gates.verdict import Verdict
from adire_assets.line.verdict import promotion_verdict as make_promotion_verdict
from adire_assets.serving import record, release

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
SETTINGS = {"seeds": [0, 1, 2, 3], "num_inference_steps": 20, "guidance_scale": 1.0}
POLICY = GateConfig(champion=ChampionGates(margins={"clip_s": 0.1}))
YAML = """\
data: {path: data/cloth, instance_prompt: a cloth}
family: diffusion
base_model: {source: base}
evaluation:
  judge: {source: judge}
  gates: {champion: {margins: {clip_s: 0.1}}}
"""


class Shop:
    """A project whose evaluations are numbers, and what one does with it."""

    def __init__(self, root: Path) -> None:
        self.project = Project(root, root / "home")
        (root / "configs" / "models").mkdir(parents=True)
        fleet = (ROOT / "configs" / "fleet.yaml").read_text()
        (root / "configs" / "fleet.yaml").write_text(fleet)
        self.project.model_file(MODEL).write_text(YAML)
        self.store = Store(self.project)
        self.evaluated: list[str] = []  # adapters that make_evaluation_report was asked for
        self.logged: dict[str, str] = {}  # what MLflow was given: pages by name
        self.mlflow_is_away = False

    def part(self, kind: str, name: str) -> Artifact:
        def make(folder: Path) -> dict[str, Any]:
            (folder / "name").write_text(name)
            adapter = kind == "lora_weights"
            return {"dataset": self.part("dataset", "monday").reference()} if adapter else {}

        return self.store.build(Recipe(kind, MODEL, config={"name": name}), make).artifact

    def evaluation(
        self,
        adapter: str,
        clip_s: float,
        data: str = "monday",
        steps: int = 20,
        scores_of: str | None = None,
        answers_of: str | None = None,
    ) -> Artifact:
        """64 images whose CLIP-S is around `clip_s`, with noise that follows from the name
        `scores_of`; their bytes follow from `answers_of`, by default the adapter's as well."""
        answers = self.store.build(
            Recipe(
                "evaluation_images",
                MODEL,
                inputs={"lora_weights": adapter},
                config={**SETTINGS, "num_inference_steps": steps},
            ),
            lambda folder: write_json(folder / "images.json", answers_of or adapter),
        ).artifact
        parts = {
            "dataset": self.part("dataset", data),
            "base_model": self.part("base_model", "base"),
            "lora_weights": self.part("lora_weights", adapter),
            "adapter_images": answers,
        }
        inputs = {name: part.content_hash for name, part in parts.items()}
        recipe = Recipe(
            "evaluation_report",
            MODEL,
            inputs={**inputs, "judge": "judge"},
            config={**SETTINGS, "num_inference_steps": steps},
        )

        def make(folder: Path) -> dict[str, Any]:
            name = scores_of or adapter
            noise = np.random.default_rng([*name.encode()]).normal(size=64)
            save_statistics(folder, {"clip_s": Statistic(each=clip_s + 0.05 * noise)})
            report = {
                "adapter_problems": [],
                "clip_s_mean": clip_s,
                "kid_adapter_mean": 0.1,
                "kid_base_mean": 0.6,
                "nsfw_probability_maximum": 0.1,
                "prompts": 16,
                "seeds": SETTINGS["seeds"],
                "metrics": {"clip_s": {"better": "higher"}},
            }
            write_json(folder / "report.json", report)
            write_json(folder / "timings.json", {"seconds_per_image_mean": 1.0})
            return {name: part.reference() for name, part in parts.items()}

        return self.store.build(recipe, make).artifact

    def release(
        self, number: int, evaluation: Artifact, verdict: Artifact | None = None
    ) -> release.ReleaseRecord:
        made = evaluation.manifest
        return release.write_record(
            self.project,
            release.ReleaseRecord(
                model=MODEL,
                number=number,
                repository=self.part("triton_repository", str(number)).reference(),
                adapter=made["lora_weights"],
                base_model=made["base_model"],
                evaluation=evaluation.reference(),
                verdict=(verdict or evaluation).reference(),
                mlflow_run_id=None,
                provenance={"code": {"commit": "c" * 40}, "dvc_hash": "d.dir"},
            ),
        )

    def bring_live(self, number: int) -> None:
        decided = release.read_record(self.project, MODEL, number).verdict
        for target in load_fleet(self.project).targets:
            record.change(
                self.project,
                target,
                MODEL,
                lambda state: replace(state, live=number, verdict=decided),
            )

    def configure(self, gates: str) -> None:
        """Other gates in the model's YAML, which a deployment reads."""
        self.project.model_file(MODEL).write_text(YAML.replace("gates: {", f"gates: {{{gates}, "))

    def log(self, page: Path) -> None:
        if self.mlflow_is_away:
            raise UserError("MLflow is away")
        assert page.name not in self.logged
        self.logged[page.name] = page.read_text()

    def decide(self, evaluation: Artifact, gates: GateConfig = POLICY) -> Built:
        """As the asset does it."""
        settings = {"family": "diffusion", "gates": gates.model_dump(mode="json")}
        config = self.store.build(
            Recipe("evaluation_config", MODEL, config=settings),
            lambda folder: write_json(folder / "config.json", settings),
        )
        run = SimpleNamespace(log_artifact=lambda path, folder: self.log(Path(path)))
        return make_promotion_verdict(
            self.project,
            evaluation,
            config.artifact,
            run_worker=None,
            tracked=lambda key: nullcontext(run),
        )


def verdict(built: Built) -> Verdict:
    return Verdict.from_dict(built.artifact.json("verdict.json"))
