"""Runs the engine that the stubs of a Triton share: a vLLM on the base that their releases have.

    python -m adire_vllm.shared FOLDER SOCKET USERS

It listens at the unix socket SOCKET. Each stub that asks it holds a shared lock on the file USERS,
which ends with the stub, however that ends. When nobody holds one, the engine ends at once.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

from adire_vllm.launcher import AGAIN, command, device_of_engine, run
from adire_vllm.releases import engine_for

LOOK_SECONDS = 0.5


def end_when_unused(users: Path) -> None:
    """Tell this process to stop as soon as nobody uses the engine."""
    with users.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOOK_SECONDS)
                continue
            # Held on to, so that who comes now waits for the end, and starts another one.
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait()


def main() -> None:
    slot, socket, users = Path(sys.argv[1]).resolve(), sys.argv[2], Path(sys.argv[3])
    device = device_of_engine()
    threading.Thread(target=end_when_unused, args=(users,), daemon=True).start()
    while (engine := engine_for(slot)) is not None:
        print(f"starting on {engine.base}, rank {engine.rank}, {engine.length} tokens", flush=True)
        Path(socket).unlink(missing_ok=True)
        status = run(command(engine, ("--uds", socket), device), slot, device, drained=False)
        if status != AGAIN:
            sys.exit(status if status >= 0 else 1)


if __name__ == "__main__":
    main()
