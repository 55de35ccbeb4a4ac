"""What `adire materialize` said, and the processes that it started."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg

from adire_assets.serving import record


def outcome(text: str) -> dict[str, str]:
    """Asset -> "made" or "reused", from what `adire materialize` prints."""
    return dict(re.findall(r"indigo/(\w+): (made|reused)", text))


def made(text: str) -> set[str]:
    return {name for name, what in outcome(text).items() if what == "made"}


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def descendants(parent: int | None, *words: str) -> list[int]:
    """Processes (below `parent`, or anywhere) whose command or environment holds all the words."""
    found = []
    listing = subprocess.run(
        ["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    parents = {int(pid): int(above) for pid, above, *_ in rows}
    for pid, _, *arguments in rows:
        chain, above = set(), int(pid)
        while above in parents and above not in chain:
            chain.add(above)
            above = parents[above]
        if all(word in " ".join(arguments) for word in words) and (
            parent is None or (parent in chain and int(pid) != parent)
        ):
            found.append(int(pid))
    return found


def started_steps(line) -> set[str | None]:
    """The steps that began in the latest run of the project's Dagster instance."""
    with dg.DagsterInstance.from_config(str(line.project.home / "dagster")) as instance:
        [run] = instance.get_runs(limit=1)
        events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
        return {event.step_key for event in events}


def rollout(line):
    """The rollout of indigo that is under way, or None."""
    return record.read(line.project, "local", "indigo").rollout


def sensor_ticks(
    line, count: int, name: str = "indigo_changes", job: str = "indigo_line"
) -> list[dict]:
    """What the sensor says, tick by tick; a requested run is carried out before the next tick."""
    code = f"""
import gc
gc.disable()
import json
import dagster as dg
from dagster_defs import defs
instance = dg.DagsterInstance.get()
sensor = defs.get_sensor_def("{name}")
ticks = []
for _ in range({count}):
    with dg.build_sensor_context(instance=instance, definitions=defs) as context:
        data = sensor.evaluate_tick(context)
    ticks.append({{"skip": data.skip_message, "requests": [r.tags for r in data.run_requests]}})
    for request in data.run_requests:
        defs.resolve_job_def("{job}").execute_in_process(
            instance=instance,
            tags=request.tags,
            run_config=request.run_config,
            raise_on_error=False,
        )
print("TICKS" + json.dumps(ticks))
"""
    done = line.run(sys.executable, "-c", code, DAGSTER_HOME=str(line.project.home / "dagster"))
    return json.loads(done.stdout.rpartition("TICKS")[2])
