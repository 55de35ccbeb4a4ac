"""The policy that a verdict is held against, so that a weaker one does not pass unseen.

The policy before is that of the verdict by which what is live went live. While nothing is live it
is, key by key, the strictest of the model's earlier verdicts: a refused release does not pass
unseen by lowering a threshold in two steps. A verdict under a weaker policy says so, key by key, in
`Verdict.weakened`; the release, its record and its page keep that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adire_assets.config import held_weights
from adire_assets.config.fleet import FleetConfig, load_fleet
from adire_assets.config.gates import GateConfig
from adire_assets.config.model import ServingConfig, load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store
from adire_assets.gates import clean_commit, policy
from adire_assets.serving import record

VERDICT = "promotion_verdict"
EARLIER = "the verdicts before it"


@dataclass(frozen=True)
class PolicyComparison:
    """A policy, and what it asks less than that of `than`, such as "release 3".

    `weakened`: see `policy.weakenings`.
    """

    policy: Mapping[str, Any]
    than: str
    weakened: list[dict[str, Any]]

    def told(self) -> str:
        """That in a sentence, empty when nothing is weaker."""
        return policy.weakening_sentence(self.than, self.weakened)

    def facts(self) -> dict[str, Any]:
        """What a verdict's manifest keeps."""
        return {"policy": dict(self.policy), "weaker_than": self.than, "weakened": self.weakened}


def policy_of(
    gates: GateConfig,
    evaluation: Mapping[str, Any],
    judge: str | None,
    serving: ServingConfig,
    fleet: FleetConfig,
) -> dict[str, Any]:
    """All that decides, as plain JSON: {"gates", "evaluation", "serving", "rollout"}.

    `evaluation`: its settings; `judge`: the content hash of the judge's weights, where it is known.
    """
    targets = {name: target.rollout.model_dump() for name, target in fleet.targets.items()}
    return {
        "gates": gates.model_dump(),
        "evaluation": {**evaluation, **({"judge_content": judge} if judge else {})},
        "serving": serving.policy(),
        "rollout": {**targets, "on_failure": fleet.on_failure},
    }


def compare_for_evaluation(
    project: Project, evaluation: Artifact, gates: GateConfig
) -> PolicyComparison:
    """The policy that judges `evaluation` by `gates`, against the one before."""
    made, config = evaluation.manifest["recipe"], load_model(project, evaluation.model)
    judge = made["inputs"].get("judge")
    now = policy_of(gates, made["config"], judge, config.serving, load_fleet(project))
    return _compared(project, evaluation.model, now, evaluation)


def compare_now(project: Project, model: str) -> PolicyComparison:
    """What the project's files say now, against the policy before."""
    config, judge = load_model(project, model), held_weights.known(project, model, "judge")
    settings, known = config.evaluation_settings(project), judge.content_hash if judge else None
    gates, fleet = config.evaluation.gates, load_fleet(project)
    return _compared(project, model, policy_of(gates, settings, known, config.serving, fleet))


def current_sentence(project: Project, model: str) -> str:
    """`compare_now` in a sentence, or why it cannot be said."""
    try:
        return compare_now(project, model).told()
    except UserError as error:
        return f"cannot tell: {error}"


def count_refused_adapters(project: Project, evaluation: Artifact) -> int:
    """How many other adapters a verdict refused since what is live went live: each was a chance."""
    state = record.read(project, list(load_fleet(project).targets)[-1], evaluation.model)
    verdicts = [one.manifest for one in Store(project).known(evaluation.model, VERDICT)]
    since = [facts for facts in verdicts if facts["created"] >= (state.since or "")]
    refused = {facts["adapter"] for facts in since if facts.get("passed") is False}
    return len(refused - {adapter_of(evaluation)})


def adapter_of(evaluation: Artifact) -> str:
    """The content hash of the adapter that an evaluation is of."""
    return str(evaluation.manifest["lora_weights"]["content_hash"])


def uncommitted(project: Project, model: str) -> list[str]:
    """`clean_commit.uncommitted`, or the sentence why git does not answer."""
    try:
        return clean_commit.uncommitted(project, model)
    except UserError as error:
        return [str(error)]


def _compared(
    project: Project, model: str, now: policy.Policy, evaluation: Artifact | None = None
) -> PolicyComparison:
    store = Store(project)
    state = record.read(project, list(load_fleet(project).targets)[-1], model)
    if state.live is not None:
        verdict = store.recall(state.verdict) if state.verdict else None
        if verdict is None or verdict.kind != VERDICT:
            return PolicyComparison(now, "", [])
        before, facts = _of_verdict(store, verdict), verdict.manifest
        own = evaluation and facts["evaluation"]["content_hash"] == evaluation.content_hash
        if own and policy.same(before, now):  # judged again by what brought it live
            return PolicyComparison(now, facts.get("weaker_than", ""), facts.get("weakened", []))
        return PolicyComparison(now, f"release {state.live}", policy.weakenings(before, now))
    made = sorted(store.known(model, VERDICT), key=lambda one: one.manifest["created"])
    others = [one for verdict in made if not policy.same(one := _of_verdict(store, verdict), now)]
    return PolicyComparison(now, EARLIER, policy.weakenings(policy.strictest(others), now))


def _of_verdict(store: Store, verdict: Artifact) -> Mapping[str, Any]:
    facts = verdict.manifest
    if "policy" in facts:
        return dict(facts["policy"])
    # One that was made before verdicts kept it.
    made = store.recall(facts["evaluation"]).manifest["recipe"]
    judge = {"judge_content": found} if (found := made["inputs"].get("judge")) else {}
    return {"gates": facts["recipe"]["config"], "evaluation": {**made["config"], **judge}}
