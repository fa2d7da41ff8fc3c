"""Data too homogeneous: many clips that sound like a few."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data._diversity import Diversity, diversity
from tunesmith.training.pitfalls.finding import Finding
from tunesmith.types import Clip

MOST = 300
"""Clips that are listened to before training; of more, evenly spaced ones. ``tunesmith check`` hears
up to 2,000."""

LEAST = 8
"""Fewer clips are few, not homogeneous."""

NEAR_DB = 1.0
"""Clips at most so far apart are near-copies: passages of one recording lie 1 to 3.6 dB apart
(``docs/check.md``), the same sound at another gain or with some noise below 1."""

SHARE = 0.5
"""Share of the clips that may have a near-copy."""

SOUNDS = 0.2
"""Different sounds (Vendi score) that there must be, as a share of the clips, of 60 at most."""

_NAMED = 5


def look(clips: Sequence[Clip], names: Sequence[str]) -> Finding | None:
    """Judge the clips to be trained on, without their variants, before anything is trained.

    Args:
        clips: the training side.
        names: what each is called in the message.
    """
    originals = [index for index, clip in enumerate(clips) if not clip.variant_of]
    chosen = originals if originals else list(range(len(clips)))
    if len(chosen) > MOST:
        chosen = [chosen[index * len(chosen) // MOST] for index in range(MOST)]
    if len(chosen) < LEAST:
        return None
    heard, _ = diversity([clips[i] for i in chosen], [names[i] for i in chosen])
    return judge(heard) if heard and heard.n >= LEAST else None


def judge(heard: Diversity) -> Finding | None:
    """What a data set's variety says; ``heard`` as ``tunesmith check`` measures it."""
    copies = sum(gap <= NEAR_DB for gap in heard.nearest_db) / heard.n
    few = heard.vendi < SOUNDS * min(heard.n, 60)
    if not few and copies <= SHARE:
        return None
    pairs = [one for one in heard.nearest if one.same or one.distance_db <= NEAR_DB][:_NAMED]
    named = "; ".join(f"{one.file} and {one.other} ({one.distance_db:.1f} dB)" for one in pairs)
    return Finding(
        "homogeneous",
        f"the data is homogeneous: {heard.n} training clips sound like {heard.vendi:.0f} different "
        f"ones, and {copies:.0%} of them have another within {NEAR_DB:g} dB"
        + (f". Near-copies: {named}" if named else ""),
        "keep one of each pair and add recordings that sound otherwise (tempo, key, instruments, "
        "rooms); `tunesmith check` lists them all",
        "",
        {"clips": heard.n, "vendi": heard.vendi, "near_copies": round(copies, 4)},
    )
