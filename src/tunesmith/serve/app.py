"""The web application: routes behind a guard. See ``docs/serve.md``, or ``/docs`` of a running server."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Response

from tunesmith import __version__
from tunesmith.serve import (
    answers,
    docs_page,
    routes_adapters,
    routes_jobs,
    routes_sound,
    routes_state,
    routes_uploads,
)
from tunesmith.serve.guard import LOCAL_NAMES, Guard
from tunesmith.serve.jobs import Jobs
from tunesmith.serve.metrics import Metrics
from tunesmith.serve.service import Service
from tunesmith.serve.shelf import Shelf

BODY_BYTES = 256 << 10
_FORM_BYTES = 2 << 20  # the card, the words and the seams of a form, beside its tensors


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        token: that every request needs; empty asks for none.
        hosts: names that the server goes by; None is any, where a token keeps others out.
    """

    token: str = ""
    hosts: Collection[str] | None = LOCAL_NAMES


def application(
    jobs: Jobs,
    shelf: Shelf,
    access: Access = Access(),
    *,
    closing: Callable[[], bool] = lambda: False,
) -> Any:
    """The ASGI application. Starting and closing the queue is the caller's part.

    Args:
        jobs: the queue.
        shelf: of adapters.
        access: who may ask.
        closing: whether nothing new is taken any more.
    """
    service = Service(jobs, shelf, closing)
    metrics = Metrics(jobs.measures, lambda: len(jobs.engine.adapters()))
    app = FastAPI(
        title="Tunesmith",
        version=__version__,
        description="Sound from text: one base, many adapters, any blend of them in each request.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        separate_input_output_schemas=False,
    )
    answers.install(app)
    app.include_router(routes_sound.routes(service))
    app.include_router(routes_jobs.routes(service))
    app.include_router(routes_uploads.routes(service))
    app.include_router(routes_adapters.routes(service))
    app.include_router(routes_state.routes(service, metrics))

    @app.get("/openapi.json", include_in_schema=False)
    def document() -> dict[str, Any]:
        return _document(app, bool(access.token))

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return Response(
            docs_page.render(_document(app, bool(access.token))),
            media_type="text/html; charset=utf-8",
        )

    most = {
        "/v1/adapters": shelf.most_bytes + _FORM_BYTES,
        "/v1/uploads": jobs.limits.upload_bytes + BODY_BYTES,
    }

    def body_bytes(path: str) -> int:
        return most.get(path, BODY_BYTES)

    return Guard(
        app,
        token=access.token,
        hosts=access.hosts,
        body_bytes=body_bytes,
        small_bytes=BODY_BYTES,
        metrics=metrics,
        closing=closing,
    )


def _document(app: FastAPI, token: bool) -> dict[str, Any]:
    """The OpenAPI document, with what the guard asks for."""
    made = dict(app.openapi())
    if token:
        schemes = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        made |= {"components": made["components"] | schemes, "security": [{"token": []}]}
    return made


__all__ = ["BODY_BYTES", "Access", "application"]
