"""A language model that grades answers, at an address with OpenAI's interface."""

import json
import math
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from pydantic import ValidationError

from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.config import JudgeConfig
from adire_assets.families.causal_lm.evaluation.language_judge import grader
from tests.support.answers import answer, each, inputs, value

Reply = Callable[[dict[str, Any], dict[str, str]], tuple[int, Any]]  # body, headers


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], dict[str, Any]]]:
    """Start a judge that replies so; the section evaluation.judge that names it."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> dict[str, Any]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/v1/chat/completions"
                status, said = reply(body, {k.lower(): v for k, v in self.headers.items()})
                message = {"choices": [{"message": {"content": said}}]}
                content = json.dumps(message if status == 200 else {}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        address = f"http://127.0.0.1:{server.server_port}/v1/"
        return JudgeConfig(endpoint=address, model="wise").model_dump()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_each_greedy_answer_is_graded_beside_its_question_and_reference(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIRE_JUDGE_KEY", "hidden")
    grades = {"good": "It is 100 % right, rule 3.5 holds.\nGrade: 10", "poor": "1", "fair": "4/10"}
    seen: list[dict[str, Any]] = []

    def reply(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, str]:
        assert headers["authorization"] == "Bearer hidden"
        assert body["temperature"] == 0 and body["model"] == "wise"
        seen.append(body)
        asked = body["messages"][1]["content"]
        return 200, next(said for text, said in grades.items() if asked.endswith(text))

    given = inputs(
        answer("good", "the truth", prompt="What is indigo?"),
        answer("poor", sample=1),
        answer("poor"),
        judge=grader(serve(reply)),
    )
    first, drawn, second = each("judge_score", given)
    assert (first, second) == (1, 0) and math.isnan(drawn)
    assert value("judge_score", given) == 0.5
    told, *_ = [body["messages"][1]["content"] for body in seen if "indigo" in str(body)]
    assert told == (
        "Question:\nWhat is indigo?\n\nReference answer:\nthe truth\n\nAnswer to grade:\ngood"
    )
    assert math.isnan(value("judge_score", inputs(answer("good"))))


@pytest.mark.parametrize(
    ("said", "score"),
    [("Grade: 7", 6 / 9), ("10", 1), ("4 of the 5 facts are right. Grade: 2.", 1 / 9)],
)
def test_the_last_number_is_the_grade(serve: Any, said: str, score: float) -> None:
    [graded] = grader(serve(lambda *_: (200, said)))([answer("text")])
    assert graded == pytest.approx(score)


@pytest.mark.parametrize("said", ["", None, "good", "0", "11", "2.5"])
def test_a_judge_without_a_grade_is_a_mistake(serve: Any, said: str | None) -> None:
    with pytest.raises(UserError, match=r"wise wrote .* and no grade from 1 to 10; ask for one in"):
        grader(serve(lambda *_: (200, said)))([answer("text")])


def test_a_busy_judge_is_asked_again_and_one_that_refuses_is_told(serve: Any) -> None:
    busy = iter([503, 200])
    assert grader(serve(lambda *_: (next(busy), "10")))([answer("text")]) == [1]
    sentence = (
        r"evaluation\.judge: http://127\.0\.0\.1:\d+/v1/chat/completions gave no answer of wise "
        r"\(401 .*\); set ADIRE_JUDGE_KEY, correct the address or model, or leave"
    )
    with pytest.raises(UserError, match=sentence):
        grader(serve(lambda *_: (401, "")))([answer("text")])


def test_an_address_is_one_of_http() -> None:
    for endpoint in ("ftp://host/v1", "host:8000", "http://host/v1?key=secret", "http://a b"):
        with pytest.raises(ValidationError, match="endpoint"):
            JudgeConfig(endpoint=endpoint, model="wise")
