"""Recipe keys and the facts of a manifest: what an artifact is made from, exactly.

A recipe key is the SHA-256 of the step's code, the content hashes of its inputs, the part of the
config that matters to it and the environment that can change its bits. Code is hashed by syntax
tree without docstrings, so a comment retrains nothing, and only the project modules that the step
imports count; the libraries whose versions count are those that this code imports. `Recipe` makes
the key of everything that is kept to be found again: artifacts, caches, checkpoints and studies.
"""

import ast
import hashlib
import json
import os
import platform
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from adire_assets.core import family
from adire_assets.core.child_environment import child_environment
from adire_assets.core.devices import gpu_names
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import is_content

PACKAGE = "adire_assets"
# Modules that hand values over and decide none: what they contribute reaches the key as values.
# Those of a family are in its plug.
PLUMBING = {
    f"{PACKAGE}.{room}.{name}"
    for room, names in {
        "config": "fleet gates model search weights yaml_file",
        "core": "child_environment devices disk errors family files folders job_folder lineage "
        "locks placement project readers records storage store worker",
        "families.training": "settings",
    }.items()
    for name in names.split()
}
WORKER = f"{PACKAGE}.core.worker"
# Libraries that hand files, questions and values over and compute nothing that is kept.
CARRIERS = {"huggingface_hub", "optuna", "pydantic", "tritonclient"}
# How long an idle OpenMP thread spins, for GOMP_SPINCOUNT: libgomp's own default lets two processes
# on the same cores starve each other, not spinning at all halves the speed of a small model.
SPIN_COUNT = "20000"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# Instruction sets that libraries choose their kernels by, as the kernel names them (x86, ARM).
VECTORS = ("avx", "amx", "fma", "sse", "ssse", "asimd", "sve")
# The fields in which a statement holds others.
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef
ABSENT = "absent"  # the version of what is not installed
NOT_LIBRARIES = ("cuda", "device", "machine", "threads")  # of a recipe's environment


@dataclass(frozen=True)
class Facts:
    """What a machine computes with. `version` tells that of a distribution, or ABSENT; `device` is
    the class of the best device (cuda, cpu), `hardware` is in no recipe key."""

    device: str
    threads: int
    machine: str
    cuda: str | None
    hardware: Mapping[str, Any]
    version: Callable[[str], str]

    def device_class(self, wanted: str = "auto") -> str:
        """ "cuda" or "cpu"; `wanted` forces one."""
        return self.device if wanted == "auto" else wanted

    def environment(self, *packages: str, device: str | None = None) -> dict[str, str]:
        """Versions of `packages`; with a `device` also what else can change the bits."""
        found = {package: self.version(package) for package in packages}
        if device == "cpu":
            return {**found, "device": "cpu", "threads": str(self.threads), "machine": self.machine}
        return found if device is None else {**found, "device": device, "cuda": self.cuda or ABSENT}


