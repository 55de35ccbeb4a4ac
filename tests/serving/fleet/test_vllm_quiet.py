"""vLLM's own queues between its processes, with the plugin that keeps who waits from being busy."""

import json
import subprocess

import pytest

from adire_assets.serving.fleet import vllm

pytestmark = pytest.mark.full
# A reader in a process of its own gets 20 messages, each some time after the one before.
SCRIPT = """
import json, multiprocessing, statistics, sys, time
from vllm.plugins import load_general_plugins
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue, SpinCondition


def read(handle, told):
    load_general_plugins()
    took, wait = [], SpinCondition.wait

    def timed(*given, **named):
        began = time.perf_counter()
        wait(*given, **named)
        took.append(time.perf_counter() - began)

    SpinCondition.wait = timed
    queue = MessageQueue.create_from_handle(handle, 0)
    queue.wait_until_ready()
    got = [queue.dequeue(timeout=60) for _ in range(20)]
    told.send([got, statistics.median(took)])


if __name__ == "__main__":
    queue = MessageQueue(1, 1)
    ours, theirs = multiprocessing.Pipe()
    reader = multiprocessing.Process(target=read, args=(queue.export_handle(), theirs))
    reader.start()
    queue.wait_until_ready()
    for number in range(20):
        time.sleep(0.02)
        queue.enqueue(number)
    print(json.dumps(ours.recv()))
    reader.join()
"""


@pytest.mark.parametrize(("device", "busy"), [("cpu", False), ("cuda", True)])
def test_who_waits_on_a_cpu_sleeps(device: str, busy: bool, tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    told = subprocess.run(
        [str(vllm.environment_folder() / "bin" / "python"), str(script)],
        env={**vllm.SERVER.environment("cpu", 1), "ADIRE_DEVICE": device},
        check=True,
        capture_output=True,
        text=True,
    )
    got, between_looks = json.loads(told.stdout.splitlines()[-1])
    assert got == list(range(20))
    # However little of a core the reader gets, those who do not sleep look at once again.
    assert (between_looks < 0.0002) == busy, between_looks
