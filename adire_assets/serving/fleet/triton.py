"""Triton from the nvidia-pytriton wheel: a slot server, and the client that controls any Triton.

What a server loads lies in a slot's folder: models/<model>/<number>/ and base_models/<hash>/. It
has two backends: Triton's own for Python, whose models bring their code, and ours for vLLM, whose
releases share one engine in a slot (see `triton_path/vllm/model.py`).
"""

import json
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path

from adire_assets.config.fleet import SlotConfig, fleet_file_name
from adire_assets.config.model import STREAMS
from adire_assets.core import lineage
from adire_assets.core.child_environment import child_environment, driver_folders
from adire_assets.core.errors import UserError
from adire_assets.core.folders import temporary_folder
from adire_assets.core.project import Project
from adire_assets.core.store import write_bytes
from adire_assets.serving import release
from adire_assets.serving.connection import connect, host_and_port
from adire_assets.serving.fleet import guard, vllm
from adire_assets.serving.fleet.plain_paths import plain, plain_below
from adire_assets.serving.slot_server import SlotServer, address

STUB = f"{sys.version_info.major}.{sys.version_info.minor}"
BACKENDS = Path(__file__).with_name("triton_path")  # ours, each a folder
OWN_METRICS = "127.0.0.2"  # loopback too; at 127.0.0.1 the slot's process has the port
UNREACHABLE = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


def packages() -> Path:
    """The folder that the wheel is installed in."""
    for folder in (*site.getsitepackages(), *sys.path):
        if (Path(folder) / "pytriton" / "tritonserver").is_dir():
            return Path(folder)
    raise UserError(
        "there is no Triton in this environment: install the package nvidia-pytriton, or name a "
        f"Triton that runs already in {fleet_file_name()} (launch: remote)"
    )


def backends(project: Project) -> Path:
    """A backend directory with the Python backend and the stub of this Python, made once, and with
    our backends as they are now."""
    source = packages() / "pytriton" / "tritonserver"
    final = project.home / "fleet" / f"backends-{lineage.installed('nvidia-pytriton')}-{STUB}"
    if not final.is_dir():
        with temporary_folder(project, guard.scratch(project)) as temporary:
            made = temporary / "made"
            shutil.copytree(source / "backends" / "python", made / "python")
            stub = source / "python_backend_stubs" / STUB / "triton_python_backend_stub"
            shutil.copy(stub, made / "python")
            with suppress(OSError):  # another process was first
                made.rename(final)
    for file in BACKENDS.glob("*/*.py"):
        copy = final / file.relative_to(BACKENDS)
        copy.parent.mkdir(exist_ok=True)
        if not copy.is_file() or copy.read_bytes() != file.read_bytes():
            write_bytes(copy, file.read_bytes())
    return final


def _python() -> tuple[str, dict[str, str]]:
    """The folder of libpython for a stub, and what makes its standard library that of the same.

    A stub takes the libpython that the loader finds and the standard library of the first python3
    in PATH; of two builds of Python, these do not fit together.
    """
    library = sysconfig.get_config_var("INSTSONAME") or ""
    folder = sysconfig.get_config_var("LIBDIR") or ""
    for place in (folder, f"{folder}/{sysconfig.get_config_var('MULTIARCH')}"):
        if library.startswith("libpython") and (Path(place) / library).is_file():
            return str(plain(Path(place))), {"PYTHONHOME": sys.base_prefix}
    # This Python carries no library of its own: both are the system's.
    return "", {"PATH": os.defpath}


def _has_engine(folder: Path) -> bool:
    """Whether a vLLM serves releases in a slot's folder, or the release with this content."""
    places = ("model.json", "models/*/*/model.json")
    # Unlike pathlib's, this glob passes over versions that are taken away while it looks.
    return any(glob(place, root_dir=folder) for place in places)  # noqa: PTH207


def _names(folder: Path, model: str) -> list[str]:
    """What a Triton knows a model by, whose releases are in a slot's folder."""
    streams = release.stream_name(model)
    return [model, streams] if (folder / "models" / streams).is_dir() else [model]


class Control:
    """Loads and unloads models of the Triton at `address` ("host:port", gRPC)."""

    def __init__(self, address: str) -> None:
        self.address = address

    def require(self, seconds: float) -> None:
        """UserError with the address and a hint when no server answers."""
        with connect(self.address) as client:
            client.is_server_live(client_timeout=seconds)

    def load(self, model: str, timeout: float) -> None:
        """Let Triton bring `model` to what its folder holds now; waits until it is done.

        Versions that are ready stay as they are and go on serving. UserError when one fails.
        """
        from tritonclient.utils import InferenceServerException

        with connect(self.address) as client:
            try:
                client.load_model(model, client_timeout=timeout)
            except InferenceServerException as error:
                if error.status() in UNREACHABLE:
                    raise
                # The stub appends a Python traceback and Triton its own wrapping; the first line is
                # the reason.
                reason = error.message().split("\n\nAt:")[0].strip().replace("\n", " ")
                raise UserError(
                    f"the Triton at {self.address} could not load {model}: {reason}"
                ) from None

    def unload(self, model: str, timeout: float) -> None:
        """Take `model` away with all its versions."""
        with connect(self.address) as client:
            client.unload_model(model, client_timeout=timeout)

    def ready(self, model: str) -> set[int]:
        """The versions of a model that serve, with their streams where they have any."""
        with connect(self.address) as client:
            index = client.get_model_repository_index(as_json=True, client_timeout=10)
        ready: dict[str, dict[int, bool]] = {}
        for entry in index.get("models", []):
            if entry.get("version"):
                found = ready.setdefault(entry["name"], {})
                found[int(entry["version"])] = entry.get("state") == "READY"
        streams = ready.get(release.stream_name(model), {})
        return {
            number
            for number, serves in ready.get(model, {}).items()
            if serves and streams.get(number, True)
        }


