"""What stands between an evaluation and a live release.

That is the verdict, parity with what was evaluated, compatible software, and a person's approval
where one is asked for.

`require_release` is asked again at every deployment, for the release's own manifest and the policy
of today: no order of materializations and no other Dagster instance leads past it.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adire_assets.config import held_weights
from adire_assets.config.fleet import load_fleet
from adire_assets.config.gates import GateConfig
from adire_assets.config.model import load_model
from adire_assets.core import lineage
from adire_assets.core.devices import exclusive_device
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store, read_json, write_json
from adire_assets.gates import approvals, contents, measurements, policy_comparison, upgrades
from adire_assets.gates.clean_commit import file_list
from adire_assets.gates.verdict import Verdict, decide
from adire_assets.serving import release, slot_server
from adire_assets.serving.gateway.protocol import protocol
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment
from adire_assets.serving.rollout.deployment import Progress
from adire_assets.tracking import registry

if TYPE_CHECKING:
    from adire_assets.gates.comparison import Comparison


def verdict_modules(gates: type[GateConfig]) -> tuple[str, ...]:
    """The code that a verdict by a family's policy depends on."""
    return ("adire_assets.gates.verdict", "adire_assets.gates.comparison", gates.__module__)


def rival_of(
    project: Project, evaluation: Artifact
) -> tuple[ReleaseRecord | None, Artifact | None]:
    """(the live release that `evaluation` must not be worse than, its comparable evaluation).

    Comparable is one with the same `evaluation_protocol`. Where `evaluation` is that of the live
    release, the first is None, and the second is the evaluation that the live release was compared
    with before it went live. None where there is no such release or evaluation.
    """
    number = deployment.champion(project, load_fleet(project), evaluation.model)
    if number is None:
        return None, None
    store, wanted = Store(project), evaluation_protocol(evaluation)
    live = release.read_record(project, evaluation.model, number)
    own = live.is_of(evaluation.manifest)
    if own:
        before = store.recall(live.verdict).manifest.get("champion")
        found = [store.recall(before)] if before else []
    else:
        made = store.artifacts(evaluation.model, evaluation.kind)
        found = [one for one in made if live.is_of(one.manifest)]
    found = [one for one in found if store.holds(one) and evaluation_protocol(one) == wanted]
    return None if own else live, store.open(found[0].reference()) if found else None


def verdict_of(
    project: Project, evaluation: Artifact, policy: GateConfig, champion: Artifact | None
) -> Built:
    """The verdict about an evaluation, under the hashes of evaluation, policy and `champion`: the
    champion's comparable evaluation, None when there is nothing to compare with. It says what the
    policy asks less than the one before (see `gates.policy_comparison`)."""
    compared = policy_comparison.compare_for_evaluation(project, evaluation, policy)
    timings = measurements.timings_of(project, evaluation)
    same_answers = champion is not None and _same_answers(evaluation, champion)
    recipe = Recipe(
        kind="promotion_verdict",
        model=evaluation.model,
        modules=verdict_modules(type(policy)),
        inputs={
            "evaluation": evaluation.content_hash,
            "timings": lineage.digest(timings),
            "champion": champion.content_hash if champion else "none",
            **({"answers": "the champion's"} if same_answers else {}),
            **({"weakened": lineage.digest(compared.told())} if compared.weakened else {}),
        },
        config=policy.model_dump(),
    )

    def make(folder: Path) -> dict[str, Any]:
        rivals = champion and comparisons(evaluation.path, champion.path, policy, same_answers)
        verdict = decide(evaluation.json("report.json"), timings, policy, rivals or ())
        verdict = replace(verdict, weakened=tuple(compared.weakened), weaker_than=compared.than)
        write_json(folder / "verdict.json", asdict(verdict))
        return {
            "evaluation": evaluation.reference(),
            "adapter": policy_comparison.adapter_of(evaluation),
            "passed": verdict.passed,
            "uncommitted": policy_comparison.uncommitted(project, evaluation.model),
            "refused_before": policy_comparison.count_refused_adapters(project, evaluation),
            **compared.facts(),
            **({"champion": champion.reference()} if champion else {}),
        }

    return Store(project).build(recipe, make)


