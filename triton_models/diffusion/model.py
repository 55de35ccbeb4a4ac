"""The Triton Python backend of a diffusion release: a front of the slot's engine.

A version directory holds, beside this file: the engine that draws (client.py and server.py say how
it is asked), adapter/ (the LoRA), serving.json (the limits, which base model, its quantization if
there is one, and the scheduler unless it is the base's own), provenance.json (the release's number
and what it was made from). The base model lies at ../../../base_models/<base_model>/ of the slot.

Inputs, each of shape [1, 1]: prompt (BYTES, UTF-8); optional negative_prompt (BYTES), seed (INT64,
0 to 2**31 - 1, drawn at random when absent), num_inference_steps (INT32), guidance_scale (FP32),
num_images (INT32), adapters (BYTES: "indigo:0.7, kampala:0.3", in place of the release's own
adapter; the others are those of serving.json's `mixes_with` that the engine holds).
Outputs: images (UINT8 [num_images, height, width, 3], RGB), release (INT32 [1]), provenance (BYTES
[1]: JSON of the release, of the software that drew and of the request, so that the request can be
repeated; `left_out`: the ends of the texts that the text encoder does not see, or by serving.json
such a text is refused; `adapters`: what each adapter of a mix is; `scheduler` and `quantization`:
as in serving.json; `engine_seconds`: its parts of the engine's time; `feedback_token`: see
answer_token.py). A value outside its limits is answered with INVALID_ARGUMENT and one sentence.
While the engine is started again the answer is UNAVAILABLE.

The same files serve the release as `<model>_stream`, by its decoupled configuration stream.pbtxt:
a request there may have preview_steps (INT32, 0 to its steps; 0, as when absent: no previews), and
has a response after each pass: release and progress (INT32 [2]: how many passes its images have
had, of how many), and after so many steps of an image preview (UINT8 [height, width, 3], RGB) and
preview_image (INT32 [1], from 0). The last response is the answer above, with its progress.

Requests are handed to the engine as they come, and answered as they are done; an image depends on
its seed alone. A request that its caller has cancelled gives up its place. Triton's Python knows
nothing of the project's environment, which is why ADIRE_SITE_PACKAGES names packages that have
numpy, and ADIRE_PYTHON the Python that runs the engine. ADIRE_DEVICE (auto, cpu, cuda),
ADIRE_THREADS and ADIRE_DEVICE_LOCK are optional.
"""

import json
import math
import os
import re
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = filter(None, [os.environ.get("ADIRE_SITE_PACKAGES")])

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # noqa: E402

from . import answer_token, client  # noqa: E402, TID252 - Triton imports 3/model.py as 3.model

LARGEST_SEED = 2**31 - 1
LARGEST_WEIGHT = 2.0  # of an adapter in a mix
LONGEST_MIX = 1000  # characters
MIX_EXAMPLE = "indigo:0.7, kampala:0.3"
AT_ONCE = 1024  # more than a gateway lets through
FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
AS_SERVED = ("scheduler", "quantization")  # keys of serving.json, told where they are there
GONE = "the server failed while it was drawing; ask again"


