"""The Triton Python backend of a diffusion release.

A version directory holds, beside this file: sampling.py (how images are drawn) and the modules that
it imports, adapter/ (the LoRA), serving.json (the limits, and which base model), provenance.json
(the release's number and what it was made from). The base model lies at
../../../base_models/<base_model>/ of the slot.

Inputs, each of shape [1, 1]: prompt (BYTES, UTF-8); optional negative_prompt (BYTES), seed (INT64,
0 to 2**31 - 1, drawn at random when absent), num_inference_steps (INT32), guidance_scale (FP32),
num_images (INT32). Outputs: images (UINT8 [num_images, height, width, 3], RGB), release (INT32
[1]), provenance (BYTES [1]: JSON of the release, of the software that drew and of the request, so
that the request can be repeated; `left_out`: the ends of the texts that the text encoder does not
see, or by serving.json such a text is refused). A value outside its limits is answered with
INVALID_ARGUMENT and one sentence.

Requests that Triton hands over together are drawn together; an image depends on its seed alone.
Triton's Python knows nothing of the project's environment, which is why ADIRE_SITE_PACKAGES names
its packages. ADIRE_DEVICE (auto, cpu, cuda) and ADIRE_THREADS are optional.
"""

import gc
import json
import math
import os
import re
import secrets
import sys
from pathlib import Path

sys.path[:0] = filter(None, [os.environ.get("ADIRE_SITE_PACKAGES")])

gc.disable()  # what libraries make when they are imported stays: nothing there is garbage

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import triton_python_backend_utils as pb  # noqa: E402

from .sampling import Request, Sampler  # noqa: E402, TID252 - Triton imports 3/model.py as 3.model

gc.enable()
gc.freeze()

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
LARGEST_SEED = 2**31 - 1
WARM_UP = Request("warm-up", num_inference_steps=2)


