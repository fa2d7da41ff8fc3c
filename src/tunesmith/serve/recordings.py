"""Requests that begin from a sound: what a base can do with one, and doing it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tunesmith.data.encode import read_audio
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.serve.request import TASKS, MadeFrom, Request
from tunesmith.serve.sounds import Sound
from tunesmith.tasks.edit import edit
from tunesmith.tasks.generate import check_duration, generate
from tunesmith.tasks.inpaint import check_spans, inpaint
from tunesmith.types import Audio, Details, GenerationSettings

_SPANS = 64
_LONGEST_S = 3600.0  # of the recording around a hole; what a server takes on is less


def able(bundle: Bundle) -> tuple[str, ...]:
    """What a base can do with a sound, of :data:`.request.TASKS`."""
    return TASKS if bundle.inpainting else ("continue",)


def check_made_from(request: Request, bundle: Bundle, sound: Sound) -> Request:
    """A request whose sound the base can begin from; with its length and hash.

    Args:
        request: with ``made_from``; nothing of it is trusted.
        bundle: the base.
        sound: the one that it names.

    Raises:
        UserError: a family that cannot, spans that the sound does not have, or a length that does not fit.
    """
    made_from = request.made_from
    assert made_from is not None
    task = made_from.task
    if task not in able(bundle):
        raise UserError(
            f"'{Path(bundle.name).name}' cannot {task} a recording: {bundle.no_inpainting}",
            "ask it to continue one, or ask a diffusion base",
        )
    made_from = replace(made_from, sha256=sound.sha256)
    if task == "continue":
        check_duration(bundle, request.duration_s, sound.duration_s)
        return replace(request, made_from=made_from)
    if task == "inpaint":
        if len(made_from.spans) > _SPANS:
            raise UserError(f"{len(made_from.spans)} spans", f"{_SPANS} are allowed here")
        check_spans(made_from.spans, sound.duration_s)
        reach_s = max(end for _, end in made_from.spans) - min(b for b, _ in made_from.spans)
        if reach_s >= bundle.max_s:
            raise UserError(
                f"the spans reach over {reach_s:.1f} s, of which the base hears {bundle.max_s:g}",
                "ask for one after the other",
            )
    else:
        if not (math.isfinite(made_from.strength) and 0 <= made_from.strength <= 1):
            raise UserError(
                f"the strength {made_from.strength:g}", "give 0 to 1; 0.3 to 0.8 is usual"
            )
        if sound.duration_s > bundle.max_s + 0.01:
            raise UserError(
                f"the sound has {sound.duration_s:.1f} s, of which the base hears {bundle.max_s:g}",
                "send the part that matters",
            )
    return replace(request, duration_s=sound.duration_s, made_from=made_from)


def recorded(made_from: MadeFrom, bundle: Bundle) -> Audio:
    """The sound of a request: as the base hears it, or, around holes, as it was sent.

    Raises:
        UserError: it was deleted meanwhile.
    """
    whole = made_from.task == "inpaint"
    try:
        if whole:
            return read_audio(Path(made_from.file), None, None, _LONGEST_S)
        rate_hz, channels = bundle.sample_rate_hz, bundle.channels
        return read_audio(Path(made_from.file), rate_hz, channels, bundle.max_s)
    except UserError:  # its words would name a place of this machine
        raise UserError(
            f"the sound '{made_from.audio}' is not there any more", "send it again"
        ) from None


def made(
    bundle: Bundle,
    request: Request,
    prompt: str,
    details: Details | None,
    settings: GenerationSettings,
    should_stop: Callable[[], int],
) -> Audio:
    """The sound that a request makes of another.

    Args:
        bundle: the base, with the request's adapters on it.
        request: with ``made_from``.
        prompt, details: as the adapters want to be asked.
        settings: sampling.
        should_stop: polled often; non-zero raises ``errors.Stopped``.

    Raises:
        UserError: the sound is gone, or the base cannot.
    """
    made_from = request.made_from
    assert made_from is not None
    audio = recorded(made_from, bundle)
    plain = {
        "seed": request.seed,
        "settings": settings,
        "should_stop": should_stop,
        "details": details,
    }
    if made_from.task == "continue":
        takes = generate(bundle, [prompt], duration_s=request.duration_s, continued=audio, **plain)
    elif made_from.task == "inpaint":
        takes = inpaint(bundle, prompt, audio, made_from.spans, **plain)
    else:
        takes = edit(bundle, [prompt], audio, made_from.strength, **plain)
    (take,) = takes
    return take.audio


__all__ = ["able", "check_made_from", "made", "recorded"]
