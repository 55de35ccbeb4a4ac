"""What an operator asks: what is live and why, where an image comes from, what can be deleted.

Each function gives plain lines of text; the command line prints them.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adire_assets import pipeline, tracking
from adire_assets.config import Project, load_fleet, load_model, model_names
from adire_assets.data import dvc
from adire_assets.errors import UserError
from adire_assets.evaluation.verdict import Verdict
from adire_assets.lineage import environment
from adire_assets.serving import client, deployment, fleet, release
from adire_assets.store import Artefact, Store, is_locked
from adire_assets.worker import Progress

DEMO_MODEL = "indigo"
DEMO_PROMPT = "a photo in nigerian_adire_style, oniko tied circles in rows, indigo cloth"


def status(project: Project) -> Iterator[str]:
    """What is live, why, what differs from it and what is stale; then the processes."""
    settings = load_fleet(project)
    for model in model_names(project):
        if not load_model(project, model).enabled:
            yield f"{model}: disabled"
            continue
        yield from _live(project, model)
        yield from (f"  stale: {line}" for line in stale(project, model))
    for process in fleet.status(project, settings):
        yield f"{process['name']}: {process['state']} {process.get('detail', '')}".rstrip()


def _live(project: Project, model: str) -> Iterator[str]:
    settings = load_fleet(project)
    state = deployment.live(project, settings, model)
    record = state.record
    if record.live is None:
        yield f"{model}: nothing is live on {settings.target}"
    else:
        found = release.read_record(project, model, record.live)
        verdict = Verdict.from_dict(Store(project).open(found.verdict).json("verdict.json"))
        yield f"{model}: release {record.live} is live on {settings.target} since {record.since}"
        yield f"  why: {verdict.sentence()}"
        facts = found.provenance
        yield f"  from: {_code(facts['code'])}, data {facts['dvc_hash'][:12]}"
    yield from (f"  differs: {line}" for line in state.differences)
    champion = tracking.aliases(project, model).get("champion")
    if champion != record.live:
        yield f"  differs: MLflow's champion is {champion}; `adire materialize {model}` mends it"
    for candidate in release.records(project, model):
        if why := deployment.quarantined(project, model, candidate.number):
            yield f"  quarantined: release {candidate.number}: {why}"


def stale(project: Project, model: str) -> list[str]:
    """Which roots of what is live differ from the project as it is now, one sentence each."""
    record = deployment.read(project, load_fleet(project).target, model)
    if record.live is None:
        return []
    found = release.read_record(project, model, record.live)
    adapter = Store(project).open(found.adapter)
    made = adapter.manifest["recipe"]
    config = load_model(project, model)
    now = dvc.subtree(project, config.data.dvc_file, config.data.path)
    sentences = []
    if now.hash != adapter.manifest["data_hash"]:
        sentences.append(f"{config.data.dvc_file} names other data than the live release's")
    training = config.training.model_dump()
    changed = [name for name, value in training.items() if made["config"].get(name) != value]
    if changed:
        sentences.append(f"training settings changed: {', '.join(changed)}")
    libraries = environment(*(name for name in made["environment"] if name in _LIBRARIES))
    moved = [name for name, value in libraries.items() if made["environment"][name] != value]
    if moved:
        sentences.append(f"libraries changed: {', '.join(moved)}")
    return sentences


_LIBRARIES = pipeline.TRAINING_PACKAGES


def trace(project: Project, image: Path) -> Iterator[str]:
    """Image -> release -> code, data, hyperparameters, MLflow run, scores."""
    facts = client.read_provenance(image)
    request = facts["request"]
    yield f"{image}: release {facts['release']} of {facts['model']}"
    yield f"  request: {', '.join(f'{name}={value!r}' for name, value in request.items())}"
    yield f"  code: {_code(facts['code'])}"
    yield f"  data: DVC {facts['dvc_hash']}, of which this model's part {facts['data_hash']}"
    base = facts["base_model"]
    yield f"  base model: {base['source']} {base['revision'] or ''} content {base['hash'][:12]}"
    yield f"  adapter: recipe {facts['adapter_recipe_key']}, content {facts['adapter_hash']}"
    settings = ", ".join(f"{name}={value}" for name, value in facts["hyperparameters"].items())
    yield f"  hyperparameters: {settings}"
    scores = ", ".join(f"{name}={value:.4g}" for name, value in facts["evaluation"].items())
    yield f"  evaluation: {scores}"
    yield f"  MLflow run: {facts['mlflow_run_id']}"
    try:
        known = release.read_record(project, facts["model"], facts["release"])
    except UserError:
        yield "  this project does not hold that release's record: it was made elsewhere"
        return
    same = known.provenance["adapter_hash"] == facts["adapter_hash"]
    yield f"  this project's record of the release {'agrees' if same else 'DIFFERS'}"


def _code(identity: dict[str, Any]) -> str:
    if "commit" in identity:
        return f"commit {identity['commit']}{' with local changes' if identity['dirty'] else ''}"
    return f"build {identity['build']}"


def collect_garbage(project: Project, keep: int, dry_run: bool) -> Iterator[str]:
    """Delete what no live, candidate, quarantined-but-recent or running step needs.

    Kept: everything that the live release, MLflow's champion and challenger and the latest `keep`
    releases are made of, the latest `keep` artefacts of each kind, whatever a running step holds,
    and every manifest (it moves to <home>/manifests).
    """
    if keep < 1:
        raise UserError("--keep must be at least 1")
    store = Store(project)
    needed: set[str] = set()
    for model in {artefact.model for artefact in store.artefacts()}:
        records = {record.number: record for record in release.records(project, model)}
        wanted = set(sorted(records)[-keep:]) | set(tracking.aliases(project, model).values())
        wanted |= {deployment.read(project, load_fleet(project).target, model).live or 0}
        for number in wanted & set(records):
            found = records[number]
            for reference in (found.repository, found.evaluation, found.verdict):
                needed |= _ancestry(store, reference)
            needed |= _ancestry(store, found.adapter) | _ancestry(store, found.base_model)
        for kind in {artefact.kind for artefact in store.artefacts(model)}:
            newest = sorted(store.artefacts(model, kind), key=lambda item: item.manifest["created"])
            for artefact in newest[-keep:]:
                needed |= _ancestry(store, artefact.reference())
    freed = 0
    for artefact in store.artefacts():
        name = f"{artefact.model}-{artefact.kind}-{artefact.key[:32]}"
        if artefact.key in needed or is_locked(project, name):
            continue
        size = sum(path.stat().st_size for path in artefact.path.rglob("*") if path.is_file())
        freed += size
        yield f"{artefact.model}/{artefact.kind} {artefact.key[:12]} ({size / 1e6:.1f} MB)"
        if not dry_run:
            _delete(project, artefact)
    yield f"{freed / 1e6:.1f} MB {'would be' if dry_run else 'were'} freed"


def _ancestry(store: Store, reference: dict[str, str]) -> set[str]:
    """The keys of an artefact and of those that its manifest refers to."""
    keys, waiting = set(), [reference]
    while waiting:
        current = waiting.pop()
        folder = store.folder(current["model"], current["kind"], current["key"])
        if current["key"] in keys or not (folder / "manifest.json").is_file():
            continue
        keys.add(current["key"])
        manifest = store.open(current).manifest
        waiting += [v for v in manifest.values() if isinstance(v, dict) and "content_hash" in v]
    return keys


def _delete(project: Project, artefact: Artefact) -> None:
    """Move the manifest aside, then take the folder out of sight before it is emptied."""
    kept = project.home / "manifests" / artefact.model / artefact.kind / f"{artefact.key}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artefact.path / "manifest.json", kept)
    doomed = project.home / "store" / ".tmp" / f"gc-{artefact.key}"
    doomed.parent.mkdir(parents=True, exist_ok=True)
    artefact.path.rename(doomed)
    shutil.rmtree(doomed)


def pull_targets(project: Project) -> list[str]:
    """The .dvc files of the project, relative to its root."""
    found = [*project.root.glob("*.dvc"), *(project.root / "base_models").rglob("*.dvc")]
    return sorted(str(path.relative_to(project.root)) for path in found if path.is_file())


def pull(project: Project, progress: Progress) -> None:
    """Fetch what the .dvc files name: data and base models."""
    dvc.pull(root=str(project.root), targets=pull_targets(project), progress=progress)


def demo(project: Project, bring_live: Callable[[Project, str], None], progress: Progress) -> None:
    """The whole line on the embedded defaults, then a picture from the live model.

    `bring_live(project, model)` materializes the model's graph.
    """
    started = time.monotonic()
    pull(project, progress)
    settings = load_fleet(project)
    fleet.up(project, settings, only="triton", progress=progress)
    bring_live(project, DEMO_MODEL)
    _, slot = settings.slot
    answer = client.generate(f"{slot.host}:{slot.grpc_port}", DEMO_MODEL, DEMO_PROMPT, seed=42)
    picture = project.home / "demo.png"
    client.save_png(answer.images[0], picture, {**answer.provenance, "image": 0})
    found = release.read_record(project, DEMO_MODEL, answer.release)
    sheet = Store(project).open(found.evaluation).path / "contact_sheet.png"
    progress(f"before | after | held-out real images: {sheet}")
    progress(
        f"took {time.monotonic() - started:.0f} s; `make up` starts the UI, `make down` stops all"
    )
    score = found.provenance["evaluation"]["clip_s_mean"]
    progress(f"demo: OK release={answer.release} image={picture} clip_s={score:.3f}")
