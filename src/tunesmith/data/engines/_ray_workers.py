"""What runs on the machines of a Ray cluster: functions are tasks, classes are actors that hold a model.

A batch is ``{"job": [text ...]}``, each a line of JSON; what comes back has the columns ``answer`` (JSON),
``file`` and ``data``. A user's mistake comes back as an answer, since an exception would lose its kind.
Nothing here may fail for being done twice: a worker that was killed has its batch given to another.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.data.cut import RECORD, CutRecord, CutSettings, read_record
from tunesmith.data.engines import Staged
from tunesmith.data.examine import examine
from tunesmith.data.pool import Worker
from tunesmith.data.remote import at_hand
from tunesmith.data.sources import Remote, Source
from tunesmith.errors import UserError

PARTS = "parts"
"""Folder in the staging folder where workers put what they are at, each attempt in one of its own."""

Batch = Mapping[str, Any]


def row(answer: Mapping[str, Any], file: str = "", data: bytes = b"") -> dict[str, list[Any]]:
    """One row of output."""
    return {"answer": [json.dumps(answer)], "file": [file], "data": [data]}


def source_to_json(source: Source) -> dict[str, Any]:
    """A recording as a worker is told of it, whose working folder is another."""
    remote = source.remote
    return {
        "path": os.path.abspath(source.path),
        "name": source.name,
        "size_bytes": source.size_bytes,
        "remote": None if remote is None else [remote.url, remote.path, remote.version],
    }


def _source(value: Mapping[str, Any]) -> Source:
    """Errors: UserError if it should be on a disk here and is not."""
    remote = None if value["remote"] is None else Remote(*value["remote"])
    source = Source(Path(value["path"]), value["name"], value["size_bytes"], remote)
    if remote is None:
        try:
            there = source.path.stat().st_size == source.size_bytes
        except OSError:
            there = False
        if not there:
            raise UserError(
                f"the machine {socket.gethostname()} does not see {source.path} as it is here",
                "keep the recordings where all machines see them, or give a URL (s3://, gs://, hf:// ...)",
            )
    return source


def anywhere(model: str) -> str:
    """The name of a model, ``clap:FOLDER`` among them, with its folder's whole path if it has one."""
    kind, colon, rest = model.rpartition(":")
    return f"{kind}{colon}{os.path.abspath(rest)}" if os.path.isdir(rest) else model


def _failed(index: int, error: UserError) -> dict[str, list[Any]]:
    kind = type(error).__name__
    return row({"index": index, "error": kind, "message": error.message, "mend": error.mend})


def sees(folder: str, nonce: str) -> bool:
    """Whether a folder of the driver's is one and the same here."""
    try:
        return (Path(folder) / f".seen-{nonce}").is_file()
    except OSError:
        return False


def examine_batch(batch: Batch) -> Iterator[dict[str, list[Any]]]:
    """Hashes and tags of recordings."""
    for job in map(json.loads, batch["job"]):
        try:
            yield row({"index": job["index"], **examine(_source(job)).to_json()})
        except UserError as error:
            yield _failed(job["index"], error)


_hand: tuple[str, Worker] | None = (
    None  # of this process, which Ray uses for one task after another
)


def cut_batch(
    batch: Batch, settings: Mapping[str, Any], staging: str, nonce: str
) -> Iterator[dict[str, list[Any]]]:
    """Cuts recordings in a child process, as the local engine does: a decoder that crashes ends that.

    Args:
        batch: the recordings.
        settings: of cutting, as JSON.
        staging: the driver's staging folder. Where it is seen, work goes into it; else it goes back
            as bytes, a file at a time.
        nonce: of the file that tells.
    """
    place = Path(staging) if sees(staging, nonce) else None
    for job in map(json.loads, batch["job"]):
        try:
            yield from _cut(job, CutSettings.from_json(settings), place)
        except UserError as error:
            yield _failed(job["index"], error)


def _cut(
    job: Mapping[str, Any], settings: CutSettings, staging: Path | None
) -> Iterator[dict[str, list[Any]]]:
    index, final = job["index"], None
    if staging is not None:
        final = staging / job["key"]
        # A worker that has been killed may have come to its end before it could say so.
        if (record := read_record(final)) is not None:
            yield row({"index": index, "record": record.to_json()})
            return
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as temporary:
        top = Path(temporary) if staging is None else staging / PARTS
        part = top / uuid.uuid4().hex
        with at_hand(_source(job), job["sha256"]) as path:
            record = _worker_for(settings).cut(path, part)
        if record is None:
            record = _buried()
            shutil.rmtree(part, ignore_errors=True)
        elif final is not None:
            record = publish(part, final)
        else:
            for name in (*(clip.file for clip in record.clips), RECORD):
                yield row({"index": index}, name, (part / name).read_bytes())
    yield row({"index": index, "record": record.to_json()})


