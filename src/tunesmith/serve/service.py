"""What the routes share: the queue, the shelf of adapters, and the two ways to wait for a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from tunesmith.errors import UserError
from tunesmith.serve import request as asked
from tunesmith.serve.job import Job
from tunesmith.serve.jobs import Jobs, seed_for
from tunesmith.serve.live import Ended, Event, Part, Subscription
from tunesmith.serve.refusals import Closing, Gone, Unfinished
from tunesmith.serve.shelf import Shelf


class Left(Exception):
    """The client is gone; there is nobody to answer."""


class Cut(Exception):
    """A stream that had begun cannot be ended as it should; the connection is cut instead."""


@dataclass(frozen=True, slots=True)
class Service:
    """What answers requests.

    Attributes:
        jobs: the queue.
        shelf: of adapters.
        closing: whether nothing new is taken any more.
    """

    jobs: Jobs
    shelf: Shelf
    closing: Callable[[], bool]

    async def submit(self, request: asked.Request, key: str) -> Job:
        """Accept a request; away from the loop, since it is on the disk when this returns."""
        return await run_in_threadpool(self.jobs.submit, request, key)

    def call_off(self, id: str) -> None:
        """Cancel a job without waiting for it; from the loop, also while that is being cancelled."""
        future = asyncio.get_running_loop().run_in_executor(None, self._cancel, id)
        future.add_done_callback(lambda done: done.exception())

    def _cancel(self, id: str) -> None:
        with suppress(UserError):
            self.jobs.cancel(id)

    async def ended(self, request: Request, job: Job, *, keep: bool) -> Job:
        """A job, done.

        Args:
            request: whose client waits; if it leaves, the job is called off.
            job: to wait for.
            keep: let the job go on all the same.

        Raises:
            Left: the client is gone.
            HTTPException, UserError: it failed, or was called off.
        """
        over = False
        with self._listening(job, parts=False, keep=keep) as events:
            try:
                async for event in self._while_there(request, events):
                    if isinstance(event, Ended):
                        over = event.job.ended
                        return done(event.job)
                raise Closing
            finally:
                if not over and not keep:
                    self.call_off(job.id)

    async def parts(self, request: Request, job: Job, *, keep: bool) -> AsyncIterator[Part]:
        """The sound of a job as it is made. Raises as :meth:`ended`, before the first part or after."""
        over = False
        with self._listening(job, parts=True, keep=keep) as events:
            try:
                async for event in self._while_there(request, events):
                    if isinstance(event, Part):
                        yield event
                    elif isinstance(event, Ended):
                        over = event.job.ended
                        done(event.job)
            finally:
                if not over and not keep:
                    self.call_off(job.id)

    def _listening(self, job: Job, *, parts: bool, keep: bool) -> Subscription:
        try:
            return self.jobs.listen(job.id, parts=parts)
        except UserError:  # too many listen: nobody would ever hear of this job
            if not keep:
                self.call_off(job.id)
            raise

    def file(self, job: Job) -> Path:
        """The kept sound of a job; also while the queue is being closed, when the store is not asked any more.

        Raises:
            Unfinished: it is not done.
            Gone: it was, but its sound is no longer kept.
        """
        if job.state != "done":
            raise Unfinished(job.id, job.state)
        file = self.jobs.store.results / (job.file or "gone")
        if not job.file or not file.is_file():
            raise Gone(job.id)
        return file

    async def _while_there(self, request: Request, events: Subscription) -> AsyncIterator[Event]:
        gone = asyncio.create_task(_gone(request))
        coming = asyncio.create_task(events.atake())
        try:
            while True:
                await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    raise Left
                if (event := coming.result()) is None:
                    return
                coming = asyncio.create_task(events.atake())
                yield event
        finally:
            coming.cancel()
            gone.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client has left. Its body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def done(job: Job) -> Job:
    """A job that ended well.

    Raises:
        Closing: the server closes first; it is made after the next start.
        UserError: it cannot be made.
        HTTPException: it was called off, took too long, or failed here.
    """
    if job.state == "done":
        return job
    if job.state == "cancelled":
        raise HTTPException(409, "the job was called off")
    if job.state != "failed":
        raise Closing
    if job.fault == "request":
        raise UserError(job.error)
    if job.fault == "time":
        raise HTTPException(504, job.error)
    raise HTTPException(500, job.error)


def drawn_seed(seed: int | None, key: str) -> int:
    """A seed, drawn if none is given: the same for the same key, or asking again would be another wish."""
    return seed_for(key) if seed is None else seed


def checked_settings(bundle: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Settings of sampling that mean something to a base.

    Raises:
        UserError: one that does not.
    """
    given = {name: value for name, value in wanted.items() if value is not None}
    for name in given:
        if name not in bundle.settings:
            raise UserError(
                f"{name} means nothing to this base", f"it listens to: {', '.join(bundle.settings)}"
            )
    return given


__all__ = ["Cut", "Left", "Service", "checked_settings", "done", "drawn_seed"]
