"""Spectral distances against what they must be for waves whose spectra are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tunesmith.objectives.stft import (
    Resolution,
    energy_distance,
    magnitudes,
    mel_distance,
    multi_resolution_stft,
    stft_distance,
)

AT = Resolution(256, 64, 256)


def noise(rows: int = 2, length: int = 4096, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(seed))


def test_a_tone_in_the_middle_of_a_bin_has_the_windows_sum():
    """cos at bin k: |S_k| = ½ Σ window = N/4 for a Hann window of N, and half of it next door."""
    time = torch.arange(4096)
    spectrum = magnitudes(torch.cos(2 * math.pi * 32 * time / 256)[None], AT)[0, :, 20]
    assert float(spectrum[32]) == pytest.approx(64, rel=1e-4)
    assert float(spectrum[31]) == pytest.approx(32, rel=1e-4)
    assert float(spectrum[100]) < 1e-2


@pytest.mark.parametrize("gain", [0.5, 2.0, -3.0])
def test_a_gain_has_a_closed_form(gain: float):
    """S(g·x) = |g|·S(x): L_sc = |1 − |g||, L_mag = |ln |g||; the sign is phase, which nobody hears."""
    wave = noise()
    convergence, logs = stft_distance(gain * wave, wave, AT)
    torch.testing.assert_close(convergence, torch.full((2,), abs(1 - abs(gain))))
    torch.testing.assert_close(logs, torch.full((2,), abs(math.log(abs(gain)))), rtol=1e-4, atol=0)
    wanted = abs(1 - abs(gain)) + abs(math.log(abs(gain)))
    whole = multi_resolution_stft(gain * wave, wave)
    torch.testing.assert_close(whole, torch.full((2,), wanted), rtol=1e-4, atol=0)
    filters = torch.rand(129, 10, generator=torch.Generator().manual_seed(1))
    mels = mel_distance(gain * wave, wave, filters, AT)
    torch.testing.assert_close(
        mels, torch.full((2,), abs(math.log(abs(gain)))), rtol=1e-4, atol=1e-6
    )


def test_the_same_is_no_distance_apart_and_others_are():
    wave, other = noise(), noise(seed=1)
    assert bool((multi_resolution_stft(wave, wave) < 1e-6).all())
    assert bool((multi_resolution_stft(other, wave) > 0.5).all())


def test_rows_keep_to_themselves():
    wave, other = noise(3), noise(3, seed=1)
    together = multi_resolution_stft(other, wave)
    for row in range(3):
        alone = multi_resolution_stft(other[row : row + 1], wave[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


def test_gradients_are_finite_for_silence_and_at_the_goal():
    for found, wanted in ((torch.zeros(1, 4096), noise(1)), (noise(1), noise(1))):
        found = found.clone().requires_grad_(True)
        multi_resolution_stft(found, wanted).sum().backward()
        assert found.grad is not None
        assert bool(found.grad.isfinite().all())
    silence = multi_resolution_stft(noise(1), torch.zeros(1, 4096))
    assert bool(silence.isfinite().all())


def test_waves_shorter_than_the_transform_are_taken():
    short = noise(1, 300)
    assert bool(multi_resolution_stft(2 * short, short).isfinite().all())


def test_shapes_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match="wanted"):
        stft_distance(noise(1), noise(2), AT)


def test_descending_it_leads_to_the_sound():
    """A filter of five taps is learned from its output alone."""
    torch.manual_seed(0)
    taps, wave = torch.tensor([0.5, -0.3, 0.8, 0.1, -0.2]), noise(1)
    wanted = torch.nn.functional.conv1d(wave[:, None], taps[None, None], padding=2)[:, 0]
    mine = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.Adam([mine], lr=0.02)
    first = last = 0.0
    for step in range(60):
        found = torch.nn.functional.conv1d(wave[:, None], mine[None, None], padding=2)[:, 0]
        loss = multi_resolution_stft(found, wanted, [AT]).sum()
        first, last = first if step else float(loss.detach()), float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert last < 0.5 * first


# --- energy ---

FILTERS = torch.rand(129, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gain", [0.5, 2.0, -3.0])
def test_energy_of_a_gain_has_a_closed_form(gain: float):
    """P(g·x) = g²·P(x) in any window, one that is longer than the wave, too: ½ |ln g²| = |ln |g||."""
    found = energy_distance(gain * noise(), noise(), FILTERS, AT, (1, 8, 1000))
    torch.testing.assert_close(found, torch.full((2,), abs(math.log(abs(gain)))))


def test_of_energy_it_is_the_sum_that_counts_and_not_where_in_a_window_it_lies():
    """An unlike noise of equal power is far off frame by frame, and near in long windows."""
    one, other = noise(1, 40_000), noise(1, 40_000, seed=1)
    near, far = (float(energy_distance(one, other, FILTERS, AT, (w,))) for w in (200, 1))
    assert near < 0.25 * far
    both = energy_distance(one, other, FILTERS, AT, (200, 1))
    assert float(both) == pytest.approx((near + far) / 2, rel=1e-5)


def test_a_sound_whose_swell_cannot_be_foretold_is_learned_at_its_level_and_frame_by_frame_too_soft():
    """Steady noise can only be as loud as one that swells and fades; distances of frames end at the median."""
    swell = torch.randn(1, 1, 40, generator=torch.Generator().manual_seed(2)).mul(1.2).exp()
    wanted = noise(1, 40_000) * torch.nn.functional.interpolate(swell, 40_000, mode="linear")[0]
    steady = noise(1, 40_000, seed=1)
    levels = torch.linspace(-1.5, 1.5, 31).exp()

    def best(distance: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return float(levels[torch.stack([distance(g * steady)[0] for g in levels]).argmin()])

    truth = float(wanted.norm() / steady.norm())
    sums = best(lambda wave: energy_distance(wave, wanted, FILTERS, AT, (1000,)))
    frames = best(lambda wave: mel_distance(wave, wanted, FILTERS, AT))
    assert sums == pytest.approx(truth, rel=0.06)
    assert frames < 0.75 * truth


def test_energy_has_finite_gradients_for_silence_and_at_the_goal():
    for found, wanted in ((torch.zeros(1, 4096), noise(1)), (noise(1), noise(1))):
        found = found.clone().requires_grad_(True)
        energy_distance(found, wanted, FILTERS, AT, (1, 8)).sum().backward()
        assert found.grad is not None
        assert bool(found.grad.isfinite().all())
    assert bool(energy_distance(noise(1), torch.zeros(1, 4096), FILTERS, AT, (8,)).isfinite().all())
