"""When two records are the same."""

from collections.abc import Iterable

from adire_assets.core.lineage import digest


def identity(messages: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of a conversation of (role, content). What the system is told does not count, as it
    does not for duplicates: a model's config may add it."""
    return digest([[role, content] for role, content in messages if role != "system"])
