"""The door of a vLLM on a port of its own, with a stand-in for the engine: what clients talk to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from adire_vllm import launcher
from adire_vllm.middleware import Door

from adire_assets.core.waiting import wait_until
from tests.support.fake_engine import FakeEngine
from tests.support.ports import free_port


@contextmanager
def served_door(slot: Path, engine: FakeEngine) -> Iterator[int]:
    """The port on which the releases of a slot's folder are answered for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(launcher.SLOT, str(slot))
        patch.setenv(launcher.DEVICE, "cpu")
        door, port = Door(engine), free_port()
    server = uvicorn.Server(uvicorn.Config(door, port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started, 20, alive=thread.is_alive)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(20)
