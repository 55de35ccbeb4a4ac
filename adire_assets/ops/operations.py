"""What an operator asks: what is live and why, and where an answer comes from.

Each function gives plain lines of text; the command line prints them.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from adire_assets.config import held_weights
from adire_assets.config.fleet import FLEET_VARIABLE, FleetConfig, load_fleet
from adire_assets.config.model import family_of, load_model, misnamed, model_names
from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.lineage import NOT_LIBRARIES, code_hash, environment
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.core.worker import Progress
from adire_assets.gates import approvals, clean_commit, measurements, policy, policy_comparison
from adire_assets.gates.report import pages
from adire_assets.gates.verdict import Verdict
from adire_assets.line import evaluate, generate
from adire_assets.monitoring import feedback_watch, quality
from adire_assets.serving import client, record, release
from adire_assets.serving.fleet import processes, served_releases
from adire_assets.serving.gateway import routing
from adire_assets.serving.rollout import deployment
from adire_assets.tracking import registry, runs
from adire_assets.tracking.dvc import pull as dvc_pull
from adire_assets.tracking.dvc import versions


def status(project: Project) -> Iterator[str]:
    """What is live, why, what differs from it and what is stale; then the processes."""
    for model in model_names(project):
        try:
            enabled = load_model(project, model).enabled
            if not enabled:
                yield f"{model}: disabled"
            if enabled or release.records(project, model):
                yield from _live(project, model)
                yield from _policy(project, model)
                yield from (f"  feedback: {line}" for line in feedback_watch.alarms(project, model))
                yield from (f"  stale: {line}" for line in stale(project, model))
        except (UserError, OSError) as error:  # the rest is wanted most when something is wrong
            yield f"{model}: cannot tell more: {refusal(error) or error}"
    for path in misnamed(project):
        yield f"{path.name}: not read; a model is a <name>.yaml, so rename it"
    if named := os.environ.get(FLEET_VARIABLE):
        yield f"fleet: {named}, as {FLEET_VARIABLE} says"
    for process in processes.status(project, load_fleet(project)):
        ports = ", ".join(str(port) for port in process["ports"])
        well = process["ready"] or process["state"] == "STOPPED"
        why = "" if well else _last_words(project, process)
        yield f"{process['name']}: {process['state']}{f' on {ports}' if ports else ''}{why}"


def _last_words(project: Project, process: dict[str, Any]) -> str:
    """Why a process is not ready: what its log says last."""
    said = served_releases.last_error(project, process["name"]) if process["log"] else None
    return f", not ready: {said} (its log is {process['log']})" if said else ", not ready"


def _live(project: Project, model: str) -> Iterator[str]:
    settings = load_fleet(project)
    for state in deployment.target_statuses(project, settings, model):
        yield from _live_on(project, settings, state)
    if (plan := record.read_plan(project, model)) and plan.pending:
        yield (
            f"  unfinished since {plan.at}: {plan.pending}; the sensor {model}_rollout finishes "
            f"it, or `adire rollout watch {model}`"
        )
    champion = registry.seen_aliases(project, model).get("champion")
    if champion != deployment.champion(project, settings, model):
        yield f"  differs: MLflow's champion is {champion}; `adire materialize {model}` mends it"
    for candidate in release.records(project, model):
        if lifted := record.lift_reason(project, model, candidate.number):
            yield f"  quarantine of release {candidate.number} lifted: {lifted}"
        if why := record.quarantine_reason(project, model, candidate.number):
            yield f"  quarantined: release {candidate.number}: {why}"
        elif found := approvals.approval(project, candidate):
            yield f"  approved: release {candidate.number} {found.entry.told()}"
    if load_model(project, model).evaluation.gates.human_approval == "required":
        yield from (f"  {approvals.sentence(one)}" for one in approvals.waiting(project, model))


def _policy(project: Project, model: str) -> Iterator[str]:
    """What decides about the next release, and whether somebody could have reviewed it."""
    if weaker := policy_comparison.current_sentence(project, model):
        yield f"  policy now: {weaker}"
    try:
        if files := clean_commit.uncommitted(project, model):
            required = clean_commit.is_required(project, model)
            sensors = ", so the sensors start nothing" if required else ""
            yield f"  not committed: {clean_commit.file_list(files)}{sensors}"
    except UserError as error:
        yield f"  not committed: cannot tell: {error}"


def _live_on(project: Project, fleet: FleetConfig, live: deployment.TargetStatus) -> Iterator[str]:
    """One target."""
    state = live.record
    if state.live is None:
        yield f"{state.model}: nothing is live on {state.target}"
    else:
        found = release.read_record(project, state.model, state.live)
        by = state.verdict or found.verdict
        verdict = Verdict.from_dict(Store(project).open(by).json("verdict.json"))
        yield f"{state.model}: release {state.live} is live on {state.target} since {state.since}"
        yield f"  why: {verdict.sentence()}"
        facts = found.provenance
        yield f"  from: {_code(facts['code'])}, data {facts['dvc_hash'][:12]}"
        asked = facts.get("policy", {})
        for line in quality.sentences(project, state.target, state.model, state.live):
            yield f"  {line}"
        if files := asked.get("uncommitted"):
            yield f"  decided by files that were not committed: {clean_commit.file_list(files)}"
        if refused := asked.get("refused_before"):
            yield f"  other adapters that were refused before it: {refused}"
    if state.live is not None:
        limits = routing.requests_at_once(project, fleet, state.target)
        yield f"  requests at once: {limits.get((state.model, state.live), 0)}"
    held = ", ".join(
        f"{slot} {f'release {state.slots[slot]}' if slot in state.slots else 'nothing'}"
        for slot in live.ready
    )
    yield f"  slots: {held}"
    if canary := state.rollout:
        share = f"{canary.percent} % of the requests" if canary.percent else canary.stage
        yield f"  rollout: release {canary.number}: {share}{', held' if canary.held else ''}"
        yield from (f"    {_told(decision)}" for decision in canary.decisions)
    elif (last := state.last_rollout) and last["outcome"] != "live":
        ended = last["outcome"].replace("_", " ")
        yield f"  last rollout: release {last['number']} {ended}: {last['reason']} ({last['at']})"
    yield from (f"  differs: {line}" for line in live.differences)


def _told(decision: dict[str, Any]) -> str:
    where = f"{decision['percent']} %" if decision["percent"] else decision["stage"]
    return f"{decision['at']} {where}: {decision['decision']}: {decision['sentence']}"


def stale(project: Project, model: str) -> list[str]:
    """How the project as it is now differs from what is live, one sentence for each difference."""
    champion = deployment.champion(project, load_fleet(project), model)
    if champion is None:
        return []
    return differences(project, release.read_record(project, model, champion))


def differences(project: Project, found: release.ReleaseRecord) -> list[str]:
    """How the project as it is now differs from what a release was made from, likewise."""
    store, model = Store(project), found.model
    evaluation = store.open(found.evaluation).manifest
    adapter = store.open(found.adapter).manifest
    dataset = store.recall(adapter["dataset"]).manifest
    made = adapter["recipe"]
    config = load_model(project, model)
    now = versions.subtree(project, config.data.dvc_file, config.data.path)
    libraries = environment(*(name for name in made["environment"] if name not in NOT_LIBRARIES))
    served = store.recall(found.repository).manifest["recipe"]["config"]

    def same(kind: str, then: dict[str, str]) -> bool:
        known = held_weights.known(project, model, kind)
        return known is not None and known.content_hash == then["content_hash"]

    is_so = {
        f"{config.data.dvc_file} names other data": now.hash == adapter["data_hash"],
        "the base model is another": same("base_model", found.base_model),
        "the judge is another": same("judge", evaluation["judge"]),
        "the code that makes datasets changed": _same_code(dataset["recipe"]),
        "the training code changed": _same_code(made),
        "the evaluation code changed": _same_code(evaluation["recipe"]),
        "the evaluation settings changed": config.evaluation_settings(project)
        == evaluation["recipe"]["config"],
    }
    then_and_now = {
        "data settings": (dataset["job"]["arguments"]["config"], config.data.model_dump()),
        "training settings": (made["config"], config.training.model_dump()),
        "serving settings": (served, config.serving.model_dump()),
        "libraries": (made["environment"], libraries),
    }
    told = [sentence for sentence, still in is_so.items() if not still]
    for what, (then, today) in then_and_now.items():
        if names := [name for name, value in today.items() if then.get(name) != value]:
            told.append(f"{what} changed: {', '.join(names)}")
    return told


def _same_code(recipe: dict[str, Any]) -> bool:
    """Whether a step would run with the code that made an artifact of this recipe."""
    return code_hash(tuple(recipe["modules"])) == str(recipe["code"])


def trace(project: Project, file: Path) -> Iterator[str]:
    """Lines that lead from an answer's file to its release, code, data, MLflow run and scores."""
    facts, plug = client.provenance_of(project, file)
    try:
        yield from list(_traced(project, file, facts, plug))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{file}: its provenance is not one that `adire generate` wrote ({error!r})"
        ) from None