@dataclass(frozen=True)
class Recipe:
    """What one artifact is made from; equal keys mean equal artifacts.

    `modules` are the dotted names of the project modules that do the work, `inputs` maps an input's
    name to its content hash, `config` is plain JSON, `environment` maps a name to a version, beside
    the libraries that the modules import: these are always part of it. `facts` are those of the
    machine that does the work; without, it is this process.
    """

    kind: str
    model: str
    modules: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    facts: Facts | None = field(default=None, compare=False, repr=False)

    @property
    def code(self) -> str:
        return code_hash(self.modules)

    @property
    def key(self) -> str:
        """64 hexadecimal digits."""
        return digest({**self.as_dict(), "modules": None})

    def as_dict(self) -> dict[str, Any]:
        version = self.facts.version if self.facts else installed
        found = {name: version(name) for name in libraries(self.modules)}
        own = {name: value for name, value in vars(self).items() if name != "facts"}
        environment = {**found, **self.environment}
        return {**own, "modules": list(self.modules), "code": self.code, "environment": environment}


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(
    folder: Path, leave_out: Container[str] = (), recorded: Container[str] = ()
) -> tuple[str, dict[str, str]]:
    """(content hash, {relative path: SHA-256}) of the files below `folder`.

    `leave_out` names top-level files or folders that do not count. Leftovers of desktops and
    editors (`file_names.is_content`) do not either, unless they are `recorded`.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        counts = name.partition("/")[0] not in leave_out and (is_content(name) or name in recorded)
        if counts and path.is_file():
            files[name] = file_digest(path)
    return digest(files), files


@cache
def code_hash(modules: tuple[str, ...]) -> str:
    """SHA-256 over the syntax trees of `modules` and of every project module they import."""
    return digest({name: syntax_hash(path) for name, path in sources(modules).items()})


def code_hash_of(files: Mapping[str, Path]) -> str:
    """`code_hash` of exactly these files, {module: source}, as they are now."""
    return digest({name: _parsed.__wrapped__(path)[0] for name, path in sorted(files.items())})


@cache
def sources(modules: tuple[str, ...]) -> dict[str, Path]:
    """The source files of `modules` and, transitively, of the project modules they import."""
    return _reached(modules, whole=False)


@cache
def all_sources(modules: tuple[str, ...]) -> dict[str, Path]:
    """`sources`, and what else a child runs them with: plumbing, the worker, their packages."""
    return _reached((*modules, WORKER), whole=True)


@cache
def libraries(modules: tuple[str, ...]) -> tuple[str, ...]:
    """The distributions that the sources of `modules` import, and what those compute with."""
    found, known = sources(modules), _distributions()
    imported = (one for name, path in found.items() for one in _imports(name, path))
    packages = {one.partition(".")[0] for one in imported}
    others = packages - CARRIERS - _packages(modules) - sys.stdlib_module_names
    named = {canonicalize_name(name) for one in others for name in known.get(one, (one,))}
    engines = family.engines(found)
    return tuple(sorted(named.union(*(engines.get(name, ()) for name in named))))


_distributions = cache(packages_distributions)  # package -> the distributions that hold it


def _packages(modules: Iterable[str]) -> set[str]:
    """The top packages whose modules are the project's: this one, and that of a family outside."""
    return {PACKAGE, *(name.partition(".")[0] for name in modules)}


def _reached(modules: tuple[str, ...], whole: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    packages = _packages(modules)
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] not in packages:
            continue
        if not (whole or name in modules) and (name in PLUMBING or family.is_plumbing(name)):
            continue
        if path := _source(name):
            found[name] = path
            waiting += _imports(name, path)
            if whole:
                waiting.append(name.rpartition(".")[0])
    return dict(sorted(found.items()))


def _source(name: str) -> Path | None:
    package, *inner = name.split(".")
    if package == PACKAGE:
        base = Path(__file__).parents[1].joinpath(*inner)
    else:
        found = find_spec(package)  # finds it without importing it
        if found is None or found.origin is None:
            return None
        origin = Path(found.origin)
        if not inner and origin.name != "__init__.py":
            return origin
        base = origin.parent.joinpath(*inner)
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def syntax_hash(path: Path) -> str:
    """SHA-256 of a module's syntax tree; comments, layout and docstrings do not count."""
    return _parsed(path)[0]


def _imports(name: str, path: Path) -> list[str]:
    """The absolute names that a module imports or may import."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return [resolve_name(imported, package) for imported in _parsed(path)[1]]


@cache
def _parsed(path: Path) -> tuple[str, tuple[str, ...]]:
    """(syntax hash, the names of imports as written: .x is relative); read once per process."""
    tree = ast.parse(path.read_bytes())
    imports: list[str] = []
    statements: list[Any] = [tree]
    for node in statements:  # which grows; expressions import nothing, and most of a tree is those
        statements += [one for name in BLOCKS for one in getattr(node, name, ())]
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            dot = "." if node.module else ""
            imports += [module, *(f"{module}{dot}{alias.name}" for alias in node.names)]
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body[0].value.value = ""  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imports)


@cache
def installed(package: str) -> str:
    """The installed version of a distribution, or ABSENT."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def clear_caches() -> None:
    """Forget what was read of code and libraries; for processes that outlive a change of them."""
    for cached in (code_hash, sources, all_sources, libraries, _parsed, installed, cuda_version):
        cached.cache_clear()
    family.forget()


