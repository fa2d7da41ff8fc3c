"""Routes of sounds that clients send, to have them continued or changed: ``/v1/uploads``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from tunesmith.errors import UserError
from tunesmith.serve.answers import documented
from tunesmith.serve.refusals import Busy
from tunesmith.serve.schemas import SoundView, sound_view
from tunesmith.serve.service import Service
from tunesmith.serve.sounds import Sound

_AT_ONCE = 2
_ID = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="A sound's id.")]
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "wav, flac, ogg, mp3 or aiff; what it is called does not matter.",
        }
    },
}


def routes(service: Service) -> APIRouter:
    """The routes."""
    router, sounds = APIRouter(tags=["uploads"], prefix="/v1/uploads"), service.jobs.sounds
    uploading: set[Request] = set()

    def shown(sound: Sound) -> SoundView:
        return sound_view(sound, sounds.expires_at(sound.id))

    @router.post(
        "",
        status_code=201,
        summary="Send a sound, to have it continued or changed",
        responses={
            201: {"model": SoundView, "description": "It can be asked for by its id now."},
            **documented(400, 404, 413, 415, 422, 429, 503, 507),
        },
        openapi_extra={
            "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
        },
    )
    async def add(request: Request) -> JSONResponse:
        """A form with one part, `file`. Name its `id` as `audio` in `/v1/audio/generations`.

        What it is, its content tells. All of it is decoded once before it is kept. It goes by itself when
        nobody has asked for it in time.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise HTTPException(415, "send multipart/form-data, with one part: file")
        if len(uploading) >= _AT_ONCE:
            raise Busy(f"{len(uploading)} uploads are under way", 5.0)
        uploading.add(request)
        try:
            async with request.form(max_files=1, max_fields=1, max_part_size=4096) as form:
                files = form.getlist("file")
                if (
                    form.keys() - {"file"}
                    or len(files) != 1
                    or not isinstance(files[0], UploadFile)
                ):
                    raise UserError(
                        "not a sound's form",
                        "send one part, file, with a file name: -F file=@take.wav",
                    )
                sound = await run_in_threadpool(sounds.add, files[0].file)
        finally:
            uploading.discard(request)
        place = {"location": f"/v1/uploads/{sound.id}"}
        return JSONResponse(shown(sound).model_dump(), 201, place)

    @router.get("/{id}", summary="A sound that was sent", responses=documented(404, 422))
    def one(id: _ID) -> SoundView:
        return shown(sounds.get(id))

    @router.delete("/{id}", summary="Forget a sound", responses=documented(404, 422))
    def remove(id: _ID) -> SoundView:
        """A job that waits for it fails; one that runs has read it."""
        view = shown(sounds.get(id))
        sounds.remove(id)
        return view

    return router
