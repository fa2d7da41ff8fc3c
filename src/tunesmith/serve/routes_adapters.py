"""Routes of adapters: which there are, adding by name or by upload, removing."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from tunesmith.errors import UserError
from tunesmith.formats.adapter import card_hash, read_card
from tunesmith.serve.adapter_files import CARD_BYTES
from tunesmith.serve.answers import documented
from tunesmith.serve.refusals import Busy
from tunesmith.serve.schemas import AdapterList, AdapterView, AdapterWanted
from tunesmith.serve.service import Service

_FILES = 16
_AT_ONCE = 2
_REFUSALS = documented(400, 404, 409, 413, 415, 422, 429, 503, 507)
_NAME = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": ["name", "card", "tensors"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
        "replace": {"type": "string", "enum": ["true", "false"]},
        "card": {**_BINARY, "description": "adapter.json"},
        "tensors": {
            "type": "array",
            "minItems": 1,
            "maxItems": _FILES,
            "items": _BINARY,
            "description": "adapter_model.safetensors of each component, in any order.",
        },
    },
}


def routes(service: Service) -> APIRouter:
    """The routes."""
    router, shelf = APIRouter(tags=["adapters"], prefix="/v1/adapters"), service.shelf
    uploading: set[Request] = set()

    def views() -> list[AdapterView]:
        folders = dict(service.jobs.engine.adapters())
        return [_view(name, folder) for name, folder in sorted(folders.items())]

    @router.get("", summary="What requests can name", responses=documented())
    def every() -> AdapterList:
        return AdapterList(adapters=views(), available=shelf.available())

    @router.post(
        "",
        status_code=201,
        summary="Add an adapter, while requests run",
        responses={201: {"model": AdapterView, "description": "It can be named now."}, **_REFUSALS},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": AdapterWanted.model_json_schema(),
                        "examples": {
                            "by its folder": {"value": {"name": "jazz", "folder": "jazz-v2"}}
                        },
                    },
                    "multipart/form-data": {"schema": _FORM},
                },
            }
        },
    )
    async def add(request: Request) -> JSONResponse:
        """JSON names a folder within the server's folder of adapters; a form uploads the files themselves.

        Of an upload only `adapter.json` and safetensors files are taken. Before the model sees any of it,
        the base's hash, the files' hashes, their headers and every shape are checked.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            name = await _named(request, service)
        elif kind == "multipart/form-data":
            if len(uploading) >= _AT_ONCE:
                raise Busy(f"{len(uploading)} uploads are under way", 5.0)
            uploading.add(request)
            try:
                name = await _uploaded(request, service)
            finally:
                uploading.discard(request)
        else:
            raise HTTPException(415, "send JSON, or multipart/form-data")
        folder = service.jobs.engine.adapters().get(name)
        if folder is None:
            raise HTTPException(409, "it was removed again meanwhile")
        view = await run_in_threadpool(_view, name, folder)
        return JSONResponse(view.model_dump(), 201)

    @router.delete("/{name}", summary="Forget an adapter", responses=documented(404, 422))
    def remove(name: _NAME) -> AdapterView:
        """Requests that run with it end as they began; one that waits for it fails. An upload's files are deleted."""
        gone = [view for view in views() if view.name == name]
        shelf.remove(name)
        return gone[0]

    return router


def _view(name: str, folder: FilePath) -> AdapterView:
    try:
        card: dict[str, Any] = read_card(folder)
    except UserError:  # taken away from under the server, which has it in memory
        return AdapterView(name=name, method="", hash="", tokens=[], rights="")
    return AdapterView(
        name=name,
        method=str(card["method"]["name"]),
        hash=card_hash(folder),
        tokens=[str(token) for token in card.get("trigger_tokens") or []],
        rights=str(card.get("rights") or ""),
    )


async def _named(request: Request, service: Service) -> str:
    body = await request.body()
    if len(body) > 4096:
        raise HTTPException(413, "more than 4096 bytes")
    try:
        wanted = AdapterWanted.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "the body"
        raise UserError(f"{place}: {first['msg'][:200]}", "see /openapi.json") from None
    await run_in_threadpool(
        lambda: service.shelf.add_named(
            wanted.name, wanted.folder or wanted.name, replace=wanted.replace
        )
    )
    return wanted.name


async def _uploaded(request: Request, service: Service) -> str:
    async with request.form(max_files=_FILES + 1, max_fields=2, max_part_size=4096) as form:
        name, replace = _word(form, "name"), _word(form, "replace") or "false"
        cards, tensors = form.getlist("card"), form.getlist("tensors")
        if foreign := sorted(form.keys() - {"name", "replace", "card", "tensors"}):
            raise UserError(f"a part '{foreign[0][:60]}'", "send name, card and tensors")
        if not name or replace not in ("true", "false") or len(cards) != 1 or not tensors:
            raise UserError(
                "not an adapter", "send name, one card, tensors, and replace=true or false"
            )
        files = [one for one in (*cards, *tensors) if isinstance(one, UploadFile)]
        if len(files) != 1 + len(tensors):
            raise UserError("card and tensors are files", "send them with a file name each")
        card = await files[0].read(CARD_BYTES + 1)
        await run_in_threadpool(
            lambda: service.shelf.add_upload(
                name, card, [one.file for one in files[1:]], replace=replace == "true"
            )
        )
        return name


def _word(form: FormData, key: str) -> str:
    found = form.getlist(key)
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""
