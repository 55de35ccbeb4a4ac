"""What a sensor compares besides the sources: the code and the libraries of the line."""

from typing import Any

from adire_assets.core import lineage
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.gates import promotion
from adire_assets.line.release import RELEASE_MODULES
from adire_assets.serving import release, slot_server


def code_and_libraries(project: Project, family: Family) -> dict[str, Any]:
    """What besides the sources makes a line of this family run again: the steps' code and the
    libraries."""
    lineage.clear_caches()
    steps = (
        family.dataset.modules,
        family.train.modules,
        family.generate.modules,
        family.evaluate.modules,
        promotion.verdict_modules(family.gate_config()),
        (*RELEASE_MODULES, *family.release.modules),
    )
    libraries = {name for modules in steps for name in lineage.libraries(modules)}
    server = slot_server.server_named(slot_server.kind_speaking(family.protocols))
    versions = server.versions(project.root / family.backend)
    return {
        "code": [lineage.code_hash(modules) for modules in steps],
        "backend": release.backend_hash(project, family),
        "libraries": project.placement.facts().environment(*sorted(libraries)) | versions,
    }
