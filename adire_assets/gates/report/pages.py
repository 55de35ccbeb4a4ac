"""The page about an evaluation and its verdict: for the command line, MLflow and Dagster."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import family_of, load_model
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_bytes
from adire_assets.gates import approvals, ratings
from adire_assets.gates.report import document
from adire_assets.serving import release
from adire_assets.serving.rollout import deployment

PAGE_MODULES = ("adire_assets.gates.report.document",)
TEMPLATES = Path(__file__).with_name("templates")
ANOTHER = "; name another file with --output"


def report(project: Project, name: str, output: Path | None) -> Path:
    """Write the page of `model@N`, or of the newest evaluation of `model`; its path.

    It shows the champion that its verdict compared with; where it names none, the live release,
    unless that is the one reported on. UserError when there is no such release or evaluation, or
    when the page cannot be written.
    """
    evaluation, found, verdict = _judged(project, name)
    page = document.html(_view(project, evaluation, verdict, found))
    which = found.number if found else evaluation.key[:12]
    path = (output or project.home / "reports" / f"{evaluation.model}-{which}.html").absolute()
    _write(path, page, ANOTHER)
    return path


def blind_sheet(project: Project, name: str, output: Path | None) -> tuple[Path, str]:
    """Write the A/B sheet of `model@N` against what is live: (its path, what it must bring and how
    that is counted).

    UserError as for `report`, and when no rating of it could be enough.
    """
    evaluation, found, verdict = _judged(project, name)
    view = _view(project, evaluation, verdict, found, blind=True)
    shuffle = document.shuffle_of(view, approvals.rating_secret(project))
    assert view.release is not None and view.champion_release is not None
    wanted = release.read_record(project, view.model, view.release)
    prompts = {pair.name: pair.prompt for pair in view.pairs}
    rule = ratings.rule(project, wanted, view.champion_release, prompts)
    file = f"{view.model}-{view.release}-blind.html"
    path = (output or project.home / "reports" / file).absolute()
    pairs = {pair.name: [pair.prompt, pair.seed] for pair in view.pairs}
    approvals.note_sheet(project, wanted, view.champion_release, shuffle.nonce, pairs)
    _write(path, document.ab_sheet(view, shuffle, rule), ANOTHER)
    return path, "; ".join(rule)


def page_path(project: Project, verdict: Artifact) -> Path:
    """Where `write_page` puts the page of a verdict; another name when it is drawn in another way.

    The page's key is that of a recipe: the verdict, the code, the templates and the libraries.
    """
    templates, _ = lineage.folder_digest(TEMPLATES)
    page = lineage.Recipe(
        kind="report_page",
        model=verdict.model,
        modules=(*PAGE_MODULES, *family_of(project, verdict.model).samples.modules),
        inputs={"promotion_verdict": verdict.key, "templates": templates},
    )
    return project.home / "reports" / f"{verdict.model}-{verdict.key[:12]}-{page.key[:8]}.html"


def write_page(project: Project, verdict: Artifact, log: Callable[[Path], None]) -> None:
    """Write the page of a verdict, and of the evaluation that it is about.

    `log(page)` comes first: a page that is there is in MLflow as well.
    """
    evaluation = Store(project).open(verdict.manifest["evaluation"])
    found = _release_of(project, evaluation)
    page = document.html(_view(project, evaluation, verdict, found))
    path = page_path(project, verdict)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        draft.write_text(page, encoding="utf-8")
        log(draft)
    _write(path, page)


def _write(path: Path, page: str, advice: str = "") -> None:
    try:
        write_bytes(path, page.encode())
    except UserError as error:  # what the system refuses, in a sentence
        raise UserError(f"{error}{advice}") from None


def _judged(
    project: Project, name: str
) -> tuple[Artifact, release.ReleaseRecord | None, Artifact | None]:
    """The evaluation that `name` means, its release, and its newest verdict."""
    store = Store(project)
    evaluation, found = evaluation_of(project, name)
    verdicts = [
        one
        for one in store.artifacts(evaluation.model, "promotion_verdict")
        if one.manifest["evaluation"] == evaluation.reference()
    ]
    verdict = max(verdicts, key=lambda one: one.manifest["created"], default=None)
    return evaluation, found, store.open(verdict.reference()) if verdict else None


def evaluation_of(project: Project, name: str) -> tuple[Artifact, release.ReleaseRecord | None]:
    """The evaluation that `name` means, and its release: of `model@N`, or the newest of `model`."""
    model, at, number = name.partition("@")
    load_model(project, model)  # UserError when there is none
    if at and not number.isdecimal():
        raise UserError(f"{name}: a release is named like {model}@3, the newest one {model}")
    store = Store(project)
    if at:
        found = release.read_record(project, model, int(number))
        return store.open(found.evaluation), found
    evaluation = _newest(store, model)
    return evaluation, _release_of(project, evaluation)


def _newest(store: Store, model: str) -> Artifact:
    """The newest evaluation that is no champion's, made only to compare another adapter with it."""
    made = store.artifacts(model, "evaluation_report")
    if not made:
        raise UserError(f"{model} has no evaluation yet; `adire materialize {model}` makes one")
    verdicts = store.artifacts(model, "promotion_verdict")
    judged, rivals = (
        {verdict.manifest[side]["key"] for verdict in verdicts if side in verdict.manifest}
        for side in ("evaluation", "champion")
    )
    own = [one for one in made if one.key not in rivals - judged]
    return store.open(max(own, key=lambda one: one.manifest["created"]).reference())


def _release_of(project: Project, evaluation: Artifact) -> release.ReleaseRecord | None:
    same = [
        one
        for one in release.records(project, evaluation.model)
        if one.evaluation == evaluation.reference()
    ]
    return same[-1] if same else None


def _view(
    project: Project,
    evaluation: Artifact,
    verdict: Artifact | None,
    found: release.ReleaseRecord | None,
    blind: bool = False,
) -> document.ReportView:
    """What a page on `evaluation` (of release `found`) shows. The champion is the one of the
    verdict, or where it names none, and for a rating, the one that is live."""
    store, model = Store(project), evaluation.model
    known = release.records(project, model)
    compared = None if blind or verdict is None else verdict.manifest.get("champion")
    live = deployment.champion(project, load_fleet(project), model)
    rival: Artifact | None
    if compared:
        rival = store.recall(compared)
        same = [one for one in known if one.is_of(rival.manifest)]  # serving settings may differ
        other = max(same, key=lambda one: (one.number == live, one.number), default=None)
    else:
        other = next((one for one in known if one.number == live and one != found), None)
        rival = store.recall(other.evaluation) if other else None
    numbers = [one.number if one else None for one in (found, other)]
    return document.view_of(
        project, evaluation, numbers[0], verdict, rival, numbers[1], pairs=blind
    )
