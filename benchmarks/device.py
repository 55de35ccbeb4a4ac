"""Every path that needs CUDA, each in a process of its own, with what it took.

    benchmarks/device.sh [--dry-run] [--only PART]

The parts of diffusion models stand in benchmarks/device_diffusion.py and device_drawing.py, those
of language models in benchmarks/device_language.py. A part that lacks a package is skipped and says
which. With `--dry-run` each part's process only imports what it needs and checks its settings, so
that a machine without a GPU tells whether it would start. The last line is

    device: card=<name> parts=<n> ok=<n> skipped=<n> failed=<n> seconds=<whole time>
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import device_diffusion, device_drawing, device_language

ROOT = Path(__file__).parents[1]
SECONDS = 480.0  # of all parts together
Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """`run(folder, dry)` gives figures, or with `dry` only sees that it could."""

    name: str
    about: str
    run: Callable[[Path, bool], Figures]
    packages: tuple[str, ...] = ()
    base: str = ""  # the part that makes what this one works on


PARTS = tuple(
    Part(*part, base=parts.BASE)
    for parts in (device_diffusion, device_language, device_drawing)
    for part in parts.PARTS
)


# --- one process a part -------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--only", choices=[part.name for part in PARTS], action="append")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        [part] = [part for part in PARTS if part.name in given.only]
        print(json.dumps(part.run(given.folder, given.dry_run)))
        return
    card = _card()
    if card is None and not given.dry_run:
        sys.exit("device: torch sees no CUDA GPU here; --dry-run lists the parts and starts each")
    chosen = [part for part in PARTS if not given.only or part.name in given.only]
    needed = {name for part in chosen for name in (part.name, part.base)}
    wanted = [part for part in PARTS if part.name in needed]
    started = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        for part in wanted:
            left = SECONDS - (time.monotonic() - started)
            outcome, text = _run(part, Path(name), given.dry_run, left)
            outcomes.append(outcome)
            print(f"{part.name}: {outcome}: {text} ({part.about})", flush=True)
    counts = " ".join(f"{one}={outcomes.count(one)}" for one in ("ok", "skipped", "failed"))
    seconds = time.monotonic() - started
    shown = (card or "none").replace(" ", "_")
    print(f"device: card={shown} parts={len(wanted)} {counts} seconds={seconds:.0f}")
    sys.exit(1 if "failed" in outcomes else 0)


def _card() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _run(part: Part, folder: Path, dry: bool, seconds: float) -> tuple[str, str]:
    """("ok", "skipped" or "failed", figures or why) of one part within so many seconds."""
    if missing := [package for package in part.packages if find_spec(package) is None]:
        return "skipped", f"{', '.join(missing)} is not installed"
    if seconds < 1:
        return "skipped", f"{SECONDS:.0f} seconds are over"
    options = ["--only", part.name, "--folder", str(folder), *(["--dry-run"] if dry else [])]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.device", *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return "failed", f"not done within {seconds:.0f} seconds"
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
        return "failed", (done.stderr.strip().splitlines() or ["no word"])[-1]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    took = {"starts_in_seconds" if dry else "in_seconds": round(time.monotonic() - began, 1)}
    return "ok", " ".join(f"{name}={value}" for name, value in {**figures, **took}.items())


if __name__ == "__main__":
    main()
