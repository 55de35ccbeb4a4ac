"""What besides the sources makes the line run again."""

from typing import Any

from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.gates import promotion
from adire_assets.line.dataset import DATASET_MODULES
from adire_assets.line.evaluate import EVALUATION_MODULES
from adire_assets.line.generate import IMAGE_MODULES
from adire_assets.line.release import RELEASE_MODULES
from adire_assets.line.train import TRAINING_MODULES
from adire_assets.serving import release


def code_and_libraries(project: Project) -> dict[str, Any]:
    """What besides the roots makes the line run again: the steps' code and the libraries."""
    lineage.clear_caches()
    steps = (
        DATASET_MODULES,
        TRAINING_MODULES,
        IMAGE_MODULES,
        EVALUATION_MODULES,
        promotion.VERDICT_MODULES,
        RELEASE_MODULES,
    )
    libraries = {name for modules in steps for name in lineage.libraries(modules)}
    return {
        "code": [lineage.code_hash(modules) for modules in steps],
        "backend": release.backend_hash(project),
        "libraries": lineage.environment(*sorted(libraries), "nvidia-pytriton"),
    }
