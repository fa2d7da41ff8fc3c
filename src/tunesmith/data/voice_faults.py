"""What keeps a clip of speech out: noise, music, reverberation, a narrow band; each with its figure.

Thresholds were chosen on sixty voices (readers, prompts and words spoken into home microphones, rule-based
and concatenated synthesis), clean and with noise and music at 5 to 20 dB; ``bench/voice_screening.py``
measures them on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tunesmith.analysis.faults import Fault
from tunesmith.analysis.speech_quality import (
    SAMPLE_RATE_HZ,
    at_16_khz,
    background_mos,
    decay_s,
    steady_tones,
)
from tunesmith.data.voice_segment import SpokenPiece

OTHER_SPEAKER, TRANSCRIPT = "other_speaker", "transcript"

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "noise": "its background is too loud, by its level and by how DNSMOS would rate it",
        "music": "tones that keep their pitch sound under the speech",
        "reverberation": "its words ring on: no faster fall than 60 dB in 0.45 s",
        "bandwidth": "nothing above half of what its recording could hold, as through a telephone",
        OTHER_SPEAKER: "another voice than most of the clips",
        TRANSCRIPT: "no text, or one that disagrees with what was recognised",
    }
)
"""What is found in voices besides :data:`tunesmith.analysis.faults.FAULTS`, with an explanation."""

LEAST_CLEANNESS = 14.0
"""Of :func:`cleanness`: with noise at 10 dB clips lie below 13, clean ones above 14, most above 20."""

_MOST_SNR_DB, _DB_PER_MOS, _MIDDLE_MOS = 35.0, 8.0, 3.0
# In less than a second there is hardly a pause to hear the background in, and a nasal is a steady tone.
_SHORT_S, _LESS_IF_SHORT = 1.0, 8.0
_MOST_TONES, _TONES_BELOW_CLEANNESS = 0.05, 22.0
_LONGEST_DECAY_S, _LEAST_FOR_DECAY_S = 0.45, 2.5
_LEAST_BAND, _FULL_BAND_HZ = 0.55, 8000.0


def cleanness(snr_db: float, mos: float) -> float:
    """One figure of what lies under speech, in dB: its level, and how it would disturb.

    Speech over background in dB, at most 35, and 8 dB for each point of DNSMOS's background above 3 of 5
    (less for each below). Either alone is led astray: the level by speech without any pause, DNSMOS by
    voices made by rule.
    """
    return min(snr_db, _MOST_SNR_DB) + _DB_PER_MOS * (mos - _MIDDLE_MOS)


def measures(piece: SpokenPiece, sample_rate_hz: int) -> dict[str, float]:
    """What is measured of a clip of speech, rounded as it is kept.

    Returns:
        ``duration_s``, ``speech_s``, ``background_mos`` (1 to 5), ``tones`` (steady ones at once); where
        they can be told ``snr_db`` (speech over background) and ``decay_s``.

    Raises:
        UserError: speechmos or onnxruntime is not installed.
    """
    mono = at_16_khz(piece.samples, sample_rate_hz)
    found = {"duration_s": round(len(mono) / SAMPLE_RATE_HZ, 3), "speech_s": piece.speech_s}
    if piece.speech_db is not None and piece.background_db is not None:
        found["snr_db"] = round(piece.speech_db - piece.background_db, 1)
    found["background_mos"] = round(background_mos(mono), 2)
    found["tones"] = round(steady_tones(mono), 3)
    if (fall_s := decay_s(mono)) is not None:
        found["decay_s"] = round(fall_s, 3)
    return found


def find(measured: Mapping[str, float], band_hz: float, sample_rate_hz: int) -> list[Fault]:
    """The faults of a clip of speech.

    Args:
        measured: by :func:`measures`.
        band_hz: where its sound ends.
        sample_rate_hz: of its recording.
    """
    found = []
    snr_db = measured.get("snr_db", _MOST_SNR_DB)
    mos, tones = measured["background_mos"], measured["tones"]
    clean = cleanness(snr_db, mos)
    short = measured["duration_s"] < _SHORT_S
    least = LEAST_CLEANNESS - (_LESS_IF_SHORT if short else 0.0)
    if tones >= _MOST_TONES and clean < _TONES_BELOW_CLEANNESS and not short:
        reason = f"music under the speech: {tones:.2f} tones that keep their pitch at once"
        found.append(Fault("music", tones, "tones", reason))
    elif clean < least:
        reason = (
            f"noisy: the speech stands {snr_db:.0f} dB above its background, which would be rated "
            f"{mos:.1f} of 5 (DNSMOS)"
        )
        found.append(Fault("noise", snr_db, "dB", reason))
    elif (
        # Noise fills the gaps that a decay is measured in.
        measured.get("decay_s", 0.0) > _LONGEST_DECAY_S
        and measured["duration_s"] >= _LEAST_FOR_DECAY_S
    ):
        fall_s = measured["decay_s"]
        reason = f"reverberant: words take {fall_s:.2f} s to fall by 60 dB"
        found.append(Fault("reverberation", fall_s, "s", reason))
    could_hz = min(sample_rate_hz / 2, _FULL_BAND_HZ)
    if 0 < band_hz < _LEAST_BAND * could_hz:
        reason = f"nothing above {band_hz:.0f} Hz, though its recording could hold {sample_rate_hz // 2} Hz"
        found.append(Fault("bandwidth", band_hz, "Hz", reason))
    return found
