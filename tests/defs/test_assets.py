"""The asset graph of a model as Dagster sees it."""

import ast
import inspect
from pathlib import Path

from adire_assets.core.project import Project
from adire_assets.defs import assets as module
from adire_assets.defs.assets import model_assets
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.gates.verdict import checks

ROOT = Path(__file__).parents[2]


def test_every_check_blocks_what_is_downstream_and_every_gate_has_one(tmp_path):
    assets = model_assets(Project(ROOT, tmp_path / ".adire"), "indigo")
    specs = [spec for asset in assets for spec in asset.check_specs]
    assert {spec.name for spec in specs if not spec.blocking} == set()
    gates = {spec.name for spec in specs if spec.asset_key.path[-1] == "promotion_verdict"}
    assert gates == set(checks(GateConfig))
    others = {spec.asset_key.path[-1] for spec in specs} - {"promotion_verdict"}
    assert others == {"triton_repository", "deployed_model"}


def test_an_asset_is_thin():
    tree = ast.parse(inspect.getsource(module))
    [graph] = [node for node in tree.body if getattr(node, "name", "") == "model_assets"]
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in graph.body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    assert len(lengths) == 10
    assert {name for name, lines in lengths.items() if lines > 25} == set()
