"""`adire up` and `adire status` when what the records name is not what answers."""

from dataclasses import replace
from pathlib import Path

import pytest

from adire_assets.core.project import Project
from adire_assets.serving import record
from adire_assets.serving.fleet import processes, served_releases, supervisor
from adire_assets.serving.fleet.served_releases import NotServed
from adire_assets.serving.fleet.triton import SERVER
from tests.support.house import TARGET
from tests.support.light import Behaviour, add_light, light_house


def test_a_release_that_does_not_load_is_told_by_up_and_status(tmp_path: Path) -> None:
    house = light_house(tmp_path / "house")
    number = add_light(house, Behaviour(loads=False))

    def live(before: record.DeploymentRecord) -> record.DeploymentRecord:
        return replace(before, live=number, active="blue", slots={"blue": number})

    record.change(house.project, TARGET, house.model, live)
    said: list[str] = []
    try:
        with pytest.raises(NotServed) as refusal:
            processes.up(house.project, house.fleet, only="serving", progress=said.append)
        [difference] = [line for line in house.differences() if "hold" in line]
    finally:
        processes.down(house.project, house.fleet)
    assert str(refusal.value).startswith(
        f"slot blue of local does not serve release {number} of light: RuntimeError: the weights "
        f"cannot be read (its log is {house.project.home}"
    )
    assert "slot-local-blue runs and does not serve" in said
    assert "slot-local-green is ready" in said
    assert difference.startswith(
        f"slot blue does not hold release {number} of light: RuntimeError: the weights cannot be"
    )


TRITON = (
    '2026-11-28T15:58:51Z E 15941 tritonserver.cc:2607] "Invalid argument: load failed for model '
    "'silk': version 1 is at UNAVAILABLE state: Internal: ImportError: _ssl.so: undefined symbol: "
    'PyObject_X\\n\\nAt:\\n  /slot/models/silk/1/model.py(1): <module>\\n"\n'
    '2026-11-28T15:58:51Z I 15941 grpc_server.cc:2558] "Started GRPCInferenceService at :8001"\n'
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (TRITON, "ImportError: _ssl.so: undefined symbol: PyObject_X"),
        (f"{TRITON}{served_releases.STARTS}\nall is well\n", None),
        (
            f"{served_releases.STARTS}\nsilk cannot be served: base_model abc is no longer in the "
            "store\n",
            "base_model abc is no longer in the store",
        ),
        (TRITON.replace("silk", "silk_two"), None),
        ("", None),
    ],
)
def test_the_reason_is_quoted_from_the_log(tmp_path: Path, text: str, wanted: str | None) -> None:
    project = Project(tmp_path, tmp_path / "home")
    path = supervisor.log(project, "slot-local-blue")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert served_releases.load_failure(project, "slot-local-blue", SERVER, "silk") == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "[2026-11-28 16:00:00.000][12][critical][main] error: cannot bind '127.0.0.1:8080'\n"
            "[2026-11-28 16:00:00.001][12][info][main] exiting\n",
            "error: cannot bind '127.0.0.1:8080'",
        ),
        (
            "Traceback (most recent call last):\n  File x\nModuleNotFoundError: no dye\n",
            "ModuleNotFoundError: no dye",
        ),
        ("only this\n", "only this"),
    ],
)
def test_the_last_error_of_any_program(tmp_path: Path, text: str, wanted: str) -> None:
    project = Project(tmp_path, tmp_path / "home")
    path = supervisor.log(project, "gateway-local")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert served_releases.last_error(project, "gateway-local") == wanted
