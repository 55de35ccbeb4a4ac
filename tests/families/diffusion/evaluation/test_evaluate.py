"""A whole evaluation on a random base: what it writes, repeats, and says about broken adapters."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.lineage import folder_digest
from adire_assets.core.statistic import Statistic, load_statistics
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.evaluation import evaluate as module
from adire_assets.families.diffusion.evaluation.image_files import read_real
from adire_assets.families.diffusion.evaluation.images import batch_sizes
from adire_assets.families.diffusion.evaluation.judge import Judge
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics import Metric, clip_s
from adire_assets.families.diffusion.evaluation.prompts import PromptSet
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.gates.verdict import decide
from tests.support import tiny
from tests.support.evaluations import run, score, settings, unbiased_mmd, write_adapter

LENIENT = GateConfig(clip_s_minimum=0.0, kid_below_base=False, nsfw_probability_maximum=1.0)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parts")
    base = tiny.make_random_base(folder / "base")
    return {
        "base": base,
        # A seed whose cosines are positive: CLIP-S is 0 below, and would tell nothing apart.
        "judge": tiny.make_random_judge(folder / "judge", seed=4),
        "dataset": tiny.make_dataset(folder / "dataset"),
        "sound": write_adapter(folder / "sound", base, lambda b: b),
    }


@pytest.fixture(scope="module")
def evaluated(parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated")
    run(parts, "sound", output)
    return output


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_every_prompt_and_seed_is_drawn_with_and_without_the_lora(evaluated: Path) -> None:
    listed = read(evaluated, "images.json")
    assert [(entry["prompt"], entry["seed"]) for entry in listed] == [
        ("cloth number 6", 0),
        ("cloth number 6", 1),
        ("cloth number 7", 2),
        ("cloth number 7", 3),
        ("cloth number 8", 4),
        ("cloth number 8", 5),
    ]
    files = {path.relative_to(evaluated).as_posix() for path in evaluated.rglob("*.png")}
    named = {entry[key] for entry in listed for key in ("file", "base_file")}
    assert files == named | {"contact_sheet.png"}
    for entry in listed:
        assert (
            np.abs(pixels(evaluated / entry["file"]) - pixels(evaluated / entry["base_file"])).max()
            > 5
        )


def test_the_list_of_images_says_how_to_draw_them_again(
    evaluated: Path, parts: dict[str, Path]
) -> None:
    entry = read(evaluated, "images.json")[3]
    known = Request.__dataclass_fields__
    wanted = Request(**{key: item for key, item in entry.items() if key in known})
    sampler = Sampler(parts["base"], adapter=parts["sound"], device="cpu")
    with_lora, without = (sampler.generate([wanted], on)[0][0].astype(int) for on in (True, False))
    assert np.abs(with_lora - pixels(evaluated / entry["file"])).max() <= 2
    assert np.abs(without - pixels(evaluated / entry["base_file"])).max() <= 2


def test_scores_are_those_of_the_written_images(evaluated: Path, parts: dict[str, Path]) -> None:
    report = read(evaluated, "report.json")
    judge = Judge(parts["judge"])
    held_out = read_real(parts["dataset"], "held_out")
    listed = read(evaluated, "images.json")
    texts = judge.embed_texts([entry["prompt"] for entry in listed])
    real = judge.embed_images(held_out.images)
    for key, clip, kid in (
        ("file", "clip_s_mean", "kid_adapter_mean"),
        ("base_file", "clip_s_base_mean", "kid_base_mean"),
    ):
        images = judge.embed_images([np.asarray(Image.open(evaluated / e[key])) for e in listed])
        scores = clip_s.scores(images, texts)
        assert report[clip] == pytest.approx(scores.mean(), abs=1e-5)
        assert report[kid] == pytest.approx(unbiased_mmd(real, images), abs=1e-5)
        each = [e["clip_s" if key == "file" else "clip_s_base"] for e in report["per_image"]]
        assert each == pytest.approx(scores, abs=1e-5)
        if key == "file":
            nearest = [held_out.images.paths[place] for place in (images @ real.T).argmax(1)]
            found = [parts["dataset"] / e["nearest_held_out"] for e in report["per_image"]]
            assert found == nearest
    captions = judge.embed_texts(held_out.captions)
    assert report["clip_s_held_out_mean"] == pytest.approx(
        clip_s.scores(real, captions).mean(), abs=1e-5
    )
    unsafe = [entry["nsfw"] for entry in report["per_image"]]
    assert report["nsfw_probability_maximum"] == max(unsafe) < 1
    assert 0.1 < report["clip_s_base_mean"] != report["clip_s_mean"] > 0.1
    assert report["adapter_problems"] == []
    assert (report["images"], report["held_out_images"]) == (6, 3)
    assert report["scores"]["clip_s"] == report["clip_s_mean"]
    assert report["base_scores"]["kid"] == report["kid_base_mean"]


def test_the_statistics_give_the_scores_again(evaluated: Path) -> None:
    report = read(evaluated, "report.json")
    for place, scores in ((evaluated, "scores"), (evaluated / "base", "base_scores")):
        statistics = load_statistics(place)
        assert {*statistics} == {*report[scores]} == {*report["metrics"]}
        for name, statistic in statistics.items():
            value = float(statistic.value(np.ones(6)))
            known = report[scores][name]
            assert math.isnan(value) if known is None else value == pytest.approx(known, abs=1e-6)


def test_the_base_is_measured_once_for_all_its_adapters(
    evaluated: Path, parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    measure = module.measure

    def watched(inputs: MetricInputs) -> module.Statistics:
        measured.append(inputs)
        return measure(inputs)

    monkeypatch.setattr(module, "measure", watched)
    drawn = {
        name: evaluated.with_name(f"{evaluated.name}-{name}")
        for name in ("adapter_images", "base_images")
    }
    for turn in ("first", "second"):
        output = tmp_path / turn
        output.mkdir()
        score(parts, drawn, output, settings(), base_statistics=str(tmp_path / "kept"))
        for path in (file for file in evaluated.rglob("*") if file.is_file()):
            name = path.relative_to(evaluated)
            if name.name != "timings.json":
                assert (output / name).read_bytes() == path.read_bytes(), name
    assert len(measured) == 3


def test_only_so_many_held_out_images_are_compared_with(
    evaluated: Path, parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAXIMUM_HELD_OUT", 2)
    drawn = {
        name: evaluated.with_name(f"{evaluated.name}-{name}")
        for name in ("adapter_images", "base_images")
    }
    report = score(parts, drawn, tmp_path, settings())
    held_out, judge = read_real(parts["dataset"], "held_out"), Judge(parts["judge"])
    real = judge.embed_images([held_out.images[place] for place in (0, -1)])
    files = [evaluated / entry["file"] for entry in read(evaluated, "images.json")]
    found = judge.embed_images([np.asarray(Image.open(path)) for path in files])
    assert report["scores"]["kid"] == pytest.approx(unbiased_mmd(real, found), abs=1e-5)
    assert report["held_out_images"] == 2 < len(held_out.images)


def test_a_prompt_set_says_what_each_image_should_show(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = PromptSet.model_validate(
        {
            "attributes": {"motif": {"circles": "round things", "grid": "square things"}},
            "prompts": [
                {"id": "rows", "text": "circles in rows", "expected": {"motif": "circles"}},
                {"id": "plain", "text": "cloth", "tags": ["quiet"]},
            ],
        }
    )
    seen: list[MetricInputs] = []

    def look(inputs: MetricInputs) -> Statistic:
        seen.append(inputs)
        return Statistic(each=np.zeros(len(inputs.images)))

    table = {"looks": Metric("looks", look, "nothing", "higher", "this test")}
    monkeypatch.setattr(module, "METRICS", module.METRICS | table)
    output = tmp_path / "output"
    run(parts, "sound", output, prompt_set=chosen.model_dump(), seeds=[3, 4])
    [inputs, _] = seen
    assert inputs.expected == ({"motif": "circles"}, {"motif": "circles"}, {}, {})
    judge = Judge(parts["judge"])
    [circles] = judge.embed_texts(["round things"])
    assert inputs.attributes["motif"]["circles"] == pytest.approx(circles, abs=1e-6)
    assert len(inputs.train.images) == len(inputs.train.embeddings) == 6
    assert len(inputs.held_out.images) == 3
    listed = read(output, "report.json")["per_image"]
    assert [(e["id"], e["tags"], e["seed"], e["looks"]) for e in listed] == [
        ("rows", [], 3, 0.0),
        ("rows", [], 4, 0.0),
        ("plain", ["quiet"], 8, 0.0),
        ("plain", ["quiet"], 9, 0.0),
    ]


def test_images_of_other_prompts_are_no_pairs(parts: dict[str, Path], tmp_path: Path) -> None:
    run(parts, "sound", tmp_path / "one", prompts=["one"], seeds=[1])
    run(parts, "sound", tmp_path / "two", prompts=["two"], seeds=[1])
    mixed = {
        "adapter_images": tmp_path / "one-adapter_images",
        "base_images": tmp_path / "two-base_images",
    }
    with pytest.raises(UserError, match="same prompts and seeds"):
        score(parts, mixed, tmp_path / "output", settings(prompts=["one"], seeds=[1]))


def test_forward_passes_begin_small_and_end_large() -> None:
    assert batch_sizes(64, 8) == [*[1] * 9, 2, 2, 4, *[8] * 5, 7]
    assert batch_sizes(6, 3) == [1, 1, 1, 1, 2]
    assert batch_sizes(1, 8) == [1]


def test_each_entry_says_how_many_images_were_drawn_with_it(evaluated: Path) -> None:
    assert [e["batch_images"] for e in read(evaluated, "images.json")] == [1, 1, 1, 1, 2, 2]


def test_the_same_evaluation_gives_the_same_content(
    evaluated: Path, parts: dict[str, Path], tmp_path: Path
) -> None:
    tmp_path = tmp_path / "again"
    returned = run(parts, "sound", tmp_path)
    assert folder_digest(tmp_path, ["timings.json"]) == folder_digest(evaluated, ["timings.json"])
    timings = read(tmp_path, "timings.json")
    points = timings["by_batch_size"]
    assert [point["batch_size"] for point in points] == [1, 2]
    assert points[0]["seconds_per_image_p50"] == timings["seconds_per_image_p50"]
    assert points[0]["images_per_second"] == pytest.approx(
        1 / points[0]["seconds_per_image_p50"], rel=1e-2
    )
    assert timings["images_per_second_maximum"] == max(p["images_per_second"] for p in points)
    assert timings["seconds_per_image_p50"] <= timings["seconds_per_image_p95"]
    assert timings["scoring_seconds"] > 0
    assert len(timings["seconds_per_image"]) == 3
    assert 0 < timings["seconds_per_image_mean"] < timings["seconds_per_image_p95"] * 1.5
    assert timings["cold_load_seconds"] > 0 and timings["peak_memory_bytes"] > 50_000_000
    assert not {*timings} & {*read(tmp_path, "report.json")}
    assert returned["clip_s_mean"] == read(tmp_path, "report.json")["clip_s_mean"]
    assert returned["seconds_per_image_mean"] == timings["seconds_per_image_mean"]
    assert decide(read(tmp_path, "report.json"), timings, LENIENT).passed


def test_prompts_of_the_config_replace_the_captions(parts: dict[str, Path], tmp_path: Path) -> None:
    tmp_path = tmp_path / "output"
    run(parts, "sound", tmp_path, prompts=["one | two"], seeds=[7])
    assert len(read(tmp_path, "timings.json")["seconds_per_image"]) == 3
    assert [e["prompt"] for e in read(tmp_path, "images.json")] == ["one | two"]
    assert read(tmp_path, "report.json")["kid_adapter_mean"] is None
    markdown = (tmp_path / "report.md").read_text()
    assert "one \\| two" in markdown and "| kid, lower is better | none | none |" in markdown


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda b: 0 * b, "zero"),
        (lambda b: b * np.float32(np.nan), "NaN"),
        (lambda b: b[:-1], "shapes"),
    ],
    ids=["null", "nan", "shape"],
)
def test_a_broken_adapter_gets_a_report_that_the_verdict_refuses(
    parts: dict[str, Path], tmp_path: Path, change: Callable, problem: str
) -> None:
    broken = write_adapter(tmp_path / "broken", parts["base"], change)
    output = tmp_path / "output"
    run({**parts, "broken": broken}, "broken", output)
    report, timings = read(output, "report.json"), read(output, "timings.json")
    assert report["images"] == 0 and report["clip_s_mean"] is None
    assert report["clip_s_held_out_mean"] is not None
    assert (
        problem in report["adapter_problems"][0] and problem in (output / "report.md").read_text()
    )
    verdict = decide(report, timings, LENIENT)
    assert not verdict.passed and problem in verdict.sentence()
    assert Image.open(output / "contact_sheet.png").size[1] > 3 * 192


def test_an_adapter_that_makes_the_model_overflow_is_refused(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    huge = write_adapter(tmp_path / "huge", parts["base"], lambda b: b * np.float32(1e30))
    output = tmp_path / "output"
    run({**parts, "huge": huge}, "huge", output)
    report = read(output, "report.json")
    assert report["images"] == 6
    assert report["adapter_problems"] == [
        "6 of 6 images with the LoRA are one flat colour, as when its weights make the model "
        "overflow"
    ]
    assert not decide(report, read(output, "timings.json"), LENIENT).passed


def test_held_out_images_stay_inside_their_dataset(tmp_path: Path) -> None:
    dataset = tiny.make_dataset(tmp_path / "dataset", held_out=1)
    tiny.write_rows(dataset / "held_out.jsonl", [{"file_name": "../secret.png", "text": "x"}])
    with pytest.raises(UserError, match="leaves the dataset"):
        read_real(dataset, "held_out")
    tiny.write_rows(dataset / "held_out.jsonl", [])
    with pytest.raises(UserError, match="held_out_fraction"):
        read_real(dataset, "held_out")
