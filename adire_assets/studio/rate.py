"""The page on which people rate a release against what is live, blind and by the keyboard.

Each rater has a sheet of their own (`gates.sheets`): pairs in an order and on sides of its own, of
which the browser gets one at a time, as contents without names. Each answer is kept before the next
pair is shown. Where nobody signs in, a rater says who they are.
"""

from functools import partial
from typing import Any
from urllib.parse import urlencode

from nicegui import events, ui

from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.core.sample import Content
from adire_assets.gates import approval_commands, sheets
from adire_assets.gates.sheets import Agreement, Progress, Sheet
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.studio.frame import (
    Visitor,
    act,
    heading,
    in_thread,
    lines,
    quiet,
    sentence,
    shared,
    tell,
    watched,
    with_reason,
)
from adire_assets.studio.guard import LOCAL_USER

SECONDS = 2.0  # from one look to the next
NAME_CHARACTERS = 200
TAKE_BACK = "back"
CHOICES = {"left": "A is better (←)", "tie": "No difference (↓)", "right": "B is better (→)"}
# With the answer comes the pair that the browser showed, so that none is given to another one.
KEYS = """
<script>
function adireChoose(choice) {
  document.querySelector("[data-place]")?.dispatchEvent(new CustomEvent("choose", {detail: choice}))
}
document.addEventListener("keydown", (event) => {
  const keys = {ArrowLeft: "left", ArrowDown: "tie", ArrowRight: "right", Backspace: "back"}
  const choice = keys[event.key]
  const modified = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey
  const elsewhere = "input, textarea, [role=combobox], [role=listbox], [role=dialog]"
  if (!choice || modified || event.repeat || event.target.closest(elsewhere)) return
  if (!document.querySelector("[data-place]")) return
  event.preventDefault()
  adireChoose(choice)
})
</script>
<style>
.adire-sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.adire-sides figure { margin: 0; min-width: 0; }
.adire-sides img { width: 100%; max-height: 60vh; object-fit: contain; }
.adire-sides .adire-text { white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
"""
EMIT = "(event) => emit(event.detail, Number(event.currentTarget.dataset.place))"


async def fill(
    project: Project, model: str, plug: Family, visitor: Visitor, *, number: int, rater: str
) -> None:
    """The page on release `number`, 0 for the newest; `rater` says who somebody is who has not
    signed in."""
    try:
        found = await in_thread(sheets.rateable, project, model)
        wanted = await in_thread(_wanted, project, model, number, found)
        against = await in_thread(sheets.against, project, model)
    except (UserError, OSError) as error:
        lines([sentence(error)])
        return
    who = visitor.name if visitor.bearer is not LOCAL_USER else _name(rater)
    page = _Page(project, wanted, against, plug.answer, visitor, who)
    page.frame(found)


def _wanted(project: Project, model: str, number: int, found: list[int]) -> ReleaseRecord:
    """The release to rate. UserError when there is none, or when it cannot be rated."""
    if not found:
        raise UserError(f"{model} has no release to rate: none, or all are live or quarantined")
    wanted = release.read_record(project, model, number or found[0])
    if wanted.number not in found:
        known = ", ".join(map(str, found))
        raise UserError(f"release {number} of {model} is live or quarantined; rate one of: {known}")
    return wanted


def _name(text: str) -> str:
    return " ".join(text.split())[:NAME_CHARACTERS]


