"""Requests that a rollout makes itself: where traffic is thin, and to judge what is served.

A `Replay` asks a release (or, to compare, the running one) prompts of its evaluation, drawn at
random, with seeds that the evaluation did not use. It asks one request at a time, through the
gateway and by the header that names a release, so that users' requests are not touched. It keeps
the images that are to be judged and nothing of users. The judge is any function of prompts and
images; `judging` has the one that scores CLIP-S in a child process.

The gateway counts what a release answers. It knows nothing of a request that was given up here
after `seconds`, takes a refusal for the client's mistake, and any message for an answer: of an
evaluated prompt, these are the release's failures, and `collect` says how many there were.
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

from adire_assets.core.errors import UserError
from adire_assets.serving.client import generate
from adire_assets.serving.connection import Endpoint, Unanswered
from adire_assets.serving.gateway.protocol import SERVER_FAULTS

# CLIP-S of each image, uint8 [H, W, 3], against its prompt.
Judge = Callable[[Sequence[str], Sequence[np.ndarray]], list[float]]
FIRST_SEED = 1_000_000  # far from the small seeds that evaluations use
PAUSE_SECONDS = 0.5  # after a request that was not answered
NOT_LET_IN = ("UNAUTHENTICATED", "PERMISSION_DENIED")  # by the gateway, whatever is served
# By the gateway; DEADLINE_EXCEEDED is told by the client, whose request has gone then.
COUNTED = set(SERVER_FAULTS.values()) - {"DEADLINE_EXCEEDED"}
TOO_MANY = "RESOURCE_EXHAUSTED"  # likewise


@dataclass(frozen=True)
class Outcome:
    """Of one request: its image, or whether it is a failure that no gateway counts."""

    release: int
    judged: bool
    image: tuple[str, np.ndarray] | None = None  # prompt, uint8 [H, W, 3]
    lost: bool = False


@dataclass
class Replay:
    """Asks in a thread of its own from `start` to `close`, what `ask` tells it."""

    endpoint: Endpoint
    model: str
    entries: Sequence[dict[str, Any]]  # of the evaluation's images.json
    judge: Judge
    seconds: float  # after which a request is given up
    scores: list[tuple[str, float]] = field(default_factory=list)  # prompt, CLIP-S; as judged
    unjudged: int = 0  # images that are asked for, drawn or being judged
    _wanted: tuple[int, bool] | None = None
    _outcomes: "SimpleQueue[Outcome | Exception]" = field(default_factory=SimpleQueue)
    _drawn: list[tuple[str, np.ndarray]] = field(default_factory=list)
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

    def collect(self) -> Counter[int]:
        """How many requests each release has lost since the last call; adds to `scores` what was
        judged meanwhile, and has the judge look at what was drawn.

        UserError when the judge has died, or when the gateway lets this project not in.
        """
        lost: Counter[int] = Counter()
        for _ in range(self._outcomes.qsize()):
            outcome = self._outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            lost[outcome.release] += outcome.lost
            if outcome.judged and outcome.image:
                self._drawn.append(outcome.image)
            elif outcome.judged:
                self.unjudged -= 1
        if self._judging and self._judging[1].done():
            prompts, judging = self._judging
            self._judging = None
            self.scores += zip(prompts, judging.result(), strict=True)
            self.unjudged -= len(prompts)
        if self._drawn and not self._judging:
            prompts, pictures = zip(*self._drawn, strict=True)
            self._drawn = []
            self._judging = prompts, self._pool.submit(self.judge, prompts, pictures)
        return lost

    def _run(self) -> None:
        while not self._over.is_set():
            self._more.wait()
            self._more.clear()
            if self._wanted and not self._over.is_set():
                try:
                    self._outcomes.put(self._request(*self._wanted))
                except Exception as error:  # `collect` raises it where somebody hears of it
                    self._outcomes.put(error)
                self._wanted = None
                self._answered.set()

    def _request(self, number: int, judged: bool) -> Outcome:
        entry = self._random.choice(self.entries)
        try:
            answer = generate(
                self.endpoint,
                self.model,
                entry["prompt"],
                negative_prompt=entry["negative_prompt"],
                seed=FIRST_SEED + self._random.randrange(FIRST_SEED),
                num_inference_steps=entry["num_inference_steps"],
                guidance_scale=entry["guidance_scale"],
                release=number,
                timeout=self.seconds,
            )
        except UserError as error:
            lost = self._uncounted(error)
            self._over.wait(PAUSE_SECONDS)
            return Outcome(number, judged, lost=lost)
        return Outcome(number, judged, (entry["prompt"], answer.images[0]))

    def _uncounted(self, error: UserError) -> bool:
        """Whether a failure is the release's, and the gateway does not say so."""
        if not isinstance(error, Unanswered):
            return True  # an answer, which is none of a release
        if error.status in NOT_LET_IN:
            raise error
        return error.status != TOO_MANY and error.status not in COUNTED
