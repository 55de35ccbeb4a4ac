"""The plug of a family: found by its name, one by one, and told of when it is not there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adire_assets.config.model import load_model
from adire_assets.core import family as plugs
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.family import GROUP, family, family_names
from adire_assets.core.project import Project
from adire_assets.ops import exchange

PLUG = """
from dataclasses import fields
from adire_assets.core.family import Family, Step
REST = {one.name: Step((__name__,)) for one in fields(Family)} | {"packages": (), "plumbing": ()}
def plug(name):
    return Family(**REST | {"name": name, "config": f"{__name__}:Config"})
"""
MODULES = {  # family -> the module that its entry point names
    "sound": PLUG
    + """
from pydantic import Field
from adire_assets.config.model import ModelConfig, ServingConfig
from adire_assets.config.yaml_file import Strict
class Training(Strict):
    order: int = Field(ge=1)
class Config(ModelConfig):
    training: Training
    serving: ServingConfig = ServingConfig()
FAMILY = plug("sound")
""",
    "raising": "raise OSError('no such library')",
    "absent": None,
    "nameless": "FAMILY = 'nameless'",
    "renamed": PLUG + "FAMILY = plug('another')",
    "hollow": PLUG + "FAMILY = plug('hollow')",
}
CLOTH = """\
data: {path: data/cloth}
training: {order: 2}
evaluation: {}
FAMILY
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project where the families of MODULES are installed beside those of the package."""
    site = tmp_path / "site"
    facts = site / "cloth_families-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: cloth-families\nVersion: 1\n")
    points = [f"{name} = family_{name}:FAMILY" for name in MODULES]
    (facts / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points]) + "\n")
    for name, text in MODULES.items():
        if text is not None:
            (site / f"family_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(site)
    (tmp_path / "configs" / "models").mkdir(parents=True)
    plugs.forget()
    yield Project(tmp_path, tmp_path / "home")
    plugs.forget()
    for name in MODULES:
        sys.modules.pop(f"family_{name}", None)


def written(project: Project, line: str) -> None:
    project.model_file("cloth").write_text(CLOTH.replace("FAMILY\n", line))


def test_a_package_outside_brings_the_sections_of_its_models(project: Project) -> None:
    written(project, "family: sound\n")
    assert load_model(project, "cloth").training.order == 2  # type: ignore[attr-defined]
    for wrong, told in (("ordr: 2", "did you mean order"), ("order: 0", "greater than or equal")):
        text = project.model_file("cloth").read_text()
        project.model_file("cloth").write_text(text.replace("order: 2", wrong))
        with pytest.raises(UserError, match=rf"cloth\.yaml:2: training\.ord.*{told}"):
            load_model(project, "cloth")
        project.model_file("cloth").write_text(text)
    assert not {f"family_{name}" for name in MODULES if name != "sound"} & {*sys.modules}


def test_the_plug_counts_where_it_is_the_code_of_a_step(project: Project) -> None:
    assert plugs.is_plumbing("family_sound")
    assert [*lineage.sources(("family_sound",))][-1] == "family_sound"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "",
            "cloth.yaml:1: family: this key is missing; installed families: absent, .*diffusion, ",
        ),
        ("family: 7\n", "cloth.yaml:4: family: expected a name, found 7; installed families: "),
        ("family:\n", "cloth.yaml:4: family: expected a name, found None; installed families: "),
        ("family: silk\n", "cloth.yaml:4: family: there is no family 'silk'; installed families: "),
        ("family: raising\n", "family: family 'raising' cannot be loaded .*OSError: no such libr"),
        ("family: absent\n", "cloth.yaml:4: family: .* cannot be loaded .*No module named"),
        ("family: nameless\n", r"loaded from family_nameless:FAMILY \(it is no Family of that"),
        ("family: renamed\n", "cloth.yaml:4: family: .* cannot be loaded .*it is no Family of"),
        ("family: hollow\n", "cloth.yaml:4: family: .*family_hollow:Config .*has no attribute"),
    ],
)
def test_a_family_that_is_missing_or_broken_is_told_in_one_sentence(
    project: Project, line: str, told: str
) -> None:
    written(project, line)
    with pytest.raises(UserError, match=told) as caught:
        load_model(project, "cloth")
    assert len(str(caught.value).splitlines()) == 1
    assert re.search("installed families: absent, .*diffusion, hollow, n", str(caught.value))


def test_a_broken_family_harms_no_other(project: Project) -> None:
    assert {"causal_lm", "diffusion", *MODULES} == {*family_names()}
    assert family("diffusion").name == "diffusion"


def test_the_plug_of_every_family_that_ships_is_light() -> None:
    code = (
        "import sys; from adire_assets.core.family import family, family_names\n"
        "for name in family_names(): family(name).schema()\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'diffusers', 'transformers', 'dagster', 'dvc'}\n"
        "print(sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_family_needs_no_launcher_and_no_other_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = replace(family("diffusion"), launch=None, formats=None)
    assert plain.launched({"rank": 4}, "cuda", Path("base")) == ((), {"rank": 4})
    monkeypatch.setattr(exchange, "family_of", lambda *_: plain)
    with pytest.raises(UserError, match="of the family diffusion, which has no other formats"):
        exchange.import_(Project(Path(), Path()), Path("a.safetensors"), "cloth", Path("out"))
