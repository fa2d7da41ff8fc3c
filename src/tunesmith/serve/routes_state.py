"""Routes that say how the server is, and what it is: health, figures, models."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from tunesmith.serve.answers import documented
from tunesmith.serve.metrics import Metrics
from tunesmith.serve.schemas import Health, ModelList, model_view
from tunesmith.serve.service import Service


def routes(service: Service, metrics: Metrics) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["state"])

    @router.get(
        "/health",
        summary="Whether it takes requests",
        responses={503: {"model": Health, "description": "It lives, and takes nothing new."}},
    )
    def health() -> Health:
        """Needs no token."""
        ready = service.jobs.accepting and not service.closing()
        found = Health(live=True, ready=ready)
        return found if ready else JSONResponse(found.model_dump(), 503)  # type: ignore[return-value]

    @router.get("/health/live", summary="Whether it lives")
    def live() -> Health:
        """Needs no token."""
        return Health(live=True, ready=service.jobs.accepting and not service.closing())

    @router.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **documented(),
        },
    )
    def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/models", summary="The base", responses=documented())
    def models() -> ModelList:
        jobs = service.jobs
        return ModelList(data=[model_view(jobs.engine.bundle, jobs.limits.seconds)])

    return router
