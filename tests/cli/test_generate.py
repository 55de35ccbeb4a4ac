"""`adire generate` and `adire trace` for a model of a family from outside, whose answers are texts.

What the family's server says is put together here; all between command and server is real.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adire_assets.cli.generate_command import family_asked
from adire_assets.core.family import GROUP
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.release import ReleaseRecord
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
MODULE = """
import json
from dataclasses import fields
from pathlib import Path
import numpy as np
from adire_assets.config.model import EvaluationConfig, ModelConfig, ServingConfig
from adire_assets.config.yaml_file import Strict
from adire_assets.core.answer import RequestOption, Served
from adire_assets.core.family import Family, Step

class Config(ModelConfig):
    training: Strict = Strict()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()

def inputs(request):
    return {name: np.array([[str(value).encode()]], object) for name, value in request.items()}

def content(outputs):
    return outputs["text"][0].decode()

def files(out, request):
    return [out]

def save(answer, files):
    kept = {"provenance": answer.provenance, "text": answer.content}
    files[0].write_text(json.dumps(kept))
    yield answer.content

def read_provenance(file):
    try:
        return json.loads(file.read_text())["provenance"]
    except ValueError:
        return None

def position(provenance):
    return "the only text"

REST = {one.name: Step((__name__,)) for one in fields(Family)}
FAMILY = Family(**REST | {
    "name": "words", "config": f"{__name__}:Config", "packages": (), "plumbing": (),
    "gates": "adire_assets.config.gates:GateConfig", "answer": "text",
    "protocols": ("kserve-grpc",),
    "served": Served(".words", "likelihood", options=(
        RequestOption("order", int, "How many letters it knows.", 1, 9),
        RequestOption("seed", int),
    )),
})
"""


class Echo(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Says what it was asked."""

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        raw = zip(request.inputs, request.raw_input_contents, strict=True)
        asked = {one.name: content[4:].decode() for one, content in raw}
        told = {"model": request.model_name, "release": 3, "request": asked}
        texts = {"text": f"{asked['prompt']} and so on", "provenance": json.dumps(told)}
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, text in texts.items():
            answer.outputs.add(name=name, datatype="BYTES", shape=[1])
            content = text.encode()
            answer.raw_output_contents.append(len(content).to_bytes(4, "little") + content)
        answer.outputs.add(name="release", datatype="INT32", shape=[1])
        answer.raw_output_contents.append((3).to_bytes(4, "little"))
        return answer


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Echo(), server)
    port = free_port()
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield port
    server.stop(None)


@pytest.fixture
def project(tmp_path: Path, port: int) -> Path:
    """A project with the one model `prose`; the package of its family lies in `site`."""
    facts = tmp_path / "site" / "words-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: words\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[{GROUP}]\nwords = family_words:FAMILY\n")
    (tmp_path / "site" / "family_words.py").write_text(MODULE)
    models = tmp_path / "configs" / "models"
    models.mkdir(parents=True)
    (models / "prose.yaml").write_text("family: words\ndata: {path: data/prose}\n")
    shutil.copy(ROOT / "configs" / "fleet.yaml", tmp_path / "configs")
    fleet = tmp_path / "configs" / "fleet.yaml"
    text = fleet.read_text()
    assert "port: 8080" in text
    fleet.write_text(text.replace("port: 8080", f"port: {port}\n      launch: remote"))
    return tmp_path


def adire(project: Path, *words: str) -> tuple[int, str]:
    """(exit status, what it said)."""
    done = subprocess.run(
        [sys.executable, "-m", "adire_assets.cli", *words],
        cwd=project,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("ADIRE_")},
            "PYTHONPATH": f"{project / 'site'}{os.pathsep}{ROOT}",
        },
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_text_comes_back_with_its_provenance(project: Path) -> None:
    assert adire(project, "generate", "indigo", "--order", "4") == (0, "indigo and so on\n")
    kept = json.loads((project / "out.words").read_text())
    assert kept["provenance"]["request"] == {"prompt": "indigo", "order": "4"}
    status, said = adire(project, "trace", "out.words")
    # Its release tells nothing of code and data; that it was read and found wanting is the point.
    assert (status, said.count("\n")) == (1, 1)
    assert "out.words: its provenance is not one that `adire generate` wrote" in said
    (project / "out.words").write_text("indigo")
    status, said = adire(project, "trace", "out.words")
    kinds = "no answer (.json) or image (.png) or text (.words) of a served model"
    assert status == 1 and said.startswith(f"adire: out.words is {kinds}") and said.count("\n") == 1


def test_the_help_of_an_option_is_its_familys(project: Path) -> None:
    _, said = adire(project, "generate", "--help")
    assert "--order <int>" in said and "How many letters it knows." in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--num-images", "2"), "--num-images is no option of models of the family words"),
        (("--order", "10"), "--order is 10, allowed is 1 to 9"),
        (("--order", "0"), "--order is 0, allowed is 1 to 9"),
        (("--out", "a.png"), "a.png: name a file that ends in .words, which is what is written"),
    ],
)
def test_what_the_family_does_not_know_is_refused(
    project: Path, words: tuple[str, ...], told: str
) -> None:
    assert adire(project, "generate", "indigo", *words) == (1, f"adire: {told}\n")
    assert not (project / "out.words").exists()


def test_a_model_is_asked_as_its_live_release_is_served(tmp_path: Path) -> None:
    """Whatever its YAML says about the next one."""
    (tmp_path / "configs" / "models").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "fleet.yaml", tmp_path / "configs")
    project = Project(tmp_path, tmp_path / "home")
    project.model_file("letters").write_text(
        "family: causal_lm\ndata: {path: data/letters}\nbase_model: {source: base}\n"
        "serving: {engine: triton}\n"
    )
    assert family_asked(project, "letters", None, "").protocols == ("kserve-stream",)
    nothing = {"key": "", "content_hash": ""}
    facts = dict.fromkeys(("repository", "adapter", "base_model", "evaluation", "verdict"), nothing)
    for number, engine in ((1, "vllm"), (2, "triton")):
        more = {"mlflow_run_id": None, "provenance": {}, "family": "causal_lm", "engine": engine}
        release.write_record(project, ReleaseRecord("letters", number, **facts, **more))
    record.change(project, "local", "letters", lambda state: replace(state, live=1))
    assert family_asked(project, "letters", None, "").protocols == ("openai",)
    assert family_asked(project, "letters", 2, "local").protocols == ("kserve-stream",)
