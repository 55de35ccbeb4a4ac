"""One process that carries out, or follows, the rollout of a model on a target: stage by stage.

Every step is written into the record first and then done, so the next holder of the lease finds
where to go on. What is done outside the record follows from it (routes, the other slot), or is done
under the lock of a slot, after a check that the lease still holds. `watch` observes the release in
a step, `analysis` decides from the observations.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from adire_assets.config.fleet import FleetConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.locks import process_name
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.record import LEASE_SECONDS
from adire_assets.serving.rollout import steps, together
from adire_assets.serving.rollout.analysis import Analysis
from adire_assets.serving.rollout.watch import OpenJudge, Watch
from adire_assets.serving.state import DeploymentRecord, Rollout, Step

TICK_SECONDS = 0.5
GATEWAY_SECONDS = 60.0  # a supervised gateway is back long before


@dataclass(frozen=True)
class Callbacks:
    """The functions that the caller of a rollout passes.

    `progress` is called with sentences about what happens, `report` with each decision: the target
    and the record's entry (see `Rollout.decision`). `refusal` says why a release must not
    serve with the software that its answers tell of, None when it may. `follow` is called when all
    records and routes are as decided.
    """

    open_judge: OpenJudge
    progress: Callable[[str], None]
    report: Callable[[str, Mapping[str, Any]], None] = lambda target, decision: None
    refusal: Callable[[release.ReleaseRecord, Mapping[str, str | None] | None], str | None] = (
        lambda release, software: None
    )
    follow: Callable[[], None] = lambda: None


class LeaseLost(Exception):
    """Somebody else carries the rollout out, or has ended it."""


class Quarantined(Exception):
    """The release was quarantined during its rollout; the message is the reason."""


class RolloutController:
    """One process that carries out, or follows, the rollout of a model on a target."""

    def __init__(
        self, project: Project, fleet: FleetConfig, target: str, model: str, callbacks: Callbacks
    ) -> None:
        self.project, self.fleet, self.target, self.model = project, fleet, target, model
        self.callbacks = callbacks
        self.watch = Watch(project, fleet, target, model, callbacks.open_judge)
        self.holder = process_name()
        self.gateway_down: float | None = None

    def run(self, only: str | None = None) -> None:
        """To the end of the rollout that is under way; `only` one of this strategy."""
        stages = {"waiting": self._wait, "loading": self._load, "checking": self._check}
        over = threading.Event()
        threading.Thread(target=self._keep_lease, args=(over,), daemon=True).start()
        try:
            while rollout := (state := self._take(only)).rollout:
                if only not in (None, rollout.strategy):
                    break
                if rollout.lease["holder"] != self.holder:
                    time.sleep(TICK_SECONDS)
                    continue
                with suppress(LeaseLost):
                    try:
                        if rollout.stage != "waiting":  # checked when it starts
                            self._refuse_quarantined(rollout)
                        stages.get(rollout.stage, self._watch)(state, rollout)
                    except Quarantined as reason:
                        self._turn_away(rollout, str(reason))
        finally:
            over.set()
            self.watch.close()

    # --- the lease -----------------------------------------------------------------------------

    def _take(self, only: str | None) -> DeploymentRecord:
        """The record, with the lease taken when nobody has it."""

        def take(state: DeploymentRecord) -> DeploymentRecord:
            if state.rollout is None or not state.rollout.abandoned():
                return state
            if only not in (None, state.rollout.strategy):
                return state
            if state.rollout.lease["holder"]:
                self._tell(state.rollout, f": taken over, {state.rollout.stage}")
            return replace(state, rollout=self._leased(state.rollout))

        return record.change(self.project, self.target, self.model, take)

    def _leased(self, rollout: Rollout) -> Rollout:
        return replace(rollout, lease={"holder": self.holder, "until": time.time() + LEASE_SECONDS})

    def _keep_lease(self, over: threading.Event) -> None:
        while not over.wait(LEASE_SECONDS / 4):
            with suppress(LeaseLost):
                self._change(lambda state, rollout: state)

    def _change(
        self, function: Callable[[DeploymentRecord, Rollout], DeploymentRecord]
    ) -> DeploymentRecord:
        """Change the record and renew the lease; `LeaseLost` when it is not this holder's."""

        def guarded(state: DeploymentRecord) -> DeploymentRecord:
            if state.rollout is None or state.rollout.lease["holder"] != self.holder:
                raise LeaseLost
            after = function(state, state.rollout)
            return replace(after, rollout=self._leased(after.rollout)) if after.rollout else after

        return record.change(self.project, self.target, self.model, guarded)

    def _require(self, rollout: Rollout) -> None:
        """`LeaseLost` unless this holder still carries out this rollout, at this stage."""
        now = record.read(self.project, self.target, self.model).rollout
        known = (self.holder, rollout.number, rollout.stage, rollout.slot)
        if now is None or (now.lease["holder"], now.number, now.stage, now.slot) != known:
            raise LeaseLost

    def _refuse_quarantined(self, rollout: Rollout) -> None:
        """`Quarantined` for a rollout of a quarantined release."""
        if entry := record.quarantine_entry(self.project, self.model, rollout.number):
            raise Quarantined(entry["reason"])

    def _set(self, **fields: Any) -> None:
        """Change fields of the rollout."""
        self._change(lambda state, now: replace(state, rollout=replace(now, **fields)))

    # --- stages --------------------------------------------------------------------------------

    def _wait(self, state: DeploymentRecord, rollout: Rollout) -> None:
        before = record.read(self.project, rollout.after[-1], self.model)
        if before.rollout and before.rollout.number == rollout.number:
            time.sleep(TICK_SECONDS)
        elif before.live == rollout.number:
            fresh = steps.new_rollout(self.project, self.fleet, state, rollout.number, [])
            fresh = replace(fresh, after=rollout.after, lease=rollout.lease)
            self._change(lambda now, _: replace(now, rollout=None).with_rollout(fresh))
        else:
            self._end(rollout, "cancelled", f"{before.target} did not get it")

    def _load(self, state: DeploymentRecord, rollout: Rollout) -> None:
        back = rollout.strategy == record.ROLLBACK
        if not back:
            if not self._routed(rollout):
                return
            self.watch.prepare(rollout)
        self._tell(rollout, f": loading into slot {rollout.slot}")
        slot_client = self._slot_client(rollout)
        try:
            with slot_client.exclusive(self.model):
                slot_client.load(self._release(rollout), lambda: self._require(rollout))
        except UserError as error:
            self._end(rollout, "failed", str(error))
        else:
            if back:
                self._finish(rollout)
            else:
                self._set(stage="checking", since=time.time())

    def _check(self, state: DeploymentRecord, rollout: Rollout) -> None:
        """Asks the slot itself what was evaluated; no user's request comes to it yet."""
        from adire_assets.serving.fleet import parity

        address, told = self._slot_client(rollout).address, self.callbacks.progress
        try:
            facts = parity.compare_at(self.project, self._release(rollout), address, told)
            if facts["passed"]:
                self._measure(rollout, address)
        except UserError as error:
            self._end(rollout, "failed", str(error))
            return
        # A remote server may have other libraries than the scratch server of this machine.
        if why := self.callbacks.refusal(self._release(rollout), facts["software"]):
            self._end(rollout, "failed", why)  # no fault of the release, so no quarantine
        elif not facts["passed"]:
            self._send_back(rollout, facts["explanation"], {"parity": facts})
        else:
            self._decide(rollout, "promote", facts["explanation"], {"parity": facts})
            mirror = rollout.strategy == "shadow" and rollout.origin is not None
            self._enter(rollout, stage="mirroring" if mirror else "serving", step=0)

    def _measure(self, rollout: Rollout, address: str) -> None:
        """Record what a usual request takes, from which the gateway's limit follows."""
        from adire_assets.serving.fleet import capacity

        found = capacity.usual_request(self.project, self._release(rollout), address)
        if found is None:
            return
        known = {str(rollout.number): asdict(found)}
        self._change(lambda state, now: replace(state, usual={**state.usual, **known}))
        timeout = self.fleet.targets[self.target].gateway.request_timeout_seconds
        if found.seconds > timeout:
            self._tell(
                rollout,
                f": a request of the default size takes {found.seconds:.0f} s, longer than the "
                f"gateway waits: lower the defaults in `serving` of {self.model}, or raise "
                f"request_timeout_seconds ({timeout:g}) in {fleet_file_name()}",
            )

    def _watch(self, state: DeploymentRecord, rollout: Rollout) -> None:
        if not self._routed(rollout):
            return
        try:
            analysis, fields = self.watch.look(rollout)
        except GatewayDown:
            return
        except UserError as error:  # nothing can be said about the answers
            self._end(rollout, "failed", str(error))
            return
        if fields:
            self._set(**fields)
        if analysis.decision == "rollback":
            self._send_back(rollout, analysis.sentence(), analysis.numbers)
        elif analysis.decision == "promote" or rollout.approved:
            self._go_on(rollout, analysis)
        elif analysis.decision == "hold" and not rollout.held:
            self._decide(rollout, "hold", analysis.sentence(), analysis.numbers, held=True)
        else:
            self.watch.wait(rollout)

    # --- steps between stages ------------------------------------------------------------------

    def _go_on(self, rollout: Rollout, analysis: Analysis) -> None:
        sentence = analysis.sentence()
        if rollout.approved and analysis.decision != "promote":
            sentence = f"a person said to go on ({rollout.reason}): {sentence}"
        if own := self.watch.own_requests():
            sentence += f"; {own} of the answers the rollout has asked for itself"
        self._decide(rollout, "promote", sentence, analysis.numbers)
        if rollout.stage == "mirroring":
            self._enter(rollout, stage="serving", step=0)
        elif rollout.step + 1 < len(rollout.steps):
            self._enter(rollout, stage="serving", step=rollout.step + 1)
        else:
            self._finish(rollout)

    def _enter(self, rollout: Rollout, **fields: Any) -> None:
        """Begin a stage or step: its counters start here."""
        try:
            begun = self.watch.begin_step(rollout)
        except GatewayDown:
            return  # the same decision is made again when it is back
        begun |= {"since": time.time(), "held": False, "approved": False, "reason": None}

        def enter(state: DeploymentRecord, now: Rollout) -> DeploymentRecord:
            # Under the record's lock: a quarantine written before this change is always seen.
            self._refuse_quarantined(now)
            return replace(state, rollout=replace(now, **begun, **fields))

        self._change(enter)
        self._publish()
        percent = replace(rollout, **fields).percent
        mirrored = self.fleet.targets[self.target].rollout.mirrored_percent
        share = f"{percent} % of the requests" if percent else f"{mirrored} % mirrored"
        self._tell(rollout, f": {share}")

    def _finish(self, rollout: Rollout) -> None:
        verdict = self._release(rollout).verdict

        def live(state: DeploymentRecord, now: Rollout) -> DeploymentRecord:
            self._refuse_quarantined(now)  # under the record's lock, as in `_enter`
            before = replace(state, rollout=None)
            if now.strategy == record.ROLLBACK:
                return before.after_rollback(now.number, verdict, now.reason, record.now())
            after = before.with_live_release(now.number, "deploy", None)
            after = replace(after, verdict=verdict, last_rollout=now.summary("live", None))
            # What was live until now may have been quarantined, and must not stand by.
            return steps.without_quarantined(self.project, after)

        self._change(live)
        self._over(f"release {rollout.number} of {self.model} is live on {self.target}")

    def _turn_away(self, rollout: Rollout, reason: str) -> None:
        """End the rollout of a quarantined release; what is live stays live, on every target."""
        if rollout.strategy == record.ROLLBACK:
            self._end(rollout, "failed", reason)
        else:
            self._send_back(rollout, reason, {}, elsewhere=False)

    def _send_back(
        self,
        rollout: Rollout,
        reason: str,
        numbers: Mapping[str, Any],
        *,
        elsewhere: bool = True,
    ) -> None:
        """End the rollout as one plan; `elsewhere`, the targets that have the release already go
        back too."""
        decision = rollout.decision("rollback", reason, numbers)

        def decide(states: dict[str, DeploymentRecord]) -> dict[str, Step]:
            own = states[self.target].rollout
            if own is None or own.lease["holder"] != self.holder or own.number != rollout.number:
                raise LeaseLost
            why = f"{self.target} sent it back: {reason}"
            return {
                self.target: Step(leave=own.number, reason=reason, decision=decision),
                **{
                    name: steps.back_to_previous(self.project, self.fleet, states[name], why)
                    for name in before
                    if states[name].live == own.number
                },
            }

        before = rollout.after if elsewhere and self.fleet.on_failure == "rollback" else []
        before = [name for name in before if name in self.fleet.targets]
        pending = f"release {rollout.number} of {self.model} goes back: {reason}"
        plan = record.commit(self.project, self.model, [self.target, *before], decide, pending)
        assert plan
        for name in plan.steps:
            with suppress(GatewayDown):
                routing.publish(self.project, self.fleet, name)
        record.sync_quarantine(self.project, self.model, rollout.number)
        self.callbacks.report(self.target, decision)
        self._tell(rollout, f": sent back: {reason}")
        self.watch.close()

    def _end(self, rollout: Rollout, outcome: str, reason: str) -> None:
        self._change(lambda state, now: state.without_rollout(outcome, reason))
        self._over(f"{self._name(rollout)}: {outcome}: {reason}")

    def _over(self, said: str) -> None:
        """What follows the end of a rollout."""
        self._publish()
        self.watch.close()
        self.callbacks.progress(said)
        told = self.callbacks.progress
        steps.restore_standby(self.project, self.fleet, self.target, self.model, told)
        together.bring_together(self.project, self.fleet, self.target, told)

    def _decide(self, rollout: Rollout, what: str, why: str, numbers: Any, **fields: Any) -> None:
        made = rollout.decision(what, why, numbers)
        self._set(decisions=[*rollout.decisions, made], **fields)
        self.callbacks.report(self.target, made)
        self._tell(rollout, f", {rollout.where}: {what}: {why}")

    # --- the gateway ---------------------------------------------------------------------------

    def _routed(self, rollout: Rollout) -> bool:
        """Make the gateway route as recorded; False while it does not answer."""
        if self._publish():
            return True
        now = time.time()
        self.gateway_down = self.gateway_down or now
        if now - self.gateway_down > GATEWAY_SECONDS:
            self._end(rollout, "failed", f"the gateway of {self.target} does not answer")
        time.sleep(TICK_SECONDS)
        return False

    def _publish(self) -> bool:
        try:
            if not routing.is_published(self.project, self.fleet, self.target, self.model):
                routing.publish(self.project, self.fleet, self.target)
        except GatewayDown:
            return False
        self.gateway_down = None
        return True

    def _slot_client(self, rollout: Rollout) -> SlotClient:
        return SlotClient(self.project, self.fleet, self.target, rollout.slot)

    def _release(self, rollout: Rollout) -> release.ReleaseRecord:
        return release.read_record(self.project, self.model, rollout.number)

    def _name(self, rollout: Rollout) -> str:
        return f"release {rollout.number} of {self.model} on {self.target}"

    def _tell(self, rollout: Rollout, what: str) -> None:
        self.callbacks.progress(f"{self._name(rollout)}{what}")
