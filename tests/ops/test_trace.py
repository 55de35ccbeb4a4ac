"""`adire trace` of answers as OpenAI's clients save them, given by the door of a vLLM."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import write_json
from adire_assets.ops import operations
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from tests.support.fake_engine import FakeEngine, install
from tests.support.provenance import FACTS
from tests.support.served_door import served_door

HI = [{"role": "user", "content": "hi"}]
CONTENT = "c0ffee" + 58 * "0"
NAMED = {"model": "letters@3", "choices": [{"index": 0, "message": {"content": "Dear Ada"}}]}
TOLD = [
    "release 3 of letters",
    CONTENT,
    "commit " + "a" * 40,
    "data: DVC feed.dir, of which this model's part beef.dir",
    "4ec1" * 16,
    "ada0" * 16,
    "learning_rate=0.008, rank=16",
    "rouge_l_char=0.965",
    "MLflow run: run-3",
    "record of the release agrees",
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    slot = tmp_path_factory.mktemp("slot")
    install(slot, 3)
    of_it = {"model": "letters", "release": 3, "release_hash": CONTENT, "mlflow_run_id": "run-3"}
    write_json(slot / "models" / "letters" / "3" / "provenance.json", {**FACTS, **of_it})
    with served_door(slot, FakeEngine()) as port:
        yield port


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with the record of release 3 of `letters`."""
    root = tmp_path / "project"
    project = Project(root, root / ".adire")
    of = {"key": "k", "content_hash": FACTS["adapter_hash"]}
    release.write_record(
        project,
        ReleaseRecord(
            model="letters",
            number=3,
            repository={"key": "k", "content_hash": CONTENT},
            adapter=of,
            base_model=of,
            evaluation=of,
            verdict=of,
            mlflow_run_id="run-3",
            provenance=FACTS,
            family="causal_lm",
        ),
    )
    return project


def record_of(project: Project) -> Path:
    return project.home / "releases" / "letters" / "3.json"


def traced(project: Project, content: str | bytes, name: str = "response.json") -> str:
    file = project.root / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return "\n".join(operations.trace(project, file))


def posted(port: int, **more: Any) -> bytes:
    body = json.dumps({"model": "letters", "messages": HI, **more}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body)
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return answer.read()


@pytest.mark.parametrize("streamed", [False, True])
def test_what_curl_saved_leads_to_the_data(project: Project, port: int, streamed: bool) -> None:
    saved = posted(port, stream=streamed)
    said = traced(project, saved)
    assert [one for one in TOLD if one not in said] == []
    assert "messages=[{'role': 'user', 'content': 'hi'}]" in said
    assert traced(project, b"HTTP/1.1 200 OK\r\nx-a: b\r\n\r\n" + saved, "with-head") == (
        said.replace("response.json", "with-head")
    )


def test_what_the_openai_package_saved_leads_to_the_data(project: Project, port: int) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    asked: dict[str, Any] = {"model": "letters", "messages": HI}
    whole = client.chat.completions.create(**asked)
    pieces = list(client.chat.completions.create(**asked, stream=True))
    as_list = json.dumps([one.model_dump() for one in pieces])
    as_lines = "\n".join(one.model_dump_json() for one in pieces)
    for saved in (whole.model_dump_json(indent=2), as_list, as_lines):
        said = traced(project, saved)
        assert [one for one in TOLD if one not in said] == []


def test_an_answer_that_only_names_its_release_is_told_by_the_record(project: Project) -> None:
    for fingerprint in (CONTENT[:16], None, "vllm-0.32.0-1f3a"):
        said = traced(project, json.dumps({**NAMED, "system_fingerprint": fingerprint}))
        assert [one for one in TOLD if one not in said] == []
        assert "request: not in this file" in said
    # A stream that was cut in the middle of an event.
    event = f"data: {json.dumps({**NAMED, 'object': 'chat.completion.chunk'})}\n\n"
    assert "release 3 of letters" in traced(project, event + event[:20], "cut")


def test_another_projects_release_and_a_damaged_record_are_told_apart(
    project: Project, port: int
) -> None:
    whole = posted(port).decode()
    other = json.dumps({**NAMED, "system_fingerprint": "f" * 16})
    with pytest.raises(UserError, match=r"letters@3 whose content is f{16},.* made elsewhere"):
        traced(project, other)
    path = record_of(project)
    path.write_text("{")
    assert "record of the release cannot be read: " in traced(project, whole)
    with pytest.raises(UserError, match=r"is not JSON.*take it from a backup"):
        traced(project, json.dumps(NAMED))
    path.unlink()
    assert traced(project, whole).endswith("it was made elsewhere")
    with pytest.raises(UserError, match="letters@3, of which this project has no record: it was"):
        traced(project, json.dumps(NAMED))
    write_json(path, {"model": "letters"})
    assert "is not what belongs there" in traced(project, whole)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**NAMED, "model": "gpt-4"}, "`model` is gpt-4, which names no release"),
        ({**NAMED, "model": "../x@1"}, "names no release"),
        ([NAMED, {**NAMED, "model": "letters@4"}], "letters@3 and letters@4"),
        ({"error": {"message": "n is out of range"}}, "no answer but a refusal: n is out of range"),
        ({"a": 1}, r"no answer \(.json\) or image \(.png\) of a served model"),
        ([], "no answer"),
        ("words", "no answer"),
    ],
)
def test_what_is_no_answer_of_a_release_is_told_in_one_sentence(
    project: Project, content: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        traced(project, json.dumps(content))
    assert "response.json" in str(refused.value) and "\n" not in str(refused.value)


def test_a_picture_without_provenance_is_told_as_a_picture(project: Project) -> None:
    Image.new("RGB", (8, 8)).save(project.root / "plain.png")
    with pytest.raises(UserError, match=r"plain\.png carries no provenance.*drawn"):
        list(operations.trace(project, project.root / "plain.png"))
    Image.new("RGB", (8, 8)).save(project.root / "photo.jpg")
    with pytest.raises(UserError, match=r"photo\.jpg carries no provenance"):
        list(operations.trace(project, project.root / "photo.jpg"))
    with pytest.raises(UserError, match="no answer"):
        traced(project, b"\x00\xff")
