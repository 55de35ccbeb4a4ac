"""The live release goes back for what its users say, where its YAML says so."""

import time

import pytest

from adire_assets.core.errors import UserError
from adire_assets.line import deploy
from adire_assets.monitoring import feedback, feedback_watch
from adire_assets.serving import record, state
from tests.support.feedback import token_of
from tests.support.fleets import write_fleet
from tests.support.light import MODEL
from tests.support.stand_ins import Fleet, Registry

YAML = """\
data: {path: data/light, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation: {judge: {source: judge}}
monitoring: {feedback: {action: ACTION, minimum_ratings: 8}}
"""


@pytest.fixture
def rated(two: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Release 2, which is live, is bad in the eyes of eight users, and release 3 as well."""
    Registry(monkeypatch).go.set()
    project = two.house.project
    write_fleet(project, two.fleet)
    configure(two, "rollback")
    for release in (2, 3):
        for user in range(8):
            token = token_of(project, MODEL, release)
            feedback.keep(project, token, f"user{user}", rating=1)
    return two


def configure(fleet: Fleet, action: str) -> None:
    file = fleet.house.project.model_file(MODEL)
    file.write_text(YAML.replace("ACTION", action))


def follow(fleet: Fleet) -> str:
    said: list[str] = []
    feedback_watch.follow(fleet.house.project, MODEL, said.append)
    return "\n".join(said)


def test_the_live_release_goes_back_everywhere_and_is_quarantined(rated: Fleet) -> None:
    assert "100% of the feedback is bad, above the 30%" in follow(rated)
    assert rated.live() == [1, 1] and rated.settled()
    assert "the feedback of its users" in (rated.quarantined(2) or "")
    assert rated.quarantined(3) is None
    assert follow(rated) == ""  # nobody has said anything against release 1


def test_a_release_that_a_person_has_put_back_stays(rated: Fleet) -> None:
    """What was said before does not send it away again; what is said now does."""
    project = rated.house.project
    follow(rated)
    assert rated.live() == [1, 1]
    record.lift_quarantine(project, MODEL, 2, "the light was bad")
    then = state.now()
    while state.now() == then:  # records know seconds
        time.sleep(0.02)
    assert rated.deploy(2) == [2, 2]
    assert follow(rated) == "" and rated.live() == [2, 2]
    for user in range(8):
        feedback.keep(project, token_of(project, MODEL, 2), f"user{user}", rating=1)
    assert "above the 30%" in follow(rated) and rated.live() == [1, 1]


def test_an_alert_only_says_so(rated: Fleet) -> None:
    configure(rated, "alert")
    assert "above the 30%" in follow(rated)
    assert rated.live() == [2, 2] and rated.quarantined(2) is None
    assert [*feedback_watch.alarms(rated.house.project, MODEL)] == [follow(rated)]


def test_a_rollout_under_way_is_not_ended_by_it(rated: Fleet) -> None:
    rated.begin(4)
    assert "a rollout is under way" in follow(rated)
    assert rated.live() == [2, 2] and rated.quarantined(4) is rated.quarantined(2) is None
    assert rated.state("eu").rollout and rated.state("us").rollout
    with pytest.raises(UserError, match=r"release 1 of .* is not the one that is live"):
        deploy.roll_back(rated.house.project, MODEL, None, "late", print, leaving=1)
