"""What a client of a live release can ask for, and what it gets."""

import json
import re
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from adire_assets.core import lineage
from adire_assets.core.answer import UsualRequest
from adire_assets.core.errors import UserError
from adire_assets.core.waiting import wait_until
from adire_assets.families.diffusion import serve
from adire_assets.families.diffusion.answers import read_provenance, save_png
from adire_assets.serving.fleet.triton import SERVER
from adire_assets.serving.gateway import routing
from tests.serving.conftest import MODEL, different
from tests.support.asking import generate
from tests.support.house import TARGET, House
from tests.support.ports import free_port

LONG = 101 * "a"
REFUSED = [
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": " \n"}, "prompt is empty"),
    ({"prompt": LONG}, "prompt has 101 characters, at most 100 are allowed"),
    ({"negative_prompt": LONG}, "negative_prompt has 101 characters, at most 100 are allowed"),
    ({"seed": -1}, "seed is -1, allowed is 0 to 2147483647"),
    ({"seed": 2**31}, "seed is 2147483648, allowed is 0 to 2147483647"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0, allowed is 1 to 20"),
    ({"num_inference_steps": 21}, "num_inference_steps is 21, allowed is 1 to 20"),
    ({"guidance_scale": float("nan")}, "guidance_scale is nan, allowed is 0 to 20"),
    ({"guidance_scale": float("inf")}, "guidance_scale is inf, allowed is 0 to 20"),
    ({"guidance_scale": -0.5}, "guidance_scale is -0.5, allowed is 0 to 20"),
    ({"num_images": 0}, "num_images is 0, allowed is 1 to 3"),
    ({"num_images": 4}, "num_images is 4, allowed is 1 to 3"),
    ({"adapters": "cloth"}, "adapters gives cloth no weight: write it as in 'indigo:0.7, kampal"),
    ({"adapters": "cloth:1, ,"}, "adapters has '': write them as in 'indigo:0.7, kampala:0.3'"),
    ({"adapters": "cloth:nan"}, "adapters gives cloth the weight nan, allowed is -2 to 2"),
    ({"adapters": "cloth:1, cloth@1:1"}, "adapters names cloth@1 twice"),
    ({"adapters": "silk:1"}, "adapters names silk; cloth may be mixed of: cloth, paper"),
    (
        {"adapters": "paper:1"},
        "there is no adapter paper on this base with this serving.quantization; held are: cloth@",
    ),
    ({"adapters": "cloth:0"}, "the weights of the adapters sum to nothing: give one that is not 0"),
    # Image i has the seed + i, which must be one that can be asked for.
    (
        {"seed": 2**31 - 1, "num_images": 2},
        "seed is 2147483647, allowed for 2 images is 0 to 214748",
    ),
]


@pytest.fixture(scope="module")
def address(served: House) -> str:
    served.ensure_live(1)
    return served.live_slot_client.address


def raw(address: str, values: np.ndarray) -> None:
    """A request as another client might send it."""
    prompt = InferInput("prompt", list(values.shape), "BYTES")
    prompt.set_data_from_numpy(values)
    with InferenceServerClient(address) as client:
        client.infer(MODEL, [prompt])


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_a_value_outside_its_limits_is_refused_with_one_sentence(
    address: str, values: dict, sentence: str
) -> None:
    with pytest.raises(UserError) as refusal:
        generate(address, MODEL, **{"prompt": "circles", **values})
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.array([[b"\xff\xfe"]], dtype=object), "prompt is not UTF-8 text"),
        (np.array([[b"one"], [b"two"]], dtype=object), "prompt has 2 values"),
    ],
)
def test_a_malformed_request_is_an_invalid_argument(
    address: str, values: np.ndarray, sentence: str
) -> None:
    with pytest.raises(InferenceServerException) as refusal:
        raw(address, values)
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert refusal.value.message().startswith(sentence)


def test_a_seed_gives_the_same_image_whatever_shares_its_batch(address: str) -> None:
    def ask(seed: int, count: int = 1, steps: int = 6) -> np.ndarray:
        return generate(
            address, MODEL, "rings", seed=seed, num_images=count, num_inference_steps=steps
        ).content

    alone = ask(5)[0]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: ask(n % 6, 1 + n % 3, 6 + n % 2), range(16)))
    assert different(together[5 + 0][0], ask(5, 1, 7)[0]) <= 2
    for seed, count, steps, images in [
        (n % 6, 1 + n % 3, 6 + n % 2, images) for n, images in enumerate(together)
    ]:
        assert images.shape == (count, 64, 64, 3)
        if steps == 6:
            for offset in range(count):
                if seed + offset == 5:
                    assert different(images[offset], alone) <= 2
    # Image i of a request is the image of seed + i.
    assert different(ask(4, 2)[1], alone) <= 2
    assert different(ask(6)[0], alone) > 2


