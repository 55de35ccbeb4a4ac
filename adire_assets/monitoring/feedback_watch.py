"""What feedback says against the live release: an alert, and where the YAML says so a rollback.

The share of bad feedback is held against `monitoring.feedback.maximum_bad_share` by a test that is
valid at every look (`core.evidence`): the chance that a release whose share is at the limit ever
alarms is at most 5 %. All that one user says shares that user's taste, so each user is one
observation, the share of it that is bad; nobody alarms alone, however often and for how many days
they rate. The observation changes while the user goes on; tests simulate that this alarms no more
often.

What counts was said since the release last went live: a release that a person has put back is not
sent away again for what was known then.

Only the release that is live is looked at: a challenger has no users of its own, and a rollout
judges it by other means.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

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
EVER = datetime.fromtimestamp(0, UTC)  # of a record that does not say since when


@dataclass(frozen=True)
class Signal:
    """What is said of a release: `share` of it is bad, 0 to 1, each user alike."""

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
    by_user: dict[str, list[bool]] = {}
    for one in found:
        by_user.setdefault(one.user, []).append(one.is_bad)
    bad = sum(sum(all_) / len(all_) for all_ in by_user.values())
    users = len(by_user)
    enough = len(found) >= limits.minimum_ratings and users >= limits.minimum_users
    limit = limits.maximum_bad_share
    alarm = enough and bool(share_above(limit, users, bad) >= threshold(RATE))
    share = bad / users if users else 0.0
    return Signal(model, release, len(found), users, share, alarm, limit)


def live_signals(project: Project, model: str) -> list[Signal]:
    """The signal of each release that is live on a target, from what was said since it last went
    live on the first of them."""
    begun: dict[int, datetime] = {}
    for target in load_fleet(project).targets:
        state = record.read(project, target, model)
        if state.live is not None:
            at = datetime.fromisoformat(state.since) if state.since else EVER
            begun[state.live] = min(begun.get(state.live, at), at)
    if not begun:
        return []
    limits = load_model(project, model).monitoring.feedback
    given = all_given(project, model, since=min(begun.values()).date().isoformat())
    return [
        signal(
            model,
            number,
            (one for one in given if datetime.fromisoformat(one.at) >= at),
            limits,
        )
        for number, at in sorted(begun.items())
    ]


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
