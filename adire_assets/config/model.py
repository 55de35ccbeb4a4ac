"""The schema of configs/models/: one YAML per model, whose `family` brings its own sections.

`load_model(project, name)` returns a frozen pydantic model or raises `UserError` with one line per
mistake (see `yaml_file`). Here is what every model has; the rest is the family's schema, a subclass
of `ModelConfig` (see `core.family`).

Nothing here reads data, weights or the network, and nothing that an artifact is made by reads a
model's YAML below the sources: a step gets its section as resolved values, which are part of its
recipe key. That is why `core.lineage` leaves this module out of a step's code hash.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from adire_assets.config.gates import GateConfig
from adire_assets.config.monitoring import MonitoringConfig
from adire_assets.config.search import SearchConfig
from adire_assets.config.weights import FilePath, ModelSource
from adire_assets.config.yaml_file import ChosenBy, Strict, load, understood
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family, told
from adire_assets.core.file_names import is_content, suffix_of
from adire_assets.core.project import Project
from adire_assets.core.splits import LARGEST_SHARE_NOT_TRAINED

NAME = r"^[a-z][a-z0-9_]{0,62}$"
STREAMS = "_stream"  # behind a model's name: what its releases are asked by for streams
DISABLED = re.compile(rb"^enabled:[ \t]*false[ \t]*(#.*)?\r?$", re.MULTILINE)
Name = Annotated[str, Field(pattern=NAME)]


class DataConfig(Strict):
    """Where a model's data is."""

    path: FilePath  # folder below the project, tracked by dvc_file
    dvc_file: FilePath = "data.dvc"


class SplitDataConfig(DataConfig):
    """Data that is split in three by content, see `core.splits`."""

    # What gates judge by, and what checkpoints and `adire search` are chosen by.
    held_out_fraction: Annotated[float, Field(ge=0.05, le=0.5)] = 0.2
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        used = self.held_out_fraction + self.validation_fraction
        if used > LARGEST_SHARE_NOT_TRAINED:
            raise ValueError(
                f"held_out_fraction and validation_fraction are {used:g} together, at most "
                f"{LARGEST_SHARE_NOT_TRAINED:g}: the rest is what is trained on"
            )
        return self


class EvaluationConfig(Strict):
    """How a model is evaluated."""

    gates: GateConfig = GateConfig()

    def settings(self, project: Project) -> dict[str, Any]:
        """What this section says that an evaluation is made with: all but the thresholds."""
        return self.model_dump(mode="json", exclude={"gates"})

    def files(self) -> list[str]:
        """The files of the project, as its YAML names them, that an evaluation is made with."""
        return []


class ServingConfig(Strict):
    """What a release may be asked for; by the key `engine`, where a family has it, what serves it
    (see `core.family.Family.served_by`)."""

    def settings(self, project: Project) -> dict[str, Any]:
        """What a release is made with."""
        return self.model_dump()

    def files(self) -> list[str]:
        """The files of the project, as its YAML names them, that a release is made with."""
        return []

    def policy(self) -> dict[str, Any]:
        """The keys that decide about going live; a smaller number is a weaker policy."""
        return {}


class ModelConfig(Strict):
    """One model: the content of configs/models/<name>.yaml."""

    enabled: bool = True
    # Whether the sensors go live from a clean commit only; what the commit says counts.
    require_clean_commit: bool = True
    family: str  # decides which schema the file has
    description: str = ""
    data: DataConfig
    training: Strict
    evaluation: EvaluationConfig
    serving: ServingConfig
    monitoring: MonitoringConfig = MonitoringConfig()
    search: SearchConfig | None = None

    def weights(self) -> dict[str, ModelSource]:
        """Key of the YAML -> the weights that it names."""
        return {}

    def evaluation_settings(self, project: Project) -> dict[str, Any]:
        """What an evaluation of this model is made with."""
        return self.evaluation.settings(project)

    def require_files(self, project: Project, path: Path) -> None:
        """UserError when a file that the YAML at `path` names does not fit to it."""

    def served_as(self) -> Family:
        """The family as releases made by this file are served."""
        return family(self.family).served_by(engine_of(self.serving.model_dump()))


SCHEMA = ChosenBy[ModelConfig]("family", lambda name: family(name).schema(), hint=told)


