"""Releases that answer in some 30 ms: everything of serving but the drawing is real.

A light release has the interface of a diffusion release. It answers each prompt of its evaluation
with the evaluated picture (drawn adire cloth), after as long and as wrongly as `Behaviour` says.
"""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.embedded.cloth.sample_images import draw_sample_data
from adire_assets.families.diffusion.evaluation.judge_process import JudgeProcess
from adire_assets.serving import release
from adire_assets.serving.rollout.replay import Judge
from tests.support.fleets import make_fleet
from tests.support.house import House

ROOT = Path(__file__).parents[2]
MODEL = "light"
PROMPTS = 8
JUDGE = ROOT / "base_models" / "tiny" / "judge"

BACKEND = """
import io, json, os, random, sys, time
from pathlib import Path
sys.path.insert(0, os.environ["ADIRE_SITE_PACKAGES"])
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        self.provenance = json.loads((folder / "provenance.json").read_text())
        self.behaviour = json.loads((folder / "serving.json").read_text())["behaviour"]
        if not self.behaviour["loads"]:
            raise RuntimeError("the weights cannot be read")
        stored = np.load(folder / "adapter" / "pictures.npz")
        prompts = json.loads(str(stored["prompts"]))
        self.images = {prompt: stored[f"image_{n}"] for n, prompt in enumerate(prompts)}
        self.random = random.Random(self.behaviour["seed"])
        self.answered = 0

    def execute(self, requests):
        time.sleep(self.behaviour["seconds"])
        while self.hangs():
            time.sleep(0.05)
        return [self.answer(request) for request in requests]

    def hangs(self):
        until = self.behaviour["hangs_until"]
        begun = self.answered >= self.behaviour["sound_answers"]
        return until and begun and not os.path.exists(until)

    def answer(self, request):
        self.answered += 1
        if self.answered > self.behaviour["sound_answers"]:
            if self.random.random() < self.behaviour["fault_share"]:
                return pb.InferenceResponse(error=pb.TritonError("failed", pb.TritonError.INTERNAL))
        prompt = pb.get_input_tensor_by_name(request, "prompt").as_numpy().reshape(-1)[0].decode()
        image = self.images.get(prompt, next(iter(self.images.values())))
        if self.behaviour["noise"] and self.answered > self.behaviour["sound_answers"]:
            image = np.random.randint(0, 255, image.shape, dtype=np.uint8)
        asked = {"prompt": prompt, "seed": 0}
        text = json.dumps({**self.provenance, "device": "cpu", "request": asked}).encode()
        return pb.InferenceResponse([
            pb.Tensor("images", image[None]),
            pb.Tensor("release", np.array([self.provenance["release"]], np.int32)),
            pb.Tensor("provenance", np.array([text], dtype=object)),
        ])
"""


@dataclass(frozen=True)
class Behaviour:
    """What is wrong with a release begins after `sound_answers`; `seconds` is for each batch."""

    seconds: float = 0.03
    fault_share: float = 0.0
    noise: bool = False
    sound_answers: int = 0
    seed: int = 0  # of which answers fail
    loads: bool = True
    hangs_until: str = ""  # this file is there: it answers nothing before


class JudgedHouse(House):
    """The embedded judge looks at the images; other houses have one that finds all as it was."""

    def open_judge(self, evaluation: Path) -> AbstractContextManager[Judge]:
        return JudgeProcess(JUDGE, "cpu")


def light_house(
    folder: Path, rollout: RolloutConfig | None = None, kind: type[House] = House
) -> House:
    """A light project in the new folder `folder`, without releases."""
    (folder / "configs" / "models").mkdir(parents=True)
    return kind(Project(folder, folder / "home"), make_fleet(rollout), MODEL)


def add_light(house: House, behaviour: Behaviour | None = None) -> int:
    """Another release; its number."""
    evaluation, base = _evaluation(house), _base(house)

    def make(folder: Path) -> None:
        (folder / "adapter").mkdir()
        (folder / "model.py").write_text(BACKEND)
        shutil.copyfile(evaluation.path / "pictures.npz", folder / "adapter" / "pictures.npz")
        template = (ROOT / "triton_models" / "diffusion" / "config.pbtxt").read_text()
        filled = template.replace("$name", house.model).replace("$maximum_batch_size", "8")
        (folder / "config.pbtxt").write_text(filled)
        write_json(
            folder / "serving.json",
            {
                "parity_images": 2,
                "base_model": base.content_hash[: release.BASE_DIGITS],
                "behaviour": asdict(behaviour or Behaviour()),
                "number": len(house.releases) + 1,
            },
        )

    inputs = {"number": str(len(house.releases) + 1)}
    recipe = Recipe("triton_repository", house.model, inputs=inputs)
    content = Store(house.project).build(recipe, make).artifact
    return house.keep(content, content, base, evaluation)


def _base(house: House) -> Artifact:
    def make(folder: Path) -> None:
        (folder / "pipeline").mkdir()
        write_json(folder / "pipeline" / "nothing.json", {})
        write_json(folder / "base.json", {"variant": None})

    return Store(house.project).build(Recipe("base_model", house.model), make).artifact


def _evaluation(house: House) -> Artifact:
    """Drawn cloth with its captions, as if a release had drawn it."""

    def make(folder: Path) -> None:
        drawn = folder / "drawn"
        draw_sample_data(drawn, count=PROMPTS, seed=5, resolution=128)
        rows = list(csv.DictReader((drawn / "metadata.csv").open()))
        files = [drawn / row["file_name"] for row in rows]
        images = [np.asarray(Image.open(path).convert("RGB")) for path in files]
        prompts = [row["text"] for row in rows]
        entries = [
            {
                "file": str(path.relative_to(folder)),
                "prompt": prompt,
                "negative_prompt": "",
                "seed": 0,
                "num_inference_steps": 1,
                "guidance_scale": 1.0,
            }
            for path, prompt in zip(files, prompts, strict=True)
        ]
        write_json(folder / "images.json", entries)
        write_json(folder / "report.json", {"per_image": _scores(house, prompts, images)})
        stored = io.BytesIO()
        named = {f"image_{place}": image for place, image in enumerate(images)}
        np.savez(stored, prompts=json.dumps(prompts), **named)
        (folder / "pictures.npz").write_bytes(stored.getvalue())

    recipe = Recipe("evaluation_report", house.model, environment={"device": "cpu"})
    return Store(house.project).build(recipe, make).artifact


def _scores(
    house: House, prompts: Sequence[str], images: Sequence[np.ndarray]
) -> list[dict[str, float]]:
    with house.open_judge(house.project.root) as judge:
        return [{"clip_s": score} for score in judge(prompts, [image[None] for image in images])]
