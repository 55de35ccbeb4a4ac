"""A proposed change of a model's data: files that come, texts that are mended, files that go.

A draft is one person's, in <home>/drafts/<model>/<person>/: files/ has what was uploaded and
draft.json what is known of it. Nothing of it is in the data before `data_publish.publish`. What the
dataset step would not take is told by `check` and not kept.
"""

import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from adire_assets.config import held_weights
from adire_assets.config.model import ModelConfig, load_model
from adire_assets.config.takedowns import taken_down
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family
from adire_assets.core.file_names import printable
from adire_assets.core.files import read_json, write_bytes, write_json
from adire_assets.core.folders import delete_folder
from adire_assets.core.lineage import digest
from adire_assets.core.placement import Job
from adire_assets.core.project import Project
from adire_assets.core.worker import Progress
from adire_assets.ops import data_commit, data_upload
from adire_assets.ops.data_upload import LARGEST_DRAFT, MOST_FILES, NotTaken, Room
from adire_assets.tracking.dvc import versions
from adire_assets.tracking.dvc.files import listing

LONGEST_TEXT = 1000  # characters
MOST_REFUSED = 500  # sentences that a draft keeps
CHECK_BYTES = 4 * 2**30  # of memory that a check may use
CHECK_SECONDS, FILE_SECONDS = 120, 4  # of CPU; for each file besides
FILES = "files"
PICTURE = re.compile(r"[0-9a-f]{32}")


@dataclass
class Draft:
    """What a person proposes. `items`: what validation takes, {file, line, text, note, picture};
    `unchecked`: files that nobody has looked at; `refused`: [name, sentence] of what was not taken;
    `consequences`: sentences about the data that is there; `whole`: why the data together make no
    dataset yet; `texts`: {file: its new text}; `removed`: files of the data that go; `against`: the
    data that all this was checked against."""

    items: list[dict[str, Any]] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    refused: list[list[str]] = field(default_factory=list)
    consequences: list[str] = field(default_factory=list)
    whole: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    against: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to publish."""
        return not (self.items or self.unchecked or self.texts or self.removed)


@dataclass(frozen=True)
class Place:
    """A model's data, and where one person's draft of it lies."""

    project: Project
    model: str
    by: str
    config: ModelConfig
    plug: Family

    @property
    def functions(self) -> Any:
        assert self.plug.data
        return self.plug.data.functions

    @property
    def drafts(self) -> Path:
        return self.project.home / "drafts" / self.model

    @property
    def folder(self) -> Path:
        # Whoever has a token chose its name; two names never share a folder.
        plain = re.sub(r"[^a-z0-9]+", "-", self.by.casefold())[:40].strip("-")
        return self.drafts / f"{plain}-{sha256(self.by.encode()).hexdigest()[:12]}"

    @property
    def files(self) -> Path:
        return self.folder / FILES

    @property
    def pictures(self) -> Path:
        return self.drafts / "pictures"

    @property
    def data(self) -> Path:
        return self.project.inside(self.config.data.path, "data.path")


def place(project: Project, model: str, by: str) -> Place:
    """Where a person's draft of a model's data lies. UserError for a model without such data."""
    config = load_model(project, model)
    plug = family(config.family)
    if plug.data is None:
        raise UserError(
            f"the data of {model} cannot be changed here, because its family {plug.name} has no "
            f"checks for single files; change {config.data.path} and run `dvc add`"
        )
    return Place(project, model, by, config, plug)


def pinned(found: Place) -> dict[str, str]:
    """{file: MD5} of the model's data as its .dvc file says; empty before the first file."""
    data = found.config.data
    output, prefix = versions.place_of(found.project, data.dvc_file, data.path)
    return versions.files_below(prefix, listing(found.project, output))


def read(found: Place) -> Draft:
    """The draft; an empty one where there is none."""
    try:
        return Draft(**read_json(found.folder / data_commit.DRAFT))
    except FileNotFoundError:
        return Draft()


def locked(found: Place) -> AbstractContextManager[Any]:
    """Others wait for the draft meanwhile. Who takes the lock "dvc" too takes that first."""
    return found.project.locks.acquire(data_commit.draft_lock(found.folder))


@contextmanager
def changing(found: Place) -> Iterator[Draft]:
    """The draft, which is written when the block ends; others wait meanwhile."""
    with locked(found):
        draft = read(found)
        yield draft
        _write(found, draft)


def _write(found: Place, draft: Draft) -> None:
    draft.refused = draft.refused[-MOST_REFUSED:]
    write_json(found.folder / data_commit.DRAFT, asdict(draft))


