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
from adire_assets.gates.blind import BASE, Shuffle
from adire_assets.gates.policy_comparison import VERDICT
from adire_assets.gates.report import document
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment


def report(project: Project, name: str, output: Path | None) -> Path:
    """Write the page of `model@N`, or of the newest evaluation of `model`; its path.

    It shows the champion that its verdict compared with; where it names none, the live release,
    unless that is the one reported on. UserError when there is no such release or evaluation, or
    when the page cannot be written.
    """
    evaluation, found, verdict = _judged(project, name)
    page = document.html(_view(project, evaluation, verdict, found))
    which = found.number if found else evaluation.key[:12]
    return _written(project, output, f"{evaluation.model}-{which}.html", page)


def blind_sheet(project: Project, name: str, output: Path | None) -> tuple[Path, str]:
    """Write the A/B sheet of `model@N` against what is live: (its path, what it must bring and how
    that is counted).

    UserError as for `draw_sheet`, and when the file cannot be written.
    """
    view, shuffle, rule = draw_sheet(project, name)
    sheet = document.ab_sheet(view, shuffle, rule)
    path = _written(project, output, f"{view.model}-{view.release}-blind.html", sheet)
    return path, "; ".join(rule)


def draw_sheet(project: Project, name: str) -> tuple[document.ReportView, Shuffle, tuple[str, str]]:
    """A new sheet of `model@N`, noted in the release's record: (its pairs, their sides and order,
    what it must bring and how that is counted).

    UserError as for `report`, and when no rating of it could be enough.
    """
    view = blind_view(project, name)
    shuffle = document.shuffle_of(view, approvals.rating_secret(project))
    assert view.release is not None and view.champion_release is not None
    wanted = release.read_record(project, view.model, view.release)
    prompts = {pair.name: pair.prompt for pair in view.pairs}
    rule = ratings.rule(project, wanted, view.champion_release, prompts)
    pairs = {pair.name: [pair.prompt, pair.seed] for pair in view.pairs}
    approvals.note_sheet(project, wanted, view.champion_release, shuffle.nonce, pairs)
    return view, shuffle, rule


def blind_view(project: Project, name: str) -> document.ReportView:
    """The view of `model@N` with its pairs against what is live; where nothing is, against the bare
    base."""
    evaluation, found, verdict = _judged(project, name)
    return _view(project, evaluation, verdict, found, blind=True)


def page_path(project: Project, verdict: Artifact) -> Path:
    """Where `write_page` puts the page of a verdict.

    The page's key is that of a recipe: the verdict, the code, the templates and the libraries.
    """
    templates, _ = lineage.folder_digest(document.TEMPLATES)
    page = lineage.Recipe(
        kind="report_page",
        model=verdict.model,
        modules=(document.__name__, *family_of(project, verdict.model).samples.modules),
        inputs={"promotion_verdict": verdict.key, "templates": templates},
    )
    return project.home / "reports" / f"{verdict.model}-{verdict.key[:12]}-{page.key[:8]}.html"


def write_page(project: Project, verdict: Artifact, log: Callable[[Path], None]) -> None:
    """Write the page of a verdict and its evaluation.

    `log(page)` is called before the page is put in place, so an existing page is logged as well.
    """
    evaluation = Store(project).open(verdict.manifest["evaluation"])
    found = _release_of(project, evaluation)
    page = document.html(_view(project, evaluation, verdict, found))
    path = page_path(project, verdict)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        draft.write_text(page, encoding="utf-8")
        log(draft)
    write_bytes(path, page.encode())


def _written(project: Project, output: Path | None, name: str, page: str) -> Path:
    path = (output or project.home / "reports" / name).absolute()
    try:
        write_bytes(path, page.encode())
    except UserError as error:  # what the system refuses, in a sentence
        raise UserError(f"{error}; name another file with --output") from None
    return path


def _judged(project: Project, name: str) -> tuple[Artifact, ReleaseRecord | None, Artifact | None]:
    """The evaluation that `name` means, its release, and its newest verdict."""
    store = Store(project)
    evaluation, found = evaluation_of(project, name)
    about, made = evaluation.reference(), store.artifacts(evaluation.model, VERDICT)
    verdicts = [one for one in made if one.manifest["evaluation"] == about]
    newest = max(verdicts, key=_created, default=None)
    return evaluation, found, store.open(newest.reference()) if newest else None


def evaluation_of(project: Project, name: str) -> tuple[Artifact, ReleaseRecord | None]:
    """The evaluation that `name` means, and its release: of `model@N`, or the newest of `model`."""
    store, (model, _, number) = Store(project), name.partition("@")
    load_model(project, model)  # UserError when there is none
    if number:
        found = release.read_record(project, model, int(number))
        return store.open(found.evaluation), found
    made = store.artifacts(model, "evaluation_report")
    if not made:
        raise UserError(f"{model} has no evaluation yet; `adire materialize {model}` makes one")
    verdicts = [one.manifest for one in store.artifacts(model, VERDICT)]
    judged = {verdict["evaluation"]["key"] for verdict in verdicts}
    rivals = {verdict["champion"]["key"] for verdict in verdicts if "champion" in verdict}
    # Some were made only to compare another adapter with a champion.
    own = [one for one in made if one.key not in rivals - judged]
    evaluation = store.open(max(own, key=_created).reference())
    return evaluation, _release_of(project, evaluation)


def _created(artifact: Artifact) -> str:
    return str(artifact.manifest["created"])


def _release_of(project: Project, evaluation: Artifact) -> ReleaseRecord | None:
    known, reference = release.records(project, evaluation.model), evaluation.reference()
    return next((one for one in reversed(known) if one.evaluation == reference), None)


def _view(
    project: Project,
    evaluation: Artifact,
    verdict: Artifact | None,
    found: ReleaseRecord | None,
    blind: bool = False,
) -> document.ReportView:
    """What a page on `evaluation` (of release `found`) shows. The champion is the one of the
    verdict, or where it names none, and for a rating, the one that is live."""
    store, known = Store(project), release.records(project, evaluation.model)
    compared = None if blind or verdict is None else verdict.manifest.get("champion")
    live = deployment.champion(project, load_fleet(project), evaluation.model)
    rival: Artifact | None
    if compared:
        rival = store.recall(compared)
        same = [one for one in known if one.is_of(rival.manifest)]  # serving settings may differ
        other = max(same, key=lambda one: (one.number == live, one.number), default=None)
    else:
        other = next((one for one in known if one.number == live and one != found), None)
        rival = store.recall(other.evaluation) if other else None
    own, theirs = (one.number if one else None for one in (found, other))
    if blind and live is None:
        theirs = BASE
    return document.view_of(project, evaluation, own, verdict, rival, theirs, pairs=blind)
