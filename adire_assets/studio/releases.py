"""The page of a model's releases: what is live, what waits, and the buttons that decide."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from nicegui import ui

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.gate import Gate
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.gates import approval_commands, approvals, contents
from adire_assets.gates.verdict import Verdict
from adire_assets.line import deploy
from adire_assets.serving import record, release
from adire_assets.studio.frame import (
    Visitor,
    act,
    heading,
    lines,
    quiet,
    shared,
    watched,
    with_reason,
)

SECONDS = 2.0  # from one look to the next


@dataclass(frozen=True)
class ReleaseView:
    """One release as the page shows it."""

    number: int
    created: str
    verdict: str
    live_on: tuple[str, ...]
    quarantined: str | None
    approved: str | None
    waits: bool  # for an approval
    was_live: bool  # at any time
    gates: tuple[str, ...]  # a sentence for each that was asked for


@dataclass(frozen=True)
class ModelView:
    """A model's releases, the newest first, and its rollouts in a line each."""

    releases: tuple[ReleaseView, ...]
    rollouts: tuple[str, ...]
    rolling_out: int | None  # their release
    held: bool  # one of them waits for a person


def view(project: Project, model: str) -> ModelView:
    """The state of a model's releases."""
    states = [record.read(project, target, model) for target in load_fleet(project).targets]
    required = load_model(project, model).evaluation.gates.human_approval == "required"
    waiting = {one.number for one in approvals.waiting(project, model)} if required else set()
    shown = []
    for one in reversed(release.records(project, model)):
        try:
            verdict = Verdict.from_dict(Store(project).open(one.verdict).json("verdict.json"))
            told, gates = verdict.sentence(), verdict.gates
        except (UserError, OSError) as error:
            told, gates = str(error), ()
        approved = approvals.approval(project, one)
        shown.append(
            ReleaseView(
                number=one.number,
                created=one.created,
                verdict=told,
                live_on=tuple(state.target for state in states if state.live == one.number),
                quarantined=record.quarantine_reason(project, model, one.number),
                approved=approved.entry.told() if approved else None,
                waits=one.number in waiting,
                was_live=any(one.number in _ever_live(state) for state in states),
                gates=tuple(_told(gate) for gate in gates if gate.threshold is not None),
            )
        )
    under_way = [state for state in states if state.rollout]
    said = []
    for state in under_way:
        now = state.rollout
        assert now
        last = now.decisions[-1]["sentence"] if now.decisions else now.reason or ""
        said.append(f"release {now.number} on {state.target}: {now.where}; {last}".rstrip("; "))
    rolling_out = next((state.rollout.number for state in under_way if state.rollout), None)
    held = any(state.rollout and state.rollout.held for state in under_way)
    return ModelView(tuple(shown), tuple(said), rolling_out, held)


def _told(gate: Gate) -> str:
    return f"{'passed' if gate.passed else 'FAILED'}: {gate.explanation}"


def _ever_live(state: record.DeploymentRecord) -> set[int]:
    """The releases that a target has gone live with."""
    return {entry["number"] for entry in state.history}


async def fill(project: Project, model: str, plug: Family, visitor: Visitor) -> None:
    """The page."""
    page = _Page(project, model, visitor)
    look = partial(shared, f"releases {model}", SECONDS / 2, partial(view, project, model))
    page.refresh = watched(SECONDS, look, page.show)