class Refused(ValueError):
    """The caller's mistake, in one sentence."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        models, version = Path(args["model_repository"]).parent, args["model_version"]
        self.provenance = _read(models / args["model_name"] / version / "provenance.json")
        self.model = self.provenance["model"]
        # A release and its streams ask the engine for the same, so that it is held once.
        folder = models / self.model / version
        self.limits = _read(folder / "serving.json")
        scheduler = self.limits.get("scheduler")
        self.scheduler = {"scheduler": scheduler} if scheduler else {}
        if self.provenance["release"] != int(version):
            raise RuntimeError(f"{folder} holds release {self.provenance['release']}")
        self.engine = client.EngineClient(
            folder,
            models.parent / "base_models" / self.limits["base_model"],
            f"{self.model}@{version}",
            self.limits["maximum_batch_size"],
            self.provenance,
        )
        config = json.loads(args["model_config"])
        self.streams = pb.using_decoupled_model_transaction_policy(config)
        self.engine.attach(_lost)
        self.threads = ThreadPoolExecutor(AT_ONCE, "answer")

    def execute(self, requests: list) -> None:
        for request in requests:
            self.threads.submit(self._answer, request, request.get_response_sender())

    def finalize(self) -> None:
        self.engine.close()

    def _answer(self, request: Any, sender: Any) -> None:
        try:
            wanted = _wanted(request, self.limits)
            mix = _mix(request, self.model, self.provenance["release"], self.limits)
            options = {"truncation": self.limits["truncation"], **({"mix": mix} if mix else {})}
            if self.streams:
                last_step = wanted["num_inference_steps"]
                previews = int(_number(request, "preview_steps", 0, last_step) or 0)
                options |= {"progress": True, "preview_steps": previews}
            drawn = {**wanted, **self.scheduler}
            for event, pixels in self.engine.draw(drawn, sender.is_cancelled, **options):
                if "left_out" not in event:
                    sender.send(pb.InferenceResponse(self._progress(event, pixels)))
            images = np.frombuffer(pixels, np.uint8).reshape(event["shape"])
            seconds = {work: round(taken, 6) for work, taken in event["seconds"].items()}
            told = {"request": wanted, "left_out": event["left_out"], "engine_seconds": seconds}
            told |= {name: self.limits[name] for name in AS_SERVED if self.limits.get(name)}
            if mix:
                wanted["adapters"] = _said(event["adapters"])
                told["adapters"] = event["adapters"]
            answer = self._outputs(told, images)
            if self.streams:
                answer.append(_integers("progress", event["step"], event["steps"]))
            sender.send(pb.InferenceResponse(answer), flags=FINAL)
        except (Refused, client.Refused) as refusal:
            _fail(sender, pb.TritonError.INVALID_ARG, str(refusal))
        except client.Cancelled:
            _fail(sender, pb.TritonError.CANCELLED, "the request was cancelled")
        except OSError as error:
            pb.Logger.log_error(f"the engine broke off: {type(error).__name__}: {error}")
            _fail(sender, pb.TritonError.UNAVAILABLE, GONE)
        except Exception as error:
            what = str(error) if isinstance(error, client.Failed) else type(error).__name__
            pb.Logger.log_error(f"{type(error).__name__}: {error}")
            said = f"the release failed to draw this image ({what}); its log says why"
            _fail(sender, pb.TritonError.INTERNAL, said)

    def _progress(self, event: dict[str, Any], pixels: bytes) -> list:
        progress = _integers("progress", event["step"], event["steps"])
        found = [_integers("release", self.provenance["release"]), progress]
        if "preview" in event:
            preview = np.frombuffer(pixels, np.uint8).reshape(event["shape"])
            found += [pb.Tensor("preview", preview), _integers("preview_image", event["preview"])]
        return found

    def _outputs(self, told: dict[str, Any], images: Any) -> list:
        software = self.engine.software  # of now: an engine may come back on another device
        own = {"device": software["device"], "software": software}
        digests = [answer_token.digest(image.tobytes()) for image in images]
        signed = answer_token.told(self.model, self.provenance["release"], digests)
        provenance = {**self.provenance, **own, **told, **signed}
        text = json.dumps(provenance, ensure_ascii=False).encode()
        return [
            pb.Tensor("images", images),
            _integers("release", self.provenance["release"]),
            pb.Tensor("provenance", np.array([text], dtype=object)),
        ]


def _integers(name: str, *values: int) -> Any:
    return pb.Tensor(name, np.array(values, np.int32))


def _lost(error: Exception | None) -> None:
    why = f"cannot be started again: {error}" if error else "has ended and is started again"
    pb.Logger.log_error(f"the engine {why}")


def _wanted(request: object, limits: dict) -> dict[str, Any]:
    """What the engine is asked, by the names of its `Request`."""
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
    negative = _text(request, "negative_prompt", limits["maximum_prompt_characters"])
    return {
        "prompt": prompt,
        "negative_prompt": negative or "",
        "seed": secrets.randbelow(last + 1) if seed is None else int(seed),
        "num_inference_steps": limits["default_inference_steps"] if steps is None else int(steps),
        "guidance_scale": limits["default_guidance_scale"] if guidance is None else float(guidance),
        "num_images": count,
    }


def _mix(request: object, model: str, release: int, limits: dict) -> dict[str, float]:
    """{model or release: weight} of the adapters that a request asks for; empty for its own."""
    text = _text(request, "adapters", LONGEST_MIX)
    if text is None:
        return {}
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition(":"))
        if not re.fullmatch(r"[a-z][a-z0-9_]*(@[0-9]+)?", name):
            raise Refused(f"adapters has {part.strip()!r}: write them as in {MIX_EXAMPLE!r}")
        try:
            number = float(weight)
        except ValueError:
            raise Refused(
                f"adapters gives {name} no weight: write it as in {MIX_EXAMPLE!r}"
            ) from None
        if not abs(number) <= LARGEST_WEIGHT:
            raise Refused(f"adapters gives {name} the weight {weight}, allowed is -2 to 2")
        if name.partition("@")[0] not in (model, *limits["mixes_with"]):
            allowed = ", ".join((model, *limits["mixes_with"]))
            raise Refused(f"adapters names {name}; {model} may be mixed of: {allowed}")
        own = f"{model}@{release}" if name == model else name
        if own in found:
            raise Refused(f"adapters names {name} twice")
        found[own] = number
    return found


def _said(adapters: list[dict[str, Any]]) -> str:
    """The mix by releases, so that it can be asked for again."""
    return ", ".join(f"{one['model']}@{one['release']}:{one['weight']!r}" for one in adapters)


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


def _fail(sender: Any, code: int, message: str) -> None:
    answer = pb.InferenceResponse(error=pb.TritonError(message, code))
    sender.send(answer, flags=FINAL)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
