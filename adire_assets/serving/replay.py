"""Requests that a rollout makes itself: where traffic is thin, and to judge what is served.

A `Replay` asks a release (or, to compare, the running one) prompts of its evaluation, drawn at
random, with seeds that the evaluation did not use. It asks one request at a time, through the
gateway and by the header that names a release, so that users' requests are not touched. It keeps
the images that are to be judged and nothing of users. The judge is any function of prompts and
images; `judging` has the one that scores CLIP-S in a child process.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np

from adire_assets.errors import UserError
from adire_assets.serving.client import Door, generate

# CLIP-S of each image, uint8 [H, W, 3], against its prompt.
Judge = Callable[[Sequence[str], Sequence[np.ndarray]], list[float]]
FIRST_SEED = 1_000_000  # far from the small seeds that evaluations use
REQUEST_SECONDS = 60.0
PAUSE_SECONDS = 0.5  # after a request that was not answered


@dataclass
class Replay:
    """Asks in a thread of its own from `start` to `close`, what `ask` tells it."""

    door: Door
    model: str
    entries: Sequence[dict[str, Any]]  # of the evaluation's images.json
    judge: Judge
    sent: Counter[int] = field(default_factory=Counter)  # release -> requests
    scores: list[tuple[str, float]] = field(default_factory=list)  # prompt, CLIP-S; as judged
    unjudged: int = 0  # images that are asked for, drawn or being judged
    _wanted: tuple[int, bool] | None = None
    _drawn: "SimpleQueue[tuple[str, np.ndarray] | None]" = field(default_factory=SimpleQueue)
    _judging: "tuple[Sequence[str], Future[list[float]]] | None" = None
    _over: threading.Event = field(default_factory=threading.Event)
    _more: threading.Event = field(default_factory=threading.Event)
    _answered: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        # Whoever goes on with a rollout asks other prompts and seeds than the one before.
        self._random = random.Random()
        self._pool = ThreadPoolExecutor(1)
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Ask no more; a request under way is left to itself."""
        self._over.set()
        self._more.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def idle(self) -> bool:
        return self._wanted is None

    def ask(self, number: int, judged: bool) -> None:
        """Let it send a request to release `number`, whose image is to be judged or not."""
        assert self.idle
        self.unjudged += judged
        self._wanted = number, judged
        self._more.set()

    def wait(self, seconds: float) -> None:
        """Until an answer has come, or so long."""
        self._answered.wait(seconds)
        self._answered.clear()

    def collect(self) -> None:
        """Add what was judged to `scores`, and have the judge look at what was drawn meanwhile.

        UserError when the judge has died.
        """
        if self._judging:
            prompts, judging = self._judging
            if not judging.done():
                return
            self._judging = None
            self.scores += zip(prompts, judging.result(), strict=True)
            self.unjudged -= len(prompts)
        drawn = [self._drawn.get() for _ in range(self._drawn.qsize())]
        images = [one for one in drawn if one is not None]
        self.unjudged -= len(drawn) - len(images)
        if images:
            prompts, pictures = zip(*images, strict=True)
            self._judging = prompts, self._pool.submit(self.judge, prompts, pictures)

    def _run(self) -> None:
        while not self._over.is_set():
            self._more.wait()
            self._more.clear()
            if self._wanted and not self._over.is_set():
                number, judged = self._wanted
                image = self._request(number)
                if judged:
                    self._drawn.put(image)
                self._wanted = None
                self._answered.set()

    def _request(self, number: int) -> tuple[str, np.ndarray] | None:
        """One request; the gateway counts its outcome, so a refusal is no error here."""
        entry = self._random.choice(self.entries)
        self.sent[number] += 1
        try:
            answer = generate(
                self.door,
                self.model,
                entry["prompt"],
                negative_prompt=entry["negative_prompt"],
                seed=FIRST_SEED + self._random.randrange(FIRST_SEED),
                num_inference_steps=entry["num_inference_steps"],
                guidance_scale=entry["guidance_scale"],
                release=number,
                timeout=REQUEST_SECONDS,
            )
        except UserError:
            self._over.wait(PAUSE_SECONDS)
            return None
        return entry["prompt"], answer.images[0]
