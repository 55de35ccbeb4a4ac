"""Waiting for a condition that nobody announces."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool],
    seconds: float,
    *,
    alive: Callable[[], bool] = lambda: True,
    pause: float = 0.1,
) -> bool:
    """Whether `condition` came true within `seconds`, and before `alive` came false."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or not alive():
            return False
        time.sleep(pause)
    return True
