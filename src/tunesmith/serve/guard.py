"""Stands before the application: whose page asks, with which token, and how much it sends how slowly.

A server on this machine alone is within reach of every page that its user opens. Two things keep
those out: a request has to name this machine as its host (a name that an attacker points here after the
page has loaded, DNS rebinding, does not), and it must not come from another site's page.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tunesmith.listen.app import HEADERS
from tunesmith.serve.answers import refusal
from tunesmith.serve.docs_page import POLICY
from tunesmith.serve.metrics import Metrics
from tunesmith.serve.service import Cut

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = frozenset({"/health", "/health/live", "/docs", "/openapi.json"})
"""What says nothing of anybody: health, and the documents that ship with the program."""
_SMALL_WAIT_S = 15.0
_LARGE_WAIT_S = 300.0
_STALL_S = 30.0  # between two pieces of a large body, and for a piece of an answer to be taken


class Guard:
    """An ASGI application around another.

    Args:
        app: what is guarded.
        token: that every request needs, but for those on :data:`OPEN_PATHS`; empty asks for none.
        hosts: names that a request may call this server by, ports aside; None is any.
        body_bytes: of a request, by its path.
        metrics: is told of each answer.
        closing: whether nothing new is taken any more.
    """

    def __init__(
        self,
        app: Any,
        *,
        token: str,
        hosts: Collection[str] | None,
        body_bytes: Callable[[str], int],
        small_bytes: int,
        metrics: Metrics,
        closing: Callable[[], bool],
    ) -> None:
        self._app = app
        self._token = _digest(token.encode()) if token else b""
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._body_bytes, self._small_bytes = body_bytes, small_bytes
        self._metrics, self._closing = metrics, closing
        headers = HEADERS | {"content-security-policy": POLICY}
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 499  # of a client that is gone before its answer

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *self._headers]
            # Who does not read keeps a job's sound in memory, and a place among the connections.
            try:
                async with asyncio.timeout(_STALL_S):
                    await send(message)
            except TimeoutError:
                raise _NotRead("the client does not read") from None

        try:
            no = self._no(scope)
            if no is not None:
                await no(scope, receive, told)
                return
            await self._with_body(scope, receive, told)
        except (Cut, ClientDisconnect, _NotRead):
            pass  # an answer that stays without its end: the server cuts the connection
        finally:
            route = getattr(scope.get("route"), "path", "") or "other"
            self._metrics.answered(scope["method"], route, status, time.perf_counter() - begin)

    def _no(self, scope: Any) -> Any:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts is not None and _name(host) not in self._hosts:
            return _last(403, "this server does not go by that name", "use the address it printed")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        foreign = headers.get(b"sec-fetch-site", b"").lower() in (b"cross-site", b"same-site")
        if (origin and origin.partition("://")[2] != host) or (
            foreign and scope["method"] not in ("GET", "HEAD")
        ):
            return _last(403, "another site's page may not ask", "ask from a program")
        if scope["path"] in OPEN_PATHS:
            return None
        if self._token:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            # Both sides hashed: of one length, so that nothing about the token's can be timed either.
            right = secrets.compare_digest(_digest(given.strip()), self._token)
            if scheme.lower() != b"bearer" or not right:
                return _last(
                    401,
                    "the token is missing or wrong",
                    "send it as 'Authorization: Bearer ...'",
                    {"www-authenticate": "Bearer"},
                )
        if self._closing() and scope["method"] == "POST":
            return _last(
                503, "the server is closing", "ask again when it is back", {"retry-after": "10"}
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._body_bytes(scope["path"]):
            return self._too_large(scope["path"])
        return None

    def _too_large(self, path: str) -> Any:
        return _last(
            413,
            f"more than {self._body_bytes(path)} bytes",
            "send less, or raise the server's limit",
        )

    async def _with_body(self, scope: Any, receive: Any, told: Any) -> None:
        if self._body_bytes(scope["path"]) > self._small_bytes:
            await self._app(scope, self._counted(scope["path"], receive), told)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(_SMALL_WAIT_S):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._small_bytes:
                        await self._too_large(scope["path"])(scope, receive, told)
                        return
        except TimeoutError:
            await _last(408, "the body came too slowly", "send it at once")(scope, receive, told)
            return
        handed = False

        async def once() -> Any:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, once, told)

    def _counted(self, path: str, receive: Any) -> Callable[[], Any]:
        """A large body goes through in pieces; what is wrong with it comes out where it is read."""
        size, deadline, whole = 0, time.monotonic() + _LARGE_WAIT_S, False

        async def counted() -> Any:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                wait_s = min(_STALL_S, deadline - time.monotonic())
                message = await asyncio.wait_for(receive(), max(wait_s, 0.0))
            except TimeoutError:
                raise HTTPException(
                    408, "the body came too slowly", {"connection": "close"}
                ) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > self._body_bytes(path):
                most = self._body_bytes(path)
                raise HTTPException(413, f"more than {most} bytes", {"connection": "close"})
            return message

        return counted


class _NotRead(ConnectionAbortedError):
    """Nobody takes the answer."""


def _last(status: int, message: str, mend: str, headers: dict[str, str] | None = None) -> Any:
    # A body that nobody will read may still be on its way.
    return refusal(status, message, mend, {"connection": "close", **(headers or {})})


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _name(host: str) -> str:
    """A host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


__all__ = ["LOCAL_NAMES", "OPEN_PATHS", "Guard"]
