"""A job: a request and what has become of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

from tunesmith.errors import UserError
from tunesmith.serve.request import MadeFrom, Request
from tunesmith.types import GenerationSettings

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
Fault = Literal["", "request", "time", "restarts", "server"]


@dataclass(frozen=True, slots=True)
class Job:
    """A request and what has become of it.

    Attributes:
        id: as its request's.
        request: what was asked.
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.
        key: what the asker called it; empty if nothing.
        progress: 0 to 1.
        starts: how often it was begun; more than once only if the server ended meanwhile.
        fault: of a failed one: ``request`` (what was asked cannot be made), ``time`` (it took longer than
            it may), ``restarts`` (the server ended too often while it ran), ``server`` (anything else).
        error: the same in a line; empty for others.
        file: name of its sound in the folder of results; empty if there is none, or none any more.
        bytes: of that file.
        audio_s: length of the sound.
        made_at, began_at, ended_at: seconds since 1970; None if it has not.
    """

    id: str
    request: Request
    state: State = "queued"
    key: str = ""
    progress: float = 0.0
    starts: int = 0
    fault: Fault = ""
    error: str = ""
    file: str = ""
    bytes: int = 0
    audio_s: float = 0.0
    made_at: float = 0.0
    began_at: float | None = None
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in ENDED


def as_json(request: Request) -> str:
    """A request as text.

    Raises:
        UserError: its details hold what JSON cannot.
    """
    try:
        plain = asdict(replace(request, adapters=dict(request.adapters)))
        if plain["made_from"] is None:
            del plain["made_from"]
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"the request cannot be kept ({error})", "use text and numbers") from None


def from_json(text: str) -> Request:
    """The request again; the same settings, to the last bit."""
    plain = json.loads(text)
    settings, made_from = plain.pop("settings", None), plain.pop("made_from", None)
    if made_from:
        spans = tuple((float(begin), float(end)) for begin, end in made_from.pop("spans"))
        made_from = MadeFrom(**made_from, spans=spans)
    return Request(
        **plain,
        settings=GenerationSettings(**settings) if settings else None,
        made_from=made_from or None,
    )


def same_wish(one: Request, other: Request) -> bool:
    """Whether two requests want the same sound, whatever they are called and however it is sent."""
    return as_json(_wish(one)) == as_json(_wish(other))


def _wish(request: Request) -> Request:
    plain, made_from = replace(request, id="", streamed=False), request.made_from
    if made_from is None:
        return plain
    # What was looked up when it was accepted is no part of what was asked.
    plain = replace(plain, made_from=replace(made_from, sha256="", file=""))
    return plain if made_from.task == "continue" else replace(plain, duration_s=0.0)


__all__ = ["ENDED", "Fault", "Job", "State", "as_json", "from_json", "same_wish"]
