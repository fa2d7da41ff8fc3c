"""Faults of a recording that can be read off its samples: what to look at before training on it.

Every test asks for the mark that a fault leaves, not for the absence of something that good sound
often has: a clipped wave arrives at its ceiling with a slope, mains hum is one narrow line in every
second of the clip, a lost upper band ends in a cliff
or a mirror. Dark, quiet or droning music has none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import soxr
from scipy import fft

from tunesmith.analysis import _bandwidth
from tunesmith.analysis._hum import HUM_RATE_HZ, comb

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "clipping": "the waveform is cut off flat at a ceiling",
        "silence": "most of the clip is silent",
        "dc": "the waveform does not swing around zero",
        "hum": "steady mains hum at 50 or 60 Hz and its multiples",
        "mono_as_stereo": "the channels hold the same sound, or all but one are silent",
        "false_bandwidth": "the sound ends in a cliff far below what its sample rate could hold",
    }
)
"""Names in the order of :func:`find_faults`, each with what it means."""

_STEP = 1 / 32768  # of 16 bits

# Clipping: a flat top is this many equal samples, entered and left with a slope.
_FLAT_TOP = 3
_FLAT_STEP = 1.5 * _STEP  # dither moves a flat top by this much
_SLOPE_STEPS = 8.0  # a rounded top of the same flatness falls off by at most two of its steps
_SAME_CEILING = 0.5  # share of all flat tops that stand at one ceiling
_LEAST_TOPS = 4
_LEAST_TOPS_PER_S = 0.5
# A wave that rests near its ceilings for this share of the time that it sounds was drawn like that;
# music driven 20 dB too far has 0.82. Rests between notes do not count.
_SYNTHETIC = 0.85
_NEAR_CEILING = 0.03  # of the peak; dither and a little ringing are within
_SYNTHETIC_FRAME = 256
_QUIETEST_PEAK = 64 * _STEP  # below, the grid of 16 bits is itself made of flat tops

# Silence.
_FRAME_S = 0.05
_DEAD_BELOW_LOUD_DB = 50.0
_DEAD_DBFS = -70.0
_SILENT_DBFS = -60.0
_DEAD_SHARE = 0.6
# Sparse music rests often, but never for that long at a stretch.
_DEAD_STRETCH_S, _DEAD_STRETCH_SHARE = 2.5, 1 / 3

# DC.
_BLOCK_S = 0.005  # its sums have zeros at the multiples of the rate that is left
_DC_WINDOW_S = 0.5
_DC_SPREAD = 0.15
_DC = 0.004
_DC_LEAST = 0.001
_DC_TO_SOUND = 0.2  # of the rest's RMS: what a quiet recording's offset is judged by

# Hum.
_HUM_SHORTEST_S = 3.0
_HUM_LEAST_DBFS = -56.0
_FOREGROUND_DB = 1.5  # a loud comb that is nearly all of the sound is a drone
_FOREGROUND_DBFS = -26.0

# Mono as stereo.
_SAME_DB = -45.0
_SILENT_CHANNEL_DB = -55.0
_MOST_DELAY = 64  # samples
_DELAY_EXCERPT = 2**15


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a clip.

    Attributes:
        name: key of :data:`FAULTS`.
        figure: what was measured; finite.
        unit: of the figure.
        reason: one line with the figure in words.
    """

    name: str
    figure: float
    unit: str
    reason: str


def find_faults(samples: np.ndarray, sample_rate_hz: int) -> list[Fault]:
    """What is wrong with a clip, in the order of :data:`FAULTS`; empty for a sound one.

    A silent clip has no other fault: there is nothing to judge. Hum is not judged in clips shorter
    than 3 s, where its lines cannot be told from notes.

    Args:
        samples: float32 ``[T, C]``, finite.
        sample_rate_hz: of the samples.
    """
    if not samples.size:
        return []
    wave = np.ascontiguousarray(samples.T, dtype=np.float32)
    found = []
    for test in _TESTS:
        fault = test(wave, sample_rate_hz)
        if fault is not None:
            found.append(fault)
            if fault.name == "silence" and fault.figure >= 100.0:
                return [fault]
    return found


def _db(power: float | np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-20))


# Clipping ------------------------------------------------------------------------------------


