"""Captions as other programs write them are read as meant, and what is not read is told."""

import unicodedata
from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.store import read_json
from adire_assets.families.diffusion.data.captions import read_captions
from adire_assets.families.diffusion.data.dataset import build_dataset
from adire_assets.families.diffusion.data.dataset_summary import summary_sentence
from tests.support.picture_folders import (
    config,
    fill,
    picture,
    reasons,
    refused,
    save,
    texts,
    unused,
)

COMPOSED = "ọ̀nà-é.png"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def captions(folder: Path, files: dict[str, str | bytes], images: tuple[str, ...] = ("a.png",)):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    names = [*images, *files]
    return read_captions(folder, {name: folder / name for name in names})


@pytest.mark.parametrize(
    "name",
    ["a.caption", "a.txt", "a.TXT", "a.Caption", "a.png.txt", "a.png.caption"],
)
def test_a_side_car_is_read(tmp_path, name):
    found = captions(tmp_path, {name: "  a dragon,\n flying "})
    assert found.texts == {"a.png": "a dragon, flying"}
    assert (found.used, found.unused) == ({name}, {})


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.CSV", "METADATA.csv"])
@pytest.mark.parametrize(
    "content",
    [
        'file_name, text\na.png, "a dragon, flying"\n',
        'file_name ,text\na.png,"a dragon, flying"   \n',
        'text, file_name\r\n"a dragon, flying", a.png\r\n',
        "file_name;text\na.png;a dragon, flying\n",
        'file_name;text;;\r\na.png;"a dragon, flying";;\r\n',
        "file_name\ttext\na.png\ta dragon, flying\n",
        '\n\nfile_name,text\n\na.png,"a dragon, flying",,\n',
        '"file_name","text"\n"a.png ","a dragon,\n flying"\n',
        "file_name\ttext\r\na.png\ta dragon, flying\r\n".encode("utf-16"),
        b"\xfe\xff" + 'file_name,text\na.png,"a dragon, flying"'.encode("utf-16-be"),
        b"\xef\xbb\xbf" + b'file_name,text\n.\\a.png,"a dragon, flying"',
    ],
)
def test_a_table_is_read_as_it_is_meant(tmp_path, name, content):
    assert captions(tmp_path, {name: content}).texts == {"a.png": "a dragon, flying"}


def test_lines_of_json_are_read_whatever_the_case_of_their_files_name(tmp_path):
    line = '{"file_name": "sub\\\\a.png", "text": "x"}'
    found = captions(tmp_path, {"Metadata.JSONL": line}, ("sub/a.png",))
    assert found.texts == {"sub/a.png": "x"}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"metadata.csv": "file_name,text\na.png,a dragon, flying\n"},
            "metadata.csv:2: 3 fields where the first line has 2: a.png | a dragon | flying; "
            "a field that holds a comma stands between double quotes",
        ),
        (
            {"metadata.csv": "file_name,text\na.png,'a dragon, flying'\n"},
            "3 fields where the first line has 2: a.png | 'a dragon | flying'; a field",
        ),
        (
            {"metadata.csv": 'file_name,text\na.png,"a dragon" flying\n'},
            "metadata.csv:2: not valid CSV: ',' expected after '\"'",
        ),
        (
            {"metadata.csv": "image,caption\na.png,x\n"},
            "metadata.csv:1: no column file_name and no column text in its first line "
            "(image,caption), which has to name file_name,text",
        ),
        (
            {"metadata.csv": "file_name,text\nA.png,x\n"},
            "names A.png, which is not there, but a.png is",
        ),
        (
            {"metadata.csv": "file_name,text\n.a.png,x\n"},
            "names .a.png, which does not count: it is hidden or a program's leftover",
        ),
        (
            {"metadata.csv": "file_name,text\na.png,caf\xe9".encode("latin-1")},
            "metadata.csv: not UTF-8 text (line 2) (byte 24); save it as UTF-8",
        ),
        (
            {"a.txt": "dragon".encode("utf-16-le")},
            "a.txt: holds zero bytes, so it is not UTF-8 text",
        ),
        ({"a.txt": "x", "a.caption": "y"}, "a.caption and a.txt: two captions of a.png; keep one"),
        ({"a.txt": "x", "a.TXT": "y"}, "a.TXT and a.txt: two captions of a.png"),
        (
            {"metadata.csv": "file_name,text\n", "Metadata.jsonl": "{}"},
            "metadata.csv: Metadata.jsonl stands beside it; keep one of the two",
        ),
    ],
)
def test_what_is_wrong_is_said_as_it_is(tmp_path, files, says):
    with pytest.raises(UserError) as error:
        captions(tmp_path, files)
    assert says in str(error.value)


