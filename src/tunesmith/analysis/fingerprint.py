"""Fingerprints of clips, and an index that finds the same sound again.

A fingerprint is a row of 32-bit words, one per moment: how the shape of the spectrum has changed
since an eighth of a second ago, as signs (Haitsma and Kalker, "A Highly Robust Audio
Fingerprinting System", ISMIR 2002, section 4.1, eq. 1, here of logarithmic band energies). Copies
that were coded, resampled or turned down differ in a tenth of the bits; different sounds of one
style in a third.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from scipy import fft

_VERSION = 1
_MOST_BYTES = 2048
_MOST_WORDS = _MOST_BYTES // 4 - 1  # one goes to the head

_RATE_HZ = 6000
_HOP = 90  # 15 ms; every print keeps each one, each second, each fourth ... of these moments
_HOP_S = _HOP / _RATE_HZ
_WINDOW = 2048
_LAG = 8  # hops: an eighth of a second
_BANDS = 33
_LOW_HZ, _HIGH_HZ = 250.0, 2800.0  # what telephones, 8 kHz files and low bit rates all keep
_FLOOR = 1e-4  # of the loudest band: what lies below says nothing
_STIR = 0.1  # nepers: a moment in which no band changes by more says nothing
_LEAST_WORDS = 6
_LONG_S = 2.0

# Comparing. Measured with bench/duplicates.py.
_NEAR_S = 2.0
_LOCAL_ERROR = 0.24
_SHORT_ERROR, _ERROR = 0.135, 0.18  # of nothing and of 4 s: few bits agree by chance
_SURE_S = 4.0
_LEAST_SHARE = 0.35
_LEAST_SAME = 8  # words
_HOPELESS = 0.38  # of all bits that overlap: a third the same, the rest by chance

_MOST_KEYS = 256
_MOST_POSTINGS = 30_000
_BIN = 8  # hops: votes this near are one
_MOST_BINS = 64
_KEYS_PER_VOTE = 64  # a copy agrees in ten times as many


def fingerprint(samples: np.ndarray, sample_rate_hz: int) -> bytes:
    """What a clip sounds like, in at most 2048 bytes; empty if there is too little to say.

    One word per 15 ms up to 7.6 s, per 30 ms up to 15 s, per 60 ms up to 30 s and so on. Beyond a
    minute the words lie so far apart that copies which were cut at other places may be missed.

    Args:
        samples: float32 ``[T, C]``, finite. The mean of the channels is taken; where that cancels
            (one channel inverted), the first channel.
        sample_rate_hz: of the samples; from 8000 on all of the bands are filled.
    """
    mono = _mono(samples)
    if mono.any():
        mono = soxr.resample(mono, sample_rate_hz, _RATE_HZ, quality="MQ")
    moments = len(mono) // _HOP + 1 - _LAG
    if moments < _LEAST_WORDS:
        return b""
    step = 1
    while -(-moments // step) > _MOST_WORDS:
        step *= 2
    at = np.arange(0, moments, step)
    padded = np.pad(mono, _WINDOW // 2)
    now, before = _bands(padded, at + _LAG), _bands(padded, at)
    loudest = max(float(now.mean(axis=0).max()), float(before.mean(axis=0).max()))
    if loudest <= 0.0:
        return b""
    floor = _FLOOR * loudest
    change = np.log(now + floor) - np.log(before + floor)
    bits = np.diff(change, axis=1) > 0
    words = np.packbits(bits, axis=1, bitorder="little").view("<u4")[:, 0]
    words = np.maximum(words, 1)  # zero is kept for the moments that say nothing
    words[np.abs(change).max(axis=1) < _STIR] = 0
    if len(mono) >= _LONG_S * _RATE_HZ:
        # Where a window reaches over an end, a word tells of the cut; short clips need them all.
        words[(at * _HOP < _WINDOW // 2) | ((at + _LAG) * _HOP > len(mono) - _WINDOW // 2)] = 0
    if np.count_nonzero(words) < _LEAST_WORDS:
        return b""
    return bytes([_VERSION, step.bit_length() - 1, 0, 0]) + words.tobytes()


def _mono(samples: np.ndarray) -> np.ndarray:
    """Mean of the channels ``[T]``, or the first one where the mean all but cancels."""
    channels = samples.shape[1] if samples.ndim == 2 else 0
    if not channels or not len(samples):
        return np.zeros(0, np.float32)
    mono = np.asarray(samples @ np.full(channels, 1 / channels, np.float32), np.float32)
    if channels > 1:
        whole = float(np.einsum("tc,tc->", samples, samples)) / channels
        if float(mono @ mono) < 0.01 * whole:
            return np.ascontiguousarray(samples[:, 0], np.float32)
    return mono


def _bands(padded: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Mean power per band around every moment: ``[N, 33]``."""
    edges = np.geomspace(_LOW_HZ, _HIGH_HZ, _BANDS + 1) * _WINDOW / _RATE_HZ
    edges = np.round(edges).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)
    last = len(frames) - 1
    chosen = frames[np.minimum(at * _HOP, last)] * np.hanning(_WINDOW).astype(np.float32)
    spectrum = np.asarray(fft.rfft(chosen, axis=1))[:, : edges[-1]]
    power = np.square(np.abs(spectrum))
    return np.add.reduceat(power, edges[:-1], axis=1) / np.diff(edges)