class Triton(SlotServer):
    """Triton's labels of a release are `model` and `version`."""

    protocols = ("kserve-grpc", "kserve-http", "kserve-stream")
    port = "grpc_port"
    drain_seconds = 20
    error_line = r"^\S+ [EF] \d+ (?!.*CudaDriverHelper)"  # each Triton without a GPU says that
    metric_labels = (
        {"action": "labelmap", "regex": "version", "replacement": "release"},
        {"action": "labeldrop", "regex": "version"},
    )
    metric_rules = Path(__file__).with_name("triton.rules.yml")

    def command(
        self, project: Project, folder: Path, slot: SlotConfig, models: Sequence[str]
    ) -> list[str]:
        (folder / "models").mkdir(parents=True, exist_ok=True)
        server = packages() / "pytriton" / "tritonserver" / "bin" / "tritonserver"
        return [
            str(server),
            f"--model-repository={plain_below(project.home, folder) / 'models'}",
            f"--backend-directory={plain_below(project.home, backends(project))}",
            f"--backend-config=python,shm-region-prefix-name={guard.mark(folder)}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            # A release that cannot load must not take the others down with it.
            "--exit-on-error=false",
            "--strict-readiness=false",
            f"--exit-timeout-secs={self.drain_seconds}",
            "--log-format=ISO8601",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={slot.grpc_port}",
            "--http-address=127.0.0.1",
            f"--http-port={slot.http_port}",
            f"--metrics-address={OWN_METRICS}",
            f"--metrics-port={slot.metrics_port}",
            "--allow-gpu-metrics=false",
            *(f"--load-model={name}" for model in models for name in _names(folder, model)),
        ]

    def environment(self, device: str, threads: int) -> dict[str, str]:
        libraries, python = _python()
        # The loader splits at ; and :, and a stub's Python reads paths as ASCII.
        installed = plain(packages())
        folders = [str(installed / "nvidia_pytriton.libs"), libraries, driver_folders(os.environ)]
        return child_environment(accounts=False) | {
            "LD_LIBRARY_PATH": ":".join(filter(None, folders)),
            "PYTHONNOUSERSITE": "1",
            "ADIRE_SITE_PACKAGES": str(installed),
            "ADIRE_PYTHON": sys.executable,
            "ADIRE_DEVICE": device,
            "ADIRE_THREADS": str(lineage.threads()),  # of an engine that takes turns with others
            "ADIRE_ENGINE": json.dumps(vllm.shared_engine(device, threads)),
            "GOMP_SPINCOUNT": lineage.SPIN_COUNT,
            "HF_HUB_OFFLINE": "1",
            **python,
        }

    def versions(self, content: Path) -> dict[str, str]:
        engine = vllm.installed_versions() if _has_engine(content) else {}
        return {"nvidia-pytriton": lineage.installed("nvidia-pytriton"), **engine}

    def own_metrics(self, slot: SlotConfig) -> str | None:
        return host_and_port(OWN_METRICS, slot.metrics_port)

    def start_seconds(self, folder: Path) -> float:
        return vllm.START_SECONDS if _has_engine(folder) else 0.0

    def require_live(self, slot: SlotConfig, seconds: float) -> None:
        Control(address(slot)).require(seconds)

    def reconcile(self, slot: SlotConfig, folder: Path, model: str, seconds: float) -> set[int]:
        control = Control(address(slot))
        for name in _names(folder, model):
            if release.installed(folder, name):
                control.load(name, max(seconds, self.start_seconds(folder)))
            else:
                control.unload(name, seconds)
        return control.ready(model)

    def held(self, slot: SlotConfig, model: str) -> set[int]:
        return Control(address(slot)).ready(model)

    def health_path(self, model: str | None) -> str:
        return f"/v2/models/{model}/ready" if model else "/v2/health/live"

    def load_failure(self, model: str) -> str:
        return (
            rf"(?:load failed for model '{model}(?:{STREAMS})?': "
            rf"|failed to load '{model}(?:{STREAMS})?' )"
            r"(?:version \d+(?: is at \w+ state)?: )?(?:Internal: )?(.*)"
        )


SERVER = Triton()