def test_side_cars_that_say_the_same_are_no_mistake(tmp_path):
    assert captions(tmp_path, {"a.txt": "x ", "a.caption": "x"}).texts == {"a.png": "x"}


@pytest.mark.parametrize(
    ("in_the_table", "on_disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)]
)
def test_names_and_captions_are_compared_as_they_read(tmp_path, in_the_table, on_disk):
    """macOS writes accents in two parts, most editors in one."""
    source = fill(tmp_path / "in", 20)
    save(source, on_disk, picture(4711))
    text = unicodedata.normalize("NFD", "àdìrẹ cloth")
    (source / "metadata.csv").write_text(f"file_name,text\n{in_the_table},{text}\n", "utf-8")
    summary = build_dataset(source, tmp_path / "out", config())
    assert summary.own_captions == 1
    got = texts(tmp_path / "out")
    assert got[f"images/{unicodedata.normalize('NFC', COMPOSED)}"] == unicodedata.normalize(
        "NFC", text
    )


def test_two_files_of_one_name_are_refused(tmp_path):
    source = fill(tmp_path / "in", 20)
    for name in (COMPOSED, DECOMPOSED):
        save(source, name, picture(4711))
    if len(list(source.iterdir())) == 22:  # a file system that tells the two apart
        assert "accents that are coded in two ways; rename one" in refused(source, tmp_path / "out")


def test_a_near_miss_is_told_on_the_line_that_counts_captions(tmp_path):
    source = fill(tmp_path / "in", 20)
    near = [
        "metadata.json", "meta_cap.json", "a.captions", "captions.txt", "a.tags", "metadata.xlsx",
        "metadata.tsv", "train.csv", "a-1.txt", "sub/a.caption", "metadata.parquet",
    ]  # fmt: skip
    (source / "sub").mkdir()
    for name in near:
        (source / name).write_text("[]")
    (source / "small.jpg").write_bytes(b"")
    (source / "p000.caption").write_text("x")
    build_dataset(source, tmp_path / "out", config())
    summary = read_json(tmp_path / "out" / "summary.json")
    assert {one["file"] for one in summary["unused"]} == {*near}
    assert all("captions are read from" in one["reason"] for one in summary["unused"])
    line = summary_sentence(summary)
    assert line.startswith("captions of their own: 1 of 20 images, data.instance_prompt: 19; ")
    assert "1 file rejected: small.jpg (not an image in PNG" in line
    assert "11 files not used: " in line
    assert "captions are read from metadata.csv or metadata.jsonl, <image>.txt and" in line
    assert "\n" not in line


def test_many_files_make_one_short_line(tmp_path):
    source = fill(tmp_path / "in", 20)
    for number in range(20):
        (source / f"p{number:03d}.tags").write_text("x")
        (source / f"p{number:03d}.caption").write_text("x")
    build_dataset(source, tmp_path / "out", config())
    line = summary_sentence(read_json(tmp_path / "out" / "summary.json"))
    assert line.startswith(
        "captions of their own: 20 of 20 images; 20 files not used: "
        "p000.tags, p001.tags, p002.tags and 17 more (not read; "
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.csv", "file_name,text,text\na.png,one,two\n", "metadata.csv:1: two columns are"),
        ("metadata.csv", "text;file_name;file_name\none;a.png;b\n", "named file_name; rename"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "one", "text": "two"}',
            "text stands the",
        ),
        (
            "metadata.jsonl",
            '{"text": "x", "file_name": "a.png", "file_name": "b"}',
            "file_name stan",
        ),
    ],
)
def test_of_two_captions_in_one_row_none_is_chosen(tmp_path, name, content, sentence):
    with pytest.raises(UserError, match=sentence):
        captions(tmp_path, {name: content})


def test_a_column_that_is_not_read_may_be_there_twice(tmp_path):
    found = captions(tmp_path, {"metadata.csv": "file_name,text,note,note\na.png,one,x,y\n"})
    assert found.texts == {"a.png": "one"}


