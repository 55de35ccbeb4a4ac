"""Does a test notice when the code no longer keeps a promise?

    python -m benchmarks.mutations [--only WORD] [--workers 2] [--check]

Each of MUTATIONS breaks one promise in a copy of the project and runs the tests
that should notice. The same tests have to pass in the unbroken copy first. `--check` only sees that
what is to be replaced stands in its file exactly once. The last line is

    mutations: caught=<n>/<all>
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from benchmarks.mutation_list import LINE, Mutation
from benchmarks.serving_mutations import SERVING

ROOT = Path(__file__).parents[1]
MUTATIONS = (*LINE, *SERVING)
SECONDS = 600.0  # of one run of tests
FAILED = 1  # pytest's exit status when tests ran and one failed


def misplaced(mutation: Mutation) -> str | None:
    """Why a mutation does not fit today's code, or None."""
    path = ROOT / mutation.file
    if not path.is_file():
        return f"{mutation.file} does not exist"
    for test in mutation.tests:
        if test.startswith("tests/") and not (ROOT / test).is_file():
            return f"{test} does not exist"
    count = path.read_text(encoding="utf-8").count(mutation.before)
    return None if count == 1 else f"{mutation.before!r} stands {count} times in {mutation.file}"


def copy_to(folder: Path) -> Path:
    """The project's tracked files in the new `folder`, with what DVC has brought out linked."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(folder: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """(pytest's exit status, the end of what it said) of these tests in a copy."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return done.returncode, done.stdout[-1500:]


def caught(folder: Path, mutation: Mutation) -> tuple[bool, str]:
    """(whether a test failed, what to say) with this mutation in the copy, which is then whole."""
    path = folder / mutation.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutation.before, mutation.after), encoding="utf-8")
    try:
        status, said = run(folder, mutation.tests)
    except subprocess.TimeoutExpired:
        return False, f"no end within {SECONDS:.0f} seconds"
    finally:
        path.write_text(whole, encoding="utf-8")
    if status in (0, FAILED):
        return status == FAILED, ""
    return False, f"pytest ended with {status}: {said[-300:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="mutations whose promise or file holds this word")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    word = given.only or ""
    wanted = [one for one in MUTATIONS if word in one.promise or word in one.file]
    if wrong := [why for one in wanted if (why := misplaced(one))]:
        sys.exit("mutations: " + "\nmutations: ".join(wrong))
    if given.check:
        print(f"mutations: {len(wanted)} fit the code")
        return
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(given.workers) as pool:
        places: SimpleQueue[Path] = SimpleQueue()
        for number in range(given.workers):
            places.put(copy_to(Path(name) / f"copy-{number}"))

        def baseline(tests: tuple[str, ...]) -> str | None:
            place = places.get()
            status, said = run(place, tests)
            places.put(place)
            return None if status == 0 else f"{' '.join(tests)} fail as they are:\n{said}"

        def tried(mutation: Mutation) -> bool:
            place, began = places.get(), time.monotonic()
            noticed, why = caught(place, mutation)
            places.put(place)
            word = "caught" if noticed else "UNNOTICED"
            seconds = time.monotonic() - began
            print(
                f"{word}: {mutation.promise} ({mutation.file}, {seconds:.0f} s) {why}", flush=True
            )
            return noticed

        if failing := list(filter(None, pool.map(baseline, sorted({m.tests for m in wanted})))):
            sys.exit("mutations: " + "\n".join(failing))
        found = list(pool.map(tried, wanted))
    print(f"mutations: caught={sum(found)}/{len(found)}")
    sys.exit(0 if all(found) else 1)


if __name__ == "__main__":
    main()
