"""Sounds into data URIs: Ogg Vorbis and a spectrogram each, within a limit on the page's size."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf

from tunesmith.report import spectrogram
from tunesmith.types import Audio

_LONGEST_S = 600.0
"""Seconds decoded of any file: a small compressed file can hold hours."""

_BLOCK = 16_384
"""Samples handed to the encoder at a time; libsndfile's Vorbis writer overflows its stack when
given minutes at once."""

_QUALITIES = (0.5, 0.8, 1.0)
"""libsndfile's compression levels to try, best sound first (about Vorbis q5, q2, q0)."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A track as the page shows it.

    Attributes:
        audio_uri: ``data:audio/ogg``; empty where there is nothing to hear.
        image_uri: ``data:image/png``.
        duration_s: length of the original.
        played_s: how much of it is in the page.
        sample_rate_hz: of the original.
        channels: of the original.
        fault: why there is nothing to hear.
    """

    audio_uri: str = ""
    image_uri: str = ""
    duration_s: float = 0.0
    played_s: float = 0.0
    sample_rate_hz: int = 0
    channels: int = 0
    fault: str = ""

    @property
    def highest_hz(self) -> float:
        return spectrogram.highest_hz(self.sample_rate_hz)


def decode(source: Audio | Path) -> Audio | str:
    """Sound, or one line that says why not: one broken clip must not cost the whole report."""
    if isinstance(source, Audio):
        if source.samples.ndim != 2 or not source.samples.size:
            return "empty"
        return source
    try:
        with sf.SoundFile(source) as file:
            samples = file.read(int(_LONGEST_S * file.samplerate), dtype="float32", always_2d=True)
            rate = file.samplerate
    except (OSError, sf.LibsndfileError):
        return f"{Path(source).name} cannot be read"
    if not samples.size:
        return f"{Path(source).name} is empty"
    return Audio(samples=np.ascontiguousarray(samples.T), sample_rate_hz=rate)


def ogg(audio: Audio, compression: float, longest_s: float = _LONGEST_S) -> bytes:
    """Ogg Vorbis; more than two channels become one, NaN silence, and excess is clipped."""
    samples = audio.samples[:, : max(1, int(longest_s * audio.sample_rate_hz))]
    if len(samples) > 2:
        samples = samples.mean(axis=0, keepdims=True)
    samples = np.nan_to_num(samples.astype(np.float32), posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)
    out = io.BytesIO()
    with sf.SoundFile(
        out,
        "w",
        samplerate=audio.sample_rate_hz,
        channels=len(samples),
        format="OGG",
        subtype="VORBIS",
        compression_level=compression,
    ) as file:
        for start in range(0, samples.shape[1], _BLOCK):
            file.write(samples[:, start : start + _BLOCK].T)
    return out.getvalue()


def uri(kind: str, data: bytes) -> str:
    """``data:`` URI, base64."""
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"


def embed_all(
    groups: Sequence[Sequence[Audio | Path]], sizes: Sequence[tuple[int, int]], limit_bytes: int
) -> list[list[Sound]]:
    """Every sound of every group, all of them, within ``limit_bytes`` of page.

    First the sound's quality gives way, then its length: all are cut to the same number of seconds,
    which the page says. The tracks of one group share one scale of loudness in their pictures.

    Args:
        groups: tracks to be compared stand in one group.
        sizes: (width, height) of each group's pictures, in pixels.
        limit_bytes: for sounds and pictures together, base64 included.
    """
    decoded = [[decode(source) for source in group] for group in groups]
    silent = [_pictured(clips, *size) for clips, size in zip(decoded, sizes, strict=True)]
    left = limit_bytes - sum(len(sound.image_uri) for group in silent for sound in group)
    longest_s, attempt = _LONGEST_S, _first_attempt(decoded, left)
    while True:
        compression = _QUALITIES[min(attempt, len(_QUALITIES) - 1)]
        voiced = [
            [_voiced(*both, compression, longest_s) for both in zip(sounds, clips, strict=True)]
            for sounds, clips in zip(silent, decoded, strict=True)
        ]
        flat = [sound for group in voiced for sound in group]
        used = sum(len(sound.audio_uri) for sound in flat)
        played = max((sound.played_s for sound in flat), default=0.0)
        if used <= left or played <= 1.0:  # a second of each is the least that says anything
            return voiced
        attempt += 1
        if attempt >= len(_QUALITIES):
            longest_s = max(1.0, played * min(0.8, 0.95 * max(left, 1) / used))


def _first_attempt(groups: Sequence[Sequence[Audio | str]], left: int) -> int:
    """The best quality that should fit, from a few clips: encoding all of them takes minutes."""
    clips = [clip for group in groups for clip in group if isinstance(clip, Audio)]
    total_s = sum(clip.duration_s for clip in clips)
    probes = clips[:: max(1, len(clips) // 6)]
    heard_s = sum(min(clip.duration_s, 5.0) for clip in probes)
    for attempt, compression in enumerate(_QUALITIES):
        try:
            size = sum(len(ogg(clip, compression, 5.0)) for clip in probes) * 4 / 3
        except sf.LibsndfileError:
            return 0
        if size * total_s <= left * heard_s:
            return attempt
    return len(_QUALITIES) - 1


def _pictured(clips: Sequence[Audio | str], width: int, height: int) -> list[Sound]:
    """One group without its sound yet: pictures on one scale of loudness."""
    images = {
        index: spectrogram.spectrogram_db(clip, width, height)
        for index, clip in enumerate(clips)
        if isinstance(clip, Audio)
    }
    top = spectrogram.top_db(list(images.values()))
    return [
        Sound(
            image_uri=uri("image/png", spectrogram.picture(images[index], top)),
            duration_s=clip.duration_s,
            played_s=clip.duration_s,
            sample_rate_hz=clip.sample_rate_hz,
            channels=clip.channels,
        )
        if isinstance(clip, Audio)
        else Sound(fault=clip)
        for index, clip in enumerate(clips)
    ]


def _voiced(sound: Sound, clip: Audio | str, compression: float, longest_s: float) -> Sound:
    if isinstance(clip, str):
        return sound
    try:
        data = ogg(clip, compression, longest_s)
    except sf.LibsndfileError:
        return replace(sound, fault=f"cannot be encoded at {clip.sample_rate_hz} Hz")
    played_s = min(sound.duration_s, longest_s)
    return replace(sound, audio_uri=uri("audio/ogg", data), played_s=played_s)
