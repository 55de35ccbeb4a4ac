"""A project of two releases whose evaluations have real answers: what a blind sheet shows."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.serving import record, release

ROOT = Path(__file__).parents[2]
TEXT = '<img src=x onerror="window.hacked=1"> & {{ 1 + 1 }}'
SAYINGS = """\
family: causal_lm
data: {path: data/sayings}
base_model: {source: base}
"""


def colour(*rgb: int) -> np.ndarray:
    return np.full((16, 16, 3), rgb, np.uint8)


PROMPTS = [f"cloth {number}" for number in range(25)]
SEEDS = [0, 1]


def write_evaluation(folder: Path, shift: float) -> None:
    listed, scores = [], []
    for place, prompt in enumerate(PROMPTS):
        for seed in SEEDS:
            files = {}
            for key, side in (("file", "adapter"), ("base_file", "base")):
                files[key] = f"images/{side}/{place:03d}-seed{seed}.png"
                (folder / files[key]).parent.mkdir(parents=True, exist_ok=True)
                shade = colour(place * 9, 100 if side == "base" else 200, int(shift * 100))
                Image.fromarray(shade).save(folder / files[key])
            listed.append({**files, "prompt": prompt, "seed": seed})
            value = 1 + place / 100 + seed / 1000 + shift
            scores.append(
                {
                    "prompt": prompt,
                    "seed": seed,
                    "clip_s": value,
                    "clip_s_base": value / 2,
                    "sharpness": 0.5,
                    "sharpness_base": None,
                }
            )
    report = {"per_image": scores, "seeds": SEEDS, "images": 50, "prompts": 25, "judge": "a judge"}
    write_json(folder / "images.json", listed)
    write_json(folder / "report.json", report | {"clip_s_held_out_mean": 1.9})
    timings = {"seconds_per_image": [1.0, 2.0, 3.0], "cold_load_seconds": 0.5, "device": "cpu"}
    write_json(folder / "timings.json", timings | {"peak_memory_bytes": 2**30, "threads": 2})


VERDICT = {
    "passed": True,
    "gates": [
        {
            "name": "clip_s",
            "value": 1.6,
            "threshold": 1.5,
            "comparison": ">=",
            "margin": 0.1,
            "passed": True,
            "unit": "CLIP-S",
            "explanation": "not required; clip_s 1.6 is at or above 1.5",
        }
    ],
}


def write_texts(folder: Path, shift: float) -> None:
    answers = [
        {
            "prompt": f"When is {prompt} ready?",
            "sample": sample,
            "text": f"In {shift:g} weeks\n{TEXT} {sample}",
            "base_text": "Never.",
            "reference": None,
        }
        for prompt in PROMPTS[:8]
        for sample in (0, 1)
    ]
    write_json(folder / "report.json", {"per_answer": answers})
    write_json(folder / "timings.json", {})


def evaluated(
    project: Project,
    shift: float,
    model: str = "cloth",
    write: Callable[[Path, float], None] = write_evaluation,
) -> tuple[Artifact, Artifact]:
    """An evaluation and its verdict, with what they are made from."""
    store = Store(project)

    def dataset(folder: Path) -> None:
        (folder / "images").mkdir()
        Image.fromarray(colour(0, 0, 0)).save(folder / "images" / "real.png")
        row = {"file_name": "images/real.png", "text": PROMPTS[0]}
        (folder / "held_out.jsonl").write_text(json.dumps(row) + "\n")

    def evaluation(folder: Path) -> dict[str, Any]:
        write(folder, shift)
        return {kind: artifact.reference() for kind, artifact in made.items()}

    def verdict(folder: Path) -> dict[str, Any]:
        write_json(folder / "verdict.json", VERDICT)
        return {"evaluation": report.reference()}

    def adapter(folder: Path) -> dict[str, Any]:
        about = {"dvc_hash": "d00d.dir", "data_hash": "da7a", "seed": 42}
        return {**about, "dataset": data.reference()}

    def base(folder: Path) -> dict[str, Any]:
        return {"source": "base_models/tiny", "revision": None}

    settings = {"rank": 16, "target_modules": ["to_q", "to_k"]}
    inputs = {"shift": str(shift)}
    data = store.build(Recipe("dataset", model), dataset).artifact
    made = {
        "dataset": data,
        "base_model": store.build(Recipe("base_model", model), base).artifact,
        "lora_weights": store.build(
            Recipe("lora_weights", model, inputs=inputs, config=settings), adapter
        ).artifact,
    }
    report = store.build(Recipe("evaluation_report", model, inputs=inputs), evaluation).artifact
    judged = store.build(Recipe("promotion_verdict", model, inputs=inputs), verdict).artifact
    return report, judged


def compared_releases(folder: Path) -> Project:
    """Release 1 of cloth, which answers with pictures, is live; release 2 was evaluated after it.
    So it is with sayings, which answers with texts."""
    (folder / "configs" / "models").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "fleet.yaml", folder / "configs" / "fleet.yaml")
    shutil.copytree(ROOT / "configs" / "prompts", folder / "configs" / "prompts")
    house = (ROOT / "configs" / "models" / "indigo.yaml").read_text()
    (folder / "configs" / "models" / "cloth.yaml").write_text(house)
    (folder / "configs" / "models" / "sayings.yaml").write_text(SAYINGS)
    project = Project(folder, folder / ".adire")
    for model, write in (("cloth", write_evaluation), ("sayings", write_texts)):
        for number, shift in ((1, 0.0), (2, 0.5)):
            _release(project, model, number, *evaluated(project, shift, model, write))
        bring_live(project, 1, model)
    return project


def bring_live(project: Project, number: int | None, model: str = "cloth") -> None:
    record.change(project, "local", model, lambda state: replace(state, live=number))


def _release(
    project: Project, model: str, number: int, report: Artifact, verdict: Artifact
) -> None:
    inner = report.manifest
    release.write_record(
        project,
        release.ReleaseRecord(
            model=model,
            number=number,
            repository=inner["lora_weights"],
            adapter=inner["lora_weights"],
            base_model=inner["base_model"],
            evaluation=report.reference(),
            verdict=verdict.reference(),
            mlflow_run_id=None,
            provenance={"code": {"commit": "c" * 40}, "dvc_hash": "d.dir"},
        ),
    )
