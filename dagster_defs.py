"""What Dagster loads, for example with `dagster asset materialize -m dagster_defs`."""

import gc
from pathlib import Path

# What libraries make while they are imported stays; to look through it costs a fifth of the time.
gc.disable()

from adire_assets.core.project import Project  # noqa: E402
from adire_assets.defs import build_definitions  # noqa: E402

defs = build_definitions(Project.find(Path(__file__).parent))
gc.enable()
gc.freeze()
