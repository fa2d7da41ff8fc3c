"""A recording made anew by degrees: audio to audio.

All of it is moved toward noise up to a point and sampled from there (SDEdit, Meng et al. 2021,
arXiv:2108.01073): coarse things stay, the finer ones follow the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.tasks._remade import remade
from tunesmith.tasks.generate import Take, check_details
from tunesmith.types import Audio, Details, GenerationSettings, Source

SPEC = {"summary": "a recording made anew by degrees, after a prompt"}


def edit(
    bundle: Bundle,
    prompts: Sequence[str],
    audio: Audio,
    change: float,
    *,
    seed: int = 0,
    count: int = 1,
    settings: GenerationSettings | None = None,
    batch_size: int = 8,
    should_stop: Callable[[], int] = lambda: 0,
    details: Details | None = None,
) -> Iterator[Take]:
    """Versions of a recording, each as long as it is; take i of a prompt has the seed ``seed + i``.

    Args:
        bundle: the base, with an adapter attached or not.
        prompts: what it is to become.
        audio: the recording, at the base's rate, no longer than the base hears.
        change: how far, 0 (what the autoencoder makes of it) to 1 (nothing of it stays).
        seed: seed of the first take.
        count: takes a prompt.
        settings: sampling.
        batch_size: takes at a time.
        should_stop: polled often; non-zero raises ``errors.Stopped``.
        details: as of :func:`tunesmith.tasks.generate.generate`.

    Raises:
        UserError: a change that is none, a recording that is too long, or a family that cannot.
    """
    check_details(bundle, details)
    if not 0 <= change <= 1:
        raise UserError(f"a change of {change:g} is not in 0..1", "usual: 0.3 to 0.8")
    if audio.duration_s > bundle.max_s + 0.01:
        raise UserError(
            f"the recording has {audio.duration_s:.1f} s, '{bundle.name}' hears {bundle.max_s:g} s",
            "cut it first",
        )
    source = Source(audio, strength=change)
    made = remade(
        bundle,
        prompts,
        source,
        seed=seed,
        count=count,
        settings=settings,
        batch_size=batch_size,
        should_stop=should_stop,
        details=details,
    )
    for text, one, new in made:
        cut = new.samples[:, : audio.samples.shape[1]]
        yield Take(text, one, Audio(cut, new.sample_rate_hz))
