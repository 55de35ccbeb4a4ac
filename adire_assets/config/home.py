"""The schema of configs/home.yaml: how much of what only saves time a project's home keeps."""

from typing import Annotated

from pydantic import Field

from adire_assets.config.yaml_file import Strict, load
from adire_assets.core.project import Project

Gigabytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HomeConfig(Strict):
    """What `adire gc` leaves, in units of 10^9 bytes; the least recently used goes first."""

    maximum_cache_gigabytes: Gigabytes = 20.0
    maximum_checkpoints_gigabytes: Gigabytes = 20.0


def load_home(project: Project) -> HomeConfig:
    """configs/home.yaml, validated; the defaults where there is no such file."""
    path = project.root / "configs" / "home.yaml"
    return load(path, HomeConfig) if path.is_file() else HomeConfig()
