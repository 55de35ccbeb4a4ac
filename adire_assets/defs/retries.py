"""When a sensor tries again what has failed."""

import time
from collections.abc import Sequence

import dagster as dg

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 60, 3600


def seconds_until_retry(failed: Sequence[dg.RunRecord]) -> float:
    """How long to wait after these failed runs, the latest first; negative when it is time."""
    pause = min(FIRST_RETRY_SECONDS * 2 ** (len(failed) - 1), LONGEST_RETRY_SECONDS)
    return (failed[0].end_time or time.time()) + pause - time.time()
