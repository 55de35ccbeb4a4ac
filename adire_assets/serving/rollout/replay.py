"""Requests that a rollout makes itself: where traffic is thin, and to judge what is served.

A `Replay` asks a release (or, to compare, the running one) what it was asked in its evaluation,
chosen at random and changed so that no evaluated answer is one to it (with another seed). It asks
one request at a time, through the gateway and by the header that names a release, so that users'
requests are not touched. It keeps the answers that are to be judged and nothing of users. The judge
is any function of prompts and the contents of answers; a family has one in a child process.

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

from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.serving.client import ask
from adire_assets.serving.connection import Endpoint, Unanswered
from adire_assets.serving.gateway.protocol import SERVER_FAULTS

# The score of each answer's content for its prompt.
Judge = Callable[[Sequence[str], Sequence[Any]], list[float]]
PAUSE_SECONDS = 0.5  # after a request that was not answered
NOT_LET_IN = ("UNAUTHENTICATED", "PERMISSION_DENIED")  # by the gateway, whatever is served
# By the gateway; DEADLINE_EXCEEDED is told by the client, whose request has gone then.
COUNTED = set(SERVER_FAULTS.values()) - {"DEADLINE_EXCEEDED"}
TOO_MANY = "RESOURCE_EXHAUSTED"  # likewise


@dataclass(frozen=True)
class Outcome:
    """Of one request: its answer, or whether it is a failure that no gateway counts."""

    release: int
    judged: bool
    answer: tuple[str, float, Any] | None = None  # prompt, the score to expect, content
    lost: bool = False


@dataclass
class Replay:
    """Asks in a thread of its own from `start` to `close`, what `ask` tells it."""

    endpoint: Endpoint
    plug: Family
    model: str
    entries: Sequence[tuple[dict[str, Any], float]]  # evaluated request, its score
    judge: Judge
    seconds: float  # after which a request is given up
    # (as served, as evaluated for the same prompt) of each answer, as it was judged
    scores: list[tuple[float, float]] = field(default_factory=list)
    unjudged: int = 0  # answers that are asked for, or wait for the judge
    _wanted: tuple[int, bool] | None = None
    _outcomes: "SimpleQueue[Outcome | Exception]" = field(default_factory=SimpleQueue)
    _fresh: list[tuple[str, float, Any]] = field(default_factory=list)
    _judging: "tuple[Sequence[float], Future[list[float]]] | None" = None
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
        """Let it send a request to release `number`, whose answer is to be judged or not."""
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
        judged meanwhile, and has the judge look at what was answered.

        UserError when the judge has died, or when the gateway lets this project not in.
        """
        lost: Counter[int] = Counter()
        for _ in range(self._outcomes.qsize()):
            outcome = self._outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            lost[outcome.release] += outcome.lost
            if outcome.judged and outcome.answer:
                self._fresh.append(outcome.answer)
            elif outcome.judged:
                self.unjudged -= 1
        if self._judging and self._judging[1].done():
            expected, judging = self._judging
            self._judging = None
            self.scores += zip(judging.result(), expected, strict=True)
            self.unjudged -= len(expected)
        if self._fresh and not self._judging:
            prompts, expected, contents = zip(*self._fresh, strict=True)
            self._fresh = []
            self._judging = expected, self._pool.submit(self.judge, prompts, contents)
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
        evaluated, expected = self._random.choice(self.entries)
        request = self.plug.serve.functions.again(evaluated, self._random)
        try:
            answer = ask(
                self.endpoint,
                self.plug,
                self.model,
                request,
                release=number,
                timeout=self.seconds,
            )
        except UserError as error:
            lost = self._uncounted(error)
            self._over.wait(PAUSE_SECONDS)
            return Outcome(number, judged, lost=lost)
        return Outcome(number, judged, (request["prompt"], expected, answer.content))

    def _uncounted(self, error: UserError) -> bool:
        """Whether a failure is the release's, and the gateway does not say so."""
        if not isinstance(error, Unanswered):
            return True  # an answer, which is none of a release
        if error.status in NOT_LET_IN:
            raise error
        return error.status != TOO_MANY and error.status not in COUNTED