def _traced(project: Project, file: Path, facts: dict[str, Any], plug: Family) -> Iterator[str]:
    yield f"{file}: release {facts['release']} of {facts['model']}"
    if "release_hash" in facts:  # not yet in the oldest answers
        yield f"  content of the release: {facts['release_hash']}"
    if request := facts.get("request"):
        yield f"  request: {', '.join(f'{name}={value!r}' for name, value in request.items())}"
        yield f"  {plug.answers.functions.position(facts)}"
    else:
        yield "  request: not in this file, which names its release only"
    yield f"  code: {_code(facts['code'])}"
    yield f"  data: DVC {facts['dvc_hash']}, of which this model's part {facts['data_hash']}"
    base = facts["base_model"]
    yield f"  base model: {base['source']} {base['revision'] or ''} content {base['hash'][:12]}"
    yield f"  adapter: recipe {facts['adapter_recipe_key']}, content {facts['adapter_hash']}"
    settings = ", ".join(f"{name}={value}" for name, value in facts["hyperparameters"].items())
    yield f"  hyperparameters: {settings}"
    scores = ", ".join(f"{name}={value:.4g}" for name, value in facts["evaluation"].items())
    yield f"  evaluation: {scores}"
    if (asked := facts.get("policy")) and asked["weakened"]:
        yield f"  policy: {policy.weakening_sentence(asked['weaker_than'], asked['weakened'])}"
    yield f"  MLflow run: {facts['mlflow_run_id']}"
    try:
        known = release.find_record(project, facts["model"], facts["release"])
    except UserError as error:
        yield f"  this project's record of the release cannot be read: {error}"
        return
    if known is None:
        yield "  this project does not hold that release's record: it was made elsewhere"
        return
    same = known.provenance["adapter_hash"] == facts["adapter_hash"]
    yield f"  this project's record of the release {'agrees' if same else 'DIFFERS'}"


