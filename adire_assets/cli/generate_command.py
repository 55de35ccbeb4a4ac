"""`adire generate`: a request to a served model, whose options are those of its family."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from adire_assets.cli.arguments import (
    LARGEST_NUMBER,
    file_to_write,
    file_to_write_as,
    known_model,
    not_blank,
)
from adire_assets.config.fleet import FleetConfig, load_fleet
from adire_assets.config.model import family_of, only_model
from adire_assets.core.answer import RequestOption
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family, family_names
from adire_assets.core.project import Project
from adire_assets.serving.connection import Endpoint

OfRelease = Annotated[
    int | None,
    typer.Option(min=1, max=LARGEST_NUMBER, help="Which release; default: the live one."),
]
OfTarget = Annotated[str, typer.Option(help="Which target; default: the first of the fleet.")]


def with_options(chat: bool = False) -> Callable[[Any], Any]:
    """For a command whose last parameter, `request`, is made of the options of the families, or of
    those that can chat."""
    options = _options(chat)

    def decorate(command: Any) -> Any:
        @wraps(command)
        def asked(**given: Any) -> Any:
            request = {name: given.pop(name) for name in options}
            return command(**given, request={k: v for k, v in request.items() if v is not None})

        own = list(signature(command).parameters.values())[:-1]
        added = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in options.items()
        ]
        asked.__signature__ = signature(command).replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return asked

    return decorate


def _options(chat: bool) -> dict[str, Any]:
    """Those of the families that can be loaded, by name; the help says whose each is."""
    found: dict[str, list[tuple[str, RequestOption]]] = {}
    for name in family_names():
        with suppress(UserError):  # who asks one of its models is told
            served = family(name).served
            for option in served.options if served.chat or not chat else ():
                found.setdefault(option.name, []).append((name, option))
    told: dict[str, Any] = {}
    for name, of_families in found.items():
        families, options = zip(*of_families, strict=True)
        text = next((option.help for option in options if option.help), "")
        about = typer.Option(help=f"{text} [{', '.join(families)}]".lstrip())
        told[name] = Annotated[Optional[options[0].kind], about]  # noqa: UP045
    return told


def endpoint_of(project: Project, target: str) -> Endpoint:
    """Where a target (default: the first of the fleet) is asked."""
    from adire_assets.serving.gateway import routing

    fleet = load_fleet(project)
    return routing.endpoint_of(project, fleet, _target(fleet, target))


def family_asked(project: Project, model: str, release: int | None, target: str) -> Family:
    """The family of a model as the release is served that is asked there, by default the live one;
    as the model's YAML says where there is none."""
    from adire_assets.serving import record
    from adire_assets.serving.release import family_of_release, find_record

    number = release or record.read(project, _target(load_fleet(project), target), model).live
    found = find_record(project, model, number) if number else None
    return family_of_release(project, found) if found else family_of(project, model)


def _target(fleet: FleetConfig, name: str) -> str:
    if name and name not in fleet.targets:
        raise UserError(f"there is no target {name}; targets: {', '.join(fleet.targets)}")
    return name or next(iter(fleet.targets))


@with_options()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask for.", callback=not_blank)],
    model: Annotated[
        str, typer.Option(help="Which model; default: the only enabled one.", callback=known_model)
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: out with the answer's ending.")
    ] = None,
    release: OfRelease = None,
    target: OfTarget = "",
    request: Any = None,
) -> Iterable[str]:
    """Ask a served model; the answer is written with its provenance."""
    from adire_assets.serving.client import ask

    project = Project.find()
    model = model or only_model(project)
    plug = family_asked(project, model, release, target)
    require_known(plug, request)
    out = out or Path(f"out{plug.served.suffix}")
    file_to_write_as(plug.served.suffix)(out)
    answers = plug.answers.functions
    files = answers.files(out, request)
    file_to_write(files)
    endpoint = endpoint_of(project, target)
    return answers.save(ask(endpoint, plug, model, {"prompt": prompt, **request}, release), files)


def require_known(plug: Family, request: dict[str, Any]) -> None:
    """UserError for an option that is not the family's, or out of its limits."""
    known = {option.name: option for option in plug.served.options}
    for name, value in request.items():
        word = f"--{name.replace('_', '-')}"
        if name not in known:
            raise UserError(f"{word} is no option of models of the family {plug.name}")
        low, high = known[name].lowest, known[name].highest
        if (low is not None and not low <= value) or (high is not None and not value <= high):
            told = " to ".join(f"{end:.12g}" for end in (low, high) if end is not None)
            raise UserError(f"{word} is {value}, allowed is {told}")
