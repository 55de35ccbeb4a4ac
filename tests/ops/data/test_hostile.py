"""What nobody should upload: nothing of it runs, leaves its draft, is kept, or goes unanswered."""

import hashlib
import multiprocessing
import resource
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from adire_assets.core.project import Project
from adire_assets.ops import data_draft, data_upload
from tests.ops.data.test_publish import place, quiet
from tests.support import hostile
from tests.support.hostile import png, zipped
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records

MOST_BYTES = 400 * 2**20  # of memory more, for whoever takes uploads in; a file has at most 64 MiB


def files_of(project: Project, *but: Path) -> dict[str, str]:
    """{file: a hash of it} of the project and what is around it, but for these folders."""
    found = (path for path in project.root.parent.rglob("*") if not path.is_dir())
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if not any(path.is_relative_to(one) for one in but)
    }


@pytest.mark.parametrize(
    "model, uploads", [("indigo", hostile.for_images), ("letters", hostile.records)]
)
def test_none_of_it_is_kept_and_each_is_answered(
    project: Project, tmp_path: Path, model: str, uploads
) -> None:
    found = place(project, model)
    file = tmp_path / "upload"
    free = (found.drafts, project.home / "md5", project.home / "locks", project.home / "jobs", file)
    before = files_of(project, *free)
    # A process of its own, whose peak is that of the uploads.
    fork = multiprocessing.get_context("fork")
    answers, mouth = fork.Pipe(duplex=False)
    process = fork.Process(target=send, args=(found, file, uploads, mouth))
    process.start()
    mouth.close()
    sent, waiting, memory = answers.recv()
    process.join()
    assert memory < MOST_BYTES
    draft = data_draft.check(found, quiet)
    assert len(sent) >= (300 if model == "indigo" else 20), len(sent)
    kept = {path.name for path in found.files.rglob("*") if path.is_file()}
    # Bits that fell over may leave a whole picture, which is one like any other.
    whole = {name for name in kept if name.startswith(("noise", "exif"))}
    assert kept == whole and {one["file"] for one in draft.items} == whole
    told = {name.partition(":")[0] for name, _ in draft.refused}
    assert [name for name in waiting if name not in whole | told] == []
    assert all(why and len(name) < 300 for name, why in draft.refused)
    assert files_of(project, *free) == before
    assert not Path("/tmp/hacked").exists()
    assert {path.suffix for path in found.drafts.rglob("*") if path.is_file()} <= {
        ".json", ".png", ".jpg"
    }  # fmt: skip


def send(
    found: data_draft.Place,
    file: Path,
    uploads: Callable[[], Iterator[tuple[str, bytes]]],
    mouth: Connection,
) -> None:
    """Tell (names of the uploads, of those that wait to be checked, bytes of memory)."""
    sent, waiting, memory = [], [], peak()
    for name, content in uploads():
        file.write_bytes(content)
        *refused, last = data_draft.add(found, name, file)
        sent.append(name)
        assert all(line.isprintable() and len(line) < 500 for line in refused), refused
        if not (refused or last.startswith("0 ") or name.endswith(".zip")):
            waiting.append(name)
    mouth.send((sent, waiting, peak() - memory))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_what_is_good_beside_it_is_kept(project: Project, tmp_path: Path) -> None:
    found, file = place(project), tmp_path / "upload"
    polyglot = png(600) + zipped(("x.html", hostile.SCRIPT))
    for name, content in (
        ("good.zip", zipped(("a.png", png(601)), ("../b.png", png(602)), ("A.PNG", png(603)))),
        ("poly.png", polyglot),
        ("poly.PNG", png(604)),
    ):
        file.write_bytes(content)
        data_draft.add(found, name, file)
    draft = data_draft.check(found, quiet)
    assert [one["file"] for one in draft.items] == ["a.png", "A-2.PNG", "poly.png", "poly-2.PNG"]
    assert [name for name, _ in draft.refused] == ["../b.png"]
    for one in draft.items:  # made anew from the pixels
        small = (found.pictures / f"{one['picture']}.jpg").read_bytes()
        assert small.startswith(b"\xff\xd8") and b"script" not in small


def test_a_draft_is_bounded(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, file = place(project), tmp_path / "upload"
    with file.open("wb") as written:
        written.truncate(65 * 2**20)
    assert data_draft.add(found, "x.png", file) == [
        "x.png: is larger than 64 MiB",
        "0 files uploaded",
    ]
    with file.open("wb") as written:
        written.truncate(513 * 2**20)
    with pytest.raises(data_draft.UserError, match="at most 536,870,912 at a time"):
        data_draft.add(found, "x.png", file)
    monkeypatch.setattr(data_draft, "LARGEST_DRAFT", 3 * len(png(600)))
    monkeypatch.setattr(data_draft, "MOST_FILES", 2)
    said = []
    for name, content in (
        ("a.png", png(600)), ("b.png", png(601) + bytes(4 * len(png(600)))), ("b.png", png(602)),
        ("c.png", png(603)),
    ):  # fmt: skip
        file.write_bytes(content)
        said.append(data_draft.add(found, name, file)[0])
    assert said == [
        "1 file uploaded",
        f"b.png: a change has at most {data_upload.LARGEST_DRAFT // 2**20:,} MiB; publish it first",
        "1 file uploaded",
        f"c.png: a change has at most {data_upload.MOST_FILES:,} files; publish it first",
    ]


def test_a_text_is_one_line_of_a_bounded_length(project: Project) -> None:
    found = place(project)
    data_draft.set_text(found, "p0.png", "a\0 b\u202e\r\n c\x1b[31m")
    assert data_draft.read(found).texts == {"p0.png": "a b c [31m"}
    for name, text in (("p0.png", "x" * 1001), ("../p0.png", "x"), ("metadata.csv", "x")):
        with pytest.raises(data_draft.UserError):
            data_draft.set_text(found, name, text)
    with pytest.raises(data_draft.UserError):
        data_draft.remove(found, "metadata.csv")
    data_draft.drop(found, "../../../draft.json")
    assert (found.folder / "draft.json").is_file()


def test_nobody_reaches_another_ones_draft_by_a_name(project: Project, tmp_path: Path) -> None:
    file = write_records(tmp_path / "x.jsonl", [alpaca(90)])
    folders = set()
    for by in ("../../..", "", "a/b", "A/B", "x" * 300, "\0", "ada", "Ada"):
        found = place(project, "letters", by)
        data_draft.add(found, "x.jsonl", file)
        assert found.folder.parent == project.home / "drafts" / "letters"
        folders.add(found.folder)
    assert len(folders) == 8
