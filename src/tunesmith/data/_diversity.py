"""How different the clips of a set sound from one another, and which ones nearly repeat another.

The ruler is fixed, not taken from the set: :data:`EMBEDDING` without its loudness, in decibels.
Standardised over the set itself, sixty copies with a little noise would look as varied as sixty
songs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft  # which keeps single precision

from tunesmith.data._sound import read_middle
from tunesmith.data.recording import BadRecording
from tunesmith.data.sources import Rejection
from tunesmith.metrics import vendi
from tunesmith.metrics._logmel import NAME, embed
from tunesmith.metrics._logmel import _bank as mel_bank
from tunesmith.types import Audio, Clip

EMBEDDING = f"{NAME}, mean over the middle 10 s, loudness taken out"
MOST = 2000
"""Clips that are listened to; of more, evenly spaced ones: eigenvalues cost the cube of it."""

EXCERPT_S = 10.0

SCALE_DB = 2.5
"""Width of the Gaussian kernel. Measured: passages of one recording lie 1 to 3.6 dB apart (a jazz
trio), different takes on one instrument and style 2 to 6, different instruments 3 to 12. So clips
of one recording count as nearly one, and other instruments as another each."""

_CLOSE_DB = 2.0
_IDENTICAL_DB = 0.1
_SAME_CONTOUR = 0.8
"""Correlation of two clips' log-mel contours at the best shift above which they hold the same
sound. Measured: the same clip at another gain, through Vorbis, with noise or cut 0.07 to 1 s later
0.84 to 1.0; different passages 0.76 at most. The distance alone cannot tell: ten seconds of one
speaker lie within 1 dB of ten others."""
_LEAST_S = 5.0
"""Shorter clips are told apart by their fingerprints alone: any two words have a like contour."""

_CONTOUR_S = 0.032
_CANDIDATES = 2


@dataclass(frozen=True, slots=True)
class Near:
    """Two clips that lie close together.

    Attributes:
        file, other: their files.
        distance_db: root mean square over the 64 figures of the embedding.
        correlation: of their contours at the best shift, -1 to 1; None where it was not looked at.
    """

    file: str
    other: str
    distance_db: float
    correlation: float | None

    @property
    def same(self) -> bool:
        """Whether they hold the same sound, as far as the middle of them tells."""
        if self.distance_db < _IDENTICAL_DB:  # held tones have no contour to be compared by
            return True
        return self.correlation is not None and self.correlation >= _SAME_CONTOUR


@dataclass(frozen=True, slots=True)
class Diversity:
    """How varied a set sounds.

    Attributes:
        embedding: what listened.
        n: clips listened to.
        of: clips there are.
        vendi: how many different clips they amount to, 1 to ``n`` (Gaussian kernel, ``scale_db``).
        scale_db: width of that kernel.
        nearest_db: distance of each clip's nearest neighbour, in the order of the clips.
        repeat_share: share of the clips whose nearest neighbours include the same sound.
        nearest: close pairs, closest first.
    """

    embedding: str
    n: int
    of: int
    vendi: float
    scale_db: float
    nearest_db: tuple[float, ...]
    repeat_share: float
    nearest: tuple[Near, ...]


def diversity(
    clips: Sequence[Clip],
    names: Sequence[str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Diversity | None, list[Rejection]]:
    """Listen to the middle of every clip (of at most 2,000) and compare them.

    Args:
        clips: of one data set, without variants.
        names: what each is called.
        on_progress: told ``(done, total)``.

    Returns:
        What was found (None without any clip), and the clips that cannot be read, which are in none
        of its figures.
    """
    bad: list[Rejection] = []
    chosen = list(range(len(clips)))
    if len(chosen) > MOST:
        chosen = [int(i) for i in np.linspace(0, len(clips) - 1, MOST).round()]
    rows, heard = [], []
    for done, index in enumerate(chosen):
        try:
            rows.append(_vector(clips[index].path))
            heard.append(index)
        except BadRecording as error:
            bad.append(Rejection(names[index], 0.0, str(error)))
        on_progress(done + 1, len(chosen))
    if not rows:
        return None, bad
    chosen = heard
    # Root mean square over the figures, so that distances are decibels whatever their number.
    x = np.stack(rows) / np.sqrt(len(rows[0]))
    score = vendi.compute(x, kernel="rbf", bandwidth=SCALE_DB).value
    nearest_db: tuple[float, ...] = ()
    pairs: list[Near] = []
    if len(chosen) > 1:
        indices, distances = vendi.nearest(x, _CANDIDATES)
        nearest_db = tuple(round(float(d), 3) for d in distances[:, 0])
        pairs = _pairs([clips[i].path for i in chosen], indices, distances, names, chosen)
    repeated = {name for pair in pairs if pair.same for name in (pair.file, pair.other)}
    found = Diversity(
        embedding=EMBEDDING,
        n=len(chosen),
        of=len(clips) - len(bad),
        vendi=round(score, 2),
        scale_db=SCALE_DB,
        nearest_db=nearest_db,
        repeat_share=round(len(repeated) / len(chosen), 4),
        nearest=tuple(pairs),
    )
    return found, bad


def _vector(path: Path) -> np.ndarray:
    """``[64]`` in decibels: 32 mean bands about their own mean, and 32 deviations over time."""
    samples, rate = read_middle(path, EXCERPT_S)
    out = 10.0 * embed(Audio(np.ascontiguousarray(samples.T), rate)).mean(axis=0)
    half = len(out) // 2
    out[:half] -= out[:half].mean()
    return out


def _pairs(
    paths: Sequence[Path],
    indices: np.ndarray,
    distances: np.ndarray,
    names: Sequence[str],
    chosen: Sequence[int],
) -> list[Near]:
    contours: dict[int, np.ndarray] = {}

    def contour(index: int) -> np.ndarray:
        if index not in contours:
            contours[index] = _contour(paths[index])
        return contours[index]

    found: dict[tuple[int, int], Near] = {}
    for i, (others, gaps) in enumerate(zip(indices, distances, strict=True)):
        for rank, (j, gap) in enumerate(zip(others, gaps, strict=True)):
            pair = (min(i, int(j)), max(i, int(j)))
            if pair in found or (rank and gap > _CLOSE_DB):
                continue
            alike = None
            if gap <= _CLOSE_DB:
                two = [contour(index) for index in pair]
                long = min(map(len, two)) * _CONTOUR_S >= _LEAST_S
                alike = _correlation(*two) if long else None
            found[pair] = Near(
                names[chosen[pair[0]]],
                names[chosen[pair[1]]],
                round(float(gap), 3),
                None if alike is None else round(alike, 3),
            )
    return sorted(found.values(), key=lambda near: (near.distance_db, near.file))


def _contour(path: Path) -> np.ndarray:
    """Log-mel bands over time about their means, ``[T, 32]`` in steps of 32 ms, range 40 dB.

    The bands are the embedding's; windows are 64 ms long.
    """
    samples, rate = read_middle(path, EXCERPT_S)
    mono = samples.mean(axis=1)
    size = 1 << max(4, round(np.log2(2 * _CONTOUR_S * rate)))
    mono = np.pad(mono, (0, max(0, size - len(mono))))
    step = max(1, round(_CONTOUR_S * rate))
    frames = sliding_window_view(mono, size)[::step] * np.hanning(size).astype(np.float32)
    power = np.abs(np.asarray(fft.rfft(frames, axis=-1)) / size) ** 2
    out = np.log10(power @ mel_bank(rate, size).T.astype(np.float32) + 1e-8)
    out = np.maximum(out, out.max() - 4.0)
    return out - out.mean(axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Highest correlation of two contours over all shifts that leave half of the shorter one.

    Over every shift at once by the discrete Fourier transform, normalised by the overlapping parts.
    """
    size = 1 << (len(a) + len(b) - 1).bit_length()
    spectrum = np.fft.rfft(a, size, axis=0) * np.fft.rfft(b, size, axis=0).conj()
    products = np.fft.irfft(spectrum.sum(axis=1), size)
    power_a = np.concatenate([[0.0], np.cumsum((a.astype(np.float64) ** 2).sum(axis=1))])
    power_b = np.concatenate([[0.0], np.cumsum((b.astype(np.float64) ** 2).sum(axis=1))])
    least = max(1, min(len(a), len(b)) // 2)
    shifts = np.arange(least - len(b), len(a) - least + 1)
    start = np.maximum(shifts, 0)
    end = np.minimum(len(a), len(b) + shifts)
    energy = (power_a[end] - power_a[start]) * (power_b[end - shifts] - power_b[start - shifts])
    # What does not move (silence, a held tone) has no contour to be compared by.
    usable = energy > 1e-6 * max(float(power_a[-1] * power_b[-1]), 1e-12)
    if not usable.any() or power_a[-1] < 1e-3 or power_b[-1] < 1e-3:
        return 0.0
    found = products[shifts[usable] % size] / np.sqrt(energy[usable])
    return float(np.clip(found.max(), -1.0, 1.0))
