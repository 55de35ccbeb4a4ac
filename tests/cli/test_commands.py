"""Every command of `adire` with arguments that are no good: one sentence, and nothing was done."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from adire_assets.cli import main
from adire_assets.core.errors import UserError
from adire_assets.core.store import write_bytes

ROOT = Path(__file__).parents[2]
HUGE = str(10**30)
BYTES = "\udcff"  # what Python makes of a byte of a command line that is not UTF-8
# Words after `adire`; {folder} is a folder, {file} a file of text, {under} a path below that file,
# {missing} nothing, {unwritable} a path in a folder that takes no files.
BAD = [
    ["init", "{folder}"],
    ["init", "{file}"],
    ["init", "{under}"],
    ["init", "{unwritable}"],
    ["init", "n" * 300],
    ["pull", "indigo"],
    ["materialize", "silk"],
    ["materialize", "../cloth"],
    ["materialize", "cloth", "--select", ""],
    ["materialize", BYTES],
    ["search", "silk"],
    ["search", "cloth", "--trials", "0"],
    ["search", "cloth", "--trials", HUGE],
    ["search", "cloth", "--out", "{folder}"],
    ["search", "cloth", "--out", "{unwritable}"],
    ["generate", ""],
    ["generate", "  \n"],
    ["generate", BYTES],
    ["generate", "a\0b"],
    ["generate", "cloth", "--model", "silk"],
    ["generate", "cloth", "--target", "moon"],
    ["generate", "cloth", "--out", "{folder}"],
    ["generate", "cloth", "--out", "{under}"],
    ["generate", "cloth", "--out", "{unwritable}"],
    ["generate", "cloth", "--out", ""],
    ["generate", "cloth", "--out", "n" * 300],
    ["generate", "cloth", "--out", "/dev/null"],
    ["generate", "cloth", "--out", "{folder}/a.png", "--num-images", "2"],  # a-2.png is a folder
    ["generate", "cloth", "--seed", "-1"],
    ["generate", "cloth", "--seed", HUGE],
    ["generate", "cloth", "--num-images", "0"],
    ["generate", "cloth", "--num-inference-steps", "0"],
    ["generate", "cloth", "--guidance-scale", "nan"],
    ["generate", "cloth", "--guidance-scale", "-1"],
    ["generate", "cloth", "--release", "0"],
    ["chat", ""],
    ["chat", "cloth", "a\0b"],
    ["chat", "cloth", "hi"],
    ["chat", "silk", "hi"],
    ["chat", "cloth", "hi", "--release", "0"],
    ["status", "cloth"],
    ["trace", "{missing}"],
    ["trace", "{folder}"],
    ["trace", "{file}"],
    ["trace"],
    ["trace", "{file}", "--answer", "{file}"],
    ["report", "silk"],
    ["report", "cloth@x"],
    ["report", "cloth@0"],
    ["report", "cloth@" + HUGE],
    ["report", "cloth", "--output", "{folder}"],
    ["report", "cloth", "--output", "{under}"],
    ["measure", "silk@1"],
    ["measure", ""],
    ["export", "cloth@7", "--out", "{folder}/new.safetensors"],
    ["export", "cloth", "--out", "{folder}"],
    ["export", "cloth", "--out", "{folder}/x.safetensors", "--format", "ckpt"],
    ["import", "{missing}", "cloth", "--out", "{folder}/new"],
    ["import", "{folder}", "cloth", "--out", "{folder}/new"],
    ["import", "{file}", "silk", "--out", "{folder}/new"],
    ["import", "{file}", "cloth", "--out", "{folder}"],
    ["import", "{file}", "cloth", "--out", "{under}"],
    ["reproduce", "cloth@7"],
    ["reproduce", "{folder}"],
    ["reproduce", "{file}"],
    ["uses", "data/cloth/none.png"],
    ["uses", "../x.png"],
    ["uses", "{file}"],
    ["takedown", "data/cloth/none.png", "--reason", "asked"],
    ["takedown", "../x.png", "--reason", "asked"],
    ["takedown", "data/cloth/x.png", "--reason", " "],
    ["takedown", "data/cloth/x.png"],
    ["studio", "--port", "1"],
    ["approve", "cloth@1", "--reason", " "],
    ["approve", "cloth", "--reason", "good"],
    ["approve", "cloth@1", "--reason", "good", "--by", ""],
    ["approve", "cloth@1", "--reason", "good", "--ratings", "{folder}"],
    ["approve", "cloth@1", "--reason", "good", "--ratings", "{missing}"],
    ["approve", "cloth@1", "--reason", BYTES],
    ["revoke", "cloth@x", "--reason", "pale"],
    ["revoke", "cloth@1", "--reason", ""],
    ["golden", "cloth@7"],
    ["golden", "silk"],
    ["rollback", "silk", "--reason", "pale"],
    ["rollback", "cloth", "--reason", "\t"],
    ["rollback", "cloth", "--reason", "pale", "--to", "0"],
    ["rollback", "cloth", "--reason", "pale", "--to", HUGE],
    ["rollout", "watch", "silk"],
    ["rollout", "promote", "cloth", "--reason", ""],
    ["rollout", "promote", "Cloth", "--reason", "good"],
    ["auth", "keys", "--folder", "{file}"],
    ["auth", "keys", "--folder", "{under}"],
    ["auth", "token", "ade", "--folder", "{missing}"],
    ["auth", "token", "--folder", "{folder}", ""],
    ["auth", "token", "--folder", "{folder}", "ade", "--days", "nan"],
    ["auth", "token", "--folder", "{folder}", "ade", "--days", "-1"],
    ["auth", "token", "--folder", "{folder}", "ade", "--issuer", " "],
    ["data", "add", "silk", "{file}", "--by", "ada"],
    ["data", "add", "cloth", "{missing}"],
    ["data", "add", "cloth", "{folder}"],
    ["data", "discard", "silk"],
    ["data", "publish", "cloth", "--reason", " "],
    ["data", "publish", "cloth", "--reason", "new"],
    ["data", "versions", "silk"],
    ["data", "versions", "cloth"],
    ["data", "back", "cloth", "0", "--reason", "pale"],
    ["runs", "silk"],
    ["watch", "--seconds", "0"],
    ["watch", "--seconds", "nan"],
    ["quality", "nowhere", "0.5"],
    ["quality", "local", "2"],
    ["quality", "local", "nan"],
    ["boards", "{file}"],
    ["boards", "{under}"],
    ["feedback", "add", "{missing}"],
    ["feedback", "add", "--rating", "4", "{file}"],
    ["feedback", "add", "{folder}"],
    ["feedback", "list", "silk"],
    ["feedback", "list", "cloth", "--outcome", "applause"],
    ["feedback", "review", "cloth", "x", "now", "--outcome", "prompt", "--note", " "],
    ["feedback", "review", "cloth", "x", "now", "--outcome", "prompt", "--note", "rings"],
    ["feedback", "new-key", "now"],
    ["lift-quarantine", "cloth", "0", "--reason", "good"],
    ["lift-quarantine", "cloth", "one", "--reason", "good"],
    ["lift-quarantine", "cloth", "1", "--reason", ""],
    ["lift-quarantine", "silk", "1", "--reason", "good"],
    ["gc", "--keep", "0"],
    ["gc", "--keep", HUGE],
    ["backup", "{folder}"],
    ["backup", "{file}"],
    ["backup", "{under}"],
    ["backup", "{unwritable}"],
    ["restore", "{missing}"],
    ["restore", "{folder}"],
    ["restore", "{file}"],
    ["up", "--only", "dagster"],
    ["down", "now"],
    ["prometheus", "{file}"],
    ["prometheus", "{under}"],
    ["demo", "silk"],
    ["demo", "cloth", "twice"],
    ["sample-data", "{file}"],
    ["sample-data", "{folder}"],
    ["sample-data", "{missing}", "--count", "0"],
    ["sample-data", "{missing}", "--seed", "-1"],
    ["sample-data", "{missing}", "--resolution", "1"],
    ["base-model", "train", "--output", "{file}"],
    ["base-model", "train", "--seed", "-1"],
    ["base-model", "golden", "--folder", "{under}"],
    ["base-model", "corpus", "--sheet", "{folder}"],
    ["letters", "train", "--output", "{file}"],
    ["letters", "train", "--seed", "-1"],
    ["letters", "write", "{file}"],
    ["letters", "write", "{missing}", "--count", "0"],
]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A project with a model `cloth` that was never materialized, and paths beside it."""
    project = tmp_path / "project"
    (project / "configs" / "models").mkdir(parents=True)
    text = (ROOT / "configs" / "models" / "indigo.yaml").read_text(encoding="utf-8")
    (project / "configs" / "models" / "cloth.yaml").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "configs" / "prompts", project / "configs" / "prompts")
    shutil.copy(ROOT / "configs" / "fleet.yaml", project / "configs")
    folder, file = tmp_path / "folder", tmp_path / "notes.txt"
    (folder / "a-2.png").mkdir(parents=True)
    file.write_text("not an image")
    for name in ("ADIRE_HOME", "ADIRE_FLEET", "DAGSTER_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADIRE_PROJECT", str(project))
    monkeypatch.chdir(project)
    return {
        "root": tmp_path,
        "folder": folder,
        "file": file,
        "under": file / "below.png",
        "missing": tmp_path / "missing",
        "unwritable": Path("/proc/adire/file"),
    }


