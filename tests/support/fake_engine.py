"""A stand-in of a vLLM behind the door: an ASGI app that a test can have fail in every way."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adire_assets.core.store import write_json

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass
class FakeEngine:
    """Answers with `text`, word by word; `loaded` are its adapters by name.

    `ignored` are adapters with which it answers as its base does. `breaks`: after how many pieces a
    stream breaks, and by what: "error" is an event of vLLM's, "raise" an exception, "end" no more.
    `seconds` pass before each piece; a stream waits for `going_on` before its last one.
    """

    text: str = "three cloths for Ada"
    finish: str = "stop"
    status: int = 200
    ignored: set[str] = field(default_factory=set)
    breaks: tuple[int, str] | None = None
    seconds: float = 0.0
    going_on: threading.Event | None = None
    loaded: dict[str, str] = field(default_factory=dict)
    asked: list[Message] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        if scope["method"] == "GET":
            await _send(send, 200, {})
            return
        body = json.loads((await receive())["body"])
        path = scope["path"]
        if path == "/v1/load_lora_adapter":
            self.loaded[body["lora_name"]] = body["lora_path"]
            await _send(send, 200, {})
        elif path == "/v1/unload_lora_adapter":
            del self.loaded[body["lora_name"]]
            self.unloaded.append(body["lora_name"])
            await _send(send, 200, {})
        elif isinstance(body.get("prompt"), list):
            await _send(send, 200, self._likelihoods(body))
        else:
            self.asked.append({**body, "path": path})
            await self._answer(body, send)

    def _likelihoods(self, body: Message) -> Message:
        shift = 0.0 if body["model"] in {"base", *self.ignored} else 0.5
        next_one = {"top_logprobs": [{"token_id:7": -1.0 - shift}]}
        count = range(len(body["prompt"]))
        return {"choices": [{"index": index, "logprobs": next_one} for index in count]}

    async def _answer(self, body: Message, send: Send) -> None:
        if self.status != 200:
            await _send(send, self.status, {"error": {"message": "no", "code": self.status}})
        elif not body.get("stream"):
            choice = {"index": 0, "finish_reason": self.finish, "logprobs": None}
            said = {"message": {"role": "assistant", "content": self.text}}
            content = {"model": body["model"], "choices": [{**choice, **said}], **self._usage()}
            await _send(send, 200, content)
        else:
            await self._stream(body, send)

    async def _stream(self, body: Message, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        words = self.text.split(" ")
        for place, word in enumerate(words):
            if self.breaks and self.breaks[0] == place:
                await self._break(send)
                return
            await asyncio.sleep(self.seconds)
            last = place == len(words) - 1
            if last and self.going_on:
                assert await asyncio.to_thread(self.going_on.wait, 20)
            choice = {"index": 0, "delta": {"content": f"{word} "}}
            choice["finish_reason"] = self.finish if last else None
            await send(_event({"model": body["model"], "choices": [choice]}))
        if body.get("stream_options", {}).get("include_usage"):
            await send(_event({"model": body["model"], "choices": [], **self._usage()}))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _usage(self) -> Message:
        return {"usage": {"completion_tokens": len(self.text.split(" "))}}

    async def _break(self, send: Send) -> None:
        assert self.breaks
        if self.breaks[1] == "raise":
            raise RuntimeError("the engine is dead")
        if self.breaks[1] == "error":
            await send(_event({"error": {"message": "the engine is dead", "code": 500}}))
            await send(
                {"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True}
            )
            await send({"type": "http.response.body", "body": b""})


def _event(content: Message) -> Message:
    body = b"data: " + json.dumps(content).encode() + b"\n\n"
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _send(send: Send, status: int, content: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


def install(
    slot: Path, number: int, model: str = "letters", base: str = "b", **limits: Any
) -> None:
    """Put a release of `model` into a slot's folder."""
    folder = slot / "models" / model / str(number)
    (slot / "base_models" / base).mkdir(parents=True, exist_ok=True)
    engine = {"model": f"../../../base_models/{base}", "max_lora_rank": 8, "max_model_len": 64}
    write_json(folder / "model.json", {**engine, **limits.pop("engine", {})})
    write_json(folder / "multi_lora.json", {model: "adapter"})
    write_json(folder / "serving.json", {"maximum_tokens": 32, **limits})
    hashed = f"{model}{number}{limits.pop('content', '')}"
    write_json(folder / "provenance.json", {"release": number, "release_hash": hashed})


def slow_door() -> Any:
    """What a server runs as an app: the door before an engine that takes its time."""
    from adire_vllm.middleware import Door

    return Door(FakeEngine(text="cloth " * 150, seconds=0.02))
