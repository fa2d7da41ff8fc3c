"""Text to sound, and the continuation of a given sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.types import Audio, Details, GenerationSettings

SPEC = {"summary": "new sound from text, or the continuation of a sound"}


@dataclass(frozen=True, slots=True)
class Take:
    """One generated clip.

    Attributes:
        prompt: its text.
        seed: what, with prompt and settings, it can be made again from.
        audio: the sound.
    """

    prompt: str
    seed: int
    audio: Audio


def check_duration(bundle: Bundle, duration_s: float, continued_s: float = 0.0) -> None:
    """Raise :class:`UserError` for a length that the base cannot give."""
    if duration_s <= 0:
        raise UserError(f"{duration_s:g} seconds is no length", "give more than 0")
    if duration_s > bundle.max_s + 1e-6:
        raise UserError(
            f"{duration_s:g} seconds is beyond what '{bundle.name}' was made for ({bundle.max_s:g} s)",
            f"give at most {bundle.max_s:g}",
        )
    if continued_s >= duration_s:
        raise UserError(
            f"the sound to continue is {continued_s:.1f} s, the result {duration_s:g} s in all",
            "ask for more seconds, or give a shorter sound",
        )


def check_details(bundle: Bundle, details: Details | None) -> None:
    """Raise :class:`UserError` for something said that the base does not listen to."""
    for name in details or {}:
        if name not in bundle.columns:
            known = ", ".join(bundle.columns) or "only prompts"
            raise UserError(
                f"'{bundle.name}' is not conditioned on '{name}'", f"it listens to: {known}"
            )


def generate(
    bundle: Bundle,
    prompts: Sequence[str],
    *,
    duration_s: float,
    seed: int = 0,
    count: int = 1,
    settings: GenerationSettings | None = None,
    continued: Audio | None = None,
    batch_size: int = 8,
    should_stop: Callable[[], int] = lambda: 0,
    details: Details | None = None,
) -> Iterator[Take]:
    """Generate ``count`` takes of each prompt, a batch at a time.

    Take i of a prompt has the seed ``seed + i``: the same take comes out whatever else is asked
    for beside it.

    Args:
        bundle: the base, with an adapter attached or not.
        prompts: texts.
        duration_s: seconds of each take, ``continued`` included.
        seed: seed of the first take.
        count: takes a prompt.
        settings: sampling.
        continued: a sound that every take begins with.
        batch_size: takes at a time.
        should_stop: polled often; non-zero raises ``errors.Stopped``.
        details: what is said beside every prompt, in the base's ``columns``: lyrics, bpm ...

    Raises:
        UserError: a length that the base cannot give, or details that it does not know.
    """
    check_details(bundle, details)
    check_duration(bundle, duration_s, continued.duration_s if continued else 0.0)
    wanted = [(prompt, seed + take) for prompt in prompts for take in range(count)]
    for start in range(0, len(wanted), batch_size):
        some = wanted[start : start + batch_size]
        audios = bundle.generate(
            [prompt for prompt, _ in some],
            duration_s,
            [one for _, one in some],
            settings,
            [continued] * len(some) if continued is not None else None,
            should_stop,
            [details] * len(some) if details else None,
        )
        for (prompt, one), audio in zip(some, audios, strict=True):
            yield Take(prompt, one, audio)
