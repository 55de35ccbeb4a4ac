"""git, asked by its command line: what it says, or its refusal in a sentence."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from adire_assets.core.errors import UserError

# As a hook sets them, they would name another checkout.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
SECONDS = 60


def git(
    folder: Path,
    *arguments: str,
    given: str | None = None,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What git says in `folder`, its pathspecs being names; "" for what it refuses without `check`.

    `given` is its input; `environment` is added to this process's. UserError when it refuses, is
    not there or does not answer.
    """
    command = ["git", "-C", str(folder), "--literal-pathspecs", *arguments]
    own = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**own, **(environment or {})},
            timeout=SECONDS,
        )
    except FileNotFoundError:
        raise UserError(f"there is no git to ask about {folder}; install git") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git {arguments[0]} does not answer in {folder}; try again") from None
    if done.returncode and check:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"git {arguments[0]} failed in {folder}: {said}")
    return done.stdout if not done.returncode else ""
