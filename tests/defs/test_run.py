"""What `adire materialize --select` says before it starts."""

from pathlib import Path

import dagster as dg
import pytest

from adire_assets import roots
from adire_assets.config import Project
from adire_assets.defs.assets import model_assets
from adire_assets.defs.mlflow_resource import MlflowTracking
from adire_assets.defs.resources import ChildProcesses, ReferenceIOManager
from adire_assets.defs.run import left_behind
from adire_assets.store import write_json


def test_settings_that_changed_since_are_named_with_the_selection_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, tmp_path / ".adire")
    root = str(tmp_path)
    graph = dg.Definitions(
        assets=model_assets(project, "cloth"),
        resources={
            "references": ReferenceIOManager(project_root=root),
            "children": ChildProcesses(project_root=root),
            "mlflow": MlflowTracking(project_root=root),
        },
    ).resolve_asset_graph()
    now = {"training_data": "a", "training_config": "new", "evaluation_config": "new"}
    monkeypatch.setattr(roots, "root_keys", lambda project, model: now)
    for name in ("training_data", "training_config", "evaluation_config"):
        key = "a" if name == "training_data" else "old"
        write_json(project.home / "references" / "latest" / "cloth" / f"{name}.json", {"key": key})

    def told(*names: str) -> list[str]:
        wanted = [dg.AssetKey(["cloth", name]) for name in names]
        return list(left_behind(project, "cloth", graph, wanted))

    [sentence] = told("lora_weights")
    assert sentence.startswith("cloth: training_config has changed since it was materialized")
    assert sentence.endswith("--select training_config,lora_weights")
    assert told("dataset") == []  # its root is as it was
    assert told("training_config", "lora_weights") == []
    [sentence] = told("evaluation_report", "promotion_verdict")
    assert sentence.endswith("--select evaluation_config,evaluation_report,promotion_verdict")
