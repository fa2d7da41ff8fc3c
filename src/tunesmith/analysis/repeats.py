"""Where a recording says again what is missing of it: the stretch whose surroundings are most like the hole's.

Music repeats itself, so what was in a hole may be looked for in the same recording, by what sounds before
and after it (the idea of Perraudin et al. 2018, IEEE/ACM TASLP 26(6), "Inpainting of long audio segments
with similarity graphs"; here by spectra at the rate of a model's latents). `bench.inpaint` says how near that comes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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

    Each hole has one lag, which is gone on with from frames that are missing themselves.

    Args:
        spectra: ``[F, T]``, of real frames only.
        given: ``[T]`` boolean.
        frame_rate_hz: frames a second.
    """
    frames = given.shape[0]
    found = torch.full((frames,), -1, dtype=torch.long)
    if not bool(given.any()):
        return found
    apart = torch.cdist(spectra.T[None].float(), spectra.T[None].float(), p=1)[0] / len(spectra)
    edges = torch.cat([torch.tensor([True]), given, torch.tensor([True])])
    begins = (edges[:-1] & ~edges[1:]).nonzero()[:, 0].tolist()
    ends = (~edges[:-1] & edges[1:]).nonzero()[:, 0].tolist()
    heard = given.clone()  # whose spectrum tells of nothing that is missing
    for begin, end in zip(begins, ends, strict=True):
        heard[max(0, begin - _EDGE) : end + _EDGE] = False
    for begin, end in zip(begins, ends, strict=True):
        found[begin:end] = _filled(apart, given, heard, begin, end, frame_rate_hz)
    return found


def _filled(
    apart: Tensor, given: Tensor, heard: Tensor, begin: int, end: int, frame_rate_hz: float
) -> Tensor:
    """The frames that fill a hole ``begin:end``, ``[end - begin]``; all −1 where no lag is known."""
    frames, size = len(given), end - begin
    nothing = torch.full((size,), -1, dtype=torch.long)
    least = max(1, min(size, round(_SHORTEST_S * frame_rate_hz)))
    lags = torch.cat([torch.arange(-frames + 1, -least + 1), torch.arange(least, frames)])
    at = torch.arange(begin, end)[:, None] + lags
    for _ in range(frames // least + 1):  # what lies in a hole itself is filled in the same way
        inside = (at >= 0) & (at < frames)
        missing = inside & ~given[at.clamp(0, frames - 1)]
        if not bool(missing.any()):
            break
        at = torch.where(missing, at + lags, at)
    usable = ((at >= 0) & (at < frames)).all(dim=0)
    lags, at = lags[usable], at[:, usable]
    around = heard.nonzero()[:, 0]
    if not len(lags) or not len(around):
        return nothing
    there = around[:, None] + lags
    both = (there >= 0) & (there < frames)
    there = there.clamp(0, frames - 1)
    both &= heard[there]
    away = torch.where(around < begin, begin - around, around - end + 1).float()
    weight = torch.exp(-away / (_DECAY_S * frame_rate_hz))[:, None] * both
    doubt = _DOUBT_S * frame_rate_hz
    usual = apart[around[:, None], around].mean()
    score = (weight * apart[around[:, None], there]).sum(dim=0) + doubt * usual
    score = score / (weight.sum(dim=0) + doubt)
    score[both.sum(dim=0) < _LEAST_S * frame_rate_hz] = torch.inf
    best = int(score.argmin())
    return nothing if torch.isinf(score[best]) else at[:, best]


def repeated(latents: Tensor, sources: Tensor) -> Tensor:
    """Latents ``[C, T]`` of the frames that ``sources`` ``[T]`` names; zero where it names none."""
    taken = latents[:, sources.clamp(min=0)]
    return taken * (sources >= 0).to(taken.dtype)


__all__ = ["BANDS", "repeated", "sources", "spectra"]