def environment(*packages: str, device: str | None = None) -> dict[str, str]:
    """`Facts.environment` of this process."""
    return facts().environment(*packages, device=device)


def facts() -> Facts:
    """The facts of this process on this machine."""
    return Facts(
        device_class(), threads(), platform.machine(), cuda_version(), hardware(), installed
    )


@cache
def cuda_version() -> str | None:
    """The CUDA that the installed torch is built for, such as "12.8"; None for a CPU build."""
    found = find_spec("torch")  # finds the package without importing it
    if found is None or found.origin is None:
        return None
    cuda = runpy.run_path(str(Path(found.origin).with_name("version.py")))["cuda"]
    return str(cuda) if cuda else None


def driver_version() -> str | None:
    """The version of NVIDIA's kernel driver, None where there is none."""
    text = NVIDIA_DRIVER.read_text(encoding="utf-8") if NVIDIA_DRIVER.is_file() else ""
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else None


def threads() -> int:
    """The CPU threads that a step computes with: ADIRE_THREADS, else the cores it may use.

    UserError when ADIRE_THREADS is no whole number from 1.
    """
    configured = os.environ.get("ADIRE_THREADS")
    if not configured:
        return len(os.sched_getaffinity(0))
    if not configured.isdecimal() or int(configured) < 1:
        raise UserError(f"ADIRE_THREADS is {configured!r}; set it to a whole number from 1")
    return int(configured)


def device_class(wanted: str = "auto") -> str:
    """ "cuda" or "cpu", found without importing torch. `wanted` forces one."""
    if wanted != "auto":
        return wanted
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    usable = visible not in ("", "-1") and NVIDIA_DRIVER.exists()
    return "cuda" if usable and not installed("torch").endswith("+cpu") else "cpu"


def code_identity(root: Path) -> dict[str, Any]:
    """{"commit": ..., "dirty": ...} of the git checkout at `root`, and {"build": stamp} of the
    package where that commit does not hold it.

    The stamp is the commit that `git archive` wrote into build_stamp.txt, else a hash of the
    package's own sources, so that code without a history is still named exactly.
    """
    identity: dict[str, Any] = {}
    if (root / ".git").exists() and (commit := _git(root, "rev-parse", "HEAD")):
        # metrics/ is what runs write, not what they are made from.
        changed = _git(root, "status", "--porcelain", "-uno", "--", ".", ":(exclude)metrics")
        identity = {"commit": commit, "dirty": bool(changed)}
    package = Path(__file__).parents[1]
    if identity and package.parent == root.resolve():
        return identity
    stamp = Path(__file__).with_name("build_stamp.txt").read_text(encoding="utf-8").strip()
    if not stamp.startswith("$Format"):
        return {**identity, "build": f"commit-{stamp}"}
    modules = sorted(package.rglob("*.py"))
    tree = {path.relative_to(package).as_posix(): syntax_hash(path) for path in modules}
    return {**identity, "build": f"tree-{digest(tree)[:40]}"}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    own = child_environment()  # inside a git hook, GIT_DIR names another repository
    with suppress(FileNotFoundError, subprocess.CalledProcessError):
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=30, env=own
        ).strip()
    return ""


def hardware() -> dict[str, Any]:
    """What the manifest says about this machine; not part of any key."""
    said: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    features = said.get("flags") or said.get("Features", "")
    return {
        "cpu": said.get("model name") or platform.processor(),
        "cpu_features": " ".join(sorted(f for f in features.split() if f.startswith(VECTORS))),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        # Here and not in a recipe: a new driver runs the same compiled kernels.
        "driver": driver_version(),
        "gpus": gpu_names(),
    }