def test_captions_come_from_metadata_then_sidecar_then_instance_prompt(tmp_path):
    source = fill(tmp_path / "in", 20)
    save(source, "sub/a.png", picture(800))
    (source / "sub" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "deep", "n": 1}\n'
    )
    (source / "metadata.csv").write_text("license,file_name,text\nCC0,p000.png,from the table\n")
    (source / "p000.txt").write_text("from the side-car")
    (source / "p001.txt").write_text("from  the\nside-car\n")
    (source / "orphan.txt").write_text("of no image")
    summary = build_dataset(source, tmp_path / "out", config())
    got = texts(tmp_path / "out")
    assert got["images/p000.png"] == "from the table"
    assert got["images/p001.png"] == "from the side-car"
    assert got["images/p002.png"] == "a photo"
    assert got["images/sub/a.png"] == "deep"
    assert summary.own_captions == 3
    assert reasons(summary) == {}
    assert {name: reason.split(";")[0] for name, reason in unused(summary).items()} == {
        "orphan.txt": "no image has its name",
        "p000.txt": "metadata.csv:2 has the caption of p000.png",
    }


def test_all_mistakes_of_caption_files_are_listed_and_nothing_is_written(tmp_path):
    source = fill(tmp_path / "in", 20)
    (source / "metadata.csv").write_text(
        "file_name,text\n"
        "p000.png,good\n"
        "missing.png,x\n"
        "../p001.png,x\n"
        "/etc/passwd,x\n"
        "p000.png,again\n"
        "./p002.png,\n"
        "p003.png,a,b\n"
        ",nameless\n"
    )
    save(source, "sub/a.png", picture(800))
    (source / "sub" / "metadata.jsonl").write_text(
        '{"file_name": "a.png"}\nnot json\n[1]\n{"file_name": "a.png", "text": "\\ud800"}\n'
    )
    save(source, "bare/a.png", picture(801))
    (source / "bare" / "metadata.csv").write_text("name;text\na.png;x\n")
    save(source, "open/a.png", picture(802))
    (source / "open" / "metadata.csv").write_text('file_name,text\na.png,"never closed\n')
    save(source, "latin/a.png", picture(803))
    (source / "latin" / "metadata.csv").write_bytes(
        "file_name,text\na.png,ádìrẹ\n".encode("utf-16")[:-1]
    )
    (source / "p004.txt").write_text(" \n")
    (source / "p005.txt").write_bytes("first\nádìrẹ".encode("cp1258", "replace"))
    message = refused(source, tmp_path / "out")
    for part in (
        "metadata.csv:3: names missing.png, which is not there",
        "metadata.csv:4: ../p001.png is outside the folder",
        "metadata.csv:5: /etc/passwd is outside the folder",
        "metadata.csv:6: p000.png has a caption already (metadata.csv:2)",
        "metadata.csv:7: the caption of ./p002.png is empty",
        "metadata.csv:8: 3 fields where the first line has 2",
        "metadata.csv:9: file_name is empty",
        "sub/metadata.jsonl:1: text is missing",
        "sub/metadata.jsonl:2: not a line of valid JSON",
        "sub/metadata.jsonl:3: an object with file_name and text is expected",
        "sub/metadata.jsonl:4: not a line of valid JSON",
        "bare/metadata.csv:1: no column file_name and no column text",
        "open/metadata.csv:2: not valid CSV",
        "latin/metadata.csv: not UTF-16, as its first bytes say",
        "p004.txt: the caption is empty",
        "p005.txt: not UTF-8 text (line 2) (byte 6)",
        "have 16 mistakes",
    ):
        assert part in message


def test_two_caption_files_in_one_folder_are_refused(tmp_path):
    source = fill(tmp_path / "in", 20)
    (source / "metadata.csv").write_text("file_name,text\np000.png,x\n")
    (source / "metadata.jsonl").write_text('{"file_name": "p001.png", "text": "y"}\n')
    assert "metadata.jsonl: metadata.csv stands beside it" in refused(source, tmp_path / "out")


def test_images_that_differ_in_their_ending_only_are_refused(tmp_path):
    source = fill(tmp_path / "in", 20)
    save(source, "p000.jpg", picture(820))
    assert "p000.jpg and p000.png" in refused(source, tmp_path / "out")