def test_an_answer_says_how_to_repeat_it_and_a_png_keeps_that(address: str, tmp_path: Path) -> None:
    answer = generate(address, MODEL, "àdìrẹ eleko", negative_prompt="red", num_images=2)
    assert (answer.content.dtype, answer.content.shape) == (np.uint8, (2, 64, 64, 3))
    assert answer.release == answer.provenance["release"] == 1
    assert answer.provenance["dvc_hash"] == "d.dir"
    assert answer.provenance["mlflow_run_id"] == "run-1"
    request = answer.provenance["request"]
    again = generate(address, MODEL, **request)
    assert request["num_inference_steps"] == 4
    assert different(again.content, answer.content) <= 2

    save_png(answer.content[1], tmp_path / "out.png", answer.provenance, index=1)
    kept = read_provenance(tmp_path / "out.png")
    assert kept["request"] == request
    assert kept["image_seed"] == request["seed"] + 1
    one = generate(address, MODEL, **{**request, "seed": kept["image_seed"], "num_images": 1})
    assert different(one.content[0], answer.content[1]) <= 2


def test_an_engine_leaves_the_cores_to_others_when_it_waits(served: House, address: str) -> None:
    slot = served.live_slot_client.folder
    [engine] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if (words := process.info["cmdline"] or []) and words[1:2] == ["-m"]
        if any(word.startswith(f"{slot}/base_models/") for word in words)
    ]
    assert engine.environ()["GOMP_SPINCOUNT"] == lineage.SPIN_COUNT


def test_the_slot_shows_what_waits_in_its_engine(served: House, address: str) -> None:
    slot = served.fleet.targets[TARGET].slots[served.record.active or ""]

    def shown() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{slot.metrics_port}/metrics") as page:
            text = page.read().decode()
        assert f'nv_inference_request_success{{model="{MODEL}",version="1"}}' in text
        found: Counter[str] = Counter()
        for name, value in re.findall(r'(adire_\w+){engine="\w+"[^}]*} (\S+)', text):
            found[name] += float(value)  # type: ignore[assignment]
        return dict(found)

    before = shown()
    assert (before["adire_images_waiting"], before["adire_adapters_held"]) == (0, 1)
    with ThreadPoolExecutor(2) as pool:
        asked = {"num_images": 3, "num_inference_steps": 20}
        asking = [pool.submit(generate, address, MODEL, "rings", **asked) for _ in range(2)]
        assert wait_until(lambda: shown()["adire_images_waiting"] > 0, 10, pause=0.01)
        took = sum(sum(one.result().provenance["engine_seconds"].values()) for one in asking)
    after = shown()
    assert after["adire_images_waiting"] == 0
    more = {name: value - before[name] for name, value in after.items()}
    assert more["adire_image_steps_total"] == 2 * 3 * 20
    assert 20 <= more["adire_passes_total"] <= 40  # of three to six images
    assert more["adire_engine_seconds_total"] == pytest.approx(took, abs=1e-4)
    assert more["adire_busy_seconds_total"] == pytest.approx(took, abs=1e-4)
    assert more["adire_made_total"] == 2 * 3
    rules = SERVER.metric_rules
    assert rules and {*re.findall(r"[ (](adire_\w+)", rules.read_text())} <= {*after}


def test_the_gateway_lets_through_what_the_slot_answers_in_time(served: House) -> None:
    served.ensure_live(1)
    measured = served.record.usual["1"]
    limits = routing.requests_at_once(served.project, served.fleet, TARGET)
    in_time = int(120 / 2 / measured["seconds"])
    assert limits[MODEL, 1] == min(1000, max(1, in_time))
    clusters = json.loads((served.gateway.folder / "clusters.json").read_text())["resources"]
    routed = next(one for one in clusters if one["name"] == f"{MODEL}-1")
    assert routed["circuit_breakers"]["thresholds"][0]["max_requests"] == limits[MODEL, 1]


