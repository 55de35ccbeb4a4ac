"""Triton's backend "vllm" of this project: a release of a language model, answered by vLLM.

A version directory holds what the official vLLM backend reads, model.json and multi_lora.json, with
serving.json (the limits) and provenance.json (the release's number and what it was made from). All
versions of a slot are served by one engine, see `shared_engine`.

Inputs, each of shape [1]: `text_input` (BYTES, UTF-8), a text that is gone on with as it is, or
`messages` (BYTES: JSON as in OpenAI's chat interface), which the base's chat template makes a text
of; optional `sampling_parameters` (BYTES: a JSON object with OpenAI's and vLLM's names, such as
max_tokens, temperature, seed) and `stream` (BOOL). Outputs: `text_output` (BYTES [1], never with
the input) and `release` (INT32 [1]) of each piece, or of the whole answer without `stream`; the
last one has `finish_reason` (BYTES [1]: "stop", "length" or "content_filter") and `provenance`
(BYTES [1]: JSON of the release, of the software that answered and of the request). What is out of
limits is answered with INVALID_ARGUMENT and one sentence. An answer that breaks off ends with
UNAVAILABLE.

Triton's Python knows nothing of the project's environment, which is why ADIRE_SITE_PACKAGES names
the packages that have numpy.
"""

import http.client
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = filter(None, [os.environ.get("ADIRE_SITE_PACKAGES")])

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # noqa: E402
from shared_engine import NoEngine, SharedEngine, Unanswered  # noqa: E402

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
AT_ONCE = 256  # more than a gateway lets through
LET_GO_SECONDS = 10.0
# What an answer here has no place for.
NOT_HERE = (
    *("model", "messages", "prompt", "stream", "stream_options"),
    *("n", "logprobs", "top_logprobs", "echo"),
)
FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
GONE = "the server failed while it was answering; ask again"


class Refused(ValueError):
    """The caller's mistake, in one sentence."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self.model, self.number = args["model_name"], int(args["model_version"])
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        if provenance["release"] != self.number:
            raise RuntimeError(f"{folder} holds release {provenance['release']}")
        self.engine = SharedEngine(folder.parents[2])
        self.engine.attach(self.model, self.number)
        self.release = pb.Tensor("release", np.array([self.number], np.int32))
        self.threads = ThreadPoolExecutor(AT_ONCE, "answer")
        self.attaching = threading.Lock()

    def execute(self, requests: list) -> None:
        for request in requests:
            self.threads.submit(self._answer, request, request.get_response_sender())

    def finalize(self) -> None:
        """The folder of this version is gone: the engine lets go of its adapter."""
        try:
            self.engine.reconcile(self.model, LET_GO_SECONDS)
        except (OSError, http.client.HTTPException, ValueError, Unanswered) as error:
            pb.Logger.log_warn(
                f"the engine was not told that {self.model}@{self.number} is gone: {error}"
            )

    def _answer(self, request: Any, sender: Any) -> None:
        try:
            for outputs in self._pieces(*_asked(request)):
                if sender.is_cancelled():
                    break
                sender.send(pb.InferenceResponse(outputs))
            sender.send(flags=FINAL)
        except Refused as refused:
            _fail(sender, pb.TritonError.INVALID_ARG, str(refused))
        except Unanswered as refused:
            if refused.status in (404, 503):  # it is another one than this version was loaded into
                self._attach_again()
                _fail(sender, pb.TritonError.UNAVAILABLE, str(refused))
            else:
                ours = refused.status >= 500
                code = pb.TritonError.INTERNAL if ours else pb.TritonError.INVALID_ARG
                _fail(sender, code, str(refused))
        except (OSError, http.client.HTTPException) as error:
            pb.Logger.log_error(f"the engine broke off: {type(error).__name__}: {error}")
            self._attach_again()
            _fail(sender, pb.TritonError.UNAVAILABLE, GONE)
        except Exception as error:
            pb.Logger.log_error(f"{type(error).__name__}: {error}")
            said = f"the release failed to answer ({type(error).__name__}); its log says why"
            _fail(sender, pb.TritonError.INTERNAL, said)

    def _pieces(self, path: str, body: dict[str, Any], streamed: bool) -> Iterator[list]:
        """The outputs of each response to a request."""
        body["model"] = f"{self.model}@{self.number}"
        whole = not streamed
        for event in [self.engine.whole(path, body)] if whole else self.engine.events(path, body):
            for choice in event.get("choices", ()):
                said = choice.get("delta" if streamed else "message", choice)
                text = said.get("content") or said.get("text") or ""
                last = choice.get("finish_reason")
                if not text and not last:
                    continue  # only says that the assistant speaks
                outputs = [_text("text_output", text), self.release]
                if last:
                    told = json.dumps(event["provenance"], ensure_ascii=False)
                    outputs += [_text("finish_reason", last), _text("provenance", told)]
                yield outputs

    def _attach_again(self) -> None:
        """Have the engine back, once, while requests are answered by another slot."""
        if self.attaching.acquire(blocking=False):
            threading.Thread(target=self._attach, daemon=True).start()

    def _attach(self) -> None:
        try:
            self.engine.attach(self.model, self.number)
        except (NoEngine, OSError, http.client.HTTPException, ValueError, Unanswered) as error:
            pb.Logger.log_error(f"{self.model}@{self.number} has no engine: {error}")
        finally:
            self.attaching.release()


def _asked(request: Any) -> tuple[str, dict[str, Any], bool]:
    """(path, body, whether in pieces) of a request, as OpenAI's interface has it."""
    text, messages = _value(request, "text_input"), _value(request, "messages")
    if (text is None) == (messages is None):
        raise Refused("a request has either text_input or messages")
    body = _json("sampling_parameters", _value(request, "sampling_parameters") or b"{}")
    if not isinstance(body, dict):
        raise Refused("sampling_parameters is no JSON object")
    if wrong := [name for name in NOT_HERE if name in body]:
        raise Refused(f"{wrong[0]} is not taken in sampling_parameters")
    streamed = bool(_value(request, "stream"))
    if messages is not None:
        return CHAT, {**body, "messages": _json("messages", messages)}, streamed
    return COMPLETION, {**body, "prompt": _utf8("text_input", text)}, streamed


def _value(request: Any, name: str) -> Any:
    """The single value of an input, or None when the request does not carry it."""
    tensor = pb.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy()
    if values.size != 1:
        raise Refused(f"{name} has {values.size} values: send one, of shape [1]")
    return values.reshape(-1)[0]


def _utf8(name: str, value: Any) -> str:
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{name} is not UTF-8 text (byte {error.start})") from None


def _json(name: str, value: Any) -> Any:
    try:
        return json.loads(_utf8(name, value))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"{name} is no JSON: {error}") from None


def _text(name: str, value: str) -> Any:
    return pb.Tensor(name, np.array([value.encode()], dtype=np.object_))


def _fail(sender: Any, code: int, sentence: str) -> None:
    sender.send(pb.InferenceResponse(error=pb.TritonError(sentence, code)), flags=FINAL)
