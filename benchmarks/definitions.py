"""CPU seconds that a Dagster process spends on `import dagster_defs`, against bare dagster.

Usage: python benchmarks/definitions.py [--runs 7]
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def cpu_seconds(code: str) -> float:
    """User and system time of a fresh interpreter that runs `code` in the project."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    ours, theirs = [], []
    for _ in range(runs):
        theirs.append(cpu_seconds("import dagster"))
        ours.append(cpu_seconds("import dagster_defs"))
    bare, full = statistics.median(theirs), statistics.median(ours)
    print(
        f"machine: {platform.processor() or platform.machine()}, Python {platform.python_version()}"
    )
    print(f"definitions: cpu_s={full:.2f} dagster_s={bare:.2f} ratio={full / bare:.2f} runs={runs}")


if __name__ == "__main__":
    main()
