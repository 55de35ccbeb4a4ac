"""Requests that a rollout makes itself: where traffic is thin, and to judge what is served.

A `Replay` sends a release (or, to compare, the running one) requests of its evaluation, chosen at
random and changed so that they have no evaluated answer (with another seed). It sends one request
at a time, through the gateway and with the header that names a release, so users' requests are not
touched. It keeps the answers that are to be judged and nothing of users. The judge is any function
of prompts and the contents of answers; a family has one in a child process.

The gateway counts a release's answers. It does not see that a request was given up here after
`seconds`, and counts a refusal as the client's mistake and any message as an answer. For an
evaluated prompt these are failures of the release; `collect` returns how many there were.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
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
    """Asks what `ask` tells it, each time in a thread of its own."""

    endpoint: Endpoint
    plug: Family
    model: str
    entries: Sequence[tuple[dict[str, Any], float]]  # evaluated request, its score
    judge: Judge
    seconds: float  # after which a request is given up
    # (as served, as evaluated for the same prompt) of each answer, as it was judged
    scores: list[tuple[float, float]] = field(default_factory=list)
    unjudged: int = 0  # answers that are asked for, or wait for the judge
    # Whoever goes on with a rollout asks other prompts and seeds than the one before.
    _random: random.Random = field(default_factory=random.Random)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _asked: "list[Future[Outcome]]" = field(default_factory=list)
    _fresh: list[tuple[str, float, Any]] = field(default_factory=list)
    _judging: "tuple[Sequence[float], Future[list[float]]] | None" = None

    def close(self) -> None:
        """A request under way is left to itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def idle(self) -> bool:
        return all(one.done() for one in self._asked)

    def ask(self, number: int, judged: bool) -> None:
        """Let it send a request to release `number`, whose answer is to be judged or not."""
        assert self.idle
        self.unjudged += judged
        asking: Future[Outcome] = Future()
        self._asked.append(asking)
        threading.Thread(target=self._answer, args=(asking, number, judged), daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Until an answer has come, or so long."""
        if self._asked:
            futures.wait(self._asked, seconds)
        else:
            time.sleep(seconds)

    def collect(self) -> Counter[int]:
        """How many requests each release has lost since the last call; adds to `scores` what was
        judged meanwhile, and has the judge look at what was answered.

        UserError when the judge has died, or when the gateway lets this project not in.
        """
        lost: Counter[int] = Counter()
        while self._asked and self._asked[0].done():
            outcome = self._asked.pop(0).result()
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

    def _answer(self, asking: "Future[Outcome]", number: int, judged: bool) -> None:
        try:
            asking.set_result(self._request(number, judged))
        except Exception as error:  # `collect` raises it where somebody hears of it
            asking.set_exception(error)

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
            time.sleep(PAUSE_SECONDS)
            return Outcome(number, judged, lost=lost)
        return Outcome(number, judged, (request["prompt"], expected, answer.content))

    def _uncounted(self, error: UserError) -> bool:
        """Whether a failure is the release's, and the gateway does not say so."""
        if not isinstance(error, Unanswered):
            return True  # an answer, which is none of a release
        if error.status in NOT_LET_IN:
            raise error
        return error.status != TOO_MANY and error.status not in COUNTED
