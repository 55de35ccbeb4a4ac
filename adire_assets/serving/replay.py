"""Requests that a rollout makes itself: where traffic is thin, and to judge what is served.

A `Replay` asks a release (and, to compare, the running one) the prompts of its evaluation with
seeds that the evaluation did not use, one request at a time, through the gateway and by the header
that names a release, so that users' requests are not touched. It keeps the images that are to be
judged and nothing of users. The judge is any function of prompts and images; `judging` has the one
that scores CLIP-S in a child process.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
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
    """Asks in a thread of its own from `start` to `close`."""

    door: Door
    model: str
    number: int
    running: int | None
    entries: Sequence[dict[str, Any]]  # of the evaluation's images.json
    judge: Judge | None
    judged_images: int
    sent: int = 0
    _allowed: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _more: threading.Event = field(default_factory=threading.Event)
    _images: list[tuple[str, np.ndarray]] = field(default_factory=list)
    _scores: "Future[list[float]] | None" = None

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more; a request under way is left to itself."""
        self._over.set()
        self._more.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def allow(self, requests: int) -> None:
        """Let it have sent at most so many requests."""
        self._allowed = requests
        if self.sent < requests:
            self._more.set()

    def quality(self) -> list[float] | None:
        """CLIP-S of the images, once they are drawn and judged."""
        if self._scores is None or not self._scores.done():
            return None
        return self._scores.result()

    def _run(self) -> None:
        while not self._over.is_set():
            if self.judge and len(self._images) < self.judged_images:
                self._draw()
            elif self.sent < self._allowed:
                self._ask(self.number)
                if self.running is not None:
                    self._ask(self.running)
            else:
                self._more.clear()
                if self.sent >= self._allowed:
                    self._more.wait()

    def _draw(self) -> None:
        image = self._ask(self.number)
        if image is None:
            return
        self._images.append(image)
        if len(self._images) == self.judged_images and self.judge:
            prompts, images = zip(*self._images, strict=True)
            self._scores = self._pool.submit(self.judge, prompts, images)

    def _ask(self, number: int) -> tuple[str, np.ndarray] | None:
        """One request; the gateway counts its outcome, so a refusal is no error here."""
        entry = self.entries[self.sent % len(self.entries)]
        seed = FIRST_SEED + self.sent
        self.sent += number == self.number
        try:
            answer = generate(
                self.door,
                self.model,
                entry["prompt"],
                negative_prompt=entry["negative_prompt"],
                seed=seed,
                num_inference_steps=entry["num_inference_steps"],
                guidance_scale=entry["guidance_scale"],
                release=number,
                timeout=REQUEST_SECONDS,
            )
        except UserError:
            self._over.wait(PAUSE_SECONDS)
            return None
        return entry["prompt"], answer.images[0]
