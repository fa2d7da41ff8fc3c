"""How a server says no: one JSON shape for everything that goes wrong, whoever found it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from tunesmith.errors import ResourceError, UserError
from tunesmith.serve.refusals import (
    Busy,
    Closing,
    Gone,
    KeyTaken,
    TooLarge,
    Unfinished,
    Unknown,
    UnknownSound,
)
from tunesmith.serve.shelf import Missing, Taken

_STATUS: Mapping[type[Exception], int] = {
    Busy: 429,
    Closing: 503,
    Unknown: 404,
    UnknownSound: 404,
    TooLarge: 413,
    Unfinished: 409,
    Gone: 410,
    KeyTaken: 409,
    ResourceError: 507,
    Missing: 404,
    Taken: 409,
    UserError: 422,
}
_TYPES: Mapping[int, str] = {
    400: "malformed",
    401: "token",
    403: "refused",
    404: "unknown",
    405: "method",
    408: "too_slow",
    409: "conflict",
    410: "gone",
    413: "too_large",
    415: "malformed",
    422: "invalid",
    429: "busy",
    503: "closing",
    504: "too_long",
    507: "full",
}


class Fault(BaseModel):
    """What is wrong.

    Attributes:
        message: in a line.
        mend: what to do about it.
        type: a word for programs.
    """

    message: str
    mend: str = ""
    type: str = Field(examples=["invalid"])


class Refusal(BaseModel):
    """Every answer that is not what was asked for."""

    error: Fault


def refusal(
    status: int, message: str, mend: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as it is sent."""
    fault = {"message": message, "mend": mend, "type": _TYPES.get(status, "server")}
    return JSONResponse({"error": fault}, status, dict(headers or {}))


def refused(error: UserError) -> JSONResponse:
    """What an error of ours becomes."""
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    wait = {"retry-after": str(math.ceil(error.retry_after_s))} if isinstance(error, Busy) else {}
    if isinstance(error, Closing):
        wait = {"retry-after": "10"}
    return refusal(status, error.message, error.mend, wait)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for the OpenAPI document; those of the guard are in all of them."""
    return {
        status: {"model": Refusal, "description": _DESCRIPTIONS[status]}
        for status in sorted({401, 403, 408, *statuses})
    }


_DESCRIPTIONS: Mapping[int, str] = {
    400: "The body cannot be read.",
    401: "The token is missing or wrong.",
    403: "Another host's name, or another site's page.",
    404: "No such thing.",
    408: "The body came too slowly.",
    409: "Not in this state.",
    410: "It was there, and is kept no longer.",
    413: "Larger than is taken.",
    415: "Neither JSON nor a form.",
    422: "It can be read, and cannot be done; nothing has changed.",
    429: "As much waits as may; `Retry-After` says when to ask again.",
    503: "The server is closing.",
    504: "It took longer than it may.",
    507: "The disk is full.",
}


def install(app: FastAPI) -> None:
    """Give every error of an app the one shape."""

    @app.exception_handler(UserError)
    def ours(request: Request, error: UserError) -> JSONResponse:
        return refused(error)

    @app.exception_handler(sqlite3.ProgrammingError)
    def closed(request: Request, error: sqlite3.ProgrammingError) -> JSONResponse:
        # The queue was closed between the guard and the store, whose one such error this is.
        return refused(Closing())

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        # What was sent is not echoed: it may be long, or not even text.
        told = []
        for one in error.errors()[:5]:
            place = ".".join(str(part)[:60] for part in one["loc"][1:]) or "the body"
            told.append(f"{place}: {str(one['msg'])[:200]}")
        return refusal(422, "; ".join(told) or "not a request", "see /openapi.json")

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        # It is raised again after this answer, and the server logs it with its traceback.
        return refusal(500, "something went wrong here", "the server's log says what")


__all__ = ["Fault", "Refusal", "documented", "install", "refusal", "refused"]
