"""Takes that are made from a recording, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunesmith.families._bundle import Bundle
from tunesmith.types import Audio, Details, GenerationSettings, Source


def remade(
    bundle: Bundle,
    prompts: Sequence[str],
    source: Source,
    *,
    seed: int,
    count: int,
    settings: GenerationSettings | None,
    batch_size: int,
    should_stop: Callable[[], int],
    details: Details | None,
) -> Iterator[tuple[str, int, Audio]]:
    """``(prompt, seed, sound)`` of ``count`` takes of each prompt; take i has the seed ``seed + i``."""
    wanted = [(prompt, seed + take) for prompt in prompts for take in range(count)]
    for start in range(0, len(wanted), batch_size):
        some = wanted[start : start + batch_size]
        made = bundle.remake_codes(
            [prompt for prompt, _ in some],
            [source] * len(some),
            [one for _, one in some],
            settings or bundle.sampling,
            should_stop,
            [details] * len(some) if details else None,
        )
        for (prompt, one), codes in zip(some, made, strict=True):
            yield prompt, one, bundle.decode_audio(codes)