@dataclass(frozen=True, slots=True)
class Match:
    """An indexed clip that holds the same sound.

    Attributes:
        key: of the indexed clip.
        share: how much of the shorter clip's time is the same sound, 0 to 1.
        offset_s: where the query starts within the indexed clip, in seconds; may be negative.
    """

    key: str
    share: float
    offset_s: float


_CLIP_BITS, _AT_BITS = 26, 21  # 67 million clips; 2 million hops are more than eight hours
_HALF_SHIFT = _CLIP_BITS + _AT_BITS


@dataclass(frozen=True, slots=True)
class _Postings:
    """Where halves of words occur, for some of the clips.

    Attributes:
        places: uint64, sorted; from the highest bit a half word (16 bits, and which half it is), the clip,
            and where in it, in hops. One number each, for a large data set has millions of them.
        clips: how many.
    """

    places: np.ndarray
    clips: int


class Index:
    """Finds near duplicates among fingerprints: candidates by equal half words, then bit errors.

    Adding and finding may be mixed in any order; both cost about the logarithm of what is there.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._prints: list[tuple[np.ndarray, int]] = []
        self._parts: list[_Postings] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, print_: bytes) -> None:
        """Adds a clip; one whose fingerprint is empty is never found."""
        words, step = _unpack(print_)
        number = len(self._keys)
        self._keys.append(key)
        self._prints.append((words, step))
        at = np.flatnonzero(words)
        half = _halves(words[at]).astype(np.uint64)
        # Hours beyond the last place share it: their votes scatter, and name no wrong clip.
        at = np.tile(np.minimum(at * step, (1 << _AT_BITS) - 1), 2).astype(np.uint64)
        part = _Postings(np.sort(half << _HALF_SHIFT | np.uint64(number << _AT_BITS) | at), 1)
        # Parts of equal size are merged, as in a binary counter: the logarithm stays small.
        while self._parts and self._parts[-1].clips <= part.clips:
            part = _merge(self._parts.pop(), part)
        self._parts.append(part)

    def find(self, print_: bytes) -> list[Match]:
        """Indexed clips with the same sound, the largest share first; not the same style."""
        words, step = _unpack(print_)
        if not len(words):
            return []
        found: dict[int, Match] = {}
        for clip, offset in self._candidates(words, step):
            share, exact = _compare(words, step, *self._prints[clip], offset)
            if share >= _LEAST_SHARE and (clip not in found or share > found[clip].share):
                found[clip] = Match(self._keys[clip], share, exact * _HOP_S)
        return [found[clip] for clip in sorted(found, key=lambda c: (-found[c].share, c))]

    def _candidates(self, words: np.ndarray, step: int) -> list[tuple[int, int]]:
        """Clips and offsets (in hops) that the most equal half words speak for."""
        at = np.flatnonzero(words)
        at = at[:: -(-2 * len(at) // _MOST_KEYS)]
        half, at = _halves(words[at]).astype(np.uint64), np.tile(at * step, 2)
        bins = []
        for part in self._parts:
            of_half = half << _HALF_SHIFT
            first = np.searchsorted(part.places, of_half)
            # To its last place, not to the next half: the last half of all has none.
            last = of_half | (1 << _HALF_SHIFT) - 1
            count = np.searchsorted(part.places, last, side="right") - first
            # The rarest first; what is too common (a steady sound's words) tells nothing.
            order = np.argsort(count, kind="stable")
            order = order[: np.searchsorted(np.cumsum(count[order]), _MOST_POSTINGS, "right")]
            first, count = first[order], count[order]
            total = int(count.sum())
            if not total:
                continue
            start = np.repeat(first - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
            hits = start + np.arange(total)
            found = part.places[hits].astype(np.int64)
            offset = (found & (1 << _AT_BITS) - 1) - np.repeat(at[order], count)
            clip = found >> _AT_BITS & (1 << _CLIP_BITS) - 1
            bins.append((clip << 32) + (offset // _BIN + (1 << 20)))
        if not bins:
            return []
        places, votes = np.unique(np.concatenate(bins), return_counts=True)
        best = np.argsort(-votes, kind="stable")[:_MOST_BINS]
        best = best[votes[best] >= max(2, len(half) // _KEYS_PER_VOTE)]
        return [(int(p >> 32), (int(p & 0xFFFFFFFF) - (1 << 20)) * _BIN) for p in places[best]]


def _unpack(print_: bytes) -> tuple[np.ndarray, int]:
    """Words ``[N]`` (0: nothing said) and the hops from one to the next."""
    if not print_:
        return np.zeros(0, np.uint32), 1
    if print_[0] != _VERSION:
        raise ValueError(f"fingerprint of version {print_[0]}, this is version {_VERSION}")
    return np.frombuffer(print_, "<u4", offset=4), 1 << print_[1]


def _halves(words: np.ndarray) -> np.ndarray:
    return np.concatenate([words & 0xFFFF, (words >> 16) | 0x10000])


def _merge(one: _Postings, two: _Postings) -> _Postings:
    places = np.concatenate([one.places, two.places])
    places.sort(kind="stable")  # of two runs that are sorted: a merge
    return _Postings(places, one.clips + two.clips)


def _compare(
    query: np.ndarray, query_step: int, other: np.ndarray, other_step: int, offset: int
) -> tuple[float, int]:
    """Share of the shorter clip's telling time that is the same, and the exact offset in hops.

    All offsets around ``offset`` are tried, in steps of the finer print. Errors are averaged over
    2 s, so that a part that differs does not count as the same.
    """
    if query_step > other_step:
        share, exact = _compare(other, other_step, query, query_step, -offset - _BIN)
        return share, -exact
    # From here on the query is the finer one.
    tried = np.arange(offset - _BIN, offset + 2 * _BIN + 1, query_step)
    where = (np.arange(len(other)) * other_step - tried[:, None] + query_step // 2) // query_step
    inside = (where >= 0) & (where < len(query))
    partner = query[np.clip(where, 0, len(query) - 1)]
    inside &= (partner != 0) & (other != 0)
    errors = np.where(inside, np.bitwise_count(partner ^ other), 0)
    if (errors.sum(axis=1) > _HOPELESS * 32 * inside.sum(axis=1)).all():
        return 0.0, offset
    width = max(4, round(_NEAR_S / 2 / _HOP_S / other_step))
    near = _sliding(errors, width) / np.maximum(32 * _sliding(inside, width), 1)
    same = inside & (near <= _LOCAL_ERROR)
    count = same.sum(axis=1)
    rate = (errors * same).sum(axis=1) / np.maximum(32 * count, 1)
    sure = np.minimum(count * other_step * _HOP_S / _SURE_S, 1.0)
    good = (rate <= _SHORT_ERROR + (_ERROR - _SHORT_ERROR) * sure) & (count >= _LEAST_SAME)
    if not good.any():
        return 0.0, offset
    best = int(np.argmax(np.where(good, count - 2 * count * rate, -1)))
    telling = min(
        np.count_nonzero(query) * query_step / other_step, np.count_nonzero(other), key=float
    )
    return min(1.0, float(count[best] / telling)), int(tried[best])


def _sliding(values: np.ndarray, half_width: int) -> np.ndarray:
    """Sums over ``2 * half_width + 1`` neighbours of ``[O, N]``, fewer at the ends."""
    total = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
    at = np.arange(values.shape[1])
    high = np.minimum(at + half_width + 1, values.shape[1])
    return total[:, high] - total[:, np.maximum(at - half_width, 0)]
