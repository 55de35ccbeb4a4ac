"""Triton from the nvidia-pytriton wheel, and the client that controls any Triton.

`command` and `environment` say how a tritonserver is started on loopback, `scratch_server` starts
one for a moment, `Control` loads, unloads and asks over gRPC. What a server loads lies in a slot's
folder: models/<model>/<number>/ and base_models/<hash>/.
"""

import json
import os
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from adire_assets.config.fleet import fleet_file_name
from adire_assets.core import lineage
from adire_assets.core.child_environment import child_environment, driver_folders
from adire_assets.core.errors import UserError
from adire_assets.core.folders import temporary_folder
from adire_assets.core.project import Project
from adire_assets.serving.connection import connect
from adire_assets.serving.fleet.guard import ENVIRONMENT
from adire_assets.serving.fleet.plain_paths import plain, plain_below

STUB = f"{sys.version_info.major}.{sys.version_info.minor}"
DRAIN_SECONDS = 20  # how long a stopping server lets running requests finish
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
    """A backend directory with the Python backend and the stub of this Python; made once."""
    source = packages() / "pytriton" / "tritonserver"
    final = project.home / "fleet" / f"backends-{lineage.installed('nvidia-pytriton')}-{STUB}"
    if not final.is_dir():
        with temporary_folder(project, _scratch(project)) as temporary:
            made = temporary / "made"
            shutil.copytree(source / "backends" / "python", made / "python")
            stub = source / "python_backend_stubs" / STUB / "triton_python_backend_stub"
            shutil.copy(stub, made / "python")
            with suppress(OSError):  # another process was first
                made.rename(final)
    return final


def _scratch(project: Project) -> Path:
    return project.home / "fleet" / "scratch"


def shm_prefix(folder: Path) -> str:
    """The names of a slot's shared memory start with this; no two slots share it."""
    return f"adire_{sha256(str(folder.resolve()).encode()).hexdigest()[:16]}_"


def command(
    project: Project,
    folder: Path,
    *,
    grpc_port: int,
    http_port: int | None = None,
    metrics_port: int | None = None,
    load: Sequence[str] = (),
) -> list[str]:
    """The command line that serves a slot's folder on loopback; a port of None stays closed."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    options = [
        f"--model-repository={plain_below(project.home, folder) / 'models'}",
        f"--backend-directory={plain_below(project.home, backends(project))}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix(folder)}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        # A release that cannot load must not take the others down with it.
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--exit-timeout-secs={DRAIN_SECONDS}",
        "--log-format=ISO8601",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        "--allow-gpu-metrics=false",
    ]
    if http_port is None:
        options += ["--allow-http=false"]
    else:
        options += ["--http-address=127.0.0.1", f"--http-port={http_port}"]
    if metrics_port is None:
        options += ["--allow-metrics=false"]
    else:
        options += ["--metrics-address=127.0.0.1", f"--metrics-port={metrics_port}"]
    server = packages() / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    return [str(server), *options, *(f"--load-model={model}" for model in load)]


def environment(device: str, threads: int) -> dict[str, str]:
    """What tritonserver and its stubs need, and where things are.

    `device` is "auto", "cpu" or "cuda"; `threads` are those that a stub computes with on the CPU.
    """
    libraries, python = _python()
    # The loader splits at ; and :, and a stub's Python reads paths as ASCII.
    installed = plain(packages())
    folders = [str(installed / "nvidia_pytriton.libs"), libraries, driver_folders(os.environ)]
    return child_environment(accounts=False) | {
        "LD_LIBRARY_PATH": ":".join(filter(None, folders)),
        "PYTHONNOUSERSITE": "1",
        "ADIRE_SITE_PACKAGES": str(installed),
        "ADIRE_DEVICE": device,
        "ADIRE_THREADS": str(threads),
        "GOMP_SPINCOUNT": lineage.SPIN_COUNT,
        "HF_HUB_OFFLINE": "1",
        **python,
    }


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


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def scratch_server(
    project: Project, device: str, fill: Callable[[Path], str], timeout: float
) -> Iterator["Control"]:
    """A private Triton for as long as the context lasts; it and its files are gone afterwards.

    `fill(folder)` puts a model into the empty slot folder and returns its name; the model is loaded
    when the context begins. UserError when it does not load within `timeout` seconds.
    """
    with temporary_folder(project, _scratch(project)) as folder:
        model, port = fill(folder), free_port()
        log = folder / "triton.log"
        guard = [sys.executable, "-m", "adire_assets.serving.fleet.guard", str(os.getpid())]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*guard, shm_prefix(folder), *command(project, folder, grpc_port=port)],
                env=child_environment(accounts=False)
                | {ENVIRONMENT: json.dumps(environment(device, lineage.threads()))},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        control = Control(f"127.0.0.1:{port}")
        try:
            if not wait_until(control.live, timeout, alive=lambda: process.poll() is None):
                raise UserError(f"the scratch Triton did not start: {_end(log)}")
            try:
                control.load(model, timeout)
            except UserError as error:
                raise UserError(f"{error}; its log ends with: {_end(log)}") from error
            yield control
        finally:
            process.terminate()
            process.wait()


def _end(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])


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


class Control:
    """Loads and unloads models of the Triton at `address` ("host:port", gRPC)."""

    def __init__(self, address: str) -> None:
        self.address = address

    def live(self) -> bool:
        """Whether a server answers. False also when nobody listens."""
        try:
            with connect(self.address) as client:
                return bool(client.is_server_live(client_timeout=2))
        except UserError:
            return False

    def require(self) -> None:
        """UserError with the address and a hint when no server answers."""
        with connect(self.address) as client:
            client.is_server_live(client_timeout=5)

    def load(self, model: str, timeout: float) -> None:
        """Let Triton bring `model` to what its folder holds now; waits until it is done.

        Versions that are ready stay as they are and go on serving. UserError when one fails.
        """
        with connect(self.address) as client:
            try:
                client.load_model(model, client_timeout=timeout)
            except Exception as error:
                raise _load_error(self.address, model, error) from None

    def unload(self, model: str, timeout: float) -> None:
        """Take `model` away with all its versions."""
        with connect(self.address) as client:
            client.unload_model(model, client_timeout=timeout)

    def versions(self, model: str | None = None) -> dict[str, dict[int, str]]:
        """{model: {version: state}} as Triton lists it; state is "READY" for what serves."""
        with connect(self.address) as client:
            index = client.get_model_repository_index(as_json=True, client_timeout=10)
        found: dict[str, dict[int, str]] = {}
        for entry in index.get("models", []):
            if model in (None, entry["name"]) and entry.get("version"):
                state = entry.get("state", "UNKNOWN")
                found.setdefault(entry["name"], {})[int(entry["version"])] = state
        return found

    def ready(self, model: str, number: int) -> bool:
        """Whether this version of the model takes requests."""
        with connect(self.address) as client:
            return bool(client.is_model_ready(model, str(number), client_timeout=10))


def _load_error(address: str, model: str, error: Exception) -> Exception:
    from tritonclient.utils import InferenceServerException

    if not isinstance(error, InferenceServerException) or error.status() in UNREACHABLE:
        return error
    # The stub appends a Python traceback and Triton its own wrapping; the first line is the reason.
    reason = error.message().split("\n\nAt:")[0].strip().replace("\n", " ")
    return UserError(f"the Triton at {address} could not load {model}: {reason}")


class Triton:
    protocols = ("kserve-grpc", "kserve-http")

    def health_path(self, model: str | None) -> str:
        return f"/v2/models/{model}/ready" if model else "/v2/health/live"


SERVER = Triton()
