"""What the Data page is sent, files of a draft, and what it shows of them: small pictures.

Files are sent one by one in the body of a request each. Pictures are those that the check has made;
what was uploaded is never served.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.requests import ClientDisconnect

from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import printable
from adire_assets.core.folders import temporary_folder
from adire_assets.core.project import Project
from adire_assets.ops import data_draft
from adire_assets.studio.frame import Visitor, in_thread, sentence
from adire_assets.studio.guard import USER

UPLOAD, PICTURE = "/data/upload", "/data/picture"
ACTION = "change data"
AT_ONCE = 4  # uploads that are taken in
GAP_SECONDS = 60  # without a byte of an upload
# Its work may wait for locks; the other pages have threads of their own.
POOL = ThreadPoolExecutor(2 * AT_ONCE, "data")
in_pool = partial(in_thread, pool=POOL)


def serve_files(project: Project, app: FastAPI) -> None:
    """Take uploads in, and give the small pictures of what is in the data and the drafts."""
    turns = asyncio.Semaphore(AT_ONCE)

    @app.post(UPLOAD)
    async def upload(request: Request, model: str = "", name: str = "") -> PlainTextResponse:
        visitor = Visitor(request.scope[USER])
        try:
            visitor.require(ACTION)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", 403)
        async with turns, _folder(project) as folder:
            file = folder / "upload"
            try:
                place = await in_pool(data_draft.place, project, model, visitor.name)
                await _receive(request, file)
                said = await in_pool(data_draft.add, place, name, file)
            except ClientDisconnect:
                return PlainTextResponse("", 400)
            except (UserError, OSError) as error:
                said = sentence(error).replace(str(file), "the upload")
                return PlainTextResponse(f"{printable(name)}: {said}\n", 400)
        return PlainTextResponse("\n".join(said))

    @app.get(PICTURE + "/{model}/{md5}")
    async def picture(model: str, md5: str) -> Response:
        try:
            path = await in_pool(_picture, project, model, md5)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", 404)
        kept = {"cache-control": "private, max-age=3600, immutable"}
        return FileResponse(path, media_type="image/jpeg", headers=kept)


@asynccontextmanager
async def _folder(project: Project) -> AsyncIterator[Path]:
    """A temporary folder, whose making waits for a lock."""
    made = temporary_folder(project, project.home / "jobs")
    folder = await in_pool(made.__enter__)
    try:
        yield folder
    finally:
        await asyncio.shield(in_pool(made.__exit__, None, None, None))


async def _receive(request: Request, file: Path) -> None:
    """Write the body of a request. UserError when it stops coming."""
    pieces = aiter(request.stream())
    with file.open("wb") as written:
        while True:
            try:
                async with asyncio.timeout(GAP_SECONDS):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise UserError(f"nothing has come for {GAP_SECONDS} s; send it again") from None
            if piece is None:
                return
            await in_pool(written.write, piece)


def _picture(project: Project, model: str, md5: str) -> Path:
    load_model(project, model)
    path = data_draft.place(project, model, "").pictures / f"{md5}.jpg"
    if not data_draft.PICTURE.fullmatch(md5) or not path.is_file():
        raise UserError("there is no such picture")
    return path
