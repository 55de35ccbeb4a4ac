"""One model's files that are no good, and everything that goes on beside it."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import write_bytes
from adire_assets.defs import build_definitions
from adire_assets.defs.feedback import GROUP
from adire_assets.ops import operations
from adire_assets.serving import record, release
from adire_assets.serving.fleet import slot
from adire_assets.serving.gateway.routing import gateway_of, publish
from tests.support.fleets import make_fleet
from tests.support.house import TARGET
from tests.support.light import add_light, light_house

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project's own configs, and two models more that are no good."""
    for name in ("ADIRE_PROJECT", "ADIRE_HOME", "ADIRE_FLEET"):
        monkeypatch.delenv(name, raising=False)
    models = tmp_path / "configs" / "models"
    models.mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "models" / "indigo.yaml", models)
    shutil.copytree(ROOT / "configs" / "prompts", tmp_path / "configs" / "prompts")
    shutil.copy(ROOT / "configs" / "fleet.yaml", tmp_path / "configs")
    (models / "broken.yaml").write_text("data: {path: da")
    (models / "latin.yaml").write_bytes("description: caf\u00e9".encode("latin-1"))
    return Project(tmp_path, tmp_path / ".adire")


def test_the_code_location_loads_without_them_and_says_so(project: Project) -> None:
    defs = build_definitions(project)
    keys = defs.resolve_asset_graph().get_all_asset_keys()
    assert {key.path[0] for key in keys} == {"indigo", GROUP}
    sensor = defs.resolve_sensor_def("broken_models")
    with dg.instance_for_test() as instance:
        told = sensor.evaluate_tick(dg.build_sensor_context(instance)).skip_message
    assert "broken.yaml:1: not valid YAML" in told and "latin.yaml: not UTF-8" in told


def test_a_disabled_model_is_there_for_who_names_it(project: Project) -> None:
    path = project.model_file("indigo")
    path.write_text(path.read_text().replace("enabled: true", "enabled: false"))

    def models(**named: str) -> set[str]:
        graph = build_definitions(project, **named).resolve_asset_graph()
        return {key.path[0] for key in graph.get_all_asset_keys()}

    assert models() == set()
    assert models(also="indigo") == {"indigo", GROUP}
    assert "indigo: disabled" in operations.status(project)


def test_of_a_disabled_model_status_says_what_is_wrong(project: Project) -> None:
    (project.root / "configs" / "models" / "later.yaml").write_text(
        "enabled: false  # yet\nfamily: ["
    )
    told = build_definitions(project).resolve_sensor_def("broken_models")
    with dg.instance_for_test() as instance:
        said = told.evaluate_tick(dg.build_sensor_context(instance)).skip_message
    assert "later.yaml" not in said
    assert "later.yaml" in "\n".join(operations.status(project))


def test_status_tells_of_them_among_the_others(project: Project) -> None:
    told = list(operations.status(project))
    [broken] = [line for line in told if line.startswith("broken: ")]
    assert "broken.yaml:1: not valid YAML" in broken
    assert any(line.startswith("indigo: nothing is live") for line in told)
    assert any(line.startswith("slot-local-blue: ") for line in told)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"model": "silk", "dye": 1}', b"\xff"])
def test_a_broken_record_leaves_the_slots_and_routes_of_the_others(
    tmp_path: Path, content: bytes
) -> None:
    house = light_house(tmp_path / "house")
    number = add_light(house)

    def live(before: record.DeploymentRecord) -> record.DeploymentRecord:
        return record.replace(before, live=number, active="blue", slots={"blue": number})

    record.change(house.project, TARGET, house.model, live)
    write_bytes(house.project.home / "deployments" / TARGET / "silk.json", content)
    folder = tmp_path / "slot"
    (folder / "models" / "silk" / "3").mkdir(parents=True)
    assert sorted(slot.reconcile(house.project, TARGET, "blue", folder)) == ["light", "silk"]
    assert release.installed(folder, "silk") == [3], "what it held is served until it is mended"
    with pytest.raises(UserError, match=r"silk\.json is not"):
        record.read(house.project, TARGET, "silk")
    gateway_of(house.project, make_fleet(), TARGET).prepare()
    with pytest.raises(UserError, match="admin port does not answer"):
        publish(house.project, house.fleet, TARGET)
    routes = (house.project.home / "fleet" / "gateway" / TARGET / "routes.json").read_text()
    assert '"light-1' in routes


def test_a_release_whose_files_are_gone_leaves_the_others(tmp_path: Path) -> None:
    house = light_house(tmp_path / "house")
    number = add_light(house)
    for model in (house.model, "silk"):
        record.change(
            house.project,
            TARGET,
            model,
            lambda before: record.replace(before, live=number, slots={"blue": number}),
        )
    found = house.releases[number]
    other = release.ReleaseRecord(
        **{**vars(found), "model": "silk", "repository": found.base_model}
    )
    release.write_record(house.project, other)
    (tmp_path / "slot" / "models").mkdir(parents=True)
    (tmp_path / "slot" / "models" / ".DS_Store").write_text("left by a desktop")
    assert slot.reconcile(house.project, TARGET, "blue", tmp_path / "slot") == ["light"]