class _Page:
    """The page of one visitor: their sheet, and how far all have come."""

    def __init__(
        self,
        project: Project,
        wanted: ReleaseRecord,
        against: str,
        answer: str,
        visitor: Visitor,
        rater: str,
    ) -> None:
        self.project, self.wanted, self.visitor, self.rater = project, wanted, visitor, rater
        self.against, self.answer = against, answer
        self.sheet: Sheet | None = None
        self.shown: object = None  # what the sheet's part of the page shows
        self.displayed: Sheet | None = None  # whose pair was shown last
        self.drawn = 0  # pairs that were shown; the browser tells which of them it answers
        self.busy = False

    def frame(self, found: list[int]) -> None:
        """The parts of the page that stay; `found`: the releases that can be rated."""
        ui.add_head_html(KEYS)
        if len(found) > 1:
            named = {one: f"Release {one}" for one in found}
            ui.select(
                named,
                label="Release to rate",
                value=self.wanted.number,
                on_change=lambda event: ui.navigate.to(self.path(event.value)),
            ).classes("w-48")
        self.place = ui.element("section").classes("w-full").props('aria-label="Your sheet"')
        with self.place:
            ui.spinner(size="lg").props('aria-label="Loading"')
        with ui.element("section").classes("w-full").props('aria-label="All raters"'):
            heading("All raters", 2)
            self.refresh = watched(SECONDS, self.count, self.show_progress)
        # The pictures may take longer than a page may take to come.
        ui.timer(SECONDS, self.look)

    def path(self, number: int) -> str:
        named = {"rater": self.rater} if self.visitor.bearer is LOCAL_USER and self.rater else {}
        return f"/models/{self.wanted.model}/rate?{urlencode({'release': number, **named})}"

    # --- the rater's own sheet -------------------------------------------------------------------

    async def look(self) -> None:
        """Show the sheet as it is kept now; it may go on in another window."""
        if self.busy:
            return
        try:
            self.visitor.require("rate")
            found, against = await in_thread(self.as_it_is)
        except (UserError, OSError) as error:
            self.put_refusal(error)
            return
        if not self.busy:
            self.against = against
            await self.show(found)

    def as_it_is(self) -> tuple[Sheet | None, str]:
        """The sheet, and what it is rated against. UserError when it can no longer be rated."""
        model, number = self.wanted.model, self.wanted.number
        if number not in sheets.rateable(self.project, model):
            raise UserError(f"release {number} of {model} is live or quarantined now")
        return self.find(), sheets.against(self.project, model)

    def find(self) -> Sheet | None:
        return sheets.find(self.project, self.wanted, self.rater) if self.rater else None

    def put(self, what: object, fill: Any) -> None:
        """Show the sheet's part anew, unless it shows `what` already."""
        if self.shown != what and not self.place.is_deleted:
            self.shown = what
            self.place.clear()
            with self.place:
                fill()

    def put_refusal(self, error: UserError | OSError) -> None:
        said = sentence(error)
        self.put(said, partial(lines, [said]))

    async def show(self, sheet: Sheet | None) -> None:
        self.sheet = sheet
        if sheet is None:
            self.put(("beginning", self.against), self.show_beginning)
        elif sheet.handed_in:
            self.put("end", self.show_end)
        elif sheet.complete:
            self.put("complete", self.show_complete)
        elif self.shown != "pair" or self.displayed != sheet:
            try:
                rule = await in_thread(sheets.rule, self.project, sheet)
                pair = await in_thread(sheets.sides, self.project, sheet)
            except (UserError, OSError) as error:
                self.put_refusal(error)
                return
            self.put("pair", partial(self.frame_pair, rule))
            if not self.place.is_deleted:
                self.show_pair(sheet, *pair)

    def show_beginning(self) -> None:
        ui.label(
            f"You see pairs of {self.answer}s for the same prompt, one of release "
            f"{self.wanted.number} and one of {self.against}, in an order of your own, and choose "
            "the better one. Each answer is kept at once; you can stop and go on later."
        )
        named = None
        if not self.rater:
            named = ui.input("Your name").classes("w-64").props(f"maxlength={NAME_CHARACTERS}")
            named.on("keydown.enter", lambda: self.start(_name(named.value or "")))
        ui.button(
            "Start", on_click=lambda: self.start(_name(named.value or "") if named else self.rater)
        ).props("no-caps").classes("mt-2")

    async def start(self, rater: str) -> None:
        if not rater:
            tell(UserError("say who you are: your answers are counted with your name"))
            return
        found = await self.working(sheets.start, self.project, self.wanted, rater)
        if found and rater != self.rater:
            self.rater = rater
            ui.navigate.to(self.path(self.wanted.number))
        elif found:
            await self.show(found)

    def frame_pair(self, rule: tuple[str, str]) -> None:
        """The parts of a pair; `show_pair` fills them."""
        with ui.element("div").classes("w-full") as self.pair:
            heading(f"Which is the better {self.answer} for this?", 2)
            self.status = ui.label().props("role=status").classes("text-sm")
            self.prompt = ui.label().style("white-space: pre-wrap; overflow-wrap: anywhere")
            self.sides = []
            with ui.element("div").classes("adire-sides my-2"):
                for letter in ("A", "B"):
                    with ui.element("figure"):
                        picture = ui.element("img")
                        picture.props["alt"] = f"{self.answer.capitalize()} {letter}"
                        text = ui.label().classes("adire-text")
                        with ui.element("figcaption"):
                            ui.label(letter).classes("font-semibold")
                    self.sides.append((picture, text))
            with ui.row().props('role=group aria-label="Your choice"'):
                for choice, title in CHOICES.items():
                    chosen = f"() => adireChoose('{choice}')"
                    ui.button(title).props("no-caps").on("click", js_handler=chosen)
            back = quiet("Back to the pair before (Backspace)", lambda: None).classes("mt-2")
            back.on("click", js_handler=f"() => adireChoose('{TAKE_BACK}')")
            with ui.expansion("What it takes").classes("w-full"):
                lines([f"{rule[0]}.", f"{rule[1]}."])
        self.pair.on("choose", self.choose, js_handler=EMIT)

    def show_pair(self, sheet: Sheet, prompt: str, *contents: Content) -> None:
        self.displayed = sheet
        self.drawn += 1
        for (picture, text), content in zip(self.sides, contents, strict=True):
            written = isinstance(content, str)
            picture.set_visibility(not written)
            text.set_visibility(written)
            text.set_text(content if isinstance(content, str) else "")
            if not isinstance(content, str):
                picture.props["src"] = content.uri
                picture.update()
        self.prompt.set_text(prompt)
        self.status.set_text(f"Pair {len(sheet.choices) + 1} of {len(sheet.order)}")
        self.pair.props(f"data-place={self.drawn}")

    async def choose(self, event: events.GenericEventArguments) -> None:
        """Keep an answer to the pair that the browser showed, or take back the one before."""
        choice, place = event.args
        sheet = self.displayed
        if self.busy or sheet is None or self.shown != "pair":
            return
        if place != self.drawn or sheet != self.sheet:
            return  # a key that was pressed before the next pair came
        if choice == TAKE_BACK:
            if sheet.choices:
                await self.show_changed(sheets.take_back, self.project, sheet)
        else:
            await self.show_changed(sheets.answer, self.project, sheet, choice)

    async def show_changed(self, work: Any, *arguments: Any) -> None:
        found = await self.working(work, *arguments)
        if found:
            await self.show(found)
        else:
            await self.look()

    async def working(self, work: Any, *arguments: Any) -> Any:
        """What `work` returns; None for what was refused, which is shown."""
        self.busy = True
        try:
            return await act(self.visitor, "rate", work, *arguments)
        finally:
            self.busy = False

    def show_complete(self) -> None:
        assert self.sheet
        heading("All pairs are rated", 2)
        ui.label("Your answers count when you hand them in; after that they cannot be changed.")

        async def hand_in() -> None:
            await self.show_changed(sheets.hand_in, self.project, self.sheet)
            await self.refresh()

        async def back() -> None:
            await self.show_changed(sheets.take_back, self.project, self.sheet)

        with ui.row().classes("mt-2"):
            ui.button("Hand in", on_click=hand_in).props("no-caps")
            quiet("Back to the last pair", back)

    def show_end(self) -> None:
        heading("Your ratings are handed in", 2)
        ui.label("They count when an approver counts the ratings; until then nobody is told them.")

    # --- all raters ------------------------------------------------------------------------------

    async def count(self) -> tuple[Progress, bool, bool]:
        """(how far all have come, whether this rater has begun, whether they have ended)."""
        key = f"rate {self.wanted.model} {self.wanted.number}"
        found = await shared(key, SECONDS / 2, partial(sheets.progress, self.project, self.wanted))
        return found, self.sheet is not None, bool(self.sheet and self.sheet.handed_in)

    def show_progress(self, found: tuple[Progress, bool, bool]) -> None:
        progress, begun, ended = found
        said = [
            f"{one.rater}: {one.answers} of {one.pairs} pairs"
            f"{', handed in' if one.handed_in else ''}"
            for one in progress.raters
        ]
        lines(said or ["Nobody has begun yet."])
        ui.label(
            f"Decided pairs (not ties): {progress.decided} handed in, {progress.under_way} with "
            f"the sheets under way, of at least {progress.minimum} that the gate asks for."
        ).classes("mt-2")
        if ended:
            ui.label(_agreement(progress.agreement))
        if progress.uncounted and self.visitor.may("approve"):
            if begun and not ended:
                ui.label("Hand in your own sheet before you count the ratings.")
            else:
                about = f"release {self.wanted.number} of {self.wanted.model}"
                text = (
                    f"It is approved if the ratings speak for {about}. Each count makes the next "
                    "one stricter."
                )
                ask = partial(with_reason, "Count the ratings", text, self.count_ratings)
                quiet("Count the ratings", ask).classes("mt-2")

    async def count_ratings(self, reason: str) -> None:
        ui.notify("Counting the ratings", type="ongoing", timeout=2000)
        said = await act(self.visitor, "approve", self.counted, reason)
        if said is not None:
            ui.notify(said, type="positive", multi_line=True, timeout=8000)
        await self.refresh()

    def counted(self, reason: str) -> str:
        own = self.find()
        if own and not own.handed_in:
            raise UserError("hand in your own sheet before you count the ratings")
        name, by = f"{self.wanted.model}@{self.wanted.number}", self.visitor.name
        return approval_commands.approve(
            self.project, name, reason, by, [], lambda message: None, count=True
        )


def _agreement(found: Agreement) -> str:
    if not found.pairs:
        return "Agreement: no pair was rated by two raters yet."
    about = f"of {found.raters} raters over {found.pairs} pairs"
    if found.alpha is None:
        return f"Agreement {about}: not defined, since all answers are alike."
    return (
        f"Agreement {about}: Krippendorff's alpha {found.alpha:.2f} (1: always the same answer, 0: "
        "no more alike than by chance)."
    )
