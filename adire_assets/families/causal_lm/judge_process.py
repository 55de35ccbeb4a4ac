"""What judges answers while a release goes live: none can, since none is served yet."""

from pathlib import Path
from typing import Any

from adire_assets.core.errors import UserError


def open_judge(judge: Path, device: str) -> Any:
    """UserError: there is nothing to judge."""
    raise UserError("no slot server of this version serves language models")