def _code(identity: dict[str, Any]) -> str:
    changed = " with local changes" if identity.get("dirty") else ""
    told = [f"commit {identity['commit']}{changed}"] if "commit" in identity else []
    return ", ".join([*told, *([f"build {identity['build']}"] if "build" in identity else [])])


def measure(project: Project, name: str, progress: Progress) -> str:
    """Time the answers of an evaluation again, `model@N` or the newest of `model`; a sentence."""
    evaluation, _ = pages.evaluation_of(project, name)
    model, answer = evaluation.model, family_of(project, evaluation.model).answer
    mean = f"seconds_per_{answer}_mean"
    before = measurements.timings_of(project, evaluation).get(mean)
    if before is None:
        raise UserError(f"{name}: its adapter is not sound, so no {answer} was made or timed")

    def run(function: str, **arguments: Any) -> dict[str, Any]:
        return run_step(project, function, arguments, progress=progress)

    timings = generate.measure_again(project, evaluation, run)
    if run_id := runs.find_run(project, model, evaluation.manifest["lora_weights"]["key"]):
        runs.log_metrics(project, run_id, evaluate.numbers(evaluation.path))
    now = measurements.timings_of(project, evaluation)
    return (
        f"{name}: {timings[mean]:.3g} s per {answer} (before {before:.3g}); "
        f"`adire materialize {model}` judges by {now[mean]:.3g}, the median of all "
        f"{now['measurements']} measurements"
    )


def pull(project: Project, progress: Progress) -> None:
    """Fetch what the .dvc files of the project name: data and base models."""
    root = project.root
    found = [*root.glob("*.dvc"), *(root / "base_models").rglob("*.dvc")]
    targets = sorted(str(path.relative_to(root)) for path in found if path.is_file())
    dvc_pull.pull(root=str(root), targets=targets, progress=progress)


def demo(
    project: Project,
    model: str,
    bring_live: Callable[[Project, str, str | None], None],
    progress: Progress,
    label: str = "demo",
) -> None:
    """The whole line of a model, then answers of the live release.

    `bring_live(project, model, select)` materializes what is selected of the model's graph, or all
    of it; `label` begins the last line.
    """
    started = time.monotonic()
    pull(project, progress)
    settings = load_fleet(project)
    if not release.records(project, model):
        # Servers would only take cores from the training. A release is checked in an idle slot.
        bring_live(project, model, "*promotion_verdict")
    try:
        processes.up(project, settings, only="serving", progress=progress)
    except served_releases.NotServed as error:  # what is made live next mends it, or says why not
        progress(str(error))
    bring_live(project, model, None)
    endpoint = routing.endpoint_of(project, settings, next(iter(settings.targets)))
    found = deployment.resolve_release(project, settings, model)
    plug = release.family_of_release(project, found)
    evaluation = Store(project).open(found.evaluation).path
    *lines, summary = plug.answers.functions.demonstrate(
        evaluation, partial(client.ask, endpoint, plug, model), project.home / "demo"
    )
    for line in lines:
        progress(line)
    for shown in plug.shows.functions.of_evaluation(evaluation):
        if isinstance(shown.content, Path):
            progress(f"{shown.name}: {shown.content}")
    progress(
        f"took {time.monotonic() - started:.0f} s; `make up` starts the UI, `make down` stops all"
    )
    progress(f"{label}: OK release={found.number} {summary}")
