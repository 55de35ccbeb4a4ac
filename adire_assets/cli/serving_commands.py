"""`adire rollout` and `adire auth`: a release on its way, and who may ask."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from adire_assets.cli.arguments import Model, Reason, finite, folder_to_write, not_blank
from adire_assets.config.fleet import load_fleet
from adire_assets.core.project import Project
from adire_assets.core.worker import print_progress

rollout_app = typer.Typer(no_args_is_help=True, help="A release on its way to its users.")
auth_app = typer.Typer(no_args_is_help=True, help="Who may come in at the gateway.")
AUTH_FOLDER = Path("auth")
AuthFolder = Annotated[
    Path, typer.Option(help="Where private.pem and keys.json lie.", callback=folder_to_write)
]


@rollout_app.command("watch")
def rollout_watch(model: Model) -> Iterable[str]:
    """Carry out the rollout that is under way, or follow the process that does."""
    from adire_assets.line import deploy

    for state in deploy.watch_rollout(Project.find(), model, print_progress):
        yield f"{model}: {state.live_text} is live on {state.target}"


@rollout_app.command("promote")
def rollout_promote(model: Model, reason: Reason) -> Iterable[str]:
    """Let a rollout that holds (or waits) go on to its next step."""
    from adire_assets.serving.rollout import rollout

    project = Project.find()
    return rollout.approve(project, load_fleet(project), model, reason)


@auth_app.command("keys")
def auth_keys(
    drop_old: Annotated[bool, typer.Option(help="Tokens of earlier keys become void.")] = False,
    folder: AuthFolder = AUTH_FOLDER,
) -> str:
    """Make a key that signs tokens, and add its public part to the gateway's keys.json."""
    from adire_assets.serving.gateway import tokens

    return f"{folder}/keys.json: added key {tokens.make_keys(folder, drop_old=drop_old)}"


@auth_app.command("token")
def auth_token(
    subject: Annotated[str, typer.Argument(help="Who will bring it.", callback=not_blank)],
    days: Annotated[
        float, typer.Option(min=0.001, max=3650, help="How long it is good.", callback=finite)
    ] = 30.0,
    issuer: Annotated[str, typer.Option(callback=not_blank)] = "adire",
    audience: Annotated[str, typer.Option(callback=not_blank)] = "adire",
    folder: AuthFolder = AUTH_FOLDER,
) -> str:
    """Sign a token; it is printed, and nowhere kept."""
    from adire_assets.serving.gateway import tokens

    return tokens.issue(folder, subject, issuer=issuer, audience=audience, days=days)
