"""What is known about a release in one step of its rollout: counters, replays, judged images."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from adire_assets.config import Project
from adire_assets.fleet_config import FleetConfig
from adire_assets.serving import release, routing
from adire_assets.serving.analysis import Analysis, Pair, analyse
from adire_assets.serving.gateway import Traffic
from adire_assets.serving.loading import evaluated
from adire_assets.serving.record import Rollout
from adire_assets.store import Store

if TYPE_CHECKING:
    from adire_assets.serving.replay import Judge, Replay

THIN_PER_SECOND = 10  # fewer answers of the canary are thin traffic

OpenJudge = Callable[[], "AbstractContextManager[Judge]"]


class Watch:
    """Watches one rollout for as long as its process carries it out; `close` ends what it asks."""

    def __init__(
        self, project: Project, fleet: FleetConfig, target: str, model: str, open_judge: OpenJudge
    ) -> None:
        self.project, self.fleet, self.target, self.model = project, fleet, target, model
        self.config = fleet.targets[target].rollout
        self.gateway = routing.gateway_of(project, fleet, target)
        self.open_judge = open_judge
        self.stack = ExitStack()
        self.judge: Judge | None = None
        self.replay: Replay | None = None
        self.sent_before = 0  # replays before this step

    def prepare(self) -> None:
        """Let the judge load while something else is waited for."""
        if self.judge is None:
            self.judge = self.stack.enter_context(self.open_judge())

    def close(self) -> None:
        self.stack.close()
        self.judge = self.replay = None

    def begin_step(self, rollout: Rollout) -> dict[str, Any]:
        """The counters that the next step starts from; `GatewayDown` without a gateway."""
        self.sent_before = self.replay.sent if self.replay else 0
        return {name: asdict(traffic) for name, traffic in self._counters(rollout).items()}

    def own_requests(self) -> int:
        """How many requests to the release this rollout has made in this step."""
        return self.replay.sent - self.sent_before if self.replay else 0

    def quality(self, rollout: Rollout) -> list[float] | None:
        """CLIP-S of what is served, once it is judged. UserError when the judge has died."""
        return rollout.quality or self._replaying(rollout).quality()

    def analysis(self, rollout: Rollout, served: list[float] | None) -> Analysis:
        """What this step has shown so far; `GatewayDown` without a gateway."""
        replay = self._replaying(rollout)
        seconds = time.time() - rollout.since
        traffic = self._pairs(rollout)
        thin = traffic[0][0].answered < THIN_PER_SECOND * seconds
        replay.allow(self.sent_before + self.config.replays_maximum if thin else 0)
        quality = None if served is None else (served, self._evaluated(rollout))
        return analyse(self.config, traffic, seconds, quality)

    def _counters(self, rollout: Rollout) -> dict[str, Traffic]:
        """What both releases have answered so far, to users and to who asked for them."""
        found = dict.fromkeys(("canary", "canary_asked", "running", "running_asked"), Traffic())
        for name, number in (("canary", rollout.number), ("running", rollout.origin)):
            if number is not None:
                found[name] = self.gateway.traffic(self.model, number)
                found[f"{name}_asked"] = self.gateway.pinned_traffic(self.model, number)
        return found

    def _pairs(self, rollout: Rollout) -> list[Pair]:
        """What is to be compared: users' requests (or their copies) first, then our own."""
        ever = self._counters(rollout)
        now = {
            name: traffic.since(_stored(rollout.baseline[name])) for name, traffic in ever.items()
        }
        if rollout.stage == "mirroring":
            return [(now["canary_asked"], now["running"].plus(now["running_asked"]))]
        # At 100 % nobody else gets requests: what it did before is what to compare with.
        running = ever["running"] if rollout.percent == 100 else now["running"]
        return [(now["canary"], running), (now["canary_asked"], now["running_asked"])]

    def _replaying(self, rollout: Rollout) -> "Replay":
        from adire_assets.serving.replay import Replay  # numpy: not in every Dagster process

        if self.replay is None:
            self.prepare()
            self.replay = Replay(
                routing.door_of(self.project, self.fleet, self.target),
                self.model,
                rollout.number,
                rollout.origin,
                evaluated(self.project, self._release(rollout)),
                self.judge if rollout.quality is None else None,
                self.config.judged_images,
            )
            self.replay.start()
            self.stack.callback(self.replay.close)
        return self.replay

    def _evaluated(self, rollout: Rollout) -> list[float]:
        evaluation = Store(self.project).open(self._release(rollout).evaluation)
        return [image["clip_s"] for image in evaluation.json("report.json")["per_image"]]

    def _release(self, rollout: Rollout) -> release.ReleaseRecord:
        return release.read_record(self.project, self.model, rollout.number)


def _stored(baseline: dict[str, Any]) -> Traffic:
    latency = tuple((bound, count) for bound, count in baseline["latency"])
    return Traffic(**{**baseline, "latency": latency})