def add(found: Place, name: str, file: Path) -> list[str]:
    """Take in `file`, uploaded as `name` (a path with / for a file of a folder): a line for each
    file that is not taken, and one that says how many are. UserError for a file that is too large.
    """
    data_upload.require_size(name, file)
    functions = found.functions
    with changing(found) as draft:
        there = {path for path in found.files.rglob("*") if path.is_file()}
        room = Room(
            LARGEST_DRAFT - sum(path.stat().st_size for path in there), MOST_FILES - len(there)
        )
        names = [path.relative_to(found.files).as_posix() for path in there]
        data = pinned(found)
        files = {one.casefold() for one in (*names, *data)}
        taken = {one.casefold() for one in (*names, *filter(functions.is_item, data))}
        taken |= {str(one) for name in files for one in PurePosixPath(name).parents}
        last: dict[str, int] = {}  # number that was tried of a name

        def free(wanted: str) -> str:
            """The name, or the next like it that nothing has; captions of a name are replaced."""
            if any(str(one) in files for one in PurePosixPath(wanted.casefold()).parents):
                raise NotTaken("a folder in its name is a file of the data; rename the folder")
            if not functions.is_item(wanted):
                return wanted
            path, chosen = PurePosixPath(wanted), wanted
            while chosen.casefold() in taken:
                number = last[wanted.casefold()] = last.get(wanted.casefold(), 1) + 1
                chosen = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
            taken.add(chosen.casefold())
            return chosen

        found.files.mkdir(parents=True, exist_ok=True)
        kept, refused = data_upload.take(
            name, file, found.files, functions.ENDINGS, functions.TAKES, room, free
        )
        draft.unchecked = list(dict.fromkeys([*draft.unchecked, *kept]))
        again = {printable(name), *kept, *(shown for shown, _ in refused)}
        draft.refused = [one for one in draft.refused if one[0] not in again]
        draft.refused += [[shown, why] for shown, why in refused]
    said = [f"{shown}: {why}" for shown, why in refused]
    return [*said, f"{len(kept)} file{'' if len(kept) == 1 else 's'} uploaded"]


def check(found: Place, progress: Progress) -> Draft:
    """Let the dataset step's own code look at the files, in a child process with bounds on memory
    and CPU; what it refuses is deleted from the draft and told. UserError when it cannot be done.
    """
    data_commit.recover(found.project)
    with changing(found) as draft:
        _check(found, draft, progress)
        return draft


def check_anew(found: Place, draft: Draft, progress: Progress) -> None:
    """`check` by who has the draft `locked`; all that is refused now is in `draft.refused`."""
    draft.refused = []
    _check(found, draft, progress)
    _write(found, draft)


def _check(found: Place, draft: Draft, progress: Progress) -> None:
    project, there = found.project, pinned(found)
    versions_data = found.config.data
    if there:
        tree = versions.subtree(project, versions_data.dvc_file, versions_data.path)
        versions.verify_working_tree(project, versions_data.dvc_file, versions_data.path, tree)
    draft.removed = [name for name in draft.removed if name in there]  # others are gone already
    left = {name: md5 for name, md5 in there.items() if name not in draft.removed}
    known = [one["file"] for one in draft.items]
    order = dict.fromkeys([*known, *draft.unchecked])  # of two that are the same the first stays
    added = [name for name in order if (found.files / name).is_file()]
    _leave_out_dropped(found, draft)
    job = Job(
        f"{__name__}:judge",
        {
            "name": found.plug.name,
            "seconds": CHECK_SECONDS + FILE_SECONDS * (len(added) + len(left)),
            "source": found.data,
            "files": left,
            "draft": found.files,
            "added": added,
            "config": versions_data.model_dump(mode="json"),
            "taken_down": [*taken_down(project)],
            "memory": found.drafts / "known.json",
            "pictures": found.pictures,
        },
        threads=1,
    )
    result = _in_child(project, job, progress)
    draft.items = result["items"]
    draft.refused += [[name, why] for name, why in result["refused"]]
    draft.consequences, draft.whole = result["consequences"], result["whole"]
    draft.texts = {**result["texts"], **draft.texts}
    draft.unchecked, draft.against = [], digest(there)
    kept = {one["file"] for one in draft.items}
    draft.texts = {n: text for n, text in draft.texts.items() if n in kept or n in left}
    for path in [*found.files.rglob("*")]:
        if path.is_file() and path.relative_to(found.files).as_posix() not in kept:
            path.unlink()


def _leave_out_dropped(found: Place, draft: Draft) -> None:
    """Rewrite files of records with a blank line for each that somebody has dropped."""
    lines: dict[str, set[int]] = {}
    for one in draft.items:
        if one["line"] is not None and one["file"] not in draft.unchecked:
            lines.setdefault(one["file"], set()).add(one["line"])
    for name, wanted in lines.items():
        rows = (found.files / name).read_text(encoding="utf-8").split("\n")
        kept = [row if line in wanted else "" for line, row in enumerate(rows, start=1)]
        write_bytes(found.files / name, "\n".join(kept).encode())


