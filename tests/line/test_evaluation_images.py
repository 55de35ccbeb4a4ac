"""Images are drawn once: not for changed metrics, not for the base of another adapter."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from adire_assets.config import held_weights
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.statistic import load_statistics
from adire_assets.core.store import Artifact, Built, Store, read_json, write_json
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.evaluation import golden
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.families.diffusion.steps import evaluate, generate
from adire_assets.gates import promotion
from adire_assets.gates.verdict import Verdict
from adire_assets.line import sources
from adire_assets.line.evaluate import evaluation_report as make_evaluation_report
from adire_assets.ops import operations
from adire_assets.ops.gc import collect_garbage
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from tests.support import tiny
from tests.support.garbage import discard

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
CONFIG = """
data: {path: data/cloth, resolution: 64, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation:
  judge: {source: judge}
  prompt_set: configs/prompts/cloth.yaml
  seeds: [0, 1]
  num_inference_steps: 1
  latency_images: 3
"""
PROMPTS = """
attributes: {motif: {circles: round things, grid: square things}}
prompts:
  - {id: rows, text: circles in rows, expected: {motif: circles}}
  - {id: grid, text: a grid}
"""


@dataclass
class Line:
    """A project without training: its adapters have random weights."""

    project: Project
    calls: list[str] = field(default_factory=list)  # what the workers were asked for

    def worker(self, function: str, **arguments: Any) -> dict[str, Any]:
        steps: tuple[Callable, ...] = (generate.draw, generate.measure, evaluate.score)
        done = {step.__name__: step for step in steps}
        name = function.rpartition(":")[2]
        lora = Path(arguments.get("adapter") or "base").name
        self.calls.append(f"draw {lora}" if name == "draw" else name)
        plain = {n: str(v) if isinstance(v, Path) else v for n, v in arguments.items()}
        return done[name](**plain, progress=lambda message, **numbers: None)

    def run_step(
        self, project: Project, function: str, arguments: dict[str, Any], **_: Any
    ) -> dict[str, Any]:
        return self.worker(function, **arguments)

    def evaluate(self, adapter: Artifact) -> Artifact:
        """The report about an adapter; `calls` are those that this took."""
        self.calls.clear()
        return make_evaluation_report(
            self.project,
            self._made("dataset", tiny.make_dataset),
            held_weights.held(self.project, MODEL, "base_model", self.worker).artifact,
            adapter,
            sources.evaluation_config(self.project, MODEL).artifact,
            self.worker,
            untracked,
        ).artifact

    def adapter(self, seed: int) -> Artifact:
        def make(folder: Path) -> None:
            tiny.make_adapter(folder, self.project.root / "base", seed)
            (folder / "loss.csv").write_text("step,loss\n")

        recipe = Recipe("lora_weights", MODEL, config={"seed": seed})
        return Store(self.project).build(recipe, make).artifact

    def configure(self, section: str = "evaluation", **values: Any) -> None:
        path = self.project.model_file(MODEL)
        tree = YAML().load(path.read_text())
        tree.setdefault(section, {}).update(values)
        with path.open("w") as file:
            YAML().dump(tree, file)

    def release(self, number: int, adapter: Artifact, evaluation: Artifact) -> None:
        base = held_weights.held(self.project, MODEL, "base_model", self.worker).artifact
        references = dict.fromkeys(("repository", "verdict", "evaluation"), evaluation.reference())
        record = ReleaseRecord(
            model=MODEL,
            number=number,
            adapter=adapter.reference(),
            base_model=base.reference(),
            mlflow_run_id="run",
            provenance={},
            **references,
        )
        release.write_record(self.project, record)

    def _made(self, kind: str, make: Callable[[Path], Any]) -> Artifact:
        def fill(folder: Path) -> None:
            folder.rmdir()
            make(folder)

        built: Built = Store(self.project).build(Recipe(kind, MODEL), fill)
        return built.artifact


@contextmanager
def untracked(recipe_key: str) -> Iterator[Any]:
    def nothing(*_: Any) -> None:
        return None

    yield SimpleNamespace(log_metrics=nothing, log_artifact=nothing)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    for name in ("models", "prompts"):
        (root / "configs" / name).mkdir(parents=True)
    (root / "configs" / "models" / f"{MODEL}.yaml").write_text(CONFIG)
    (root / "configs" / "prompts" / f"{MODEL}.yaml").write_text(PROMPTS)
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs")
    tiny.make_random_base(root / "base")
    tiny.make_random_judge(root / "judge", seed=4)
    return root


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh(template: Path, tmp_path: Path) -> Line:
    """Nothing is evaluated yet."""
    return copied(template, tmp_path)


@pytest.fixture(scope="module")
def evaluated(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    line = copied(template, tmp_path_factory.mktemp("evaluated"))
    line.evaluate(line.adapter(0))
    return line.project.root


@pytest.fixture
def line(evaluated: Path, tmp_path: Path) -> Line:
    """Adapter 0 is evaluated."""
    return copied(evaluated, tmp_path)


def copied(template: Path, folder: Path) -> Line:
    root = shutil.copytree(template, folder / "project")
    return Line(Project(root, root / ".adire"))


@contextmanager
def changed_code(module: str) -> Iterator[None]:
    """As if somebody had edited the module called so."""
    original = lineage._parsed

    @cache
    def parsed(path: Path) -> tuple[str, tuple[str, ...]]:
        digest, imports = original(path)
        changed = path.stem.rpartition(".")[2] == module
        return ("edited" if changed else digest), imports

    caches = (lineage.code_hash, lineage.sources, lineage.all_sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "_parsed", parsed)
        for cached in caches:
            cached.cache_clear()
        yield
    for cached in caches:
        cached.cache_clear()


def test_base_and_adapter_are_drawn_and_then_scored(fresh: Line) -> None:
    line = fresh
    adapter = line.adapter(0)
    report = line.evaluate(adapter)
    assert line.calls == ["draw base", f"draw {adapter.path.name}", "score"]
    drawn = Store(line.project).open(report.manifest["adapter_images"])
    listed = report.json("images.json")
    assert len(listed) == 4
    for entry, original in zip(listed, drawn.json("images.json"), strict=True):
        kept, made = report.path / entry["file"], drawn.path / original["file"]
        assert kept.read_bytes() == made.read_bytes()
        assert (report.path / entry["base_file"]).is_file()
    assert "clip_s" in load_statistics(report.path)
    assert line.evaluate(adapter) == report
    assert line.calls == []


def test_changed_metric_code_scores_again_and_draws_nothing(line: Line) -> None:
    before = line.evaluate(line.adapter(0))
    assert line.calls == []
    with changed_code("safety"):
        after = line.evaluate(line.adapter(0))
    assert line.calls == ["score"]
    assert after.key != before.key and after.content_hash == before.content_hash


def test_changed_drawing_code_draws_everything_again(line: Line) -> None:
    with changed_code("sampling"):
        line.evaluate(line.adapter(0))
    # The images come out as they were, so what they are worth is known.
    assert [call.partition(" ")[0] for call in line.calls] == ["draw", "draw"]


def test_another_adapter_has_the_base_drawn_by_the_first(line: Line) -> None:
    first = line.evaluate(line.adapter(0))
    other = line.adapter(1)
    second = line.evaluate(other)
    assert line.calls == [f"draw {other.path.name}", "score"]
    assert first.manifest["base_images"] == second.manifest["base_images"]
    assert first.json("report.json")["clip_s_mean"] != second.json("report.json")["clip_s_mean"]


def test_a_mistake_that_comes_into_the_fleet_file_meanwhile_throws_no_work_away(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, worker = line.adapter(1), line.worker

    def work(function: str, **arguments: Any) -> dict[str, Any]:
        done = worker(function, **arguments)
        (line.project.root / "configs" / "fleet.yaml").write_text("targets: 3\n")
        return done

    monkeypatch.setattr(line, "worker", work)
    report = line.evaluate(adapter)
    assert line.calls == [f"draw {adapter.path.name}", "score"]
    Store(line.project).verify(report)


def test_what_the_judge_is_asked_draws_nothing_again(line: Line) -> None:
    prompts = line.project.root / "configs" / "prompts" / f"{MODEL}.yaml"
    other = PROMPTS.replace("square things", "a chessboard").replace("id: rows", "id: lines")
    prompts.write_text(other)
    line.evaluate(line.adapter(0))
    assert line.calls == ["score"]


def test_another_prompt_or_seed_is_drawn(line: Line) -> None:
    prompts = line.project.root / "configs" / "prompts" / f"{MODEL}.yaml"
    prompts.write_text(PROMPTS.replace("a grid", "a large grid"))
    line.evaluate(line.adapter(0))
    assert len(line.calls) == 3
    line.configure(seeds=[0, 2])
    line.evaluate(line.adapter(0))
    assert len(line.calls) == 3


def test_images_are_drawn_by_the_scheduler_of_releases_and_so_are_golden_ones(
    line: Line, tmp_path: Path
) -> None:
    adapter, name = line.adapter(0), "UniPCMultistepScheduler"
    line.configure(num_inference_steps=4)
    own = line.evaluate(adapter)
    line.configure("serving", scheduler=name)
    report = line.evaluate(adapter)
    assert len(line.calls) == 3  # the base's, the adapter's, their scores
    entries = report.json("images.json")
    requests = []
    for entry, before in zip(entries, own.json("images.json"), strict=True):
        assert entry.items() - before.items() == {("scheduler", name)}
        requests.append(Request(**{name: entry[name] for name in golden.REQUEST}))
    base = line.project.root / "base"
    sampler = Sampler(base, adapter=adapter.path, device="cpu")
    for entry, images in zip(entries, sampler.generate(requests), strict=True):
        kept = np.asarray(Image.open(report.path / entry["file"])).astype(int)
        assert np.abs(kept - images[0]).max() <= 2
        assert np.abs(kept - np.asarray(Image.open(own.path / entry["file"]))).max() > 2
    golden.write_evaluated(report, tmp_path)
    [first, *_] = read_json(tmp_path / "golden.json")["requests"]
    assert first["scheduler"] == name
    line.configure("serving", scheduler="LCMScheduler")
    with pytest.raises(UserError, match=r"serving\.scheduler: LCMScheduler is for latent"):
        line.evaluate(adapter)
    assert line.calls == []


def test_images_are_drawn_with_the_weights_of_releases_and_so_are_golden_ones(
    line: Line, tmp_path: Path
) -> None:
    adapter = line.adapter(0)
    line.configure("serving", quantization="int8")
    report = line.evaluate(adapter)
    assert len(line.calls) == 3  # the base's, the adapter's, their scores
    golden.write_evaluated(report, tmp_path)
    asked = read_json(tmp_path / "golden.json")
    assert asked["quantization"] == "int8"
    base = line.project.root / "base"
    given = golden.SAMPLING, base, None, adapter.path, "cpu", None
    images = golden.draw(asked["requests"], *given, asked["quantization"])
    others = golden.draw(asked["requests"], *given)
    for number, entry in enumerate(asked["images"]):
        kept = np.asarray(Image.open(tmp_path / entry["file"]))
        assert np.array_equal(kept, images[number])
        assert not np.array_equal(kept, others[number])


def spoil(line: Line, seconds: float) -> None:
    """As if a busy machine had measured everything that was measured until now."""
    for path in (line.project.home / "measurements").rglob("*.json"):
        slow = [{**one, "seconds_per_image_mean": seconds} for one in read_json(path)]
        write_json(path, slow)


def measure(line: Line) -> str:
    return operations.measure(line.project, MODEL, lambda message, **numbers: None)


def gate_of(line: Line, report: Artifact, maximum: float) -> Any:
    policy = GateConfig(seconds_per_image_maximum=maximum)
    built = promotion.verdict_of(line.project, report, policy, None)
    verdict = Verdict.from_dict(built.artifact.json("verdict.json"))
    return next(one for one in verdict.gates if one.name == "seconds_per_image")


def test_every_measurement_is_kept_and_all_decide_together(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = line.evaluate(line.adapter(0))
    spoil(line, 99.0)
    assert not gate_of(line, report, 30).passed
    sentence = measure(line)
    assert "(before 99)" in sentence and "the median of all 2 measurements" in sentence
    # One of two does not outvote the other.
    refused = gate_of(line, report, 30)
    assert not refused.passed and "the median of 2 measurements: 99, " in refused.explanation
    monkeypatch.setattr(operations, "run_step", line.run_step)  # without another child process
    measure(line)
    assert gate_of(line, report, 30).passed
    timings = report.json("timings.json")
    assert timings["seconds_per_image_means"][0] == 99 and timings["measurements"] == 3
    assert len(timings["seconds_per_image"]) == 9 and timings["scoring_seconds"] > 0
    Store(line.project).verify(report)  # its content is what it was
    assert line.evaluate(line.adapter(0)) == report and line.calls == []


def test_no_way_of_drawing_anew_forgets_a_measurement(line: Line) -> None:
    adapter = line.adapter(0)
    report = line.evaluate(adapter)
    spoil(line, 99.0)
    for settings in ({"seeds": [0, 2]}, {"latency_images": 4}):
        line.configure(**settings)
        report = line.evaluate(adapter)
    assert report.json("timings.json")["measurements"] == 3
    # Nor does deleting the images.
    store = Store(line.project)
    for artifact in (report, store.open(report.manifest["adapter_images"])):
        discard(store, artifact)
    again = line.evaluate(adapter)
    assert again.json("timings.json")["seconds_per_image_means"][0] == 99
    assert again.json("timings.json")["measurements"] == 4


def test_what_was_drawn_in_another_way_is_not_measured(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.evaluate(line.adapter(0))
    threads = lineage.threads()
    monkeypatch.setenv("ADIRE_THREADS", str(threads + 1))
    with pytest.raises(UserError, match=f"threads {threads}, now {threads + 1}; measure as"):
        measure(line)
    monkeypatch.setenv("ADIRE_THREADS", str(threads))
    with monkeypatch.context() as patch:
        patch.setattr(lineage, "installed", lambda package: "99")
        with pytest.raises(UserError, match=r"peft .*, now 99"):
            measure(line)
    [kept] = (line.project.home / "measurements").rglob("*.json")
    assert len(read_json(kept)) == 1


@pytest.mark.full
def test_a_measurement_of_a_time_that_kept_none_counts(line: Line) -> None:
    report = line.evaluate(line.adapter(0))
    images = Store(line.project).open(report.manifest["adapter_images"])
    shutil.rmtree(line.project.home / "measurements")
    slow = {**images.json("timings.json"), "seconds_per_image_mean": 99.0}
    write_json(images.path / "timings.json", slow)
    measure(line)
    assert report.json("timings.json")["seconds_per_image_means"][0] == 99


def test_gc_keeps_the_images_of_a_kept_release(line: Line) -> None:
    adapters = [line.adapter(seed) for seed in range(4)]
    reports = [line.evaluate(adapter) for adapter in adapters]
    line.release(1, adapters[0], reports[0])
    store = Store(line.project)
    list(collect_garbage(line.project, keep=1, dry_run=False))
    left = store.artifacts(MODEL, "evaluation_report")
    assert reports[0] in left
    for report in left:
        for name in ("adapter_images", "base_images"):
            store.verify(store.open(report.manifest[name]))
    # The base's, the release's, those of the latest report, the latest ones.
    assert len(store.artifacts(MODEL, "evaluation_images")) <= 4
    # What is left needs no drawing.
    line.evaluate(adapters[0])
    assert line.calls == []