@pytest.mark.parametrize(("guidance", "seconds"), [(7.5, 7.5), (1.0, 15.0)])
def test_what_a_usual_request_takes_follows_from_what_others_took(
    guidance: float, seconds: float
) -> None:
    serving = {"base_model": "b", "default_inference_steps": 20, "default_guidance_scale": 5.0}
    request = {"num_images": 2, "num_inference_steps": 4, "guidance_scale": guidance}
    taken = [{"denoising": one, "decoding": other} for one, other in ((99, 2), (3, 4), (5, 6))]
    told = [{"request": request, "engine_seconds": one} for one in taken]
    assert serve.usual_request(serving, told) == UsualRequest("b", seconds + 1.0, 1.7)
    mixing = serve.usual_request({**serving, "mixes_with": ["paper"]}, told)
    assert mixing == UsualRequest("b", seconds * 1.7 + 1.0, 1.0)
    # Another engine on the same base, which never merges an adapter.
    held = {**serving, "quantization": "int8", "mixes_with": ["paper"]}
    assert serve.usual_request(held, told) == UsualRequest("b-int8", seconds + 1.0, 1.0)
    assert serve.usual_request(serving, [{"request": request}]) is None  # of an earlier version


def test_adapters_are_mixed_by_weight_and_the_answer_says_which(address: str) -> None:
    own = generate(address, MODEL, "rings", seed=5).content[0]
    whole = generate(address, MODEL, "rings", seed=5, adapters="cloth:1").content[0]
    assert different(whole, own) <= 2
    half = generate(address, MODEL, "rings", seed=5, adapters="cloth:0.5")
    assert different(half.content[0], own) > 2
    [told] = half.provenance["adapters"]
    assert (told["model"], told["release"], told["weight"]) == (MODEL, 1, 0.5)
    assert told["release_hash"] == half.provenance["release_hash"]
    assert half.provenance["request"]["adapters"] == "cloth@1:0.5"
    again = generate(address, MODEL, **half.provenance["request"])
    assert different(again.content[0], half.content[0]) <= 2


def test_requests_without_a_seed_get_different_ones(address: str) -> None:
    seeds = {generate(address, MODEL, "x").provenance["request"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_a_saved_picture_carries_its_provenance_and_its_own_seed(tmp_path: Path) -> None:
    told = {"model": "cloth", "release": 3, "dvc_hash": "d.dir", "commit": "c"}
    for place, asked in enumerate(({"prompt": "àdìrẹ ẹlẹ́kọ", "seed": 7}, {"prompt": ""}), start=1):
        path = tmp_path / f"{place}.png"
        save_png(np.zeros((8, 8, 3), np.uint8), path, {**told, "request": asked}, index=place)
        own = {"image_seed": 8} if "seed" in asked else {}
        assert read_provenance(path) == {**told, "request": asked, "image_index": place, **own}


def test_a_png_without_provenance_is_said_to_have_none(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text(json.dumps({}))
    with pytest.raises(UserError, match="carries no provenance"):
        read_provenance(tmp_path / "plain.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "plain.png").read_bytes()[:45])
    with pytest.raises(UserError, match="is not an image that can be read"):
        read_provenance(tmp_path / "half.png")
    assert read_provenance(tmp_path / "text.png") is None


def test_an_unknown_model_or_release_is_named(address: str) -> None:
    with pytest.raises(UserError, match=r"does not serve this.*velvet"):
        generate(address, "velvet", "x")
    with pytest.raises(UserError, match=r"does not serve this.*77"):
        generate(address, MODEL, "x", release=77)


def test_an_unreachable_server_is_named_with_a_hint() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"no server answers at {address}.*adire up"):
        generate(address, MODEL, "x")


def test_the_end_of_a_long_prompt_that_is_not_seen_is_told(address: str) -> None:
    long = "abcde" * 10
    one, other = (
        generate(address, MODEL, f"{long} {end}", negative_prompt=long, seed=2) for end in "xy"
    )
    assert one.provenance["left_out"]["prompt"].endswith("x")
    assert other.provenance["left_out"]["prompt"].endswith("y")
    assert set(one.provenance["left_out"]) == {"prompt", "negative_prompt"}
    assert different(one.content[0], other.content[0]) == 0
    assert generate(address, MODEL, "circles").provenance["left_out"] == {}
