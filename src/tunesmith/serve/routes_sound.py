"""Routes that make sound: ``/v1/audio/generations`` and ``/v1/audio/speech``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tunesmith.errors import UserError, did_you_mean
from tunesmith.serve import request as asked
from tunesmith.serve.answers import documented
from tunesmith.serve.job import Job
from tunesmith.serve.live import Part
from tunesmith.serve.schemas import Generation, JobView, Speech, job_view, public_name
from tunesmith.serve.service import Cut, Left, Service, checked_settings, drawn_seed
from tunesmith.serve.sound_formats import FORMATS, Encoder, Format, converted, find_format

_SECONDS = 5.0
_SOUND: dict[str, Any] = {
    one.media_type: {"schema": {"type": "string", "format": "binary"}} for one in FORMATS.values()
}
_REFUSALS = documented(400, 404, 409, 413, 422, 429, 503, 504, 507)
_KEY = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=256,
        description="Your own name for the request: asked again with it, no second job is made, and "
        "none is called off because you left.",
    ),
]


def routes(service: Service) -> APIRouter:
    """The routes."""
    router, bundle = APIRouter(tags=["sound"]), service.jobs.engine.bundle

    @router.post(
        "/v1/audio/generations",
        summary="Make a sound from a prompt",
        response_class=Response,
        responses={
            200: {"content": _SOUND, "description": "The sound, or a stream of it."},
            202: {"model": JobView, "description": "Accepted: come back for it."},
            **_REFUSALS,
        },
    )
    async def generations(
        request: Request,
        wanted: Generation,
        key: _KEY = "",
        prefer: Annotated[
            str, Header(max_length=256, description="`respond-async` is the same as `async`.")
        ] = "",
    ) -> Response:
        """Waits for the sound, unless it is to be streamed or asked for later.

        Who leaves before the end calls the job off. With an adapter's tokens in the prompt, name the
        adapter in `adapters` too.
        """
        kind = find_format(wanted.format)
        settings = checked_settings(bundle, wanted.settings.model_dump())
        one = asked.Request(
            "",
            wanted.prompt,
            min(_SECONDS, bundle.max_s) if wanted.seconds is None else wanted.seconds,
            drawn_seed(wanted.seed, key),
            replace(bundle.sampling, **settings) if settings else None,
            dict(wanted.adapters),
            dict(wanted.details) or None,
            wanted.stream,
            _made_from(wanted),
        )
        if wanted.stream and wanted.asynchronous:
            raise UserError("stream and async at once", "ask for one of them")
        if wanted.stream and kind.no_stream:
            raise UserError(
                f"{kind.name} cannot be streamed: {kind.no_stream}", "ask for wav, ogg or mp3"
            )
        job = await service.submit(one, key)
        later = {part.strip().lower() for part in prefer.split(",")} & {"respond-async"}
        if wanted.asynchronous or later:
            view = job_view(job, service.jobs.ahead(job.id))
            return JSONResponse(
                view.model_dump(), 202, {"location": f"/v1/jobs/{job.id}", **_facts(job)}
            )
        if wanted.stream:
            return await streamed(service, request, job, kind, keep=bool(key))
        return await at_once(service, request, job, kind, keep=bool(key))

    @router.post(
        "/v1/audio/speech",
        summary="Speak a text, as OpenAI's clients ask for it",
        response_class=Response,
        responses={200: {"content": _SOUND, "description": "The sound."}, **_REFUSALS},
    )
    async def speech(request: Request, wanted: Speech, key: _KEY = "") -> Response:
        """A voice is an adapter's name, or `base`. Only of a base that speaks (see `/v1/models`)."""
        if not bundle.free_length:
            raise UserError(
                f"'{public_name(bundle)}' does not speak", "ask /v1/audio/generations of it"
            )
        known = (public_name(bundle), "tunesmith")
        if wanted.model not in known:
            raise UserError(f"no model '{wanted.model[:80]}'", did_you_mean(wanted.model, known))
        if wanted.speed != 1:
            raise UserError(
                f"speed {wanted.speed:g}", "only 1: no base here speaks at another pace"
            )
        adapters = {} if wanted.voice in ("base", *known) else {wanted.voice: 1.0}
        length_s = min(bundle.max_s, service.jobs.limits.seconds)
        one = asked.Request(
            "", wanted.input, length_s, drawn_seed(wanted.seed, key), None, adapters, None, False
        )
        job = await service.submit(one, key)
        return await at_once(service, request, job, find_format(wanted.response_format), bool(key))

    return router


def _made_from(wanted: Generation) -> asked.MadeFrom | None:
    """The sound that one is to be made from.

    Raises:
        UserError: words that do not go together.
    """
    if (wanted.audio is None) != (wanted.task == "generate"):
        raise UserError(
            f"task '{wanted.task}' {'without' if wanted.audio is None else 'with'} audio",
            "a sound that was sent is continued, inpainted or edited",
        )
    for name, given, task in (
        ("spans", bool(wanted.spans), "inpaint"),
        ("strength", wanted.strength is not None, "edit"),
    ):
        if given and wanted.task != task:
            raise UserError(f"{name} with task '{wanted.task}'", f"it is of '{task}'")
    if wanted.task in ("inpaint", "edit") and wanted.seconds is not None:
        raise UserError(f"seconds with task '{wanted.task}'", "the result is as long as the sound")
    if wanted.task == "generate" or wanted.audio is None:
        return None
    spans = tuple((float(begin), float(end)) for begin, end in wanted.spans)
    made_from = asked.MadeFrom(wanted.task, wanted.audio, spans)
    return made_from if wanted.strength is None else replace(made_from, strength=wanted.strength)


async def at_once(
    service: Service, request: Request, job: Job, kind: Format, keep: bool
) -> Response:
    """The whole sound, when it is done."""
    try:
        job = await service.ended(request, job, keep=keep)
    except Left:
        return Response(status_code=499)
    return await sound_of(service, job, kind)


async def sound_of(service: Service, job: Job, kind: Format) -> Response:
    """The kept sound of a job that is done."""
    data = await run_in_threadpool(lambda: converted(service.file(job), kind))
    return Response(data, media_type=kind.media_type, headers=_facts(job))


async def streamed(
    service: Service, request: Request, job: Job, kind: Format, *, keep: bool
) -> Response:
    """The sound as it is made. What goes wrong before its first part still has a status of its own."""
    parts = service.parts(request, job, keep=keep)
    try:
        first = await anext(parts)
    except Left:
        return Response(status_code=499)
    body = _encoded(parts, first, kind)
    return StreamingResponse(body, media_type=kind.media_type, headers=_facts(job))


async def _encoded(parts: AsyncIterator[Part], first: Part, kind: Format) -> AsyncIterator[bytes]:
    encoder = Encoder(kind, first.audio.sample_rate_hz, first.audio.channels)
    try:
        if data := await run_in_threadpool(encoder.encode, first.audio.samples):
            yield data
        try:
            async for part in parts:
                if data := await run_in_threadpool(encoder.encode, part.audio.samples):
                    yield data
        except Exception as error:
            # The client must not take what it has for the whole.
            raise Cut(str(error)) from error
        if data := await run_in_threadpool(encoder.close):
            yield data
    finally:
        encoder.abandon()
        await parts.aclose()  # type: ignore[attr-defined]


def _facts(job: Job) -> dict[str, str]:
    return {"x-job-id": job.id, "x-seed": str(job.request.seed)}
