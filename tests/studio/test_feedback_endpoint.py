"""What the studio does beside an answer to feedback: slow uploads end, and looks do not pile up."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from adire_assets.monitoring.feedback import keep
from adire_assets.studio import feedback, lineage
from adire_assets.studio.guard import LOCAL_USER, USER
from tests.support.feedback import token_of
from tests.support.fleets import make_fleet, write_fleet
from tests.support.shop import MODEL, Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Release 1 is live."""
    made = Shop(tmp_path)
    evaluation = made.evaluation("1", 1.5)
    made.release(1, evaluation, made.decide(evaluation).artifact)
    made.bring_live(1)
    write_fleet(made.project, make_fleet())
    return made


@pytest.mark.parametrize("path", ["/feedback", "/lineage/answer"])
def test_an_upload_that_does_not_end_is_answered(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for module in (feedback, lineage):
        monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.1)
    app, said = FastAPI(), []
    feedback.serve_feedback(shop.project, app)
    lineage.serve_answers(shop.project, app)

    async def receive() -> dict[str, Any]:
        if not said:
            said.append({})
            return {"type": "http.request", "body": b"{", "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(asyncio.wait_for(app({**scope, USER: LOCAL_USER}, receive, send), 20))
    assert said[1]["status"] == 408 and b"the upload did not end" in said[2]["body"]


def test_looks_that_have_not_begun_are_one(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    for user in range(20):
        keep(shop.project, token_of(shop.project, MODEL), f"user{user}", rating=1)
    go = threading.Event()

    async def ask() -> None:
        feedback.FOLLOWING.submit(go.wait)  # as a rollback that takes its time
        for _ in range(9):
            feedback.follow(shop.project, MODEL)
        looks = [*feedback._following]
        go.set()
        await asyncio.gather(*looks)
        feedback.follow(shop.project, MODEL)
        await asyncio.gather(*feedback._following)

    with caplog.at_level(logging.WARNING, "adire"):
        asyncio.run(asyncio.wait_for(ask(), 60))
    assert sum("of the feedback is bad, above" in one.message for one in caplog.records) == 2