def comparisons(
    challenger: Path, champion: Path, policy: GateConfig, same_answers: bool = False
) -> "tuple[Comparison, ...]":
    """What the policy asks of a challenger, from the folders of two comparable evaluations."""
    from adire_assets.core.statistic import load_statistics
    from adire_assets.gates.comparison import compare  # numpy: not in every Dagster process

    report = read_json(challenger / "report.json")
    return compare(
        load_statistics(challenger),
        load_statistics(champion),
        {name: metric["better"] for name, metric in report["metrics"].items()},
        policy.champion.margins,
        report["prompts"],
        len(report["seeds"]),
        same_answers=same_answers,
        confidence=policy.champion.confidence,
    )


def _same_answers(one: Artifact, other: Artifact) -> bool:
    """Whether two evaluations are about the same answers, byte by byte."""
    drawn = [side.manifest.get("adapter_images", {}).get("content_hash") for side in (one, other)]
    return drawn[0] is not None and drawn[0] == drawn[1]


def evaluation_protocol(evaluation: Artifact) -> dict[str, Any]:
    """How it was evaluated, and on what data; what must be equal for a comparison."""
    made = evaluation.manifest["recipe"]
    inputs = {name: made["inputs"][name] for name in ("dataset", "judge")}
    return {**{name: made[name] for name in ("code", "config", "environment")}, **inputs}


def require_passed(artifact: Artifact) -> None:
    """UserError unless the verdict in `artifact` is that every gate was passed."""
    verdict = Verdict.from_dict(artifact.json("verdict.json"))
    if not verdict.passed:
        raise UserError(f"{artifact.model}: {verdict.sentence()}; it is not released or deployed")


def require_evaluation_of(evaluation: Artifact, adapter: str, base_weights: str) -> None:
    """UserError unless the evaluation is of the adapter and base with these content hashes."""
    wanted = {"lora_weights": adapter, "base_model": base_weights}
    found = {name: evaluation.manifest[name]["content_hash"] for name in wanted}
    if found != wanted:
        raise UserError(
            f"{evaluation.model}: the verdict is about another adapter or base than the one to be "
            f"released ({found['lora_weights'][:12]}, not {adapter[:12]}); materialize "
            f"{evaluation.model}/evaluation_report and {evaluation.model}/promotion_verdict first"
        )


def parity_report(project: Project, model: str, number: int, progress: Progress) -> Built:
    """Whether a scratch server answers the evaluated requests as the release was evaluated."""
    from adire_assets.serving.fleet import parity

    record = release.read_record(project, model, number)
    store = Store(project)
    repository, base = store.open(record.repository), store.open(record.base_model)
    evaluation = store.open(record.evaluation)
    made_from = {"triton_repository": repository, "base_model": base, "evaluation": evaluation}
    device = lineage.device_class(load_fleet(project).device)
    plug = release.family_of_release(project, record)
    server = slot_server.server_named(slot_server.kind_speaking(plug.protocols))
    versions = server.versions(repository.path)
    recipe = Recipe(
        kind="parity_report",
        model=model,
        modules=(
            "adire_assets.serving.fleet.parity",
            type(server).__module__,
            protocol(plug.protocols[0]).client.partition(":")[0],
            *plug.serve.modules,
        ),
        inputs={name: one.content_hash for name, one in made_from.items()},
        environment=lineage.environment(*plug.packages, device=device) | versions,
    )

    def make(folder: Path) -> None:
        facts = parity.compare_in_idle_slot(project, load_fleet(project), record, progress)
        if facts is None:
            with exclusive_device(project.locks, device, every=True):
                facts = parity.compare_on_scratch_server(project, record, device, progress)
        write_json(folder / "parity.json", facts)

    return store.build(recipe, make)


def require_release(project: Project, record: ReleaseRecord, progress: Progress) -> None:
    """UserError unless the release passes the gates of configs/ as they are now, answers as it
    was evaluated, and is served by software that goes with that of its training and evaluation.

    `approvals.Waiting` when it does, and only lacks a person's approval. What is live on every
    target needs none: that `human_approval` was asked for since then takes nothing away.
    """
    require_passable(project, record, progress)
    gates = load_model(project, record.model).evaluation.gates
    if gates.human_approval == "required" and not approvals.is_live(project, record):
        approvals.require(project, record)


