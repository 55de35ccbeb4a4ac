"""What feedback says against the live release: an alert, and where the YAML says so a rollback.

The share of bad feedback is held against `monitoring.feedback.maximum_bad_share` by a test that is
valid at every look (`core.evidence`): the chance that a release whose share is at the limit ever
alarms is at most 5 %. What one user says on one day shares its fate, so it is one observation, the
share of it that is bad; nobody alarms by rating often. While a day lasts, its observation changes;
tests simulate that this alarms no more often.

Only the release that is live is looked at: a challenger has no users of its own, and a rollout
judges it by other means.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import load_model
from adire_assets.config.monitoring import FeedbackConfig
from adire_assets.core.errors import UserError
from adire_assets.core.evidence import RATE, share_above, threshold
from adire_assets.core.project import Project
from adire_assets.line import deploy
from adire_assets.monitoring.feedback import Given, all_given
from adire_assets.serving import record

WHO = "the feedback of its users"


@dataclass(frozen=True)
class Signal:
    """What is said of a release: `share` of it is bad, 0 to 1, each user's day alike."""

    model: str
    release: int
    count: int
    users: int
    share: float
    alarm: bool
    limit: float

    def told(self) -> str:
        """In a sentence."""
        held = "above" if self.alarm else "not shown to be above"
        return (
            f"release {self.release} of {self.model}: {self.share:.0%} of the feedback is bad, "
            f"{held} the {self.limit:.0%} that monitoring.feedback.maximum_bad_share allows "
            f"({self.count} by {self.users} user(s))"
        )


def signal(model: str, release: int, given: Iterable[Given], limits: FeedbackConfig) -> Signal:
    """What the feedback `given` on a model says of one release."""
    found = [one for one in given if one.release == release]
    by_day: dict[tuple[str, str], list[bool]] = {}
    for one in found:
        by_day.setdefault((one.user, one.at[:10]), []).append(one.is_bad)
    bad = sum(sum(all_) / len(all_) for all_ in by_day.values())
    users = len({user for user, _ in by_day})
    enough = len(found) >= limits.minimum_ratings and users >= limits.minimum_users
    limit = limits.maximum_bad_share
    alarm = enough and bool(share_above(limit, len(by_day), bad) >= threshold(RATE))
    share = bad / len(by_day) if by_day else 0.0
    return Signal(model, release, len(found), users, share, alarm, limit)


def live_signals(project: Project, model: str) -> list[Signal]:
    """The signal of each release that is live on a target."""
    states = [record.read(project, target, model) for target in load_fleet(project).targets]
    lives = sorted({state.live for state in states if state.live is not None})
    if not lives:
        return []
    given, limits = all_given(project, model), load_model(project, model).monitoring.feedback
    return [signal(model, number, given, limits) for number in lives]


def alarms(project: Project, model: str) -> Iterator[str]:
    """A sentence for each live release whose feedback alarms."""
    return (one.told() for one in live_signals(project, model) if one.alarm)


def follow(project: Project, model: str, progress: Callable[[str], None]) -> None:
    """Look at the live releases, say which alarm, and with `action: rollback` go back from them.

    Call it after feedback was kept. Where it cannot go back, because a rollout is under way or
    nothing was live before, it says why, and the next call tries again.
    """
    for found in live_signals(project, model):
        if not found.alarm:
            continue
        progress(found.told())
        if load_model(project, model).monitoring.feedback.action != "rollback":
            continue
        reason = f"{found.told()} ({WHO})"
        try:
            leaving = found.release
            states = deploy.roll_back(project, model, None, reason, progress, leaving=leaving)
        except UserError as error:
            progress(f"{model} does not go back: {error}")
            continue
        for state in states:
            progress(f"{model}: {state.live_text} is live on {state.target}")
