"""Serves the studio: on this machine alone, unless there is a password."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import Stopped, UserError
from tunesmith.listen.binding import address_of, bound, is_loopback
from tunesmith.studio.places import Places
from tunesmith.studio.work import Work
from tunesmith.training.signals import StopFlag

HOST, PORT = "127.0.0.1", 7860
_UPLOAD = "1gb"  # of one file
_GRACE_S = 3

# The page brings everything along: whatever points elsewhere is not loaded at all.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# A report has a script and a policy of its own; here it gets nothing of the studio's origin.
_REPORT = "sandbox allow-scripts allow-downloads"


def _is_here(name: str) -> bool:
    """Whether a host's name in a request can mean no other machine than this."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """What every request has to pass: the password, the right host, and no other page behind it.

    Args:
        app: what is guarded.
        password: HTTP Basic's, any user name; empty asks for none.
        local: only requests to this machine's own names pass; otherwise a page from elsewhere could
            reach the studio by a name that leads here (DNS rebinding).
    """

    def __init__(self, app: Any, password: str = "", local: bool = True) -> None:
        self.app, self.password, self.local = app, password, local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        refusal = self._refused(headers)
        if refusal is None:
            await self.app(scope, receive, _with_policy(send, scope["path"]))
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        status, more, words = refusal
        head = [(b"content-type", b"text/plain; charset=utf-8"), *more]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": words.encode()})

    def _refused(self, headers: dict[str, bytes]) -> tuple[int, list, str] | None:
        host = headers.get("host", b"").decode("latin-1")
        name = urlsplit(f"//{host}").hostname or ""
        if self.local and not _is_here(name):
            return 421, [], "this studio answers to this machine's own names only"
        origin = headers.get("origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc != host:
            return 403, [], "asked for by another page"
        if self.password and not self._known(headers.get("authorization", b"")):
            ask = [(b"www-authenticate", b'Basic realm="Tunesmith studio", charset="UTF-8"')]
            return 401, ask, "the studio's password is needed"
        return None

    def _known(self, header: bytes) -> bool:
        kind, _, coded = header.partition(b" ")
        try:
            said = base64.b64decode(coded, validate=True).partition(b":")[2]
        except (ValueError, binascii.Error):
            return False
        # Both are compared in full, however soon they differ.
        same = hmac.compare_digest(said, self.password.encode())
        return same and kind.lower() == b"basic"


def _with_policy(send: Callable[[Any], Awaitable[None]], path: str) -> Callable[[Any], Any]:
    policy = _REPORT if path.startswith("/page/") else _POLICY

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *(one for one in message["headers"] if one[0] != b"content-security-policy"),
                (b"content-security-policy", policy.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
        await send(message)

    return sent


def application(studio: Any, *, password: str = "", local: bool = True) -> Any:
    """The studio as an ASGI application.

    Args:
        studio: a :class:`tunesmith.studio.parts.Studio`.
        password: asked of everybody; empty asks for none.
        local: answer to this machine's own names only.

    Raises:
        UserError: Gradio is not installed.
    """
    try:
        import gradio as gr
        from fastapi import FastAPI, HTTPException
        from fastapi.responses import FileResponse, Response
    except ImportError as error:
        raise UserError(
            f"the studio needs the package '{error.name}'", "pip install 'tunesmith[studio]'"
        ) from None
    from tunesmith.studio.app import CSS, blocks, theme
    from tunesmith.studio.shelf import media_type, stretch

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/sound/{key}")
    def sound(key: str) -> Response:
        lent = studio.shelf.get("sound", key)
        if lent is None or not lent.path.is_file():
            raise HTTPException(404, "no such sound")
        if not lent.length_s and (kind := media_type(lent.path)):
            return FileResponse(lent.path, media_type=kind)
        try:
            return Response(stretch(lent), media_type="audio/wav")
        except UserError as error:
            raise HTTPException(404, error.message) from None

    @app.get("/page/{key}")
    def page(key: str) -> Response:
        lent = studio.shelf.get("page", key)
        if lent is None or not lent.path.is_file():
            raise HTTPException(404, "no such report")
        return FileResponse(lent.path, media_type="text/html")

    gr.mount_gradio_app(
        app,
        blocks(studio),
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[str(studio.places.root.resolve())],
        show_error=True,
        max_file_size=_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=CSS.read_text(encoding="utf-8"),
    )
    return Guard(app, password, local)


def serve(
    folder: str | Path,
    *,
    host: str = HOST,
    port: int = PORT,
    password: str = "",
    allow: tuple[Path, ...] = (),
    most: int = 2,
    ready: Callable[[str], None] = lambda address: None,
    stop: StopFlag | None = None,
) -> None:
    """Serve a studio until a stop is asked for; what runs then is saved.

    Args:
        folder: of the studio's data sets, runs and all else; made if it is not there.
        host: address to listen on; any but this machine's own needs a password.
        port: 0 takes any that is free.
        password: asked of everybody.
        allow: folders that recordings and bases may be read from while others can reach the studio.
        most: pieces of work at a time.
        ready: told the address as soon as the server listens.
        stop: a stop flag.

    Raises:
        UserError: no password for an open address, a port in use, or a missing package.
        Stopped: it was asked to stop.
    """
    root = Path(folder).expanduser().resolve()
    try:
        uploads = root / ".uploads"
        uploads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{root} cannot be made ({error.strerror})", "give another folder"
        ) from None
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    flag = stop or StopFlag()
    with bound(host, port) as sock:
        local = is_loopback(sock)
        if not local and not password:
            raise UserError(
                f"{host} lets other machines in, and there is no password",
                "put one into TUNESMITH_STUDIO_PASSWORD or a file (--password-file)",
            )
        try:
            import uvicorn

            from tunesmith.studio.parts import Studio
        except ImportError as error:
            raise UserError(
                f"the studio needs the package '{error.name}'", "pip install 'tunesmith[studio]'"
            ) from None

        class Server(uvicorn.Server):
            """Stops by the house's own flag, which the second Ctrl-C overrides."""

            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

            async def on_tick(self, counter: int) -> bool:
                return bool(flag()) or await super().on_tick(counter)

        studio = Studio(Places(root, local, allow), Work(most), host=host)
        config = uvicorn.Config(
            application(studio, password=password, local=local),
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_S,
            ws="none",
        )
        ready(address_of(sock))
        try:
            Server(config).run(sockets=[sock])
        finally:
            studio.work.close()
    if flag():
        raise Stopped(flag(), "stopped; what was running is saved")


__all__ = ["HOST", "PORT", "Guard", "application", "serve"]