def require_passable(project: Project, record: ReleaseRecord, progress: Progress) -> None:
    """UserError for a release that not even an approval lets through."""
    contents.refuse_taken_down(project, record)
    store = Store(project)
    evaluation = store.open(record.evaluation)
    store.verify(evaluation)
    require_evaluation_of(
        evaluation, record.adapter["content_hash"], record.base_model["content_hash"]
    )
    today = load_model(project, record.model)
    # A threshold means something for one judge and one set of prompts only.
    judge = held_weights.held(project, record.model, "judge").artifact.content_hash
    made = evaluation.manifest["recipe"]
    if (made["config"], made["inputs"]["judge"]) != (today.evaluation_settings(project), judge):
        raise UserError(
            f"release {record.number} of {record.model} was evaluated in another way than "
            f"{project.model_file(record.model)} asks for now; materialize {record.model}/"
            "evaluation_config and what is downstream of it"
        )
    champion, rival = rival_of(project, evaluation)
    if champion and rival is None:
        raise UserError(
            f"release {record.number} of {record.model} was not compared with release "
            f"{champion.number}, which is live: there is no evaluation of that one on the same "
            f"data, with the same settings and software; materialize "
            f"{record.model}/promotion_verdict"
        )
    decided = verdict_of(project, evaluation, today.evaluation.gates, rival).artifact
    require_passed(decided)
    _keep_verdict(project, record, decided, progress)
    parity = parity_report(project, record.model, record.number, progress).artifact
    facts = parity.json("parity.json")
    if not facts["passed"]:
        raise UserError(f"release {record.number} of {record.model}: {facts['explanation']}")
    if why := upgrades.refusal(project, record, facts["software"]):
        raise UserError(why)


def _keep_verdict(
    project: Project, record: ReleaseRecord, decided: Artifact, progress: Progress
) -> None:
    """The release's record names the verdict of now: it is what lets the release go live."""
    if approvals.is_live(project, record):  # what brought it live stays on record
        return
    asked = policy_facts(project, decided)
    name = f"release {record.number} of {record.model}"
    if told := Verdict.from_dict(decided.json("verdict.json")).weakness():
        progress(f"{name} goes by a policy {told}")
    if asked["uncommitted"]:
        progress(f"{name}: not committed: {file_list(asked['uncommitted'])}")
    provenance = {**record.provenance, "policy": asked}
    now = replace(record, verdict=decided.reference(), provenance=provenance)
    release.write_record(project, now)


def policy_facts(project: Project, verdict: Artifact, number: int | None = None) -> dict[str, Any]:
    """What a release keeps of the policy that it passed.

    That is what the policy asks less than the one before, the deciding files that are not
    committed, and the number of other adapters refused meanwhile. For a release `number` that is
    live already, these are the facts with which it went live.
    """
    known = {one.number: one for one in release.records(project, verdict.model)}.get(number or 0)
    if known and approvals.is_live(project, known) and "policy" in known.provenance:
        return dict(known.provenance["policy"])
    facts = verdict.manifest
    return {
        "refused_before": facts.get("refused_before", 0),
        "weaker_than": facts.get("weaker_than", ""),
        "weakened": facts.get("weakened", []),
        "uncommitted": policy_comparison.uncommitted(project, verdict.model),
    }


def provenance(adapter: Artifact, base_weights: Artifact, evaluation: Artifact) -> dict[str, Any]:
    """What an answer can be traced to: code, data, hyperparameters, base, scores."""
    manifest = adapter.manifest
    report = evaluation.json("report.json")
    told = {**report.get("scores", {}), **report}
    return {
        "model": adapter.model,
        **{name: manifest[name] for name in ("code", "dvc_hash", "data_hash")},
        "dataset_hash": manifest["dataset"]["content_hash"],
        "base_model": {
            **{name: base_weights.manifest[name] for name in ("source", "revision")},
            "hash": base_weights.content_hash,
        },
        "hyperparameters": dict(manifest["recipe"]["config"]),
        "adapter_recipe_key": adapter.key,
        "adapter_hash": adapter.content_hash,
        "environment": dict(manifest["recipe"]["environment"]),
        "trained": manifest["created"],
        "evaluation": {k: v for k, v in told.items() if isinstance(v, int | float)},
    }


def reconcile_aliases(project: Project, model: str) -> None:
    """Let MLflow's aliases say what the deployment records say."""
    # Read inside the lock: whoever sets an alias last has read the newest record.
    with project.locks.acquire(f"registry-{model}"):
        champion = deployment.champion(project, load_fleet(project), model)
        if champion is None:
            registry.delete_alias(project, model, "champion")
            return
        registry.set_alias(project, model, "champion", champion)
        if registry.aliases(project, model).get("challenger") == champion:
            registry.delete_alias(project, model, "challenger")


def challenge(project: Project, model: str, number: int) -> None:
    """Point MLflow's alias `challenger` at a release, unless it is live already."""
    with project.locks.acquire(f"registry-{model}"):
        if number not in registry.aliases(project, model).values():
            registry.set_alias(project, model, "challenger", number)