def tree(folder: Path) -> set[Path]:
    """What there is, without the home's own lock and log files."""
    return {path for path in folder.rglob("*") if ".adire" not in path.parts}


@pytest.mark.parametrize("words", BAD, ids=lambda words: " ".join(words)[:60])
def test_what_is_no_good_is_told_in_one_sentence(
    places: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
) -> None:
    filled = [word.format(**places) if "{" in word else word for word in words]
    monkeypatch.setattr(sys, "argv", ["adire", *filled])
    before = tree(places["root"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    said = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert len(said.strip().splitlines()[-1]) > 20
    assert "Traceback" not in said
    if ended.value.code == 1:
        assert len(said.strip().splitlines()) == 1 and said.startswith("adire: ")
    if words[-1] in ("{folder}", "{under}", "{unwritable}", "{missing}", "{file}"):
        assert filled[-1] in said, "the path is not what it complains of"
    assert tree(places["root"]) == before


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (["generate", "cloth", "--out", "a.jpg"], ".png"),
        (["generate", "cloth", "--out", "picture", "--num-images", "2"], ".png"),
        (["report", "cloth", "--output", "report.pdf"], ".html"),
        (["search", "cloth", "--out", "best.json"], ".yaml"),
    ],
)
def test_a_name_that_says_another_kind_of_file_is_refused(
    places: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    ending: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["adire", *words])
    with pytest.raises(SystemExit):
        main.main()
    assert f"{words[3]}: name a file that ends in {ending}, " in capsys.readouterr().err


def test_every_command_is_among_them() -> None:
    tried = {" ".join(words[:2]) for words in BAD} | {words[0] for words in BAD}
    group = typer.main.get_command(main.app)
    names = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        names += [f"{name} {one}" for one in inner] if inner else [name]
    assert set(names) <= tried


def test_a_full_disk_is_told_in_one_sentence(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(places["folder"] / "prometheus.yml"))

    monkeypatch.setattr("adire_assets.ops.operations.pull", full)
    monkeypatch.setattr(sys, "argv", ["adire", "pull"])
    with pytest.raises(SystemExit):
        main.main()
    said = capsys.readouterr().err
    assert said.startswith(f"adire: the disk of {places['folder']}/prometheus.yml is full; ")
    assert said.count("\n") == 1


def test_a_file_that_cannot_be_put_in_place_leaves_no_draft(places: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        write_bytes(places["folder"] / "a-2.png", b"cloth")
    assert [path.name for path in places["folder"].iterdir()] == ["a-2.png"]
