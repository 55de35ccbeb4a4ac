"""`adire status` answers without the libraries that take seconds to import."""

import shutil
import subprocess
import sys
from pathlib import Path

from adire_assets import registry, tracking
from adire_assets.config import Project

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "mlflow",
    "dagster",
    "dvc",
    "scipy",
    "pandas",
)
CHILD = """
import sys
from pathlib import Path
from adire_assets import cli, operations
from adire_assets.config import Project

root = Path(sys.argv[1])
print(*operations.status(Project(root, root / ".adire")), sep="\\n")
print("heavy:", [name for name in sys.argv[2:] if name in sys.modules])
"""


def test_status_loads_nothing_heavy_and_still_sees_the_champion(
    mlflow_project: Project, clean_environment: dict[str, str]
) -> None:
    root = mlflow_project.root
    shutil.copy(ROOT / "configs" / "models" / "indigo.yaml", root / "configs" / "models")
    models = root / "configs" / "models"
    (models / "silk.yml").write_text((models / "indigo.yaml").read_text())
    broken = (models / "indigo.yaml").read_text().replace("base_models/tiny/judge", "circle/judge")
    (models / "round.yaml").write_text(broken)
    (root / "circle").symlink_to("circle")
    shutil.copytree(ROOT / "configs" / "prompts", root / "configs" / "prompts")
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs")
    run = tracking.training_run(mlflow_project, "indigo", "0" * 64)
    number = registry.register_release(
        mlflow_project, "indigo", content_hash="c" * 64, run_id=run.run_id, source=root
    )
    registry.set_alias(mlflow_project, "indigo", "champion", number)
    assert registry.seen_aliases(mlflow_project, "indigo") == {"champion": number}
    assert registry.seen_aliases(mlflow_project, "silk") == {}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), *HEAVY],
        env=clean_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "indigo: nothing is live on local"
    assert any(f"MLflow's champion is {number}" in line for line in lines)
    assert "silk.yml: not read; a model is a <name>.yaml, so rename it" in lines
    assert any("circle/judge cannot be followed" in line for line in lines)
    assert lines[-1] == "heavy: []"


def test_looking_at_aliases_makes_no_database(tmp_path: Path) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    project = Project(tmp_path, tmp_path / ".adire")
    assert registry.seen_aliases(project, "indigo") == {}
    assert not project.home.exists()
