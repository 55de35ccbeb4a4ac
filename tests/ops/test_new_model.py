"""A model's YAML from a form: what it says, its check, and what writing and commit keep."""

import errno
import subprocess
import threading
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.ops import new_model

CHOSEN = {
    "family": "diffusion",
    "data.path": "data/silk",
    "data.instance_prompt": "a photo of silk",
    "base_model.source": "base",
    "evaluation.judge.source": "judge",
}
TRICKY = ("yes", "No", "on", "~", "null", "1e3", "0o17", "007", "1_000", "1:30", "2024-01-01", ".5")
OTHERS = (
    "a: b",
    "- a",
    "#x",
    "x # y",
    "'",
    '"',
    "\\",
    "{a",
    "[",
    "&a",
    "*a",
    "!x",
    "%",
    "@",
    "é 布",
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    return Project(tmp_path, tmp_path / ".adire")


def git(project: Project, *arguments: str) -> str:
    command = ["git", "-C", str(project.root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(project: Project) -> Project:
    git(project, "init", "-q")
    git(project, "config", "user.name", "the checkout")
    git(project, "config", "user.email", "checkout@example.org")
    (project.root / "README.md").write_text("here")
    git(project, "add", "README.md")
    git(project, "commit", "-qm", "begun")
    return project


def text_of(**changes: str) -> str:
    return new_model.yaml_text({**CHOSEN, **{k.replace("__", "."): v for k, v in changes.items()}})


def test_the_file_says_what_was_chosen_and_no_defaults(project: Project) -> None:
    text = text_of(training__rank="8", training__learning_rate="2e-4", evaluation__seeds="[3, 4]")
    assert text.splitlines() == [
        "family: diffusion",
        "data:",
        "  path: data/silk",
        "  instance_prompt: a photo of silk",
        "base_model:",
        "  source: base",
        "evaluation:",
        "  judge:",
        "    source: judge",
        "  seeds: [3, 4]",
        "training:",
        "  rank: 8",
        "  learning_rate: 2e-4",
    ]
    new_model.write(project, "silk", text)
    config = load_model(project, "silk")
    assert config.training.model_dump()["learning_rate"] == 2e-4
    assert config.model_fields_set == {"family", "data", "base_model", "evaluation", "training"}


@pytest.mark.parametrize("value", [*TRICKY, *OTHERS])
def test_a_text_survives_that_yaml_could_misread(project: Project, value: str) -> None:
    text = text_of(data__instance_prompt=value, description=value)
    new_model.check(project, "silk", text)
    for version in ((1, 1), (1, 2)):
        yaml = YAML(typ="safe", pure=True)
        yaml.version = version
        found = yaml.load(text)
        assert (found["data"]["instance_prompt"], found["description"]) == (value, value)


def test_a_number_means_the_same_in_every_yaml() -> None:
    assert "resolution: 64\n" in text_of(data__resolution="0064")
    assert "random_flip: true\n" in text_of(training__random_flip="true")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("training.rank", "eight", r"silk\.yaml:\d+: training\.rank: .*integer, found 'eight'"),
        ("training.rank", "1e3", r"training\.rank: .*integer, found 1000\.0"),
        ("data.resolution", "8", r"data\.resolution: .*greater than or equal to 32, found 8"),
        ("data.path", "../silk", r"silk\.yaml: data\.path: .*"),
        ("training.rank", "[1", "training.rank: this is not valid YAML"),
        ("evaluation.seeds", "&a [*a, *a]", "without anchors, aliases or tags"),
        ("evaluation.seeds", "- " * 4000, "evaluation.seeds: this is nested too deeply"),
        ("evaluation.seeds", "[" * 9000, "at most 10,000 characters and 50 brackets"),
        ("training.ranks", "8", "training.ranks: there is no such key"),
        ("family", "weaving", "weaving"),
        ("family", "", "family: this key is missing; installed families: causal_lm, diffusion"),
    ],
)
def test_a_mistake_is_told_by_the_check_of_the_file(
    project: Project, key: str, value: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        new_model.check(project, "silk", text_of(**{key.replace(".", "__"): value}))


def test_a_file_that_is_there_is_never_written_over(project: Project) -> None:
    path = project.model_file("silk")
    for there in ("file", "link"):
        path.write_text("own") if there == "file" else path.symlink_to("nowhere")
        with pytest.raises(UserError, match="exists already; choose another name"):
            new_model.write(project, "silk", text_of())
        assert path.is_symlink() or path.read_text() == "own"
        path.unlink()
    for name in ("Silk", "../silk", "silk_stream", ""):
        with pytest.raises(UserError, match="model name"):
            new_model.write(project, name, text_of())
    assert not list(path.parent.iterdir())


def test_of_two_who_write_at_once_one_is_told(project: Project) -> None:
    said: list[object] = []
    together = threading.Barrier(4)

    def write(rank: str) -> None:
        text = text_of(training__rank=rank)
        together.wait()
        try:
            said.append(new_model.write(project, "silk", text))
        except UserError as error:
            said.append(str(error))

    threads = [threading.Thread(target=write, args=[str(rank)]) for rank in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = project.model_file("silk")
    refused = [one for one in said if one != path]
    assert len(said) == 4 and len(refused) == 3
    assert all("exists already" in str(one) for one in refused)
    assert [*path.parent.iterdir()] == [path] and load_model(project, "silk")


def test_a_file_system_without_hard_links_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", str(target))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with pytest.raises(UserError, match=r"silk\.yaml cannot be written: .*no hard links"):
        new_model.write(project, "silk", text_of())
    assert not list(project.model_file("silk").parent.iterdir())


def test_what_would_be_written_is_shown_as_a_difference(project: Project) -> None:
    shown = new_model.difference(project, "silk", "family: diffusion\n")
    assert shown[:2] == ["--- /dev/null", "+++ b/configs/models/silk.yaml"]
    assert shown[-1] == "+family: diffusion"


def test_the_new_file_alone_is_committed_by_who_asked(checkout: Project) -> None:
    new_model.write(checkout, "silk", text_of())
    (checkout.root / "README.md").write_text("changed")
    git(checkout, "add", "README.md")
    said = new_model.commit(checkout, "silk", "silk for the shop", "Ada <x>\nObi")
    assert said.startswith("configs/models/silk.yaml is committed as ")
    shown = git(checkout, "show", "--name-only", "--format=%an|%ae|%cn|%s").split("\n")
    assert shown[0] == "Ada x Obi||the checkout|silk for the shop"
    assert [one for one in shown[1:] if one] == ["configs/models/silk.yaml"]
    assert git(checkout, "status", "--porcelain") == "M  README.md\n"
    with pytest.raises(UserError, match=r"is not a new file in git .*git add configs/models"):
        new_model.commit(checkout, "silk", "again", "ada")


def test_what_git_refuses_is_told_with_the_command_to_run(project: Project) -> None:
    new_model.write(project, "silk", text_of())
    with pytest.raises(UserError, match=r"not a git repository.*; in .* run: git add"):
        new_model.commit(project, "silk", "new", "ada")


def test_a_commit_that_a_hook_refuses_leaves_the_file_as_it_was(checkout: Project) -> None:
    new_model.write(checkout, "silk", text_of())
    hook = checkout.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not on a Friday >&2\nexit 1\n")
    hook.chmod(0o755)
    for state in ("??", "A "):  # what somebody staged stays so
        with pytest.raises(UserError, match=r"git commit failed in .*: not on a Friday"):
            new_model.commit(checkout, "silk", "new", "ada")
        shown = git(checkout, "status", "--porcelain", "-uall")
        assert shown == f"{state} configs/models/silk.yaml\n"
        git(checkout, "add", "configs/models/silk.yaml")


def test_a_commit_goes_into_the_projects_checkout_whatever_a_hook_has_set(
    checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_model.write(checkout, "silk", text_of())
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", "/nowhere/.git")
        hook.setenv("GIT_INDEX_FILE", "/nowhere/index")
        new_model.commit(checkout, "silk", "new", "ada")
    assert git(checkout, "log", "-1", "--format=%s") == "new\n"


def test_the_form_knows_ranges_defaults_and_choices_of_each_family() -> None:
    for family in ("diffusion", "causal_lm"):
        keys = {key.name: key for key in new_model.keys_of(family)}
        assert {"data.path", "base_model.source"} <= {name for name in keys if keys[name].required}
        assert keys["enabled"].choices == ("true", "false")
        rank = keys["training.rank"]
        assert rank.default and "a whole number" in rank.help and "at least 1" in rank.help
        assert rank.section == "training" and rank.about
        assert not keys["search.trials"].required
