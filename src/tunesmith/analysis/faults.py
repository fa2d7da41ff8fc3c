"""Faults of a recording that can be read off its samples: what to look at before training on it.

Every test asks for the mark that a fault leaves, not for the absence of something that good sound
often has: a clipped wave arrives at its ceiling with a slope, mains hum is one narrow line in every
second of the clip, a lost upper band ends in a cliff. Dark, quiet or droning music has none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import soxr
from scipy import fft

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
_SYNTHETIC = 0.8  # share of samples on their ceilings from which on the wave was drawn like that
_QUIETEST_PEAK = 64 * _STEP  # below, the grid of 16 bits is itself made of flat tops

# Silence.
_FRAME_S = 0.05
_DEAD_BELOW_LOUD_DB = 50.0
_DEAD_DBFS = -70.0
_SILENT_DBFS = -60.0
_DEAD_SHARE = 0.6

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

# Bandwidth.
_BANDS = 128
_LOWEST_EDGE = 20
_CLIFF_DB = 14.0
# Where nothing but rounding is left above it, a low cliff is one: what was recorded is never so even.
_LOW_CLIFF_DB, _EVEN_DB = 5.0, 1.0
_MOST_PARTIAL_DB = 50.0  # a partial that stands this far out of its band leaks into the others
# An edge at 16 kHz in a 44.1 kHz file is narrow, one at 17 kHz (LAME's at 128 kbit/s) is not.
_NARROW = 0.735  # of half the sample rate


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


def _clipping(wave: np.ndarray, rate_hz: int) -> Fault | None:
    """Flat tops at one level, per channel and polarity.

    A rounded top is flat as well to within a step of 16 bits, but leaves that step slowly: on a
    parabola of N flat samples the next difference is at most ``1 + 3 / N`` steps. A clipped wave
    arrives with the slope that it had on its way up.
    """
    count = 0
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
        if stuck < _SYNTHETIC * len(channel):
            count += stuck
            worst = max(worst, stuck)
    if not worst:
        return None
    percent = 100 * worst / wave.shape[1]
    reason = f"clipped: {percent:.2g} % of its samples stand at a ceiling"
    return Fault("clipping", percent, "% of samples", reason)


# Silence and offset --------------------------------------------------------------------------


def _silence(wave: np.ndarray, rate_hz: int) -> Fault | None:
    """Share of 50 ms frames that are dead: 50 dB below the loud ones, or below -70 dBFS.

    The loud part is the 95th percentile of the frames. A clip whose loud part lies below -60 dBFS
    is dead throughout. Each frame's mean is taken off, since an offset is no sound.
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
    """What of each channel the loudest one does not explain by a gain: ``1 - r**2``."""
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


# Bandwidth -----------------------------------------------------------------------------------


def _bands_db(wave: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lower quartile of the bins of 128 equal bands up to half the rate: ``[128]``, dB.

    Both of the clip's mean power spectrum. The quartile is what fills the space between partials.
    """
    size = max(8 * _BANDS, 2 ** round(math.log2(0.093 * rate_hz)))
    if wave.shape[1] < size:
        wave = np.pad(wave, ((0, 0), (0, size - wave.shape[1])))
    frames = wave[:, : wave.shape[1] // size * size].reshape(-1, size)
    spectrum = np.asarray(fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1))
    power = np.square(np.abs(spectrum)).mean(axis=0, dtype=np.float64)
    bins = np.sort(power[1:].reshape(_BANDS, -1), axis=1) / size
    return _db(bins.mean(axis=1)), _db(bins[:, bins.shape[1] // 4])


def _cliff(mean_db: np.ndarray, filled_db: np.ndarray) -> tuple[int, float]:
    """Band above the steepest cliff and its height in dB: (128, 0.0) where there is none.

    Above the cliff nothing may rise again. Below it every band must be filled (a few partials
    are none) and not fall already: the slope before it is taken off.
    """
    above = np.maximum.accumulate(mean_db[::-1])[::-1]
    best = (_BANDS, 0.0)
    for edge in range(_LOWEST_EDGE, round(1.05 * _NARROW * _BANDS)):
        # A resampler's own slope lies between a tenth below the edge and the edge.
        end = round(0.9 * edge)
        near = filled_db[end - max(4, edge // 8) : end]
        far = filled_db[end - 2 * len(near) - 2 : end - len(near) - 2]
        level = float(near.min())
        if float(mean_db[end - len(near) : end].max()) > level + _MOST_PARTIAL_DB:
            continue
        height = level - float(above[edge]) - max(0.0, float(np.median(far)) - level)
        if height > best[1]:
            # The edge itself is where half of the cliff is fallen.
            under = mean_db[end : edge + 1] < level - (level - above[edge]) / 2
            best = (end + int(np.argmax(under)), height)
    return best


def _is_cliff(mean_db: np.ndarray, edge: int, height: float) -> bool:
    if height >= _CLIFF_DB:
        return True
    above = mean_db[edge + 2 :]
    even = len(above) > 0 and float(above.max() - np.median(above)) <= _EVEN_DB
    return height >= _LOW_CLIFF_DB and even


def bandwidth_hz(samples: np.ndarray, sample_rate_hz: int) -> float:
    """Upper edge of a sound: its cliff, or else the highest band within 60 dB of the strongest.

    Args:
        samples: float32 ``[T, C]``, finite.
        sample_rate_hz: of the samples.

    Returns:
        Hz, from 0 (silence) to half the sample rate, in steps of 1/128 of that.
    """
    if not samples.size or not np.any(samples):
        return 0.0
    wave = np.ascontiguousarray(samples.T, dtype=np.float32)
    mean_db, filled_db = _bands_db(wave, sample_rate_hz)
    edge, height = _cliff(mean_db, filled_db)
    if not _is_cliff(mean_db, edge, height):
        edge = int(np.flatnonzero(mean_db > mean_db.max() - 60.0)[-1]) + 1
    return edge / _BANDS * sample_rate_hz / 2


def _false_bandwidth(wave: np.ndarray, rate_hz: int) -> Fault | None:
    mean_db, filled_db = _bands_db(wave, rate_hz)
    edge, height = _cliff(mean_db, filled_db)
    if edge >= _NARROW * _BANDS or not _is_cliff(mean_db, edge, height):
        return None
    hz = edge / _BANDS * rate_hz / 2
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
