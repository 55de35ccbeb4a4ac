"""What the checks of `deployed_model` say of a rollout that has ended."""

import pytest

from adire_assets.defs.rollouts import outcome
from adire_assets.serving.record import DeploymentRecord


@pytest.mark.parametrize(("live", "told"), [(None, "nothing"), (2, "release 2")])
def test_a_release_that_was_sent_back_leaves_what_was_live_before(
    live: int | None, told: str
) -> None:
    ended = {"number": 3, "outcome": "rolled_back", "reason": "too slow", "decisions": []}
    state = DeploymentRecord(target="local", model="indigo", live=live, last_rollout=ended)
    passed, sentence, _ = outcome(3, [state])
    assert not passed
    assert sentence == f"release 3 was sent back on local: too slow; {told} is live there"
