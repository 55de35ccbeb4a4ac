"""What a release is, and whether it draws what was evaluated."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from adire_assets.core import lineage
from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.family import Step
from adire_assets.core.lineage import Recipe
from adire_assets.core.store import Store, read_json
from adire_assets.families.diffusion import FAMILY, serve
from adire_assets.serving import release
from adire_assets.serving.fleet import parity
from adire_assets.serving.fleet.parity import scratch_server
from adire_assets.serving.release import ReleaseRecord
from tests.serving.conftest import MODEL, different
from tests.support.asking import generate
from tests.support.diffusion import add_diffusion, make_base
from tests.support.house import House


def test_the_live_release_draws_what_was_evaluated(served: House) -> None:
    served.ensure_live(1)
    evaluation = Store(served.project).open(served.releases[1].evaluation)
    for entry in evaluation.json("images.json"):
        request = {name: entry[name] for name in serve.EVALUATED}
        answer = generate(served.address, MODEL, **request)
        evaluated = np.asarray(Image.open(evaluation.path / entry["file"]))
        assert different(answer.content[0], evaluated) <= serve.LARGEST_DIFFERENCE


def test_parity_tells_a_release_that_draws_something_else(house: House) -> None:
    stranger = house.releases[add_diffusion(house, 1, evaluated_seed=2)]
    facts = parity.compare_on_scratch_server(house.project, stranger, "cpu", print)
    assert not facts["passed"]
    assert (facts["images"], facts["device"]) == (2, "cpu")
    here = lineage.environment("torch", "diffusers", "transformers", "peft", device="cpu")
    expected = {**here, "cuda": None, "driver": None}
    del expected["machine"]
    assert facts["software"] == expected
    assert facts["largest_difference"] > serve.LARGEST_DIFFERENCE
    assert "allowed are 2" in facts["explanation"]
    assert not list((house.project.home / "fleet" / "scratch").iterdir())


def test_releases_draw_what_was_evaluated_by_schedulers_and_with_weights_of_their_own(
    house: House,
) -> None:
    """Asked all at once on a server of their own."""
    ways: list[dict[str, Any]] = [
        {},
        {"scheduler": "UniPCMultistepScheduler"},
        {"scheduler": "EulerAncestralDiscreteScheduler"},
        {"scheduler": "UniPCMultistepScheduler", "quantization": "int8"},
    ]
    records = [house.releases[add_diffusion(house, 1, **way)] for way in ways]

    def fill(slot: Path) -> str:
        for one in records:
            release.install(house.project, one, slot)
        return MODEL

    def ask(record: ReleaseRecord, entry: dict[str, Any]) -> Answer:
        request = {name: entry[name] for name in serve.EVALUATED}
        return generate(address, MODEL, release=record.number, **request)

    evaluations = [Store(house.project).open(one.evaluation) for one in records]
    asked = [
        (record, evaluation.path, entry)
        for record, evaluation in zip(records, evaluations, strict=True)
        for entry in evaluation.json("images.json")
    ]
    with (
        scratch_server(house.project, "triton", "cpu", fill, 180) as address,
        ThreadPoolExecutor(len(asked)) as pool,
    ):
        answers = [*pool.map(lambda one: ask(one[0], one[2]), asked)]
    seen: dict[int, dict[str, Any]] = {}
    for (record, folder, entry), answer in zip(asked, answers, strict=True):
        evaluated = np.asarray(Image.open(folder / entry["file"]))
        assert different(answer.content[0], evaluated) <= serve.LARGEST_DIFFERENCE
        told = answer.provenance
        way = {name: told[name] for name in ("scheduler", "quantization") if name in told}
        seen[record.number] = way
        assert not way.keys() & told["request"].keys()
    assert seen == {one.number: way for one, way in zip(records, ways, strict=True)}


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["sd2", "sdxl"])
def test_other_architectures_are_served_as_they_were_evaluated(
    house: House, architecture: Literal["sd2", "sdxl"]
) -> None:
    number = add_diffusion(house, 1, architecture=architecture)
    facts = parity.compare_on_scratch_server(house.project, house.releases[number], "cpu", print)
    assert (facts["passed"], facts["images"]) == (True, 2), facts


def test_a_release_number_stays_bound_to_its_content(house: House) -> None:
    with pytest.raises(UserError, match="release 1 of cloth is already"):
        release.write_record(
            house.project, replace(house.releases[1], repository=house.releases[2].repository)
        )
    assert release.read_record(house.project, MODEL, 1) == house.releases[1]
    with pytest.raises(UserError, match="no release 99 of cloth; releases here: 1, 2"):
        release.read_record(house.project, MODEL, 99)


def test_a_release_is_its_familys_backend_modules_and_adapter_files(
    house: House, tmp_path: Path
) -> None:
    """Of a family from outside: its backend lies in its own package."""
    backend, package = tmp_path / "wheel" / "backend", tmp_path / "package"
    for name, text in (("model.py", "import part"), ("data/words.txt", "indigo"), (".hidden", "")):
        (backend / name).parent.mkdir(parents=True, exist_ok=True)
        (backend / name).write_text(text)
    (backend / "config.pbtxt").write_text("name: $name batch: $largest")
    (backend / "stream.pbtxt").write_text(" decoupled $name")
    (package / "cloth_words").mkdir(parents=True)
    (package / "cloth_words" / "__init__.py").touch()
    (package / "cloth_words" / "part.py").write_text("PART = 1")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("counts.json", "notes.md"):
        (adapter / name).write_text("{}")
    plug = replace(
        FAMILY,
        backend=backend,
        adapter_files=("counts.json",),
        release=Step(("cloth_words.part",)),
    )
    base = make_base(house, "sd15")

    def make(folder: Path) -> None:
        serving = {"largest": 7}
        release.write_release(
            house.project, plug, folder, model=MODEL, adapter=adapter, base=base, serving=serving
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package)
        content = Store(house.project).build(Recipe("triton_repository", MODEL), make).artifact
    record = replace(house.releases[1], number=9, repository=content.reference(), streams=True)
    assert release.has_streams(content)
    release.install(house.project, record, tmp_path / "slot")
    served = tmp_path / "slot" / "models" / MODEL
    files = {path.relative_to(served / "9").as_posix() for path in files_below(served / "9")}
    assert files == {
        *("model.py", "data/words.txt", "part.py", "adapter/counts.json"),
        *("serving.json", "provenance.json", release.NO_CACHE),
    }
    assert (served / "config.pbtxt").read_text() == f"name: {MODEL} batch: 7"
    # Triton finds the same files once more, by the configuration with what is added for streams.
    streams = served.with_name(f"{MODEL}_stream")
    told = f"name: {MODEL}_stream batch: 7 decoupled {MODEL}_stream"
    assert (streams / "config.pbtxt").read_text() == told
    assert (streams / "9").resolve() == (served / "9").resolve()
    moved = (tmp_path / "slot").rename(tmp_path / "mounted elsewhere")
    assert (moved / "models" / f"{MODEL}_stream" / "9" / "model.py").is_file()
    moved.rename(tmp_path / "slot")
    settings = read_json(served / "9" / "serving.json")
    assert settings["largest"] == 7
    laid = tmp_path / "slot" / "base_models" / settings["base_model"]
    assert {path.relative_to(laid) for path in files_below(laid)} == {
        Path(name) for name in base.manifest["files"]
    }
    release.remove(tmp_path / "slot", MODEL, 9)
    assert release.installed(tmp_path / "slot", f"{MODEL}_stream") == []
    before = release.backend_hash(house.project, plug)
    (backend / "model.py").write_text("import part  # told")
    assert release.backend_hash(house.project, plug) == before
    (backend / "data" / "words.txt").write_text("red")
    assert release.backend_hash(house.project, plug) != before
    with pytest.raises(UserError, match=r"nowhere has no config\.pbtxt: the Triton backend of fam"):
        release.backend_hash(house.project, replace(plug, backend=tmp_path / "nowhere"))


def test_a_release_keeps_its_family_when_its_yaml_is_gone(house: House) -> None:
    assert release.family_of_release(house.project, house.releases[1]) is FAMILY
    older = replace(house.releases[1], family="")
    with pytest.raises(UserError, match="there is no model 'cloth'"):
        release.family_of_release(house.project, older)
    file = house.project.model_file(MODEL)
    file.write_text(
        "{family: diffusion, data: {path: data/d, instance_prompt: d}, base_model: {source: b}, "
        "evaluation: {judge: {source: j}}}"
    )
    try:
        assert release.family_of_release(house.project, older) is FAMILY
    finally:
        file.unlink()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_parity_allows_two_levels_on_the_cpu_and_little_structure_lost_elsewhere() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(10, 240, (64, 64, 3), dtype=np.uint8)
    noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    shifted = np.clip(image + rng.integers(-3, 4, image.shape), 0, 255).astype(np.uint8)
    near, far = image + np.uint8(2), image + np.uint8(3)
    for served, on_cpu, passes in [
        (near, True, True),
        (far, True, False),
        (shifted, False, True),
        (noise, False, False),
        (image[:32], True, False),
    ]:
        facts = serve.compare([(image, image), (served, image)], on_cpu=on_cpu)
        assert facts["passed"] is passes, facts
    assert not serve.compare([], on_cpu=True)["passed"]
