"""One adapter's evaluation: what its images, beside the bare base's, are worth in numbers.

Contract: `score` is called in a worker child, draws nothing, and writes into the empty folder
`output`

    report.json        scores, problems and one entry per image; no timings, so equal software and
                       thread count give equal bytes
    statistics.*       each metric of the adapter's images as a function of their weights, so that
                       it can be computed again for any resample; base/statistics.* of the base's
    timings.json       those of the adapter's images, and of scoring; does not count as content
    report.md, contact_sheet.png
    images/adapter/, images/base/    the images; images.json says how to draw each again

It judges nothing: thresholds belong to the verdict. An adapter that is broken gets a report as well
(`adapter_problems` is not empty; null scores where nothing was drawn), so that the verdict can
refuse it by name.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adire_assets.core.statistic import (
    Statistic,
    load_statistics,
    save_statistics,
    standard_error,
)
from adire_assets.core.store import hard_link_or_copy, read_json, write_json
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.evaluation import report
from adire_assets.families.diffusion.evaluation.image_files import (
    DrawnImages,
    ImageFiles,
    RealImages,
    evenly_spaced,
    read_drawn,
    read_real,
    require_pairs,
)
from adire_assets.families.diffusion.evaluation.judge import Judge
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs, RealImageFeatures
from adire_assets.families.diffusion.evaluation.metrics import METRICS, flat
from adire_assets.families.diffusion.evaluation.metrics.vectors import cosines
from adire_assets.families.diffusion.evaluation.prompts import choose_prompts

DIGITS = 6
MAXIMUM_HELD_OUT = 2000  # images that the drawn ones are compared with
Statistics = Mapping[str, Statistic]


def score(
    *,
    dataset: str,
    adapter_images: str,
    base_images: str,
    judge: str,
    evaluation: dict[str, Any],
    output: str,
    device: str,
    progress: Progress,
    base_statistics: str | None = None,
) -> dict[str, Any]:
    """Score what `images.draw` drew with the LoRA and without.

    The first four are folders; `evaluation` is `DiffusionConfig.evaluation_settings`. The folder
    `base_statistics` keeps what the base's images are worth for other adapters that are evaluated
    in the same way on the same data; it is made when there is none. Returns report.json without
    its list of images, and timings.json. UserError when there is nothing to compare with.
    """
    started = time.perf_counter()
    folder = Path(output)
    drawn = {"adapter": read_drawn(Path(adapter_images)), "base": read_drawn(Path(base_images))}
    require_pairs(drawn["adapter"], drawn["base"])
    held_out, train = (read_real(Path(dataset), part) for part in ("held_out", "train"))
    progress("evaluation: scoring")
    features = JudgeFeatures(Judge(Path(judge), _judge_device(device)), held_out, train, evaluation)
    asked = dict.fromkeys(entry["prompt"] for entry in drawn["adapter"].entries)
    if cut := [text for text in asked if features.judge.left_out(text)]:
        progress(
            f"evaluation: {len(cut)} of {len(asked)} prompts are longer than the judge reads; it "
            f"scores them by their beginning: {cut[0][:40]!r} ..."
        )
    inputs = features.metric_inputs(drawn["adapter"])
    statistics = {
        "adapter": measure(inputs),
        "base": _kept(base_statistics, lambda: measure(features.metric_inputs(drawn["base"]))),
    }
    adapter = drawn["adapter"]
    problems = [*adapter.problems]
    if count := sum(flat(image) for image in adapter.images):
        problems = [
            f"{count} of {len(adapter.images)} images with the LoRA are one flat colour, as when "
            "its weights make the model overflow"
        ]
    prompts, left_out = choose_prompts(evaluation, held_out.captions)
    scores, base_scores = (_values(statistics[name], drawn[name]) for name in ("adapter", "base"))
    result = {
        "scores": scores,
        "base_scores": base_scores,
        "standard_errors": _standard_errors(statistics["adapter"], len(evaluation["seeds"])),
        "clip_s_mean": scores["clip_s"],
        "clip_s_base_mean": base_scores["clip_s"],
        "clip_s_held_out_mean": features.clip_s_of_held_out(),
        "kid_adapter_mean": scores["kid"],
        "kid_base_mean": base_scores["kid"],
        "nsfw_probability_maximum": _maximum(statistics["adapter"].get("nsfw")),
        "adapter_problems": problems,
        "prompts": len(prompts),
        "prompts_left_out": left_out,
        "seeds": evaluation["seeds"],
        "images": len(adapter.images),
        "held_out_images": len(features.compared),
        "judge": evaluation["judge"]["source"],
        "metrics": {
            name: {"unit": metric.unit, "better": metric.better, "source": metric.source}
            for name, metric in METRICS.items()
        },
        "per_image": _per_image(adapter, statistics, evaluation),
    }
    nearest = features.nearest_held_out(inputs)
    for entry, path in zip(result["per_image"], nearest.paths, strict=True):
        entry["nearest_held_out"] = path.relative_to(Path(dataset).resolve()).as_posix()
    _write_images(folder, adapter, Path(adapter_images), Path(base_images))
    for place, of in ((folder, "adapter"), (folder / "base", "base")):
        place.mkdir(exist_ok=True)
        save_statistics(place, statistics[of])
    write_json(folder / "report.json", result)
    (folder / "report.md").write_text(report.markdown(result), encoding="utf-8")
    rows = _sheet_rows(result, prompts, drawn, held_out, nearest)
    report.save_contact_sheet(folder / "contact_sheet.png", rows)
    timings = read_json(Path(adapter_images) / "timings.json")
    timings["scoring_seconds"] = round(time.perf_counter() - started, 4)
    write_json(folder / "timings.json", timings)
    return {**{key: item for key, item in result.items() if key != "per_image"}, **timings}


class JudgeFeatures:
    """The judge's embeddings of the data; makes the inputs of every metric for drawn images."""

    def __init__(
        self, judge: Judge, held_out: RealImages, train: RealImages, evaluation: Mapping[str, Any]
    ) -> None:
        self.judge = judge
        chosen = evenly_spaced(len(held_out.images), MAXIMUM_HELD_OUT)
        self.captions = [held_out.captions[place] for place in chosen]
        self.compared = ImageFiles([held_out.images.paths[place] for place in chosen])
        self.held_out, self.train = (
            RealImageFeatures(images, judge.embed_images(images))
            for images in (self.compared, train.images)
        )
        asked = evaluation["prompt_set"] or {"attributes": {}, "prompts": []}
        self.expected = {prompt["text"]: prompt["expected"] for prompt in asked["prompts"]}
        self.attributes = {
            attribute: dict(zip(texts, judge.embed_texts([*texts.values()]), strict=True))
            for attribute, texts in asked["attributes"].items()
        }

    def metric_inputs(self, drawn: DrawnImages) -> MetricInputs:
        """The inputs of every metric for these images."""
        prompts = [entry["prompt"] for entry in drawn.entries]
        return MetricInputs(
            images=drawn.images,
            embeddings=self.judge.embed_images(drawn.images),
            texts=self._texts(prompts),
            held_out=self.held_out,
            train=self.train,
            expected=tuple(self.expected.get(prompt, {}) for prompt in prompts),
            attributes=self.attributes,
        )

    def nearest_held_out(self, inputs: MetricInputs) -> ImageFiles:
        """For each image the held-out one that is most like it to the judge."""
        near = cosines(inputs.embeddings, self.held_out.embeddings).argmax(1)
        return ImageFiles([self.compared.paths[place] for place in near])

    def clip_s_of_held_out(self) -> float | None:
        """Mean CLIP-S of the held-out images with their captions: what a good adapter nears."""
        inputs = MetricInputs(
            images=self.held_out.images,
            embeddings=self.held_out.embeddings,
            texts=self._texts(self.captions),
            held_out=self.held_out,
            train=self.train,
        )
        return _value(METRICS["clip_s"].measure(inputs), len(self.held_out.images))

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        """An embedding for each; equal texts are read once."""
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return self.judge.embed_texts([*places])[[places[text] for text in texts]]