def engine_of(serving: Mapping[str, Any]) -> str:
    """What serves releases with this section `serving`; "": what serves all of the family."""
    return str(serving.get("engine", ""))


def load_model(project: Project, name: str) -> ModelConfig:
    """configs/models/<name>.yaml, validated. UserError: file, line, key and what is allowed."""
    require_name(name)
    path = project.model_file(name)
    if not path.is_file():
        raise UserError(no_model(project, name))
    return _fitting(project, path, load(path, SCHEMA))


def model_of_text(project: Project, name: str, text: str) -> ModelConfig:
    """What configs/models/<name>.yaml would say with this text. UserError as for `load_model`."""
    require_name(name)
    path = project.model_file(name)
    return _fitting(project, path, understood(path, text, SCHEMA))


def require_name(name: str) -> None:
    """UserError for what cannot be the name of a model."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"model name {name!r}: use lower-case letters, digits and _, a letter first"
        )
    if name.endswith(STREAMS):
        raise UserError(
            f"model name {name!r}: {STREAMS} ends the names by which releases are asked for "
            "streams; choose another"
        )


def _fitting(project: Project, path: Path, config: ModelConfig) -> ModelConfig:
    """The config, if it fits to the project. UserError when it does not."""
    config.require_files(project, path)
    data, tracked = config.data, config.data.dvc_file
    folder = project.inside(data.path, f"{path}: data.path")
    if not folder.is_relative_to(project.inside(tracked, f"{path}: data.dvc_file").with_suffix("")):
        raise UserError(f"{path}: data.path: {data.path} is not below the folder of {tracked}")
    return config


def family_of(project: Project, name: str) -> Family:
    """The family of a model, as its YAML says now."""
    return load_model(project, name).served_as()


def no_model(project: Project, name: str) -> str:
    """Why there is no model of this name: a sentence."""
    path = project.model_file(name)
    if path.is_dir():
        return f"{path} is a folder; a model is a file in configs/models"
    if path.is_symlink():
        return f"{path} is a link that leads nowhere; put the file itself there"
    for other in misnamed(project):
        if other.stem.casefold() == name:
            return f"there is no model {name!r}: rename {other} to {path.name}"
    known = ", ".join(model_names(project)) or "none"
    return f"there is no model {name!r}: {path} does not exist; models here: {known}"


def misnamed(project: Project) -> list[Path]:
    """Files of configs/models that look like models but do not end in .yaml."""
    files = sorted((project.root / "configs" / "models").glob("*"))
    found = (path for path in files if is_content(path.name) and path.suffix != ".yaml")
    return [path for path in found if suffix_of(path.name) in (".yml", ".yaml")]


def model_names(project: Project) -> list[str]:
    """Every configured model, enabled or not, sound or not, sorted."""
    found = (project.root / "configs" / "models").glob("*.yaml")
    return sorted(path.stem for path in found if not path.name.startswith("."))


def names_not_disabled(project: Project, also: str | None = None) -> list[str]:
    """Of `model_names` those whose YAML has no line `enabled: false`, and `also`.

    Nothing else of the files is understood, which would take a tenth of a second of CPU for each.
    """

    def is_disabled(name: str) -> bool:
        try:
            return bool(DISABLED.search(project.model_file(name).read_bytes()))
        except OSError:  # what is wrong with it, `load_model` says
            return False

    return [name for name in model_names(project) if name == also or not is_disabled(name)]


def only_model(project: Project) -> str:
    """The one enabled model. UserError when there are none or several."""
    sound, broken = models(project)
    enabled = [name for name, config in sound.items() if config.enabled]
    if len(enabled) != 1:
        wrong = "".join(f"; {sentence}" for sentence in broken.values())
        raise UserError(
            f"say which model with --model; enabled: {', '.join(enabled) or 'none'}{wrong}"
        )
    return enabled[0]


def models(
    project: Project, names: Iterable[str] | None = None
) -> tuple[dict[str, ModelConfig], dict[str, str]]:
    """({model: its config}, {model: what is wrong with its YAML}) of these models, by default of
    every configured one."""
    sound: dict[str, ModelConfig] = {}
    broken: dict[str, str] = {}
    for name in model_names(project) if names is None else names:
        try:
            sound[name] = load_model(project, name)
        except UserError as error:
            broken[name] = str(error)
    return sound, broken
