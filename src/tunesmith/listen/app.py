"""The web application: one page, four addresses, nothing without a token.

The token comes in the ``Authorization`` header. In the link it stands behind the ``#``, which browsers
do not send: it is in no server's log and no referrer, and no other site can use it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.listen.design import Test
from tunesmith.listen.page import policy, render
from tunesmith.listen.session import Refused, Sessions
from tunesmith.listen.store import Listener, Store

BODY_LIMIT = 4096
_BODY_WAIT_S = 15.0
MOST_LISTENERS = 1000

HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Joining(_Strict):
    """A browser that has an invitation."""

    nonce: str = Field(pattern=r"^[0-9a-f-]{16,64}$")


class Answering(_Strict):
    """An answer as the page sends it."""

    place: int = Field(ge=0, le=1_000_000)
    answer_id: str = Field(pattern=r"^[0-9a-f-]{16,64}$")
    choice: str = Field(max_length=8)
    heard: dict[Annotated[str, Field(max_length=1)], Annotated[float, Field(ge=0, le=36_000)]] = (
        Field(max_length=3)
    )


class _Guard:
    """Caps bodies in size and time before anything reads them; adds the headers to every reply."""

    def __init__(self, app: Any, page_policy: str) -> None:
        self._app = app
        headers = HEADERS | {"content-security-policy": page_policy}
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        body = b""
        try:
            async with asyncio.timeout(_BODY_WAIT_S):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > BODY_LIMIT:
                        refusal = JSONResponse(
                            {"detail": "too large"}, 413, {"connection": "close"}
                        )
                        await refusal(scope, receive, told)
                        return
        except TimeoutError:
            refusal = JSONResponse({"detail": "too slow"}, 408, {"connection": "close"})
            await refusal(scope, receive, told)
            return
        handed = False

        async def once() -> Any:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, once, told)


def _token(request: Request) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not value:
        raise HTTPException(401, "this needs a personal link")
    return value.strip()


def _known(request: Request, token: Annotated[str, Depends(_token)]) -> Listener:
    listener = request.app.state.store.by_token(token)
    if listener is None:
        raise HTTPException(401, "this link is not one of this test")
    return listener


_Token = Annotated[str, Depends(_token)]
_Known = Annotated[Listener, Depends(_known)]


def application(folder: Path, test: Test, store: Store, *, most: int = 0) -> Any:
    """The ASGI application.

    Args:
        folder: of the test.
        test: what is tested.
        store: of its answers.
        most: listeners that an invitation may bring; 0 refuses all.
    """
    sessions = Sessions(folder, test, store)
    page, page_policy = render(), policy()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    app.state.store = store

    @app.get("/")
    def index() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.post("/api/join")
    def join(body: Joining, token: _Token) -> dict[str, Any]:
        if not (most and store.invited(token)):
            raise HTTPException(401, "this invitation is not one of this test")
        listener = store.join(body.nonce, min(most, MOST_LISTENERS))
        if listener is None:
            raise HTTPException(403, "this test has all the listeners that it needs")
        return {"token": listener.token}

    @app.get("/api/session")
    def session(listener: _Known) -> dict[str, Any]:
        return sessions.state(listener)

    @app.get("/api/sound/{name}")
    def sound(name: str, listener: _Known) -> Response:
        file = sessions.sound(listener, name)
        if file is None:
            raise HTTPException(404, "not a sound of the present question")
        # Read whole: a file response would tell the file's date.
        return Response(file.read_bytes(), media_type="audio/wav")

    @app.post("/api/answer")
    def answer(body: Answering, listener: _Known) -> dict[str, Any]:
        try:
            outcome = sessions.answer(listener, body.place, body.answer_id, body.choice, body.heard)
        except Refused as error:
            raise HTTPException(422, str(error)) from None
        if outcome in ("other", "unopened"):
            raise HTTPException(409, "this question is not open")
        return {"saved": True, **sessions.state(listener)}

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"detail": "not an answer that this page sends"}, 422)

    @app.exception_handler(sqlite3.Error)
    def unsaved(request: Request, error: sqlite3.Error) -> Response:
        # The page keeps the answer and asks again.
        return JSONResponse({"detail": "could not be saved"}, 503)

    return _Guard(app, page_policy)
