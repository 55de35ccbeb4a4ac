"""A plugin of vLLM's: its processes on a CPU wait for each other without keeping a core busy.

A vLLM's engine and its worker hand each other every step through shared memory, and who waits looks
there in a loop until a second has passed. While there are more cores than processes that is the
fastest way. On a CPU it takes a core from whoever else has work: the worker's own threads, the
process that writes the answers, the gateway, the other slot. Here they sleep until they are told.
"""

import os
import time
from typing import Any

from adire_vllm.launcher import DEVICE

LONGEST_MS = 2  # of one sleep while steps follow each other: a notice may be lost


def register() -> None:
    """What vLLM calls in each of its processes before they wait for anything."""
    if os.environ.get(DEVICE) != "cpu":
        return
    from vllm.distributed.device_communicators import shm_broadcast

    shm_broadcast.SpinCondition.wait = wait


def wait(condition: Any, timeout_ms: int | None = None) -> None:
    """Until the writer has told that there is something, at most so long."""
    import zmq

    steps_follow = time.monotonic() <= condition.last_read + condition.busy_loop_s
    told = dict(condition.poller.poll(LONGEST_MS if steps_follow else timeout_ms))
    if condition.local_notify_socket in told and condition.read_cancel_socket not in told:
        condition.local_notify_socket.recv(flags=zmq.NOBLOCK, copy=False)