class _Page:
    """The page of one visitor, which is shown anew when the records change."""

    refresh: Callable[[], Any]

    def __init__(self, project: Project, model: str, visitor: Visitor) -> None:
        self.project, self.model, self.visitor = project, model, visitor

    def show(self, found: ModelView) -> None:
        if found.rolling_out is not None:
            with ui.card().classes("w-full").props('aria-live="polite"'):
                heading("Rollout", 2)
                lines(found.rollouts)
                about = f"release {found.rolling_out} of {self.model}"
                with ui.row():
                    if found.held:
                        promote = partial(self.promote, found.rolling_out)
                        self.button("Promote", "promote a rollout", about, promote)
                    end = partial(self.end_rollout, found.rolling_out)
                    self.button("End the rollout", "roll back", about, end)
        if not found.releases:
            ui.label("No release yet.")
        for one in found.releases:
            self.card(one)

    def card(self, one: ReleaseView) -> None:
        with ui.card().classes("w-full"):
            with ui.row().classes("items-center gap-2"):
                heading(f"Release {one.number}", 2)
                for target in one.live_on:
                    ui.badge(f"live on {target}").props("color=green-9")
                if one.quarantined:
                    ui.badge("quarantined").props("color=red-9")
                if one.approved:
                    ui.badge("approved").props("color=indigo-8")
                if one.waits:
                    ui.badge("waits for approval").props("color=brown-8")
                ui.label(one.created).classes("text-sm")
            ui.label(one.verdict)
            if one.quarantined:
                ui.label(f"Quarantined: {one.quarantined}")
            if one.approved:
                ui.label(f"Approved {one.approved}")
            with ui.expansion(f"Gates of release {one.number}").classes("w-full"):
                lines(one.gates)
            with ui.row().classes("items-center gap-2"):
                path = f"/models/{self.model}/releases/{one.number}/report"
                link = ui.link("Report", path, new_tab=True).classes("adire-link")
                link.props["aria-label"] = f"Report on release {one.number}"
                if not one.live_on and not one.quarantined:
                    path = f"/models/{self.model}/rate?release={one.number}"
                    link = ui.link("Rate", path).classes("adire-link")
                    link.props["aria-label"] = f"Rate release {one.number}"
                about, number = f"release {one.number} of {self.model}", one.number
                if one.waits or not (one.approved or one.live_on or one.quarantined):
                    self.button("Approve", "approve", about, partial(self.approve, number))
                if one.approved and not one.live_on:
                    self.button("Revoke", "approve", about, partial(self.revoke, number))
                if one.quarantined:
                    what = partial(self.lift, number)
                    self.button("Lift the quarantine", "lift a quarantine", about, what)
                elif one.was_live and not one.live_on:
                    back = partial(self.roll_back, number)
                    self.button("Roll back", "roll back", f"to {about}", back)

    def button(self, title: str, action: str, about: str, work: Callable[[str], list[str]]) -> None:
        """A button that asks for a reason first; none where the visitor may not do it."""
        if not self.visitor.may(action):
            return

        async def do(reason: str) -> None:
            ui.notify(f"{title}: in progress", type="ongoing", timeout=2000)
            said = await act(self.visitor, action, work, reason)
            if said is not None:
                ui.notify("\n".join(said), type="positive", multi_line=True, timeout=8000)
            await self.refresh()

        button = quiet(title, lambda: with_reason(title, about, do))
        button.props["aria-label"] = f"{title}: {about}"

    # --- what the buttons do, in a thread: the lines that the command line would print ----------

    def approve(self, number: int, reason: str) -> list[str]:
        name, by = f"{self.model}@{number}", self.visitor.name
        return [approval_commands.approve(self.project, name, reason, by, [], _silent)]

    def revoke(self, number: int, reason: str) -> list[str]:
        name, by = f"{self.model}@{number}", self.visitor.name
        return [approval_commands.revoke(self.project, name, reason, by, _silent)]

    def lift(self, number: int, reason: str) -> list[str]:
        contents.lift_quarantine(self.project, self.model, number, self._by(reason))
        return [f"{self.model}: release {number} may be deployed again"]

    def roll_back(self, number: int, reason: str) -> list[str]:
        states = deploy.roll_back(self.project, self.model, number, self._by(reason), _silent)
        return self._live(states)

    def end_rollout(self, number: int, reason: str) -> list[str]:
        why = self._by(reason)
        # If that rollout is over, the live release must not be rolled back.
        states = deploy.roll_back(self.project, self.model, None, why, _silent, only=number)
        return self._live(states)

    def promote(self, number: int, reason: str) -> list[str]:
        return deploy.promote(self.project, self.model, self._by(reason), _silent, only=number)

    def _live(self, states: list[record.DeploymentRecord]) -> list[str]:
        return [f"{self.model}: {one.live_text} is live on {one.target}" for one in states]

    def _by(self, reason: str) -> str:
        return f"{reason} ({self.visitor.name}, in the studio)"


def _silent(message: str) -> None:
    """The page polls the record instead."""
