"""A person's approval: what it is about, who may give it, and what waits for it meanwhile.

The releases are light ones of a project without servers: what is live is what the record says. The
way through a real Triton is in tests/line.
"""

import json
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from adire_assets import approvals, going_live, operations, promotion, ratings
from adire_assets.approvals import Waiting
from adire_assets.config import load_model
from adire_assets.defs.approvals import approval_sensor, deployment_job
from adire_assets.defs.assets import model_assets
from adire_assets.defs.mlflow_resource import MlflowTracking
from adire_assets.defs.resources import ChildProcesses, ReferenceIOManager
from adire_assets.errors import UserError
from adire_assets.gates_config import GateConfig
from adire_assets.serving import record, release, rollout
from adire_assets.serving.deployment import deploy
from adire_assets.serving.gateway import GatewayDown
from adire_assets.serving.record import DeploymentRecord
from adire_assets.store import Store
from tests.support.fleets import make_fleet
from tests.support.house import TARGET, House
from tests.support.light import MODEL, add_light, light_house

CONFIG = """
data: {path: data/light, instance_prompt: cloth}
base_model: {source: base}
evaluation:
  judge: {source: judge}
  gates: {human_approval: required}
"""
WAITS = r"release 2 of light waits for approval: adire approve light@2 --reason '\.\.\.'"
POLICY = GateConfig(human_win_rate=0.6, human_minimum_pairs=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = light_house(tmp_path_factory.mktemp("approvals") / "project")
    for _ in range(3):
        add_light(house)
    return house


@pytest.fixture
def house(made: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """Releases 1 to 3 that pass every gate, of which 1 is live; nothing is approved."""
    for folder in ("approvals", "deployments", "quarantine"):
        for path in (made.project.home / folder).rglob("*.json"):
            path.unlink()
    configs = made.project.root / "configs"
    (configs / "fleet.yaml").write_text(make_fleet().model_dump_json())
    (configs / "models" / f"{MODEL}.yaml").write_text(CONFIG)
    # What a light release has instead of an evaluation is nothing that gates could judge.
    monkeypatch.setattr(promotion, "require_passable", lambda *_: None)
    go_live(made, 1, at="2020-01-01T00:00:00+00:00")
    return made


def go_live(house: House, number: int, action: str = "deploy", at: str | None = None) -> None:
    def moved(state: DeploymentRecord) -> DeploymentRecord:
        after = record.moved(state, number, action, "a test")
        return replace(after, since=at or after.since)

    record.change(house.project, TARGET, MODEL, moved)


def deployed(house: House, number: int) -> Any:
    """What materializing `deployed_model` does. No gateway runs, so it never gets far."""
    artefact = Store(house.project).open(house.releases[number].repository)
    return going_live.deployed_model(house.project, artefact, print, lambda *_: None)


def hold(house: House, number: int) -> None:
    with pytest.raises(Waiting):
        deployed(house, number)


def approve(house: House, number: int, **options: Any) -> approvals.Entry:
    return approvals.approve(house.project, house.releases[number], "rounder", "ada", **options)


def waiting(house: House) -> list[int]:
    return [one.number for one in approvals.waiting(house.project, MODEL)]


def resumable(house: House) -> int | None:
    found = approvals.resumable(house.project, MODEL)
    return found.record.number if found else None


# --- the hold ----------------------------------------------------------------------------------


def test_a_release_without_approval_is_held_with_nothing_half_done(house: House) -> None:
    before = house.record
    with pytest.raises(Waiting, match=f"^{WAITS}$"):
        deployed(house, 2)
    assert house.record == before
    assert waiting(house) == [2]
    approve(house, 2)
    with pytest.raises(GatewayDown):  # so nothing but the missing gateway stops it
        deployed(house, 2)
    assert waiting(house) == []


def test_what_is_live_already_goes_on_when_approval_becomes_required(house: House) -> None:
    with pytest.raises(GatewayDown):
        deployed(house, 1)
    assert waiting(house) == []


def test_without_the_policy_nothing_waits(house: House) -> None:
    path = house.project.model_file(MODEL)
    path.write_text(CONFIG.replace("required", "none"))
    with pytest.raises(GatewayDown):
        deployed(house, 2)
    assert load_model(house.project, MODEL).evaluation.gates.human_approval == "none"


@pytest.mark.parametrize("value", ["yes", "Required"])
def test_another_policy_is_refused_with_what_is_allowed(house: House, value: str) -> None:
    house.project.model_file(MODEL).write_text(CONFIG.replace("required", value))
    with pytest.raises(UserError, match=r"human_approval.*'none' or 'required'"):
        load_model(house.project, MODEL)


def test_an_approval_taken_back_at_the_last_moment_stops_the_rollout(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment that has passed and waits for its gateway finds the approval gone."""
    approve(house, 2)
    wanted = house.releases[2]

    def answers_late(self: object) -> bool:
        if approvals.approval(house.project, wanted):
            approvals.revoke(house.project, wanted, "seen a second time")
        return True

    monkeypatch.setattr("adire_assets.serving.gateway.Gateway.live", answers_late)
    with pytest.raises(Waiting):
        deploy(
            house.project,
            house.fleet,
            MODEL,
            2,
            verify=lambda one: promotion.require_release(house.project, one, print),
            open_judge=house.open_judge,
            progress=print,
        )
    assert house.record.rollout is None


# --- the approval ------------------------------------------------------------------------------


def test_an_approval_says_who_when_why_and_of_what(house: House) -> None:
    made = approve(house, 2)
    path = house.project.home / "approvals" / MODEL / "2.json"
    [kept] = json.loads(path.read_text())["entries"]
    content = house.releases[2]
    assert kept == {
        "action": "approved",
        "at": made.at,
        "by": "ada",
        "reason": "rounder",
        "rating": None,
        "content": {
            "repository": content.repository["content_hash"],
            "adapter": content.adapter["content_hash"],
            "evaluation": content.evaluation["content_hash"],
        },
    }


@pytest.mark.parametrize("part", ["repository", "adapter", "evaluation"])
def test_an_approval_counts_for_no_other_content(house: House, part: str) -> None:
    approve(house, 2)
    other = replace(
        house.releases[2], **{part: {**getattr(house.releases[2], part), "content_hash": "f" * 64}}
    )
    with pytest.raises(Waiting, match=WAITS):
        approvals.require(house.project, other)
    approvals.require(house.project, house.releases[2])
    # And one for the other content takes nothing from the first.
    approvals.approve(house.project, other, "also looked at")
    approvals.revoke(house.project, other, "no")
    approvals.require(house.project, house.releases[2])


def test_an_approval_is_never_replaced_and_everything_is_kept(house: House) -> None:
    approve(house, 2)
    with pytest.raises(UserError, match=r"approved already, by ada at .*: rounder.*adire revoke"):
        approve(house, 2)
    approvals.revoke(house.project, house.releases[2], "too pale", "bisi")
    with pytest.raises(UserError, match="is not approved"):
        approvals.revoke(house.project, house.releases[2], "twice")
    approve(house, 2)
    told = approvals.history(house.project, MODEL, 2)
    assert [(entry.action, entry.by) for entry in told] == [
        ("approved", "ada"),
        ("revoked", "bisi"),
        ("approved", "ada"),
    ]


def test_two_people_together_make_one_approval(house: House) -> None:
    refused: list[UserError] = []

    def one() -> None:
        try:
            approve(house, 2)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert len(approvals.history(house.project, MODEL, 2)) == 1


@pytest.mark.parametrize("state", ["live", "on its way"])
def test_what_has_gone_on_its_way_is_rolled_back_and_not_revoked(house: House, state: str) -> None:
    approve(house, 2)
    if state == "live":
        go_live(house, 2)
    else:
        rollout.begin(house.project, house.fleet, MODEL, 2)
    with pytest.raises(UserError, match=f"is {state} on local; `adire rollback light"):
        approvals.revoke(house.project, house.releases[2], "too late")
    assert approvals.approval(house.project, house.releases[2])


def test_without_a_reason_nothing_is_decided(house: House) -> None:
    for decide in (approvals.approve, approvals.revoke):
        with pytest.raises(UserError, match="needs a reason"):
            decide(house.project, house.releases[2], "  ")
    assert approvals.history(house.project, MODEL, 2) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("light@9", "there is no release 9 of light; releases here: 1, 2, 3"),
        ("light", "named like indigo@3"),
        ("../light@2", "named like indigo@3"),
        ("light@2", "quarantined: too pale"),
    ],
)
def test_what_cannot_go_live_cannot_be_approved(house: House, name: str, sentence: str) -> None:
    record.quarantine(house.project, MODEL, 2, "too pale")
    with pytest.raises(UserError, match=sentence):
        promotion.approve(house.project, name, "a reason", None, None, print)
    assert approvals.history(house.project, MODEL, 2) == []


def test_what_a_gate_refuses_cannot_be_approved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise UserError("refused: clip_s 0.5 is below 0.75")

    monkeypatch.setattr(promotion, "require_passable", refused)
    with pytest.raises(UserError, match=r"clip_s 0\.5 is below"):
        promotion.approve(house.project, "light@2", "a reason", None, None, print)
    # Nor does it wait: it is refused, whoever has approved it.
    with pytest.raises(UserError, match=r"clip_s 0\.5 is below") as caught:
        deployed(house, 2)
    assert not isinstance(caught.value, Waiting) and waiting(house) == []


# --- which one goes on -------------------------------------------------------------------------


def test_only_what_was_asked_for_goes_on_and_the_latest_first(house: House) -> None:
    approve(house, 2)
    assert resumable(house) is None  # nobody has asked for it yet
    approvals.hold(house.project, house.releases[2])
    hold(house, 3)
    assert (waiting(house), resumable(house)) == ([3], 2)  # 2 need not wait for 3
    # However long its deployment takes: 3 was asked for after it.
    go_live(house, 2, at="2999-01-01T00:00:00+00:00")
    assert (waiting(house), resumable(house)) == ([3], None)
    approve(house, 3)
    assert resumable(house) == 3


def test_what_a_later_deployment_overtook_waits_no_longer(house: House) -> None:
    hold(house, 2)
    go_live(house, 3, at="2999-01-01T00:00:00+00:00")
    assert waiting(house) == []
    approve(house, 2)
    assert resumable(house) is None


def test_what_was_rolled_back_or_sent_back_does_not_go_on_by_itself(house: House) -> None:
    hold(house, 2)
    approve(house, 2)
    record.quarantine(house.project, MODEL, 2, "too pale")
    assert resumable(house) is None
    record.lift_quarantine(house.project, MODEL, 2, "looked again")
    assert resumable(house) == 2
    end = {"number": 2, "outcome": "rolled_back", "reason": "slow", "at": record.now()}
    record.change(
        house.project,
        TARGET,
        MODEL,
        lambda now: replace(now, last_rollout={**end, "decisions": []}),
    )
    assert resumable(house) is None


def test_status_shows_who_waits_and_who_approved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adire_assets.registry.aliases", lambda *_: {"champion": 1})
    monkeypatch.setattr("adire_assets.operations.stale", lambda *_: [])
    monkeypatch.setattr("adire_assets.serving.deployment.live", lambda *_: [])
    hold(house, 2)
    assert "waits for approval: adire approve light@2" in "\n".join(
        operations.status(house.project)
    )
    approve(house, 2)
    told = "\n".join(operations.status(house.project))
    assert "waits" not in told and "approved: release 2 by ada at" in told


# --- blind ratings -----------------------------------------------------------------------------


def rated(house: House, folder: Path, wins: int, losses: int, ties: int = 0, **changes: Any):
    """What becomes of a rating of release 2 against 1 with this result."""
    path = folder / "ratings.json"
    sheet = {"model": MODEL, "challenger": 2, "champion": 1, "nonce": "n1", "rater": "chike"}
    path.write_text(json.dumps({**sheet, "choices": {"p1": "left"}, **changes}))

    def score(given: dict[str, Any], secret: bytes) -> tuple[int, int, int]:
        assert given["choices"] == {"p1": "left"}
        assert secret == approvals.rating_secret(house.project)
        return wins, losses, ties

    return ratings.count(house.project, house.releases[2], 1, path, POLICY, score)


def test_a_rating_that_reaches_the_win_rate_is_kept_with_the_approval(
    house: House, tmp_path: Path
) -> None:
    result = rated(house, tmp_path, wins=3, losses=2, ties=40)  # ties decide nothing
    entry = approvals.approve(house.project, house.releases[2], "rated", rating=result)
    assert entry.by == "chike"
    assert entry.told().endswith(": rated (3 of 5 decided pairs won (0.60), 40 ties)")
    assert approvals.history(house.project, MODEL, 2)[0].rating == {
        "wins": 3,
        "losses": 2,
        "ties": 40,
        "rater": "chike",
        "nonce": "n1",
        "champion": 1,
    }


def test_a_rating_below_the_win_rate_is_refused_and_kept_as_rejected(
    house: House, tmp_path: Path
) -> None:
    sentence = r"3 of 6 decided pairs won \(0.50\), 1 ties, below the win rate of 0.6"
    with pytest.raises(UserError, match=sentence):
        rated(house, tmp_path, wins=3, losses=3, ties=1)
    [entry] = approvals.history(house.project, MODEL, 2)
    assert (entry.action, entry.by, entry.rating["losses"]) == ("rejected", "chike", 3)
    hold(house, 2)
    # The rater knows the result now; another one does not.
    with pytest.raises(UserError, match="no longer blind"):
        rated(house, tmp_path, wins=6, losses=0)
    assert rated(house, tmp_path, wins=6, losses=0, rater="dayo")["wins"] == 6


def test_a_rating_of_few_pairs_tells_nothing_and_may_be_gone_on_with(
    house: House, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"decides 4 pairs \(9 ties\).*asks for 5") as caught:
        rated(house, tmp_path, wins=4, losses=0, ties=9)
    assert "won" not in str(caught.value)
    assert approvals.history(house.project, MODEL, 2) == []
    assert rated(house, tmp_path, wins=5, losses=0)["wins"] == 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"challenger": 3}, "rates 3 of light, not release 2"),
        ({"model": "paper"}, "rates 2 of paper"),
        ({"champion": 3}, "against release 3, but release 1 is live"),
        ({"challenger": "2"}, "challenger: input should be a valid integer"),
        ({"choices": {"p1": "both"}}, r"choices\.p1: input should be 'left', 'right' or 'tie'"),
        ({"choices": {}}, "choices: "),
        ({"secret": "x"}, "secret: extra inputs"),
    ],
)
def test_a_rating_of_something_else_is_refused(
    house: House, tmp_path: Path, changes: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        rated(house, tmp_path, wins=9, losses=0, **changes)
    assert approvals.history(house.project, MODEL, 2) == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", None])
def test_a_file_that_is_no_rating_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ratings.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"ratings\.json") as caught:
        ratings.read_rating(path)
    assert "\n" not in str(caught.value)


def test_the_secret_is_made_once_and_is_for_its_owner_alone(house: House) -> None:
    secret = house.project.home / "rating_secret"
    secret.unlink(missing_ok=True)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(approvals.rating_secret(house.project)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and len(found[0]) == 32
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


# --- the sensor --------------------------------------------------------------------------------


@dg.op(config_schema={"succeeds": bool})
def end(context: dg.OpExecutionContext) -> None:
    if not context.op_config["succeeds"]:
        raise dg.Failure("the gateway does not answer", allow_retries=False)


@dg.job
def stand_in() -> None:
    end()


def tick(house: House, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """The run that the sensor requests, or why none."""
    sensor = approval_sensor(house.project, MODEL, "light_deployment")
    with dg.build_sensor_context(instance=instance) as context:
        answer = sensor.evaluate_tick(context)
    return answer.run_requests[0] if answer.run_requests else answer.skip_message


def carry_out(instance: dg.DagsterInstance, request: dg.RunRequest, succeeds: bool) -> None:
    config = {"ops": {"end": {"config": {"succeeds": succeeds}}}}
    tags = {"adire/model": MODEL, **request.tags}
    stand_in.execute_in_process(
        instance=instance, tags=tags, run_config=config, raise_on_error=False
    )


def test_the_sensor_starts_the_deployment_of_what_was_approved(house: House) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(house, instance) == "no release waits for an approval"
        hold(house, 2)
        hold(house, 3)
        assert "waits for approval: adire approve light@2" in tick(house, instance)
        approve(house, 2)
        request = tick(house, instance)
        assert request.run_config == {"ops": {"light__deployed_model": {"config": {"release": 2}}}}
        root = str(house.project.root)
        definitions = dg.Definitions(
            assets=model_assets(house.project, MODEL),
            jobs=[deployment_job(MODEL)],
            resources={
                "references": ReferenceIOManager(project_root=root),
                "children": ChildProcesses(project_root=root),
                "mlflow": MlflowTracking(project_root=root),
            },
        )
        job = definitions.resolve_job_def("light_deployment")
        assert dg.validate_run_config(job, request.run_config)
        go_live(house, 2)
        assert "waits for approval: adire approve light@3" in tick(house, instance)


def test_each_approval_is_seen_anew_and_a_revoked_one_is_not(house: House) -> None:
    keys = set()
    with dg.DagsterInstance.ephemeral() as instance:
        hold(house, 2)
        for _ in range(3):
            approve(house, 2)
            keys.add(tick(house, instance).run_key)
            approvals.revoke(house.project, house.releases[2], "not yet")
            assert "waits for approval" in tick(house, instance)
    assert len(keys) == 3


def test_a_failed_deployment_is_tried_again_after_a_pause_and_a_carried_out_one_is_not(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(house, 2)
    approve(house, 2)
    with dg.DagsterInstance.ephemeral() as instance:
        first = tick(house, instance)
        carry_out(instance, first, succeeds=False)
        assert "1 failed run(s), next attempt in" in tick(house, instance)
        monkeypatch.setattr("adire_assets.defs.sensors.FIRST_RETRY_SECONDS", 0)
        second = tick(house, instance)
        assert second.run_key != first.run_key and second.tags == first.tags
        carry_out(instance, second, succeeds=True)
        assert "has done its part" in tick(house, instance)


def test_another_run_of_the_model_is_waited_for(house: House) -> None:
    hold(house, 2)
    approve(house, 2)
    with dg.DagsterInstance.ephemeral() as instance:
        config = {"ops": {"end": {"config": {"succeeds": True}}}}
        tags = {"adire/model": MODEL}
        run = instance.create_run_for_job(stand_in, run_config=config, tags=tags)
        assert tick(house, instance) == f"run {run.run_id[:8]} is under way"


def test_a_held_deployment_fails_nothing_and_is_not_materialized(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asset in Dagster: three warnings that carry the command, and no materialization."""
    monkeypatch.setenv("ADIRE_HOME", str(house.project.home))
    root = str(house.project.root)
    manager = ReferenceIOManager(project_root=root)
    reference = house.releases[2].repository
    path = house.project.home / "references" / "latest" / MODEL / "triton_repository.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(reference))
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            model_assets(house.project, MODEL),
            selection=f"key:{MODEL}/deployed_model",
            instance=instance,
            resources={
                "references": manager,
                "children": ChildProcesses(project_root=root),
                "mlflow": MlflowTracking(project_root=root),
            },
        )
        assert done.success
        assert done.get_asset_materialization_events() == []
        checks = done.get_asset_check_evaluations()
    assert {one.check_name for one in checks} == {"human_approval", "rollout", "rollout_steps"}
    for one in checks:
        assert not one.passed and one.severity == dg.AssetCheckSeverity.WARN
        assert "adire approve light@2" in one.description
    assert house.record.live == 1 and waiting(house) == [2]


def test_the_release_that_a_name_means(house: House) -> None:
    assert release.named(house.project, "light@3") == house.releases[3]
