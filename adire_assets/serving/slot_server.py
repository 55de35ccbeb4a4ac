"""The plug of a slot server: the program that serves releases in a slot."""

from pkgutil import resolve_name
from typing import Any

from adire_assets.config.fleet import SERVERS, SlotConfig


def server_of(slot: SlotConfig) -> Any:
    return resolve_name(SERVERS[slot.server])
