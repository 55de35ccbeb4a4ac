"""What an engine tells Prometheus of each release; its own series know the base alone."""

import collections
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

LABELS, UNIT = ("model", "release"), "token"
SECONDS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300),
)

REQUESTS = Counter(
    "adire_llm_requests",
    "Requests by how they ended: answered, refused (the client's mistake), failed before an answer "
    "began, broken in the middle of one, or given up by the client.",
    (*LABELS, "outcome"),
)
FIRST_TOKEN = Histogram(
    "adire_llm_first_token_seconds",
    "From a request to the first piece of a streamed answer.",
    LABELS,
    buckets=SECONDS,
)
BETWEEN_TOKENS = Histogram(
    "adire_llm_inter_token_seconds",
    "From one piece of a streamed answer to the next.",
    LABELS,
    buckets=(0.001, 0.002, *SECONDS),
)
WHOLE = Histogram(
    "adire_llm_request_seconds", "From a request to the end of its answer.", LABELS, buckets=SECONDS
)
CUT_OFF = Counter(
    "adire_llm_answers_cut_off", "Answers that ended because they were as long as allowed.", LABELS
)
MODERATED = Counter(
    "adire_llm_moderated",
    "Prompts and answers that hold a word of the release's list.",
    (*LABELS, "side"),
)
# What costs are made of, under the same names as those of other engines.
BUSY = Counter(
    "adire_busy_seconds",
    "Time in which requests were answered: each moment is divided equally among those under way.",
    LABELS,
)
MADE = Counter(
    "adire_made",
    "Tokens of answers that have ended, of a stream that was ended for a word its pieces; those "
    "given up are not in it.",
    (*LABELS, "unit"),
)
LOAD = Gauge("adire_load_seconds", "How long loading the release took, and asking it.", LABELS)
HELD = Gauge("adire_adapters_held", "Releases whose adapter the engine holds.")


class Busy:
    """Divides the time that passes among the requests that are answered in it."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.since = now, now()
        self.running: collections.Counter[tuple[str, str]] = collections.Counter()

    def settle(self) -> None:
        """Count what has passed until now."""
        before, self.since = self.since, self.now()
        if count := self.running.total():
            for labels, own in self.running.items():
                BUSY.labels(*labels).inc((self.since - before) * own / count)

    @contextmanager
    def answering(self, labels: tuple[str, str]) -> Iterator[None]:
        """A request to this release is answered inside."""
        self.settle()
        self.running[labels] += 1
        try:
            yield
        finally:
            self.settle()
            self.running[labels] -= 1
            self.running += collections.Counter()  # without those that have none left


def begin(labels: tuple[str, str], seconds: float) -> None:
    """Let the series of a release begin at zero: a rate does not see the first value of one."""
    BUSY.labels(*labels)
    MADE.labels(*labels, UNIT)
    LOAD.labels(*labels).set(seconds)
