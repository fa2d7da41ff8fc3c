"""DNSMOS through its package: what it is given, what comes back, and what is said where it is not there."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.metrics import mos
from tunesmith.types import Audio


def hum(seconds: float, rate_hz: int = 16_000, noise: float = 0.0, channels: int = 1) -> Audio:
    """A buzzing tone that comes and goes like syllables, in noise."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    tone = sum(np.sin(2 * np.pi * 120 * k * time_s) / k for k in range(1, 20))
    tone = 0.1 * tone * (1 + np.sin(2 * np.pi * 4 * time_s)) / 2
    tone = tone + noise * np.random.default_rng(0).standard_normal(len(tone))
    return Audio(np.repeat(tone[None], channels, axis=0).astype(np.float32), rate_hz)


def test_the_packages_own_number_at_its_own_rate() -> None:
    from speechmos import dnsmos

    audio = hum(3.0)
    wanted = dnsmos.run(audio.samples[0], 16_000)
    assert not isinstance(wanted, list)
    made = mos.score(audio)
    assert made.overall == pytest.approx(float(wanted["ovrl_mos"]), abs=1e-6)
    assert made.p808 == pytest.approx(float(wanted["p808_mos"]), abs=1e-6)
    elsewhere = mos.score(hum(3.0, 44_100, channels=2))
    assert elsewhere.overall == pytest.approx(made.overall, abs=0.15)
    noisy = mos.score(hum(3.0, noise=0.05))
    assert noisy.background < made.background - 0.5


class Fake:
    """Stands for the package: scores by loudness, and remembers what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[np.ndarray] = []
        fake = SimpleNamespace(dnsmos=SimpleNamespace(run=self.run))
        monkeypatch.setitem(sys.modules, "speechmos", fake)

    def run(self, sample: np.ndarray, sr: int) -> dict[str, Any]:
        assert sr == 16_000 and sample.dtype == np.float32 and sample.ndim == 1
        self.given.append(sample)
        peak = float(np.abs(sample).max())
        return {"ovrl_mos": 1 + peak, "sig_mos": 2.0, "bak_mos": 3.0, "p808_mos": 4.0}


def test_means_intervals_and_what_the_package_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    sounds = [Audio(np.full((2, 8000), peak, np.float32), 16_000) for peak in (0.2, 0.4, 1.5)]
    made = mos.compute([*sounds, Audio(np.zeros((1, 8000), np.float32), 16_000)])
    assert [float(one.max()) for one in fake.given] == pytest.approx([0.2, 0.4, 1.0])
    assert made.value == pytest.approx(1 + 1.6 / 3)
    assert made.interval is not None and made.interval[0] == 1.0
    half = 4.302652729911275 * np.std([0.2, 0.4, 1.0], ddof=1) / np.sqrt(3)
    assert made.interval[1] == pytest.approx(made.value + half)
    assert made.details == {"signal": 2.0, "background": 3.0, "p808": 4.0}
    assert "of music it says little" in made.warnings[0]
    assert made.warnings[1] == "1 of 4 takes are silent and left out" and made.n_candidate == 3
    assert mos.compute(sounds[:1]).interval is None


def test_what_cannot_be_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch)
    with pytest.raises(UserError, match="nothing but silence"):
        mos.compute([Audio(np.zeros((1, 8000), np.float32), 16_000)])
    for samples in (np.zeros((1, 0), np.float32), np.full((1, 10), np.nan, np.float32)):
        with pytest.raises(UserError, match="no samples, or NaN"):
            mos.score(Audio(samples, 16_000))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(UserError, match=r"pip install 'tunesmith\[evaluate\]'"):
        mos.score(hum(0.5))