def judge(*, name: str, seconds: int, progress: Progress, **arguments: Any) -> dict[str, Any]:
    """The family's `data.judge` with bounds on memory and CPU. A worker function."""
    resource.setrlimit(resource.RLIMIT_AS, (CHECK_BYTES, CHECK_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    step = family(name).data
    assert step
    return step.functions.judge(**arguments, progress=progress)


def _in_child(project: Project, job: Job, progress: Progress) -> dict[str, Any]:
    with project.placement.start(job) as started:
        said = list(started.events())
        outcome = started.outcome()
    if outcome.result is None and (outcome.status == "lost" or "MemoryError" in "".join(said)):
        raise UserError(
            "the files take more time or memory to check than is allowed, and are not checked; "
            "remove the largest and check again"
        )
    return outcome.returned()


def one_line(text: str, what: str) -> str:
    """A text with blanks for what cannot be printed. UserError for one that is too long."""
    said = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(said) > LONGEST_TEXT:
        raise UserError(f"{what} has {len(said)} characters; at most {LONGEST_TEXT}")
    return said


def set_text(found: Place, name: str, text: str) -> None:
    """Give an image of the draft or the data another text, in one line; "" takes a change back.
    UserError for a file that is in neither, and for a text that is too long."""
    said = one_line(text, f"{name}: the text")
    with changing(found) as draft:
        known = {one["file"] for one in draft.items}
        if not found.functions.TEXT or not found.functions.is_item(name):
            raise UserError(f"{name} has no text of its own")
        if name not in known and name not in pinned(found):
            raise UserError(f"{name} is neither in the draft nor in the data of {found.model}")
        if said:
            draft.texts[name] = said
        else:
            draft.texts.pop(name, None)


def texts(found: Place) -> dict[str, str]:
    """{file: its text} of the data that is there."""
    return found.functions.texts(found.data, pinned(found))


def drop(found: Place, name: str, line: int | None = None) -> None:
    """Take an item out of the draft, a file that nobody has looked at too."""
    with changing(found) as draft:
        draft.items = [one for one in draft.items if (one["file"], one["line"]) != (name, line)]
        draft.unchecked = [one for one in draft.unchecked if one != name]
        if name not in {one["file"] for one in draft.items}:
            draft.texts.pop(name, None)
            if name in {p.relative_to(found.files).as_posix() for p in found.files.rglob("*")}:
                (found.files / name).unlink(missing_ok=True)


def remove(found: Place, name: str, gone: bool = True) -> None:
    """Let a file of the data go, or (`gone` False) stay. UserError where there is none."""
    with changing(found) as draft:
        if name not in pinned(found) or not found.functions.is_item(name):
            raise UserError(f"{name} is not in the data of {found.model}")
        draft.removed = [one for one in draft.removed if one != name] + ([name] if gone else [])
        draft.against = ""  # what was taken in its place may be refused beside it
        if gone:
            draft.texts.pop(name, None)


def propose_texts(found: Place, progress: Progress) -> Draft:
    """Give each new item without a text a proposal of the model's judge. UserError where items have
    no texts, or the judge cannot be read."""
    if not found.functions.TEXT:
        raise UserError(f"the items of {found.model} have no text of their own")
    draft = read(found)
    wanted = [one["file"] for one in draft.items if one["file"] not in draft.texts]
    if not wanted:
        return draft
    weights = held_weights.held(found.project, found.model, "judge").artifact
    assert found.plug.data
    arguments = {
        "judge": weights.path,
        "files": {name: str(found.files / name) for name in wanted},
        "data": found.config.data.model_dump(mode="json"),
        "evaluation": found.config.evaluation_settings(found.project),
    }
    job = Job(found.plug.data.job("propose"), arguments, threads=1)
    with found.project.placement.start(job) as started:
        for line in started.events():
            progress(line)
        outcome = started.outcome()
    proposed: Mapping[str, str] = outcome.returned()
    with changing(found) as draft:
        names = {one["file"] for one in draft.items}
        # What somebody has written meanwhile stays.
        draft.texts = {**{n: t for n, t in proposed.items() if n in names}, **draft.texts}
        return draft


def discard(found: Place) -> None:
    """Forget the draft."""
    data_commit.recover(found.project)
    with locked(found):
        delete_folder(found.folder)


def lines(found: Place, draft: Draft) -> Iterator[str]:
    """The draft, as the command line tells it."""
    yield from (f"refused: {name}: {why}" for name, why in draft.refused)
    files: dict[str, int] = {}
    for one in draft.items:
        files[one["file"]] = files.get(one["file"], 0) + 1
        if one["note"]:
            yield f"{one['file']}: {one['note']}"
    for name, count in files.items():
        text = draft.texts.get(name)
        records = "" if found.functions.TEXT else f" ({count} records)"
        yield f"new: {name}{records}{f': {text}' if text else ''}"
    yield from (f"not checked: {name}" for name in draft.unchecked)
    yield from (f"goes: {name}" for name in draft.removed)
    yield from draft.consequences
    if draft.whole:
        yield draft.whole