def _flat_tops(wave: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Levels and lengths of the flat tops of one channel ``[T]``: two arrays ``[N]``."""
    flat = np.abs(np.diff(wave)) <= _FLAT_STEP
    flat &= np.abs(wave[1:]) > 0.25 * peak
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    first, last = edges[::2], edges[1::2]  # first and last sample of every flat stretch
    keep = (last - first + 1 >= _FLAT_TOP) & (first >= 2) & (last < len(wave) - 2)
    first, last = first[keep], last[keep]
    level = wave[(first + last) // 2]
    sign = np.sign(level)
    # One sample beyond the top may lie on the rim by chance, so the slope is that of the next.
    before = sign * (wave[first - 1] - wave[first - 2]) / _FLAT_STEP
    after = sign * (wave[last + 1] - wave[last + 2]) / _FLAT_STEP
    top = np.minimum(before, after) > _SLOPE_STEPS
    return level[top], (last - first + 1)[top]


def _ceiling(level: np.ndarray, length: np.ndarray) -> tuple[int, int]:
    """How many flat tops ``[N]`` share the commonest ceiling, and how many samples they have."""
    order = np.argsort(level)
    level, length = level[order], np.concatenate([[0], np.cumsum(length[order])])
    end = np.searchsorted(level, level + 2 * _FLAT_STEP, side="right")
    start = np.arange(len(level))
    best = int(np.argmax(end - start))
    return int(end[best] - best), int(length[end[best]] - length[best])


def _is_drawn(wave: np.ndarray, peak: float, level: np.ndarray) -> bool:
    """Whether a channel ``[T]`` with flat tops at levels ``[N]`` is a synthesizer's square wave."""
    near = np.zeros(len(wave), bool)
    for side in (level > 0, level < 0):
        if side.any():
            near |= np.abs(wave - np.median(level[side])) < _NEAR_CEILING * peak
    frame = min(_SYNTHETIC_FRAME, len(wave))
    whole = len(wave) // frame * frame
    sounds = np.abs(wave[:whole]).reshape(-1, frame).max(axis=1) > 0.5 * peak
    share = near[:whole].reshape(-1, frame)[sounds].mean() if sounds.any() else 0.0
    return bool(share >= _SYNTHETIC)


def _clipping(wave: np.ndarray, rate_hz: int) -> Fault | None:
    """Flat tops at one level, per channel and polarity.

    A rounded top is flat as well to within a step of 16 bits, but leaves that step slowly: on a
    parabola of N flat samples the next difference is at most ``1 + 3 / N`` steps. A clipped wave
    arrives with the slope that it had on its way up.
    """
    worst = 0
    for channel in wave:
        peak = float(np.abs(channel).max())
        if peak < _QUIETEST_PEAK:
            continue
        level, length = _flat_tops(channel, peak)
        # A wave drawn with corners has flat stretches anywhere; a clipped one at its ceilings.
        stuck = 0
        for side in (level > 0, level < 0):
            if not side.any():
                continue
            tops, inside = _ceiling(level[side], length[side])
            least = max(_LEAST_TOPS, _LEAST_TOPS_PER_S * len(channel) / rate_hz)
            if tops >= max(least, _SAME_CEILING * np.count_nonzero(side)):
                stuck += inside
        if stuck > worst and not _is_drawn(channel, peak, level):
            worst = stuck
    if not worst:
        return None
    percent = 100 * worst / wave.shape[1]
    reason = f"clipped: {percent:.2g} % of its samples stand at a ceiling"
    return Fault("clipping", percent, "% of samples", reason)


# Silence and offset --------------------------------------------------------------------------


def _silence(wave: np.ndarray, rate_hz: int) -> Fault | None:
    """Share of 50 ms frames that are dead: 50 dB below the loud ones, or below -70 dBFS.

    The loud part is the 95th percentile of the frames. A clip whose loud part lies below -60 dBFS
    is dead throughout. Each frame's mean is taken off, since an offset is no sound. A metronome is
    dead for most of its time too, but not at a stretch.
    """
    frame = max(1, min(wave.shape[1], round(_FRAME_S * rate_hz)))
    whole = wave[:, : wave.shape[1] // frame * frame].reshape(len(wave), -1, frame)
    power = np.einsum("cft,cft->cf", whole, whole, dtype=np.float64) / frame
    power -= whole.mean(axis=2, dtype=np.float64) ** 2
    level_db = _db(power.max(axis=0))
    loud_db = float(np.percentile(level_db, 95))
    if loud_db < _SILENT_DBFS and level_db.max() < _SILENT_DBFS:
        return Fault("silence", 100.0, "% of its time", "silent throughout")
    dead = level_db < max(level_db.max() - 60.0, loud_db - _DEAD_BELOW_LOUD_DB, _DEAD_DBFS)
    percent = 100 * float(np.mean(dead))
    if percent < 100 * _DEAD_SHARE:
        return None
    edges = np.flatnonzero(np.diff(dead, prepend=False, append=False))
    longest = int(np.diff(edges)[::2].max(initial=0)) * frame
    least = max(_DEAD_STRETCH_S * rate_hz, _DEAD_STRETCH_SHARE * wave.shape[1])
    if longest < min(least, _DEAD_SHARE * wave.shape[1]):
        return None
    return Fault(
        "silence", min(percent, 99.9), "% of its time", f"silent for {percent:.0f} % of its time"
    )


def _dc(wave: np.ndarray, rate_hz: int) -> Fault | None:
    """The median of half-second means, where they agree.

    A converter's offset is the same in every half second, rests included; that of a lopsided
    instrument comes and goes with its notes. A Hann window keeps the bass out of the means.
    """
    block = max(1, min(wave.shape[1], round(_BLOCK_S * rate_hz)))
    count = wave.shape[1] // block
    blocks = wave[:, : count * block].reshape(len(wave), count, block).mean(axis=2)
    length = min(count, round(_DC_WINDOW_S / _BLOCK_S))
    window = np.hanning(length + 2)[1:-1]
    frames = np.lib.stride_tricks.sliding_window_view(blocks, length, axis=1)
    means = frames[:, :: max(1, length // 2)] @ (window / window.sum())
    middle = np.median(means, axis=1)
    spread = np.ptp(np.percentile(means, [10, 90], axis=1), axis=0)
    offset = np.where(spread <= _DC_SPREAD * np.abs(middle), np.abs(middle), 0.0)
    worst = int(np.argmax(offset))
    power = float(np.mean(np.square(wave[worst]), dtype=np.float64))
    rest = math.sqrt(max(power - offset[worst] ** 2, 0.0))
    # What is little beside full scale is much beside a quiet recording.
    if offset[worst] < min(_DC, max(_DC_LEAST, _DC_TO_SOUND * rest)):
        return None
    percent = 100 * float(middle[worst])
    return Fault("dc", percent, "% of full scale", f"offset by {percent:+.2g} % of full scale")


# Hum -----------------------------------------------------------------------------------------


def _hum(wave: np.ndarray, rate_hz: int) -> Fault | None:
    """A comb of steady lines at the multiples of 50 or 60 Hz: three of the first ten."""
    if wave.shape[1] < _HUM_SHORTEST_S * rate_hz:
        return None
    low = soxr.resample(np.ascontiguousarray(wave[:2].T), rate_hz, HUM_RATE_HZ, quality="LQ").T
    best = (-200.0, 0.0)
    for channel in low.astype(np.float64):
        loud_db = float(_db(np.mean(channel**2)))
        level_db, hz = comb(channel)
        drone = loud_db > _FOREGROUND_DBFS and level_db > loud_db - _FOREGROUND_DB
        if level_db > _HUM_LEAST_DBFS and not drone:
            best = max(best, (level_db, hz))
    level_db, hz = best
    if not hz:
        return None
    reason = f"mains hum at {hz:.0f} Hz and its multiples, {level_db:.0f} dBFS"
    return Fault("hum", level_db, "dBFS", reason)


# Channels ------------------------------------------------------------------------------------


def _mono_as_stereo(wave: np.ndarray, rate_hz: int) -> Fault | None:
    """What of each channel the loudest one does not explain by gain and delay: ``1 - r**2``."""
    del rate_hz
    if len(wave) < 2:
        return None
    centred = wave - wave.mean(axis=1, keepdims=True)
    gram = np.asarray(centred @ centred.T, dtype=np.float64)
    energy = np.diag(gram)
    first = int(np.argmax(energy))
    if energy[first] <= 0:
        return None
    quiet_db = _db(energy / energy[first])
    same = gram[first] ** 2 / np.maximum(energy * energy[first], 1e-30)
    other_db = _db(np.clip(1 - same, 1e-12, None))
    silent = quiet_db < _SILENT_CHANNEL_DB
    for other in np.flatnonzero(~silent & (other_db >= _SAME_DB)):
        other_db[other] = _delayed_db(centred[first], centred[other])
    rest = np.arange(len(wave)) != first
    if not (silent | (other_db < _SAME_DB))[rest].all():
        return None
    if silent[rest].all():
        figure = float(np.max(quiet_db[rest]))
        return Fault(
            "mono_as_stereo", figure, "dB", f"all channels but one are silent ({figure:.0f} dB)"
        )
    figure = float(np.max(other_db[rest & ~silent]))
    reason = f"the channels are the same sound (they differ by {figure:.0f} dB)"
    return Fault("mono_as_stereo", figure, "dB", reason)


def _delayed_db(one: np.ndarray, other: np.ndarray) -> float:
    """What of ``[T]`` another, moved by up to 64 samples and scaled, does not explain: dB.

    The delay is found in the loudest excerpt, in its differences: bass is like itself at any delay.
    """
    size = min(len(one) - 1, _DELAY_EXCERPT)
    if size <= 4 * _MOST_DELAY:
        return 0.0
    energy = [float(np.dot(part, part)) for part in np.split(one, range(size, len(one), size))[:-1]]
    start = min(size * int(np.argmax(energy or [0.0])), len(one) - 1 - size)
    slopes = np.diff(np.stack([one, other])[:, start : start + size + 1])
    spectra = np.asarray(fft.rfft(slopes, size + _MOST_DELAY, axis=1))
    like = np.abs(np.asarray(fft.irfft(spectra[1] * np.conj(spectra[0]), size + _MOST_DELAY)))
    lags = np.arange(-_MOST_DELAY, _MOST_DELAY + 1)
    lag = int(lags[np.argmax(like[lags])])
    late, early = (other[lag:], one[: len(one) - lag]) if lag >= 0 else (other[:lag], one[-lag:])
    both = float(np.dot(late, early)) ** 2
    powers = float(np.dot(late, late)) * float(np.dot(early, early))
    return float(_db(max(1 - both / max(powers, 1e-30), 1e-12)))


# Bandwidth -----------------------------------------------------------------------------------


def bandwidth_hz(samples: np.ndarray, sample_rate_hz: int) -> float:
    """Upper edge of a sound: its cliff, or else the highest band within 60 dB of the strongest.

    Args:
        samples: float32 ``[T, C]``, finite.
        sample_rate_hz: of the samples.

    Returns:
        Hz, from 0 (silence) to half the sample rate, in steps of 1/128 of that; an edge that lies
        at half of a usual sample rate is that half.
    """
    if not samples.size or not np.any(samples):
        return 0.0
    wave = np.ascontiguousarray(samples.T, dtype=np.float32)
    power = _bandwidth.spectrum(wave, sample_rate_hz)
    edge_hz = _bandwidth.edge_hz(power, sample_rate_hz)
    if edge_hz:
        return edge_hz
    mean_db, _ = _bandwidth.bands_db(power)
    last = int(np.flatnonzero(mean_db > mean_db.max() - 60.0)[-1]) + 1
    return last / _bandwidth.BANDS * sample_rate_hz / 2


def _false_bandwidth(wave: np.ndarray, rate_hz: int) -> Fault | None:
    hz = _bandwidth.edge_hz(_bandwidth.spectrum(wave, rate_hz), rate_hz)
    if not 0 < hz < _bandwidth.NARROW * rate_hz / 2:
        return None
    reason = f"nothing above {hz:.0f} Hz, though its sample rate could hold {rate_hz // 2} Hz"
    return Fault("false_bandwidth", hz, "Hz", reason)


_TESTS: tuple[Callable[[np.ndarray, int], Fault | None], ...] = (
    _clipping,
    _silence,
    _dc,
    _hum,
    _mono_as_stereo,
    _false_bandwidth,
)