def _worker_for(settings: CutSettings) -> Worker:
    """This process's child, which cuts."""
    global _hand
    key = json.dumps(settings.to_json(), sort_keys=True)
    if _hand is not None and _hand[0] != key:
        _hand[1].close()
        _hand = None
    if _hand is None:
        _hand = (key, Worker(settings))
    return _hand[1]


def _buried() -> CutRecord:
    """The record of the recording that ended the child."""
    global _hand
    assert _hand is not None
    record, _hand = _hand[1].post_mortem(), None
    return record


def publish(part: Path, final: Path) -> CutRecord:
    """Puts a recording's finished work in its place, unless another attempt has done so before.

    Errors: OSError when neither can be.
    """
    for _ in range(2):
        if (record := read_record(final)) is not None:
            shutil.rmtree(part, ignore_errors=True)
            return record
        shutil.rmtree(final, ignore_errors=True)
        try:
            os.rename(part, final)
        except FileExistsError:
            continue
        except OSError:
            if not final.exists():
                raise
    record = read_record(final)
    assert record is not None, f"{final} is not what was put there"
    return record


class Listener:
    """A captioning model; also an actor that is asked from the driver.

    Args:
        name: of the model.
        fingerprint: that its captions must have; empty takes any.
        staging, nonce: as of :func:`cut_batch`; clips are heard where they lie.
    """

    def __init__(
        self, name: str, fingerprint: str = "", staging: str = "", nonce: str = ""
    ) -> None:
        from tunesmith.captioners import open_captioner

        self._fault: UserError | None = None
        here = socket.gethostname()
        if staging and not sees(staging, nonce):
            self._fault = UserError(
                f"the machine {here} does not see {staging}, where the clips are",
                "with --captioner make the data set in a folder that all machines share",
            )
            return
        try:
            self._captioner = open_captioner(name)
        except UserError as error:
            self._fault = error
            return
        if fingerprint and self._captioner.fingerprint != fingerprint:
            self._fault = UserError(
                f"'{name}' is not the same on {here} as on other machines: its captions would differ",
                "let all machines have the same weights, and all of them a GPU or none",
            )

    def about(self) -> dict[str, str]:
        """What a captioner says of itself, or what is wrong with it."""
        if self._fault is not None:
            return {"message": self._fault.message, "mend": self._fault.mend}
        return {"fingerprint": self._captioner.fingerprint, "source": self._captioner.source}

    def caption(self, clips: list[tuple[Any, int]]) -> list[tuple[str, float]]:
        """Answers for ``(samples [C, T], Hz)``."""
        from tunesmith.types import Audio

        told = self._captioner.caption([Audio(*clip) for clip in clips])
        return [(one.text, one.confidence) for one in told]

    def __call__(self, batch: Batch) -> Iterator[dict[str, list[Any]]]:
        from tunesmith.data.tell import Heard

        for job in map(json.loads, batch["job"]):
            try:
                if self._fault is not None:
                    raise self._fault
                staged = Staged(Path(job["folder"]), tuple(job["files"]))
                Heard(staged.folder, self._captioner).listen(staged.files, lambda: None)
                yield row({"index": job["index"]})
            except UserError as error:
                yield _failed(job["index"], error)


class Encoder:
    """A base's codec and text encoder, which fill the cache.

    Args:
        base: its name.
        cache: the driver's cache folder.
        nonce: as of :func:`cut_batch`.
    """

    def __init__(self, base: str, cache: str, nonce: str) -> None:
        from tunesmith.data.encode import open_frozen

        self._fault: UserError | None = None
        if not sees(cache, nonce):
            self._fault = UserError(
                f"the machine {socket.gethostname()} does not see the cache {cache}",
                "set TUNESMITH_CACHE to a folder that all machines share",
            )
            return
        os.environ["TUNESMITH_CACHE"] = cache
        try:
            self._bundle = open_frozen(base)
        except UserError as error:
            self._fault = error

    def __call__(self, batch: Batch) -> Iterator[dict[str, list[Any]]]:
        from tunesmith.data.encode import encode
        from tunesmith.types import Clip

        for job in map(json.loads, batch["job"]):
            try:
                if self._fault is not None:
                    raise self._fault
                value = job["clip"] | {"captions": tuple(job["clip"]["captions"])}
                encode([Clip(**value | {"path": Path(value["path"])})], self._bundle)
                yield row({"index": job["index"]})
            except UserError as error:
                yield _failed(job["index"], error)
