"""Encoding a data set ahead of training, so that the machines that prepare do it rather than the one that trains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tunesmith.data.engines import open_engine
from tunesmith.data.load import load_dataset
from tunesmith.errors import Stopped


def encode_ahead(
    dest: str | Path,
    base: str,
    *,
    engine: str = "local",
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], int] = lambda: 0,
) -> int:
    """Fills the cache with the codes and text states of every clip of a data set.

    By content: what is there is not made again, by whichever run or machine it was made.

    Args:
        dest: the data set.
        base: whose codec and text encoder.
        engine, workers: as for :func:`tunesmith.data.prepare.prepare`. With ``ray`` all machines have
            to share the cache folder (``TUNESMITH_CACHE``).
        on_progress: told ``(done, total)``.
        should_stop: polled.

    Returns:
        How many clips there are.

    Errors: :class:`~tunesmith.errors.UserError` for a base or a data set that cannot be opened;
    :class:`Stopped` when asked to stop: what was encoded stays.
    """
    clips = load_dataset(dest)
    with closing(open_engine(engine, workers)) as opened:
        for done in opened.encode(clips, base, should_stop):
            on_progress(done, len(clips))
            if number := should_stop():
                raise Stopped(number, "stopped while encoding; run again to go on")
    return len(clips)
