"""Routes of jobs: how they stand, their events, their sound, and calling them off."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from tunesmith.serve.answers import documented
from tunesmith.serve.job import Job, State
from tunesmith.serve.live import Ended, Progress, Subscription
from tunesmith.serve.routes_sound import sound_of
from tunesmith.serve.schemas import FormatName, JobList, JobView, job_view
from tunesmith.serve.service import Service
from tunesmith.serve.sound_formats import FORMATS, find_format

_BEAT_S = 15.0  # without a word for longer than this, proxies close a stream
_ID = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="A job's id.")]
_SOUND: dict[str, Any] = {
    one.media_type: {"schema": {"type": "string", "format": "binary"}} for one in FORMATS.values()
}


def routes(service: Service) -> APIRouter:
    """The routes."""
    router, jobs = APIRouter(tags=["jobs"], prefix="/v1/jobs"), service.jobs

    def shown(job: Job) -> JobView:
        return job_view(job, jobs.ahead(job.id))

    @router.get("", summary="Jobs, the last accepted first", responses=documented(422))
    def every(
        state: Annotated[list[State] | None, Query(description="Only those.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[
            str, Query(pattern=r"^[A-Za-z0-9_-]{0,64}$", description="`next` of the page before.")
        ] = "",
    ) -> JobList:
        found = jobs.list(state or (), limit, before)
        more = found[-1].id if len(found) == limit else None
        return JobList(jobs=[shown(job) for job in found], next=more)

    @router.get("/{id}", summary="How a job stands", responses=documented(404, 422))
    def one(id: _ID) -> JobView:
        return shown(jobs.get(id))

    @router.delete("/{id}", summary="Call a job off", responses=documented(404, 422))
    def cancel(id: _ID) -> JobView:
        """Waiting or running. One that has ended stays as it is."""
        return shown(jobs.cancel(id))

    @router.get(
        "/{id}/audio",
        summary="The sound of a job that is done",
        response_class=Response,
        responses={
            200: {"content": _SOUND, "description": "The sound."},
            **documented(404, 409, 410, 422),
        },
    )
    async def audio(
        id: _ID, format: Annotated[FormatName, Query(description="Of the answer.")] = "wav"
    ) -> Response:
        job = await run_in_threadpool(jobs.get, id)
        return await sound_of(service, job, find_format(format))

    @router.get(
        "/{id}/events",
        summary="What becomes of a job, as it does",
        response_class=StreamingResponse,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "Server-sent events: `progress` any number of times, `ended` once. The "
                "data are a state and a share, and the job.",
            },
            **documented(404, 422, 429),
        },
    )
    async def events(id: _ID) -> Response:
        """Leaving does not call the job off."""
        told = await run_in_threadpool(lambda: jobs.listen(id, parts=False))
        return StreamingResponse(_told(told, service), media_type="text/event-stream")

    return router


async def _told(events: Subscription, service: Service) -> AsyncIterator[bytes]:
    with events:
        while not events.over:
            event = await events.atake(_BEAT_S)
            if isinstance(event, Progress):
                yield _event("progress", {"state": event.state, "progress": event.share})
            elif isinstance(event, Ended):
                yield _event("ended", job_view(event.job, 0).model_dump())
            elif event is None and not events.over:
                yield b": still here\n\n"


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
