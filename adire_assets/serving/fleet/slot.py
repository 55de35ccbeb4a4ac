"""One local slot, as the supervisor runs it.

    python -m adire_assets.serving.fleet.slot TARGET NAME SLOT_AS_JSON DEVICE THREADS

Before the server starts, the slot's folder is brought to what the deployment records of the target
say that it holds, so a restart after any crash serves exactly that. The process then guards it (see
`guard`); it ends with a failure when the server dies, so that the supervisor starts it again.
"""

import shutil
import sys
from pathlib import Path

from adire_assets.config.fleet import SLOT_PORTS, SlotConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.readers import reading
from adire_assets.serving import answer_keys, record, release
from adire_assets.serving.fleet import guard, metrics_page
from adire_assets.serving.slot_server import server_of

STARTS = "the slot starts"  # what a slot's process prints first


def folder(project: Project, target: str, name: str, config: SlotConfig) -> Path:
    """What the slot's server serves from: models/ and base_models/."""
    if config.launch == "remote" and config.folder:
        return Path(config.folder)
    return project.home / "fleet" / "slots" / target / name


def arguments(name: str, config: SlotConfig, target: str, device: str, threads: int) -> list[str]:
    """The command line of a slot's process; another setting is another command line."""
    settings = config.model_dump_json(include={"server", *SLOT_PORTS})
    module = "adire_assets.serving.fleet.slot"
    return ["-m", module, target, name, settings, device, str(threads)]


def reconcile(project: Project, target: str, name: str, slot: Path) -> list[str]:
    """Bring a slot's folder to what the records say that it holds; the models that it then has."""
    while True:
        broken: dict[str, UserError] = {}
        recorded = held(project, target, name, broken)
        served = _brought(project, slot, recorded, broken)
        # However long that took, what a record has come to say since then is what counts.
        if held(project, target, name, {}) == recorded:
            return served


def held(project: Project, target: str, name: str, broken: dict[str, UserError]) -> dict[str, int]:
    """Model -> the release that the slot should hold; `broken` gets the records that are."""
    states = record.read_all(project, target, broken.__setitem__)
    return {state.model: state.slots[name] for state in states if name in state.slots}


def _brought(
    project: Project, slot: Path, recorded: dict[str, int], broken: dict[str, UserError]
) -> list[str]:
    models = slot / "models"
    models.mkdir(parents=True, exist_ok=True)
    for path in models.iterdir():
        names = {path.name, release.model_named(path.name)}
        if path.is_dir() and not names & {*recorded, *broken}:
            shutil.rmtree(path)
    served = []
    for model, error in broken.items():
        # What it held goes on being served, until somebody mends the record.
        print(f"{model}: {error}", file=sys.stderr, flush=True)
        served += [model] if release.installed(slot, model) else []
    for model, number in recorded.items():
        try:
            release.install(project, release.read_record(project, model, number), slot)
        except (UserError, OSError) as error:
            # The other models still serve; `adire status` shows the difference.
            print(f"{model} cannot be served: {error}", file=sys.stderr, flush=True)
            continue
        for other in release.installed(slot, model):
            if other != number:
                release.remove(slot, model, other)
        served.append(model)
    return served


def main() -> None:
    target, name, settings, device, threads = sys.argv[1:]
    try:
        config = SlotConfig.model_validate_json(settings)
        sys.exit(serve(target, name, config, device, int(threads)))
    except UserError as error:
        sys.exit(str(error))


def serve(target: str, name: str, config: SlotConfig, device: str, threads: int) -> int:
    """Reconcile, run the server until it ends; the exit status."""
    print(STARTS, flush=True)
    project = Project.find()
    server, slot = server_of(config), folder(project, target, name, config)
    # Before the folder is touched: a server that outlived its guard must not serve from it.
    guard.remove_remains(guard.mark(slot))
    if own := server.own_metrics(config):
        metrics_page.serve(config.metrics_port, own, guard.mark(slot))
    with reading():  # what is in the slot's folder is a copy
        models = reconcile(project, target, name, slot)
    return guard.run(
        server.command(project, slot, config, models),
        mark=guard.mark(slot),
        env=server.environment(device, threads)
        | guard.turns(project)
        | answer_keys.environment(project),
        stop_seconds=2 * server.drain_seconds,
    )


if __name__ == "__main__":
    main()
