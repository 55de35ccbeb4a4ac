"""How a release is asked: no slot server speaks to language models yet, so that nothing is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from adire_assets.core.errors import UserError


def _refuse() -> NoReturn:
    raise UserError(
        "no slot server of this version serves language models; materialize up to "
        "triton_repository, whose adapter/ is read by peft and vLLM as it is"
    )


def requests(evaluation: Path) -> list[dict[str, Any]]:
    """UserError: nothing can be asked."""
    _refuse()


def inputs(request: Mapping[str, Any]) -> dict[str, Any]:
    """UserError: nothing can be asked."""
    _refuse()