class Refused(ValueError):
    """The caller's mistake, in one sentence."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        slot = Path(args["model_repository"]).parents[1]
        folder = Path(args["model_repository"]) / args["model_version"]
        self.limits = _read(folder / "serving.json")
        self.provenance = _read(folder / "provenance.json")
        if self.provenance["release"] != int(args["model_version"]):
            raise RuntimeError(f"{folder} holds release {self.provenance['release']}")
        base = slot / "base_models" / self.limits["base_model"]
        threads = os.environ.get("ADIRE_THREADS")
        self.sampler = Sampler(
            base / "pipeline",
            variant=_read(base / "base.json")["variant"],
            adapter=folder / "adapter",
            device=os.environ.get("ADIRE_DEVICE") or "auto",
            threads=int(threads) if threads else None,
            batch_images=self.limits["maximum_batch_size"],
        )
        self.provenance["device"] = self.sampler.device
        self.provenance["software"] = _software(self.sampler.device)
        self.sampler.generate([WARM_UP])

    def execute(self, requests: list) -> list:
        answers: list = [None] * len(requests)
        accepted: list[tuple[int, Request, dict[str, str]]] = []
        for position, request in enumerate(requests):
            try:
                wanted = _wanted(request, self.limits)
                accepted.append((position, wanted, self._left_out(wanted)))
            except Refused as refusal:
                answers[position] = _error(str(refusal), pb.TritonError.INVALID_ARG)
            except Exception as error:
                answers[position] = _internal(error)
        try:
            drawn = self.sampler.generate([wanted for _, wanted, _ in accepted]) if accepted else []
            for (position, wanted, left_out), images in zip(accepted, drawn, strict=True):
                answers[position] = self._answer(wanted, left_out, images)
        except Exception as error:
            for position, *_ in accepted:
                answers[position] = _internal(error)
        return answers

    def _left_out(self, wanted: Request) -> dict[str, str]:
        """{input: the end of it that the text encoder does not see}; refused if not allowed."""
        texts = {name: getattr(wanted, name) for name in ("prompt", "negative_prompt")}
        found = {
            name: rest for name, text in texts.items() if (rest := self.sampler.left_out(text))
        }
        if found and not self.limits["truncation"]:
            name, rest = next(iter(found.items()))
            raise Refused(f"{name} is longer than the text encoder reads; leave out {rest!r}")
        return found

    def _answer(self, wanted: Request, left_out: dict[str, str], images: np.ndarray) -> object:
        provenance = {
            **self.provenance,
            "request": {
                "prompt": wanted.prompt,
                "negative_prompt": wanted.negative_prompt,
                "seed": wanted.seed,
                "num_inference_steps": wanted.num_inference_steps,
                "guidance_scale": wanted.guidance_scale,
                "num_images": wanted.num_images,
            },
            "left_out": left_out,
        }
        text = json.dumps(provenance, ensure_ascii=False).encode()
        return pb.InferenceResponse(
            [
                pb.Tensor("images", np.ascontiguousarray(images)),
                pb.Tensor("release", np.array([self.provenance["release"]], np.int32)),
                pb.Tensor("provenance", np.array([text], dtype=object)),
            ]
        )


def _wanted(request: object, limits: dict) -> Request:
    prompt = _text(request, "prompt", limits["maximum_prompt_characters"])
    if prompt is None or not prompt.strip():
        raise Refused("prompt is empty: say in words what to draw")
    seed = _number(request, "seed", 0, LARGEST_SEED)
    guidance = _number(request, "guidance_scale", 0, limits["maximum_guidance_scale"])
    steps = _number(request, "num_inference_steps", 1, limits["maximum_inference_steps"])
    count = int(_number(request, "num_images", 1, limits["maximum_images"]) or 1)
    last = LARGEST_SEED + 1 - count  # image i has the seed + i, which must be one too
    if seed is not None and seed > last:
        raise Refused(f"seed is {seed}, allowed for {count} images is 0 to {last}")
    return Request(
        prompt=prompt,
        negative_prompt=_text(request, "negative_prompt", limits["maximum_prompt_characters"])
        or "",
        seed=secrets.randbelow(last + 1) if seed is None else int(seed),
        num_inference_steps=limits["default_inference_steps"] if steps is None else int(steps),
        guidance_scale=limits["default_guidance_scale"] if guidance is None else float(guidance),
        num_images=count,
    )


def _value(request: object, name: str) -> object | None:
    """The single value of an input, or None when the request does not carry it."""
    tensor = pb.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy()
    if values.size != 1:
        raise Refused(
            f"{name} has {values.size} values: send one prompt per request, each input of shape "
            "[1, 1], and ask for more images with num_images"
        )
    return values.reshape(-1)[0]


def _text(request: object, name: str, longest: int) -> str | None:
    value = _value(request, name)
    if value is None:
        return None
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise Refused(f"{name} is not UTF-8 text (byte {error.start})") from None
    if len(text) > longest:
        raise Refused(f"{name} has {len(text)} characters, at most {longest} are allowed")
    return text


def _number(request: object, name: str, lowest: float, highest: float) -> float | None:
    value = _value(request, name)
    if value is None:
        return None
    # The shortest decimal that is this FP32: 4.1 stays the 4.1 that was evaluated.
    number = float(str(value)) if isinstance(value, np.floating) else int(value)
    if not (math.isfinite(number) and lowest <= number <= highest):
        raise Refused(f"{name} is {number}, allowed is {lowest:g} to {highest:.12g}")
    return number


def _software(device: str) -> dict[str, str | None]:
    """What draws here, by the names of adire_assets.gates.compatibility."""
    modules = (torch, diffusers, transformers, peft)
    versions = {module.__name__: str(module.__version__) for module in modules}
    if device != "cuda":
        threads = str(torch.get_num_threads())
        return {**versions, "device": device, "threads": threads, "cuda": None, "driver": None}
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", NVIDIA_DRIVER.read_text(encoding="utf-8"))
    except OSError:
        found = None
    driver = found[0] if found else None
    return {**versions, "device": device, "cuda": torch.version.cuda, "driver": driver}


def _internal(error: Exception) -> object:
    pb.Logger.log_error(f"{type(error).__name__}: {error}")
    return _error(
        f"the release failed to draw this image ({type(error).__name__}); its log says why",
        pb.TritonError.INTERNAL,
    )


def _error(message: str, code: int) -> object:
    return pb.InferenceResponse(error=pb.TritonError(message, code))


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
