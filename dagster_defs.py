"""What Dagster loads, for example with `dagster asset materialize -m dagster_defs`."""

from pathlib import Path

from adire_assets.core.project import Project
from adire_assets.defs import build_definitions

defs = build_definitions(Project.find(Path(__file__).parent))
