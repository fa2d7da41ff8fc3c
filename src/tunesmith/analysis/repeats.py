"""Where a recording says again what is missing of it: the stretch whose surroundings are most like the hole's.

Music repeats itself, so what was in a hole may be looked for in the same recording, by what sounds before
and after it (the idea of Perraudin et al. 2018, IEEE/ACM TASLP 26(6), "Inpainting of long audio segments
with similarity graphs"; here by spectra at the rate of a model's latents). `bench.inpaint` says how near that comes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tunesmith.types import Audio

BANDS = 64
"""Bands of a spectrum, evenly spaced in pitch."""

_LOWEST_HZ, _WINDOW_S, _FLOOR = 60.0, 0.064, 1e-3
_DECAY_S = 1.0
"""Time in which the weight of the surroundings falls to 1/e, going away from the hole."""
_DOUBT_S = 0.1
"""Weight of a mean difference in each score: what is known of a lag by few frames counts less."""
_LEAST_S = 0.2  # of surroundings that both places have
_SHORTEST_S = 1.0
"""A hole is filled with what lies at least this far from it, or its own length: sounds go on for longer than
a frame, so that each frame is most like the next one."""
_EDGE = 2  # frames beside a hole whose spectra hear into it


def spectra(audio: Audio, frame_rate_hz: float, frames: int) -> np.ndarray:
    """log10 of the mean magnitude in each band, ``[BANDS, frames]`` float32; silence is −3.

    Args:
        audio: any rate; channels are averaged.
        frame_rate_hz: spectra a second.
        frames: how many; those after the sound are of silence.
    """
    rate = audio.sample_rate_hz
    size = 1 << round(np.log2(_WINDOW_S * rate))
    wave = np.zeros(round(frames / frame_rate_hz * rate) + 2 * size, np.float32)
    mono = audio.samples.mean(axis=0)[: len(wave) - size]
    wave[size // 2 : size // 2 + len(mono)] = mono
    begins = np.round(np.arange(frames) * rate / frame_rate_hz).astype(np.int64)
    pieces = np.lib.stride_tricks.sliding_window_view(wave, size)[begins]
    sizes = np.abs(np.fft.rfft(pieces * np.hanning(size).astype(np.float32), axis=1))
    pitch = np.log(np.maximum(np.fft.rfftfreq(size, 1 / rate), 1e-9) / _LOWEST_HZ)
    place = np.floor(pitch / np.log(0.5 * rate / _LOWEST_HZ) * BANDS)
    place = np.clip(place, -1, BANDS - 1).astype(int)
    found = np.zeros((BANDS, frames), np.float32)
    for band in np.unique(place[place >= 0]):  # low bands narrower than a bin stay as silence
        found[band] = sizes[:, place == band].mean(axis=1)
    return np.log10(found + _FLOOR).astype(np.float32)


def sources(spectra: Tensor, given: Tensor, frame_rate_hz: float) -> Tensor:
    """For each missing frame the given one that stands in for it, ``[T]``; −1 where nothing does.

    Each hole has one lag, which is gone on with from frames that are missing themselves. Of several holes
    the one whose surroundings are most alike is filled first, and may then fill others.

    Args:
        spectra: ``[F, T]``, of real frames only.
        given: ``[T]`` boolean.
        frame_rate_hz: frames a second.
    """
    found = torch.full((len(given),), -1, dtype=torch.long)
    edges = torch.cat([torch.tensor([True]), given, torch.tensor([True])])
    begins = (edges[:-1] & ~edges[1:]).nonzero()[:, 0].tolist()
    ends = (~edges[:-1] & edges[1:]).nonzero()[:, 0].tolist()
    left, known = list(zip(begins, ends, strict=True)), given.clone()
    while left:
        rows = [torch.arange(len(given)).ge(a) & torch.arange(len(given)).lt(b) for a, b in left]
        holes = torch.stack(rows)
        several = (one.expand(len(left), *one.shape) for one in (spectra.float(), given, known))
        named, apart = sources_of_one(*several, holes, frame_rate_hz)
        best = int(apart.argmin())
        if torch.isinf(apart[best]):
            break
        hole, taken = holes[best], named[best]
        # Frames that were filled before lead to what filled them.
        through = found[taken.clamp(min=0)]
        found[hole] = torch.where(through >= 0, through, taken)[hole]
        known |= hole
        del left[best]
    return found


def sources_of_one(
    spectra: Tensor, given: Tensor, known: Tensor, holes: Tensor, frame_rate_hz: float
) -> tuple[Tensor, Tensor]:
    """:func:`sources` of rows with one hole each, all at once, on any device, without waiting for it.

    Args:
        spectra: ``[B, F, T]`` float32.
        given: ``[B, T]`` boolean: real frames whose sound is known.
        known: ``[B, T]`` boolean: frames that may stand in.
        holes: ``[B, T]`` boolean: the frames of one stretch in each row.
        frame_rate_hz: frames a second.

    Returns:
        ``[B, T]`` frames that stand in; −1 outside of the hole, and in one of which no lag is known.
        ``[B]`` how far the surroundings of hole and stand-in are apart; infinite where nothing stands in.
    """
    length = given.shape[-1]
    at = torch.arange(length, device=given.device)
    lags = torch.arange(1 - length, length, device=given.device)
    size = holes.sum(dim=1, keepdim=True)
    begin = holes.to(torch.uint8).argmax(dim=1, keepdim=True)
    end = begin + size
    # Frames beside what is missing hear into it.
    deaf = F.max_pool1d((~given).float()[:, None], 2 * _EDGE + 1, 1, _EDGE)[:, 0] > 0
    heard = (given & ~deaf).float()
    away = torch.where(at < begin, begin - at, at - end + 1).float()
    weight = torch.exp(-away / (_DECAY_S * frame_rate_hz)) * heard
    bands = spectra.transpose(1, 2)
    apart = torch.cdist(bands, bands, p=1) / spectra.shape[1]
    both, weighed = heard[:, :, None] * heard[:, None], weight[:, :, None] * heard[:, None]
    usual = (both * apart).sum(dim=(1, 2)) / both.sum(dim=(1, 2)).clamp(min=1)
    doubt = _DOUBT_S * frame_rate_hz
    score = (_along(weighed * apart) + doubt * usual[:, None]) / (_along(weighed) + doubt)
    # From each frame of the hole one goes as many lags as lead out of it: to what is just before or after it.
    taken = size.minimum(lags.abs())
    first = torch.where(lags < 0, begin + lags, end + lags - taken)
    last = first + taken
    many = F.pad(known.long().cumsum(dim=1), (1, 0))
    span = [many.gather(1, one.clamp(0, length)) for one in (first, last)]
    usable = (first >= 0) & (last <= length) & (span[1] - span[0] == taken) & (size > 0)
    usable &= lags.abs() >= size.clamp(max=max(1, round(_SHORTEST_S * frame_rate_hz)))
    usable &= _along(both) >= _LEAST_S * frame_rate_hz
    score = score.masked_fill(~usable, torch.inf)
    nearest, best = score.min(dim=1, keepdim=True)
    lag = lags[best]
    left = torch.where(lag < 0, at - begin, end - 1 - at)
    named = at + lag * (left // lag.abs().clamp(min=1) + 1)
    named = torch.where(holes & ~torch.isinf(nearest), named, -1)
    return named, nearest[:, 0]


def _along(x: Tensor) -> Tensor:
    """Sums over the diagonals of ``[B, T, T]``: ``[B, 2T − 1]`` of x[a, a + lag], from the lag 1 − T on."""
    length = x.shape[-1]
    skewed = F.pad(x.flip(-1), (0, length)).flatten(1)[:, :-length]
    return skewed.view(-1, length, 2 * length - 1).sum(dim=1).flip(-1)


def repeated(latents: Tensor, sources: Tensor) -> Tensor:
    """Latents ``[..., C, T]`` of the frames that ``sources`` ``[..., T]`` names; zero where it names none."""
    places = sources.clamp(min=0).unsqueeze(-2).expand_as(latents)
    return latents.gather(-1, places) * (sources >= 0).unsqueeze(-2).to(latents.dtype)


__all__ = ["BANDS", "repeated", "sources", "sources_of_one", "spectra"]
