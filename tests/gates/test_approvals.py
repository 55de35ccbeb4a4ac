"""A person's approval: what it is about, who may give it, and what waits for it meanwhile.

The releases are light ones of a project without servers: what is live is what the record says. The
way through a real Triton is in tests/line.
"""

import json
import random
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.store import Store
from adire_assets.defs.assets import model_assets
from adire_assets.defs.resources import ChildProcesses, MlflowTracking, ReferenceIOManager
from adire_assets.defs.sensors import approval_sensor, deployment_job
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.gates import approval_commands, approvals, promotion, ratings
from adire_assets.gates.approvals import Waiting
from adire_assets.gates.blind import Rating
from adire_assets.line.deploy import deployed_model
from adire_assets.ops import operations
from adire_assets.serving import record, release
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.rollout import rollout
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.rollout.deployment import deploy
from tests.support.fleets import make_fleet
from tests.support.house import TARGET, House
from tests.support.light import MODEL, add_light, light_house

CONFIG = """
data: {path: data/light, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation:
  judge: {source: judge}
  gates: {human_approval: required}
"""
WAITS = r"release 2 of light waits for approval: adire approve light@2 --reason '\.\.\.'"


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
    (configs / "fleet.yaml").write_text(make_fleet().model_dump_json(exclude_none=True))
    (configs / "models" / f"{MODEL}.yaml").write_text(CONFIG)
    # What a light release has instead of an evaluation is nothing that gates could judge.
    monkeypatch.setattr(promotion, "require_passable", lambda *_: None)
    go_live(made, 1, at="2020-01-01T00:00:00+00:00")
    return made


def go_live(house: House, number: int, action: str = "deploy", at: str | None = None) -> None:
    def moved(state: DeploymentRecord) -> DeploymentRecord:
        after = state.with_live_release(number, action, "a test")
        return replace(after, since=at or after.since)

    record.change(house.project, TARGET, MODEL, moved)


