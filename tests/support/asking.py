"""Asking a diffusion model, as a client does."""

from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.families.diffusion import FAMILY
from adire_assets.serving.client import ask
from adire_assets.serving.connection import Endpoint


def generate(
    endpoint: Endpoint | str, model: str, prompt: str, *, release: int | None = None, **asked: Any
) -> Answer:
    """The images of a prompt."""
    return ask(endpoint, FAMILY, model, {"prompt": prompt, **asked}, release)