def measure(inputs: MetricInputs) -> Statistics:
    """Every metric of these images; none when there are no images."""
    if not inputs.images:
        return {}
    return {name: metric.measure(inputs) for name, metric in METRICS.items()}


def _kept(place: str | None, make: Callable[[], Statistics]) -> Statistics:
    """The statistics in the folder `place`, which are made when they are not there."""
    if place is None:
        return make()
    folder = Path(place)
    try:
        return load_statistics(folder)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        save_statistics(folder, make())
        return load_statistics(folder)


def _values(statistics: Statistics, drawn: DrawnImages) -> dict[str, float | None]:
    """{metric: value}; null where there is nothing to compute it from."""
    count = len(drawn.images)
    return {
        name: _value(statistics[name], count) if name in statistics else None for name in METRICS
    }


def _value(statistic: Statistic, images: int) -> float | None:
    return _plain(float(statistic.value(np.ones(images))))


def _standard_errors(statistics: Statistics, seeds: int) -> dict[str, float | None]:
    """Of each score, over other prompts of the same kind."""
    return {
        name: _plain(standard_error(one, np.arange(one.answers) // seeds))
        for name, one in statistics.items()
    }


def _maximum(statistic: Statistic | None) -> float | None:
    if statistic is None or statistic.each is None:
        return None
    return _plain(float(statistic.each.max()))


def _per_image(
    adapter: DrawnImages, statistics: Mapping[str, Statistics], evaluation: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What report.json says about each image; a metric is there if it is a mean over images."""
    listed = (evaluation["prompt_set"] or {"prompts": []})["prompts"]
    known = {prompt["text"]: prompt for prompt in listed}
    columns = {
        name + suffix: statistic.each + statistic.constant
        for variant, suffix in (("adapter", ""), ("base", "_base"))
        for name, statistic in statistics[variant].items()
        if statistic.each is not None and statistic.pairs is None
    }
    result = []
    for place, entry in enumerate(adapter.entries):
        prompt = known.get(entry["prompt"], {"id": None, "tags": [], "expected": {}})
        result.append(
            {
                "prompt": entry["prompt"],
                "seed": entry["seed"],
                **{key: prompt[key] for key in ("id", "tags", "expected")},
                **{name: _plain(values[place]) for name, values in columns.items()},
            }
        )
    return result


def _write_images(folder: Path, adapter: DrawnImages, of_adapter: Path, of_base: Path) -> None:
    listed = []
    for name in ("adapter", "base"):
        (folder / "images" / name).mkdir(parents=True)
    for entry in adapter.entries:
        name = entry["file"]
        files = {"file": f"images/adapter/{name}", "base_file": f"images/base/{name}"}
        hard_link_or_copy(of_adapter / name, folder / files["file"])
        hard_link_or_copy(of_base / name, folder / files["base_file"])
        listed.append({**entry, **files})
    write_json(folder / "images.json", listed)


def _sheet_rows(
    result: dict[str, Any],
    prompts: Sequence[str],
    drawn: Mapping[str, DrawnImages],
    held_out: RealImages,
    nearest: ImageFiles,
) -> list[report.Row]:
    """One row per prompt, drawn with the first seed, beside the real image of that caption, else
    the one that is nearest to what the LoRA drew."""
    seeds = len(result["seeds"])
    captions = {text: place for place, text in reversed([*enumerate(held_out.captions)])}
    rows = []
    for number, prompt in enumerate(prompts):
        place = number * seeds
        before, after = drawn["base"].images, drawn["adapter"].images
        note, real = "", None
        if after:
            entry = result["per_image"][place]
            scores = [report.number(entry[key]) for key in ("clip_s_base", "clip_s")]
            note, real = "CLIP-S {} before, {} after".format(*scores), nearest[place]
        if prompt in captions:
            real = held_out.images[captions[prompt]]
        rows.append(
            report.Row(
                prompt,
                note,
                before[place] if before else None,
                after[place] if after else None,
                real,
            )
        )
    return rows


def _judge_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _plain(value: float | None) -> float | None:
    """A number for report.json: rounded, and null when it is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), DIGITS)
