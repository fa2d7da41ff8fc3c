"""How much a server takes on, and the check of a request against that and against the base."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from tunesmith.errors import UserError, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.serve.request import Request
from tunesmith.tasks.generate import check_details, check_duration
from tunesmith.types import GenerationSettings

_SEED = 2**63
_WEIGHT = 10.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows.

    Attributes:
        queue: jobs that wait at most; one more is refused (:class:`.refusals.Busy`).
        seconds: length of a request; what the base was made for is a limit of its own.
        prompt_chars: characters of a prompt.
        detail_chars: characters of all that is said beside it (lyrics ...).
        adapters: that one request may mix.
        steps: of a diffusion sampler.
        job_s: how long a job may run, from when it began.
        starts: how often a job may be begun; one that was running at so many ends of the server without
            coming to its own is failed, for it may be what ended them.
        listeners: subscriptions at once, over all jobs.
        results: finished sounds that are kept; the oldest go first.
        result_bytes: of all that are kept.
        result_age_s: how long one is kept.
        jobs: finished jobs that are remembered, with or without their sound; so long keys are, too.
        uploads: sounds of clients that are kept at a time.
        upload_bytes: of one of them, as it is sent.
        upload_samples: of one of them, decoded: frames times channels.
        uploads_bytes: of all that are kept.
        upload_age_s: how long one is kept after it was last asked for.
    """

    queue: int = 64
    seconds: float = 300.0
    prompt_chars: int = 4_000
    detail_chars: int = 20_000
    adapters: int = 8
    steps: int = 1_000
    job_s: float = 600.0
    starts: int = 3
    listeners: int = 256
    results: int = 1_000
    result_bytes: int = 4 * 2**30
    result_age_s: float = 7 * 24 * 3600.0
    jobs: int = 10_000
    uploads: int = 256
    upload_bytes: int = 64 * 2**20
    upload_samples: int = 2**25
    uploads_bytes: int = 2 * 2**30
    upload_age_s: float = 24 * 3600.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"the limit {name}={value:g} allows nothing", "give more than 0")


def check_id(id: str) -> str:
    """An id that can be a file's name.

    Raises:
        UserError: other characters than letters, digits, ``-`` and ``_``, or more than 64.
    """
    if not _ID.fullmatch(id):
        raise UserError("an id has 1 to 64 letters, digits, - and _", "let the server choose it")
    return id


def check_request(
    request: Request, bundle: Bundle, adapters: Collection[str], limits: Limits
) -> Request:
    """A request that the base can answer, its adapters of weight 0 left out.

    Args:
        request: what is wanted; nothing of it is trusted.
        bundle: the base.
        adapters: names that may be mixed in.
        limits: the server's.

    Raises:
        UserError: with what is wrong and what is allowed. No file is opened: a detail that would name
            one (a speaker) is refused.
    """
    if len(request.prompt) > limits.prompt_chars:
        raise UserError(
            f"a prompt of {len(request.prompt)} characters",
            f"{limits.prompt_chars} are allowed here",
        )
    # Around a hole the recording stays, however long it is.
    whole = request.made_from is not None and request.made_from.task == "inpaint"
    if not math.isfinite(request.duration_s) or (request.duration_s > limits.seconds and not whole):
        raise UserError(
            f"{request.duration_s:g} seconds are more than this server gives",
            f"ask for at most {min(limits.seconds, bundle.max_s):g}",
        )
    if not whole:
        check_duration(bundle, request.duration_s)
    if round(request.duration_s * bundle.frame_rate_hz) < 1:
        raise UserError(
            f"{request.duration_s:g} seconds are less than one frame",
            f"ask for at least {1 / bundle.frame_rate_hz:g}",
        )
    if not 0 <= request.seed < _SEED:
        raise UserError(f"the seed {request.seed}", "give a whole number from 0 to 2^63 - 1")
    if request.settings is not None:
        _check_settings(request.settings, limits)
    _check_details(request, bundle, limits)
    return replace(request, adapters=_checked_weights(request, adapters, limits))


def _checked_weights(
    request: Request, adapters: Collection[str], limits: Limits
) -> dict[str, float]:
    if len(request.adapters) > limits.adapters:
        raise UserError(
            f"{len(request.adapters)} adapters at once", f"{limits.adapters} are allowed here"
        )
    for name, weight in request.adapters.items():
        if name not in adapters:
            known = did_you_mean(name, adapters) if adapters else "this server has none"
            raise UserError(f"no adapter '{name[:80]}'", known)
        if not math.isfinite(weight) or abs(weight) > _WEIGHT:
            raise UserError(
                f"the weight {weight:g} of '{name}'",
                f"give -{_WEIGHT:g} to {_WEIGHT:g}; 1 is usual",
            )
    return {name: float(weight) for name, weight in request.adapters.items() if weight}


def _check_settings(settings: GenerationSettings, limits: Limits) -> None:
    allowed = (
        ("guidance", 0.0, 100.0),
        ("temperature", 0.0, 10.0),
        ("top_k", 0, 1_000_000),
        ("top_p", 0.0, 1.0),
        ("steps", 0, limits.steps),
    )
    for name, least, most in allowed:
        value = getattr(settings, name)
        if not (math.isfinite(value) and least <= value <= most):
            raise UserError(f"{name} {value:g}", f"give {least:g} to {most:g}")
    if settings.top_p == 0:
        raise UserError("top_p 0 leaves nothing to choose from", "give more; 1 is off")


def _check_details(request: Request, bundle: Bundle, limits: Limits) -> None:
    details = request.details or {}
    check_details(bundle, details)
    size = 0
    for name, value in details.items():
        if not isinstance(value, str | int | float) and value is not None:
            raise UserError(f"'{name}' is neither text nor a number", "give it as text")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"'{name}' is not finite", "give a plain number")
        size += len(str(value))
        text = str(value).strip()
        # On the command line a speaker may be a file's name; nobody out there names files of ours.
        if name == "speaker" and text and not (text.startswith("[") or text.isdecimal()):
            raise UserError("a speaker is a number, or a list of numbers", "give it as [0.1, ...]")
    if size > limits.detail_chars:
        raise UserError(
            f"{size} characters beside the prompt", f"{limits.detail_chars} are allowed here"
        )


__all__ = ["Limits", "check_id", "check_request"]
