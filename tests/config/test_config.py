"""configs/: what is accepted, and the sentences for what is not."""

import re
import unicodedata
from pathlib import Path

import pytest

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import load_model, model_names, models
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project

ROOT = Path(__file__).parents[2]
GOOD = """\
data:
  path: data/cloth
  instance_prompt: a cloth
family: diffusion
base_model: {source: base}
training:
  learning_rate: 1e-4
evaluation:
  judge: {source: judge}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    return Project(tmp_path, tmp_path / "home")


def refusal(project: Project, text: str) -> str:
    project.model_file("cloth").write_text(text)
    with pytest.raises(UserError) as caught:
        load_model(project, "cloth")
    return str(caught.value)


def test_shipped_configs_are_valid() -> None:
    shipped = Project(ROOT, ROOT / ".adire")
    expected = {"indigo": True, "indigo_sd15": False, "indigo_sdxl": False}
    assert {name: load_model(shipped, name).enabled for name in expected} == expected
    assert expected.keys() <= {*model_names(shipped)}
    assert len(load_fleet(shipped).targets) >= 1


def test_prompts_read_the_same_whatever_form_an_editor_gave_their_accents(project: Project) -> None:
    composed, decomposed = (unicodedata.normalize(form, "àdìrẹ ẹlẹ́kọ") for form in ("NFC", "NFD"))
    assert composed != decomposed
    project.model_file("cloth").write_text(GOOD.replace("a cloth", decomposed), "utf-8")
    assert load_model(project, "cloth").data.instance_prompt == composed


def test_defaults_are_the_classic_recipe(project: Project) -> None:
    project.model_file("cloth").write_text(GOOD)
    training = load_model(project, "cloth").training
    assert training.learning_rate == 1e-4  # written as 1e-4, which YAML 1.1 would read as text
    assert (training.rank, training.lora_alpha, training.max_train_steps) == (4, 4, 800)
    assert (training.train_batch_size, training.gradient_accumulation_steps) == (1, 4)
    assert (training.checkpointing_steps, training.seed, training.lr_scheduler) == (
        100,
        42,
        "constant",
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("learning_rate", "learning_rat"), "cloth.yaml:7: training.learning_rat: unknown key; "),
        (("learning_rate", "learning_rat"), "did you mean learning_rate?"),
        (("1e-4", "fast"), "cloth.yaml:7: training.learning_rate: input should be a valid number"),
        (("1e-4", "-1"), "greater than 0, found -1"),
        (("1e-4", "'0.1'"), "found '0.1'"),
        (("  instance_prompt: a cloth\n", ""), "data.instance_prompt: this key is missing"),
        (("learning_rate: 1e-4", "lr_scheduler: flat"), "allowed values: 'constant'"),
        (("learning_rate: 1e-4", "rank: 4\n  rank: 8"), "cloth.yaml:8: not valid YAML"),
        (("data/cloth", "../cloth"), "leaves the project folder"),
        (("data/cloth", "elsewhere"), "is not below the folder of data.dvc"),
        (("{source: base}", "{source: a/b, revision: main}"), "cloth.yaml:5: base_model.revision"),
        (
            (
                "judge: {source: judge}",
                "judge: {source: judge}\n  gates: {champion: {margins: {fid: 1}}}",
            ),
            "cloth.yaml:10: evaluation.gates.champion.margins: there is no metric fid; the metrics "
            "are clip_s, style_similarity, kid,",
        ),
        (("{source: judge}", "[judge]"), "cloth.yaml:9: evaluation.judge"),
        (
            ("family: diffusion", "family: diffusion\nserving: {scheduler: dpmsolver}"),
            "cloth.yaml:5: serving.scheduler: there is no scheduler dpmsolver; by the names of "
            "diffusers' classes there is DDIMScheduler, ",
        ),
        (
            ("family: diffusion", "family: diffusion\nserving: {quantization: 4bit}"),
            "cloth.yaml:5: serving.quantization: ",
        ),
    ],
)
def test_mistakes_name_file_line_key_and_what_is_allowed(
    project: Project, change: tuple[str, str], expected: str
) -> None:
    assert change[0] in GOOD
    assert expected in refusal(project, GOOD.replace(*change))


def test_pinning_the_judge_evaluates_nothing_again(project: Project) -> None:
    settings = []
    for judge in ("{source: judge}", "{source: judge, sha256: " + 32 * "ab" + "}"):
        project.model_file("cloth").write_text(GOOD.replace("{source: judge}", judge))
        settings.append(load_model(project, "cloth").evaluation.settings(project))
    assert settings[0] == settings[1]
    assert settings[0]["judge"] == {"source": "judge", "revision": None, "variant": None}


@pytest.mark.parametrize(
    ("key", "default", "other"),
    [("scheduler", "null", "UniPCMultistepScheduler"), ("quantization", "none", "int8")],
)
def test_how_images_are_drawn_is_part_of_evaluation_and_release_where_it_is_not_the_default(
    project: Project, key: str, default: str, other: str
) -> None:
    found = []
    for serving in ("", f"serving: {{{key}: {default}}}", f"serving: {{{key}: {other}}}"):
        project.model_file("cloth").write_text(f"{GOOD}{serving}\n")
        config = load_model(project, "cloth")
        found += [config.evaluation_settings(project), config.serving.settings(project)]
    assert not any(key in settings for settings in found[:4])
    assert [settings[key] for settings in found[4:]] == [other] * 2


def with_prompt_set(project: Project, text: str | None, more: str = "") -> str:
    """GOOD with a prompt set of this content; None: there is no such file."""
    file = project.root / "configs" / "prompts" / "cloth.yaml"
    file.parent.mkdir(exist_ok=True)
    if text is not None:
        file.write_text(text)
    return f"{GOOD}  prompt_set: configs/prompts/cloth.yaml\n{more}"


def test_the_content_of_a_prompt_set_counts_and_not_its_path(project: Project) -> None:
    prompts = "prompts: [{id: one, text: circles}]\n"
    project.model_file("cloth").write_text(with_prompt_set(project, prompts))
    config = load_model(project, "cloth").evaluation
    first = config.settings(project)
    only = {"id": "one", "text": "circles", "tags": [], "expected": {}}
    assert first["prompt_set"] == {"attributes": {}, "prompts": [only]}
    with_prompt_set(project, f"# a comment\n{prompts}")
    assert config.settings(project) == first
    with_prompt_set(project, prompts.replace("circles", "squares"))
    assert config.settings(project) != first


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        (None, "", "configs/prompts/cloth.yaml does not exist"),
        ("prompts: [{id: one}]\n", "", "prompts/cloth.yaml:1: prompts.0.text: this key is missing"),
        ("prompts: [{id: a, text: b}]\n", "  prompts: [b]\n", "prompt_set or prompts, not both"),
    ],
)
def test_mistakes_about_a_prompt_set_are_told(
    project: Project, text: str | None, more: str, sentence: str
) -> None:
    assert sentence in refusal(project, with_prompt_set(project, text, more))


def test_a_prompt_set_lies_in_the_project(project: Project) -> None:
    outside = project.root.parent / "outside.yaml"
    outside.write_text("prompts: [{id: one, text: circles}]\n")
    told = refusal(project, f"{GOOD}  prompt_set: ../{outside.name}\n")
    assert "evaluation.prompt_set: ../outside.yaml leaves the project folder" in told
    (project.root / "link.yaml").symlink_to(outside)
    assert "leaves the project" in refusal(project, f"{GOOD}  prompt_set: link.yaml\n")


def test_all_mistakes_are_told_at_once(project: Project) -> None:
    text = GOOD.replace("learning_rate: 1e-4", "rank: 0\n  seed: -1")
    assert len(refusal(project, text).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "just words"])
def test_files_that_are_no_mapping(project: Project, text: str) -> None:
    assert "cloth.yaml:" in refusal(project, text)


def test_unknown_model_lists_those_there_are(project: Project) -> None:
    project.model_file("cloth").write_text(GOOD)
    with pytest.raises(UserError, match="models here: cloth"):
        load_model(project, "silk")
    with pytest.raises(UserError, match="_stream ends the names by which releases are asked for s"):
        load_model(project, "silk_stream")
    with pytest.raises(UserError, match="lower-case"):
        load_model(project, "../cloth")


def test_a_folder_without_configs_is_no_project(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("ADIRE_PROJECT", raising=False)
    with pytest.raises(UserError, match="configs/models"):
        Project.find(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("slots: {blue: {host: 0.0.0.0}, green: {}}", "loopback only"),
        ("slots: {blue: {}}", "at least 2"),
        ("slots: {blue: {launch: remote}, green: {}}", "needs `folder`"),
        ("gateway: {host: 0.0.0.0}", "needs tls and tokens"),
        ("gateway: {port: 8001}", "every port only once"),
        (
            "gateway: {maximum_concurrent_requests: 0}",
            "maximum_concurrent_requests: input should be greater than or equal to 1, found 0",
        ),
        ("rollout: {steps: [25, 5, 100]}", "rise and end with 100"),
        ('gpu_metrics: ["dcgm.eu:0"]', "0 is no port; allowed is 1 to 65535"),
        ('gpu_metrics: ["dcgm.eu:99999"]', "99999 is no port"),
        ("rollout: {strategy: hope}", "'canary', 'blue_green' or 'shadow'"),
    ],
)
def test_mistakes_in_the_fleet_are_told(project: Project, change: str, sentence: str) -> None:
    parts = {
        "slots": "slots: {blue: {}, green: {http_port: 1024, grpc_port: 1025, metrics_port: 1026}}"
    }
    parts[change.partition(":")[0]] = change
    fleet = project.root / "configs" / "fleet.yaml"
    body = "\n".join(f"    {line}" for line in parts.values())
    fleet.write_text(f"targets:\n  local:\n{body}\n")
    with pytest.raises(UserError, match=sentence):
        load_fleet(project)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("training:\n  learning_rate: 1e-4", "training:"), None),
        (("  judge: {source: judge}", "  judge: {source: judge}\n  gates:"), None),
        (("{source: base}", "{source: base, config: null}"), None),
        (
            ("{source: base}", "{source: base, config: }"),
            "base_model.config.source: this key is mis",
        ),
        (("training:", "search: ~ # none\ntraining:"), None),
        (
            ("evaluation:\n  judge: {source: judge}", "evaluation:"),
            "judge: this key is missing",
        ),
        (("base_model: {source: base}", "base_model:"), "base_model.source: this key is missing"),
        (("learning_rate: 1e-4", "learning_rate:"), "training.learning_rate: there is no value"),
        (("instance_prompt: a cloth", "instance_prompt:"), "instance_prompt: there is no value"),
        (("training:", "search:\ntraining:"), "search.parameters: this key is missing"),
    ],
)
def test_a_section_without_a_line_is_empty_and_a_key_without_a_value_is_refused(
    project: Project, change: tuple[str, str], expected: str | None
) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    if expected is None:
        project.model_file("cloth").write_text(text)
        assert load_model(project, "cloth").training.rank == 4
    else:
        assert expected in refusal(project, text)


def test_prompts_that_the_text_encoder_reads_alike_are_one(project: Project) -> None:
    text = GOOD + "  prompts: [a cloth, 'A  cloth ']\n"
    assert "evaluation.prompts: has the same entry twice; capitals" in refusal(project, text)


@pytest.mark.parametrize(
    ("training", "more", "sentence"),
    [
        (
            "keep_checkpoint: best, validation_steps: 5",
            "",
            r"training\.keep_checkpoint: best is ch",
        ),
        ("validation_steps: 5", "", r"training\.validation_steps: has no effect"),
        ("rank: 4", "search: {parameters: {rank: {choices: [4, 8]}}}\n", "search: trials are comp"),
        ("validation_steps: 5, validation_prompt: a cloth", "", None),
    ],
)
def test_what_validation_images_decide_is_refused_without_any(
    project: Project, training: str, more: str, sentence: str | None
) -> None:
    text = GOOD.replace("training:\n  learning_rate: 1e-4", f"training: {{{training}}}") + more
    for fraction in (0.1, 0) if sentence else (0.1,):
        lacking = text.replace("data:\n", f"data:\n  validation_fraction: {fraction}\n")
        if fraction:
            project.model_file("cloth").write_text(lacking)
            load_model(project, "cloth")
        else:
            told = refusal(project, lacking)
            assert re.search(f"cloth.yaml.*{sentence}.*data.validation_fraction is 0; set", told)


def test_an_empty_section_of_the_fleet_does_not_open_the_door(project: Project) -> None:
    slots = "slots: {blue: {}, green: {http_port: 1024, grpc_port: 1025, metrics_port: 1026}}"
    fleet = project.root / "configs" / "fleet.yaml"
    fleet.write_text(f"targets:\n  local:\n    {slots}\n    gateway:\n      tokens:\n")
    with pytest.raises(UserError, match=r"tokens\.keys: this key is missing"):
        load_fleet(project)
    fleet.write_text(f"targets:\n  local:\n    {slots}\n    gateway:\n    rollout:\n")
    assert load_fleet(project).targets["local"].gateway.port == 8080


BROKEN = {
    "half": b"data: {path: data/ha",
    "latin": "description: caf\u00e9".encode("latin-1"),
    "control": b"description: \x00\n",
    "listed": b"- a\n",
    "bare": b"",
    "deep": b"[" * 100_000,
    "promptless": GOOD.encode() + b"  prompt_set: configs/prompts/none.yaml\n",
    "Wrong-Name": GOOD.encode(),
}


def test_a_broken_yaml_harms_its_own_model_only(project: Project) -> None:
    project.model_file("cloth").write_text(GOOD)
    for name, content in BROKEN.items():
        project.model_file(name).write_bytes(content)
    project.model_file("folder").mkdir()
    project.model_file("gone").symlink_to("nowhere")
    project.model_file(".#cloth").write_text("an editor's own")
    sound, broken = models(project)
    assert sorted(sound) == ["cloth"]
    assert sorted(broken) == sorted([*BROKEN, "folder", "gone"])
    for name, sentence in broken.items():
        expected = "none.yaml" if name == "promptless" else name
        assert expected in sentence and len(sentence.splitlines()) == 1, sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("path: data/cloth", r'path: "data/cl\0oth"'),
            "cloth.yaml:2: data.path: holds a zero",
        ),
        (("path: data/cloth", f"path: data/{'a' * 300}"), "cloth.yaml:2: data.path: a path has at"),
        (("source: base", f"source: {'a/' * 3000}"), "cloth.yaml:5: base_model.source: a path has"),
        (("source: judge", r'source: "ju\0dge"'), "evaluation.judge.source: holds a zero byte"),
        (
            ("evaluation:", "evaluation:\n  prompt_set: " + "é" * 200),
            "evaluation.prompt_set: a path has at most",
        ),
    ],
)
def test_a_text_that_cannot_be_a_path_harms_its_own_model_only(
    project: Project, change: tuple[str, str], sentence: str
) -> None:
    project.model_file("cloth").write_text(GOOD.replace(*change))
    project.model_file("silk").write_text(GOOD)
    sound, broken = models(project)
    assert list(sound) == ["silk"]
    assert sentence in broken["cloth"]


@pytest.mark.parametrize(("key", "old"), [("data.path", "data/cloth"), ("data.dvc_file", "")])
def test_links_in_a_circle_are_told(project: Project, key: str, old: str) -> None:
    (project.root / "round").symlink_to("round")
    text = GOOD.replace(f"path: {old}", "path: round") if old else GOOD
    if not old:
        text = text.replace("path: data/cloth", "path: data/cloth\n  dvc_file: round")
    assert f"{key}: 'round' is no path that can be followed" in refusal(project, text)


@pytest.mark.parametrize("there", ["silk.yml", "Silk.YAML", "silk.Yml"])
def test_a_model_with_another_ending_is_named_and_not_passed_over(
    project: Project, there: str
) -> None:
    (project.root / "configs" / "models" / there).write_text(GOOD)
    assert model_names(project) == []
    with pytest.raises(UserError, match=f"rename .*/{there} to silk.yaml"):
        load_model(project, "silk")


def test_a_link_of_a_model_that_leads_nowhere_is_told_as_that(project: Project) -> None:
    project.model_file("silk").symlink_to("gone.yaml")
    with pytest.raises(UserError, match=r"silk\.yaml is a link that leads nowhere"):
        load_model(project, "silk")


@pytest.mark.parametrize("name", ["what?", "my%20project", "a%3f"])
def test_a_home_that_no_database_can_be_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    monkeypatch.setenv("ADIRE_HOME", str(tmp_path / name))
    with pytest.raises(UserError, match="set ADIRE_HOME to another one"):
        Project.find(tmp_path)


@pytest.mark.parametrize("name", ["100 % cotton #1", "it's", "50%"])
def test_a_home_with_other_marks_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    monkeypatch.setenv("ADIRE_HOME", str(tmp_path / name))
    assert Project.find(tmp_path).home == tmp_path / name
