import numpy as np
import pytest

from tunesmith.analysis.spectrum import RATE_HZ, magnitudes
from tunesmith.analysis.tonality import HOP, KEYS, SIZE, find_key, find_tuning


def chord(notes, length_s=1.0, tuning=0.0, rate_hz=RATE_HZ):
    """Plucked notes with five harmonics: float64 ``[T]``."""
    time_s = np.arange(round(length_s * rate_hz)) / rate_hz
    sound = np.zeros(len(time_s))
    for note in notes:
        hz = 440 * 2 ** ((note + tuning - 69) / 12)
        for harmonic in range(1, 6):
            sound += 0.05 / harmonic * np.sin(2 * np.pi * hz * harmonic * time_s)
    return sound * np.exp(-2 * time_s) * np.minimum(1, 100 * time_s)


def cadence(key, times=2, **options):
    """I-IV-V-I or i-iv-V-i with the roots in the bass: float32 ``[T, 1]``."""
    tonic, is_minor = key % 12, key >= 12
    third = 3 if is_minor else 4
    parts = []
    for root, above in ((0, third), (5, third), (7, 4), (0, third)) * times:
        notes = [36 + root, *(60 + root + step for step in (0, above, 7))]
        parts.append(chord([tonic + note for note in notes], **options))
    return np.concatenate(parts)[:, None].astype(np.float32)


@pytest.mark.parametrize("key", range(24))
def test_cadences_in_all_keys(key):
    found = find_key(cadence(key), RATE_HZ)
    assert found is not None and found[0] == KEYS[key]
    assert found[1] > 0.6


def test_names_are_spelled_as_usual():
    assert KEYS[0] == "C major" and KEYS[6] == "F# major" and KEYS[10] == "Bb major"
    assert KEYS[12 + 6] == "F# minor" and KEYS[12 + 10] == "Bb minor" and len(set(KEYS)) == 24


@pytest.mark.parametrize("tuning", [-0.4, -0.2, 0.3])
def test_an_instrument_out_of_tune(tuning):
    sound = cadence(9 + 12, tuning=tuning)
    spectra = np.concatenate(list(magnitudes(sound[:, 0], SIZE, HOP)))
    found, agreement = find_tuning(spectra)
    assert found == pytest.approx(tuning, abs=0.05) and agreement > 0.5
    key = find_key(sound, RATE_HZ)
    assert key is not None and key[0] == "A minor"


def test_rate_gain_and_channels_do_not_matter():
    one = find_key(cadence(5), RATE_HZ)
    sound = 1e-3 * np.repeat(cadence(5, rate_hz=48_000), 6, axis=1)
    other = find_key(sound, 48_000)
    assert one is not None and other is not None and one[0] == other[0] == "F major"
    assert other[1] == pytest.approx(one[1], abs=0.02)


def test_noise_and_clicks_have_no_key_to_be_sure_of():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((5 * RATE_HZ, 1)).astype(np.float32)
    found = find_key(noise, RATE_HZ)
    assert found is None or found[1] < 0.4
    assert find_key(np.zeros((5 * RATE_HZ, 1), np.float32), RATE_HZ) is None


def test_all_notes_alike_have_no_key_to_be_sure_of():
    notes = np.random.default_rng(1).permutation(np.arange(48, 84))
    sound = np.concatenate([chord([note], 0.25) for note in notes])[:, None].astype(np.float32)
    found = find_key(sound, RATE_HZ)
    assert found is None or found[1] < 0.6
