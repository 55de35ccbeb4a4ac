"""Brings a running engine to what its slot's folder holds, and knows what it serves.

An adapter is loaded under the name of its release, model@number, and is asked before it counts: an
engine takes weights under names that it does not know without a word, and then answers as its base
does. A name that once meant other weights is not used again in one engine, whose cache of prefixes
goes by names; the engine is started again then, as it is for a release of another base.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any

from adire_vllm import series
from adire_vllm.launcher import AGAIN, BASE_NAME
from adire_vllm.releases import Engine, Release, choose, installed

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any
]
# Prompts, as token ids, whose next token's log-probabilities tell an adapter from its base. Those
# of the prompt itself cannot be asked for: with an adapter, they kill a vLLM on a CPU as soon as
# another request is in the batch.
PROBES = [list(range(8, end)) for end in range(12, 44, 4)]
LIKELIEST = 20  # tokens; an engine tells no more
SMALLEST_DIFFERENCE = 1e-6  # nats, beyond four times what an adapter differs from itself
ANSWER_SECONDS = 0.2  # for the answer that says so to leave, before the engine goes


class Holder:
    """What one engine, started as `engine` says, serves of a slot's folder."""

    def __init__(self, slot: Path, engine: Engine) -> None:
        self.slot, self.engine = slot, engine
        self.held: dict[str, Release] = {}
        self.meant: dict[str, str] = {}  # name -> the content that it has had in this engine
        self.changing = asyncio.Lock()
        self.software: dict[str, str | None] = {}
        # What the base answers to `PROBES`, asked before a release is held: while requests with an
        # adapter are in the batch, a vLLM on a CPU may apply an adapter to those of the base too.
        self.bare: list[dict[str, float]] = []

    def release(self, model: str, number: int | None) -> Release | None:
        """The release of this number, or the newest one that it holds of the model."""
        if number is not None:
            return self.held.get(f"{model}@{number}")
        own = (one for one in self.held.values() if one.model == model)
        return max(own, key=lambda one: one.number, default=None)

    def numbers(self) -> dict[str, list[int]]:
        """Model -> the releases of it that are served."""
        found: dict[str, list[int]] = {}
        for one in self.held.values():
            found.setdefault(one.model, []).append(one.number)
        return {model: sorted(numbers) for model, numbers in sorted(found.items())}

    async def bring(self, app: App, scope: Message, model: str | None) -> dict[str, Any]:
        """Bring the engine to what the folder holds (of one model).

        {held, failed: {name: why}, again: whether the engine ends in a moment, to be started anew}.
        """
        async with self.changing:
            releases, failed = installed(self.slot, model)
            there = {one.name: one for one in releases}
            foreign = [one for one in releases if not self._fits(one)]
            others = sorted({one.model for one in self.held.values()} - {model})
            if foreign and not others and model is not None:
                choose(self.slot, foreign[-1].base)
                asyncio.get_running_loop().call_later(ANSWER_SECONDS, os._exit, AGAIN)
                return {"held": [], "failed": {}, "again": True, "pid": os.getpid()}
            for one in foreign:
                failed[one.name] = self._sentence(one, others)
                del there[one.name]
            for name, one in list(self.held.items()):
                if one.model == (model or one.model) and there.get(name) != one:
                    await _asked(app, scope, "/v1/unload_lora_adapter", {"lora_name": name})
                    del self.held[name]
            for name in there.keys() - self.held.keys():
                began = time.perf_counter()
                if why := await self._load(app, scope, there[name]):
                    failed[name] = why
                else:
                    self.held[name] = there[name]
                    labels = there[name].model, str(there[name].number)
                    series.begin(labels, time.perf_counter() - began)
            series.HELD.set(len(self.held))
            for name, why in failed.items():
                print(f"load failed for model {name}: {why}", file=sys.stderr, flush=True)
            held = self.numbers().get(model or "", [])
            return {"held": held, "failed": failed, "again": False, "pid": os.getpid()}

    def _fits(self, release: Release) -> bool:
        known = self.meant.get(release.name, release.content_hash)
        return self.engine.holds(release) and known == release.content_hash

    def _sentence(self, release: Release, others: list[str]) -> str:
        """Why a release cannot come into this engine."""
        if release.base != self.engine.base:
            what = "it has another base model"
        elif not self.engine.holds(release):
            what = (
                f"it needs maximum_lora_rank {release.rank} and maximum_model_length "
                f"{release.length}, the engine has {self.engine.rank} and {self.engine.length}"
            )
        else:
            what = "its number meant other weights before"
        return (
            f"{what}, and an engine has one; it serves {', '.join(others) or 'others'}: give the "
            "models one base and one set of limits, or serve one of them in another target"
        )

    async def _load(self, app: App, scope: Message, release: Release) -> str | None:
        """Load a release's adapter; why it cannot be served, None when it can."""
        name = release.name
        self.meant[name] = release.content_hash
        asked = {"lora_name": name, "lora_path": str(release.adapter)}
        status, answer = await _asked(app, scope, "/v1/load_lora_adapter", asked)
        if status != 200:
            return " ".join(_message(answer).split())[:500]
        try:
            self.bare = self.bare or await self._likelihoods(app, scope, BASE_NAME)
            own, again = [await self._likelihoods(app, scope, name) for _ in range(2)]
            noise, difference = _apart(own, again), _apart(own, self.bare)
            if difference > 4 * noise + SMALLEST_DIFFERENCE:
                return None
            why = (
                "with the adapter the engine answers as its base does (log-probabilities differ by "
                f"at most {difference:.2g} nats): its weights have names that the engine does not "
                "know, or change nothing"
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            why = f"the engine does not answer with the adapter: {error}"
        await _asked(app, scope, "/v1/unload_lora_adapter", {"lora_name": name})
        return why

    async def _likelihoods(self, app: App, scope: Message, name: str) -> list[dict[str, float]]:
        """Of each of `PROBES` the log-probabilities of the likeliest next tokens, by token."""
        asked = {"model": name, "prompt": PROBES, "max_tokens": 1, "temperature": 0}
        asked |= {"logprobs": LIKELIEST, "return_tokens_as_token_ids": True}
        status, answer = await _asked(app, scope, "/v1/completions", asked)
        if status != 200:
            raise ValueError(_message(answer))
        choices = sorted(json.loads(answer)["choices"], key=lambda choice: choice["index"])
        return [choice["logprobs"]["top_logprobs"][0] for choice in choices]


def software(device: str) -> dict[str, str | None]:
    """What answers here."""
    found: dict[str, str | None] = {}
    for name in ("torch", "transformers", "vllm"):
        for package in (name, f"{name}-cpu"):
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    threads = os.environ.get("OMP_NUM_THREADS")
    cuda = None
    if device == "cuda":
        import torch

        cuda = torch.version.cuda
    return {
        **found,
        "device": device,
        "threads": threads if device == "cpu" else None,
        "cuda": cuda,
    }


def _apart(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The largest difference between two answers to `PROBES`, in nats."""
    return max(
        max((abs(first[token] - second[token]) for token in first.keys() & second), default=inf)
        for first, second in zip(one, other, strict=True)
    )


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode("utf-8", errors="replace")


async def _asked(app: App, scope: Message, path: str, content: Any) -> tuple[int, bytes]:
    """(status, body) of a request that this process makes to the engine's own routes."""
    body = json.dumps(content).encode()
    status, given, pieces = 500, False, []

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # nobody hangs up; who listens for that is cancelled
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            pieces.append(message.get("body", b""))

    asked = {
        **{name: scope[name] for name in ("app", "asgi", "state") if name in scope},
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    await app(asked, receive, send)
    return status, b"".join(pieces)