def deployed(house: House, number: int) -> Any:
    """What materializing `deployed_model` does. No gateway runs, so it never gets far."""
    artifact = Store(house.project).open(house.releases[number].repository)
    return deployed_model(house.project, artifact, print, lambda *_: None)


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

    monkeypatch.setattr("adire_assets.serving.gateway.gateway.Gateway.live", answers_late)
    with pytest.raises(Waiting):
        deploy(
            house.project,
            house.fleet,
            MODEL,
            2,
            verify=lambda one: promotion.require_release(house.project, one, print),
            callbacks=Callbacks(house.open_judge, print),
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
        approval_commands.approve(house.project, name, "a reason", None, [], print)
    assert approvals.history(house.project, MODEL, 2) == []


def test_what_a_gate_refuses_cannot_be_approved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise UserError("refused: clip_s 0.5 is below 0.75")

    monkeypatch.setattr(promotion, "require_passable", refused)
    with pytest.raises(UserError, match=r"clip_s 0\.5 is below"):
        approval_commands.approve(house.project, "light@2", "a reason", None, [], print)
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


def test_who_was_held_up_before_it_waits_has_been_overtaken_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_up(*_: object) -> None:
        go_live(house, 3, at="2030-01-01T00:00:01+00:00")
        monkeypatch.setattr(record, "now", lambda: "2030-01-01T00:00:02+00:00")

    monkeypatch.setattr(record, "now", lambda: "2030-01-01T00:00:00+00:00")
    monkeypatch.setattr(promotion, "require_passable", held_up)
    hold(house, 2)
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
    monkeypatch.setattr("adire_assets.tracking.registry.aliases", lambda *_: {"champion": 1})
    monkeypatch.setattr("adire_assets.ops.operations.stale", lambda *_: [])
    monkeypatch.setattr("adire_assets.serving.rollout.deployment.target_statuses", lambda *_: [])
    hold(house, 2)
    assert "waits for approval: adire approve light@2" in "\n".join(
        operations.status(house.project)
    )
    approve(house, 2)
    told = "\n".join(operations.status(house.project))
    assert "waits" not in told and "approved: release 2 by ada at" in told


# --- blind ratings -----------------------------------------------------------------------------

PROMPTS = [f"prompt {number}" for number in range(16)]
SEEDS = (0, 1)


def sheet(house: House, nonce: str = "n1", champion: int = 1, prompts: int = 16) -> None:
    """As if a sheet of release 2 had been made: its pairs are called like "3-0"."""
    pairs = {f"{p}-{seed}": [PROMPTS[p], seed] for p in range(prompts) for seed in SEEDS}
    approvals.note_sheet(house.project, house.releases[2], champion, nonce, pairs)


def file(
    folder: Path, choices: dict[str, str], rater: str = "chike", nonce: str = "n1", **changes: Any
) -> Path:
    """A rating of such a sheet; "left" is the challenger."""
    path = folder / f"{rater.strip()}-{nonce}.json"
    about = {"model": MODEL, "challenger": 2, "champion": 1, "nonce": nonce, "rater": rater}
    path.write_text(json.dumps({**about, "choices": choices, **changes}))
    return path


def chosen(wins: int, prompts: int = 16) -> dict[str, str]:
    """All pairs of the first `wins` prompts for the challenger, those of the others against it."""
    return {
        f"{prompt}-{seed}": "left" if prompt < wins else "right"
        for prompt in range(prompts)
        for seed in SEEDS
    }


@pytest.fixture(autouse=True)
def challenger_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is tested here the shuffle is no part."""

    def outcomes(rating: Rating, secret: bytes) -> dict[str, str]:
        names = {"left": "won", "right": "lost", "tie": "tie"}
        return {pair: names[choice] for pair, choice in rating.choices.items()}

    monkeypatch.setattr(ratings, "rating_outcomes", outcomes)


def counted(house: House, *paths: Path, **policy: Any) -> dict[str, Any]:
    asked = GateConfig(**policy)
    return ratings.count_ratings(house.project, house.releases[2], 1, paths, asked)


def actions(house: House) -> list[str]:
    return [entry.action for entry in approvals.history(house.project, MODEL, 2)]


def test_a_rating_that_wins_by_more_than_chance_is_kept_with_the_approval(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    result = counted(house, file(tmp_path, {**chosen(12), "15-0": "tie", "15-1": "tie"}))
    entry = approvals.approve(house.project, house.releases[2], "rated", rating=result)
    assert entry.by == "chike"
    told = "12 of 15 decided prompts won (0.80), 1 ties; 24 of 30 decided pairs, 1 rater"
    assert f": rated ({told}, 1 of 1 sheets)" in entry.told()
    assert actions(house) == ["sheet", "rated", "approved"]


@pytest.mark.parametrize(("wins", "enough"), [(8, False), (10, False), (11, False), (12, True)])
def test_a_coin_does_not_approve(house: House, tmp_path: Path, wins: int, enough: bool) -> None:
    sheet(house)
    path = file(tmp_path, chosen(wins))
    if enough:
        assert counted(house, path)["wins"] == wins
        return
    with pytest.raises(UserError, match=rf"{wins} of 16 decided prompts won .* takes 12 of 16"):
        counted(house, path)
    assert actions(house) == ["sheet", "rated", "rejected"]
    hold(house, 2)


def test_seeds_of_a_prompt_and_raters_of_a_pair_are_no_evidence_of_their_own(
    house: House, tmp_path: Path
) -> None:
    """Sixteen of sixteen pairs, by each of three raters, of four prompts."""
    sheet(house, prompts=4)
    paths = [file(tmp_path, chosen(4, 4), rater) for rater in ("ada", "bisi", "chike")]
    with pytest.raises(UserError, match=r"4 of 4 decided prompts won .* takes all of 5 prompts"):
        counted(house, *paths, human_minimum_pairs=4)


def test_the_ratings_before_decide_with_the_new_one(house: House, tmp_path: Path) -> None:
    sheet(house)
    with pytest.raises(UserError, match="3 of 16"):
        counted(house, file(tmp_path, chosen(3), "ada"))
    # Alone it would pass; together each is for a prompt what the other is against.
    with pytest.raises(UserError, match=r"3 of 3 decided prompts won .*13 ties.*2 raters.*look 2"):
        counted(house, file(tmp_path, chosen(16), "bisi"))
    assert counted(house, file(tmp_path, chosen(16), "dayo"))["look"] == 3
    assert actions(house) == ["sheet", *["rated", "rejected"] * 2, "rated"]


def test_a_rater_answers_a_pair_once_however_the_name_is_typed(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    sheet(house, "n2")
    with pytest.raises(UserError, match="5 of 16"):
        counted(house, file(tmp_path, chosen(5), "Ada Obi"))
    with pytest.raises(UserError, match="rating of this sheet was counted at"):
        counted(house, file(tmp_path, chosen(16), " ada  OBI"))
    with pytest.raises(UserError, match=r"5 of 16 .* 1 rater, 2 of 2 sheets"):
        counted(house, file(tmp_path, chosen(16), "ADA OBI", "n2"))


def test_one_rater_may_answer_in_parts(house: House, tmp_path: Path) -> None:
    sheet(house)
    parts = [
        {pair: side for pair, side in chosen(16).items() if (int(pair[:-2]) < 4) is first}
        for first in (True, False)
    ]
    with pytest.raises(UserError, match=r"8 pairs are decided .* asks for 10") as caught:
        counted(house, file(tmp_path, parts[0]))
    assert "won" not in str(caught.value)  # it stays blind
    sheet(house, "n2")
    result = counted(house, file(tmp_path, parts[1], nonce="n2"))
    assert (result["wins"], result["look"], result["pairs"]["wins"]) == (16, 1, 32)


def test_files_that_are_handed_in_together_are_one_look_or_none(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    good, other = file(tmp_path, chosen(14), "ada"), file(tmp_path, chosen(13), "bisi")
    with pytest.raises(UserError, match="same rater's answers"):
        counted(house, good, file(tmp_path, chosen(16), "ADA"))
    assert actions(house) == ["sheet"]
    assert counted(house, good, other)["look"] == 1


def test_another_evaluation_of_the_adapter_does_not_begin_anew(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    with pytest.raises(UserError, match="2 of 16"):
        counted(house, file(tmp_path, chosen(2), "ada"))
    again = replace(
        house.releases[2], evaluation={**house.releases[2].evaluation, "content_hash": "e" * 64}
    )
    path = file(tmp_path, chosen(16), "bisi")
    with pytest.raises(UserError, match=r"2 raters.*look 2"):
        ratings.count_ratings(house.project, again, 1, [path], GateConfig())


def test_coins_that_are_thrown_again_and_again_seldom_approve() -> None:
    """Up to six raters who throw coins, one after another, looked at after each."""
    draw, policy, runs = random.Random(2), GateConfig(), 400
    bounds = {
        (prompts, look): ratings.wins_needed(prompts, policy, look)
        for prompts in range(17)
        for look in range(1, 7)
    }
    approved = 0
    for _ in range(runs):
        balance = [0] * 16
        for look in range(1, 7):
            balance = [one + draw.choice((-1, 1)) for one in balance]
            wins, losses = sum(one > 0 for one in balance), sum(one < 0 for one in balance)
            needed = bounds[wins + losses, look]
            if needed is not None and wins >= needed:
                approved += 1
                break
    assert approved / runs <= 0.06  # 0.05, and what 400 runs may miss it by


def test_a_sheet_says_what_it_takes_and_one_that_cannot_pass_is_refused(house: House) -> None:
    wanted = house.releases[2]
    pairs = {f"p{number}": PROMPTS[number % 16] for number in range(32)}
    told = ratings.rule(house.project, wanted, 1, pairs)
    assert told[0] == "release 2 must win 12 of 16 prompts"
    assert "of which there are 32; where ties leave fewer prompts decided, at least 5" in told[1]
    of_few_prompts = {f"p{number}": PROMPTS[number % 4] for number in range(32)}
    for few in (of_few_prompts, dict([*pairs.items()][:9])):
        with pytest.raises(UserError, match=r"cannot approve release 2 .* takes 5 prompts"):
            ratings.rule(house.project, wanted, 1, few)


def test_an_approval_against_the_ratings_says_so(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval_commands, "reconcile_approval", lambda *_: None)
    sheet(house)
    path = file(tmp_path, chosen(6))
    with pytest.raises(UserError, match="not approved: 6 of 16"):
        approval_commands.approve(house.project, "light@2", "rated", None, [path], print)
    said = approval_commands.approve(house.project, "light@2", "a hunch", "ada", [], print)
    assert "a hunch (although its ratings were not enough: 6 of 16 decided prompts won" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"challenger": 3}, "rates 3 of light, not release 2"),
        ({"model": "paper"}, "rates 2 of paper"),
        ({"champion": 3}, "against release 3, but release 1 is live"),
        ({"challenger": "2"}, "challenger: input should be a valid integer"),
        ({"choices": {"p1": "both"}}, r"choices\.p1: input should be 'left', 'right' or 'tie'"),
        ({"choices": {}}, "choices: "),
        ({"rater": " "}, "rater: string should match"),
        ({"secret": "x"}, "secret: extra inputs"),
        ({"nonce": "n9"}, "keeps no blind sheet with its nonce"),
    ],
)
def test_a_rating_of_something_else_is_refused(
    house: House, tmp_path: Path, changes: dict, sentence: str
) -> None:
    sheet(house)
    path = file(tmp_path, chosen(16))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=sentence):
        counted(house, path)
    assert actions(house) == ["sheet"]


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


def test_the_sensor_deploys_nothing_while_what_decides_is_not_committed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(house, 2)
    approve(house, 2)
    found = ["not committed: configs/fleet.yaml (changed)"]
    monkeypatch.setattr("adire_assets.gates.clean_commit.refusal", lambda *_: found[0])
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(house, instance) == f"release 2 is approved; {found[0]}"
        monkeypatch.setattr("adire_assets.gates.clean_commit.refusal", lambda *_: None)
        assert isinstance(tick(house, instance), dg.RunRequest)


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
        monkeypatch.setattr("adire_assets.defs.ticks.FIRST_RETRY_SECONDS", 0)
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
    assert release.record_named(house.project, "light@3") == house.releases[3]
