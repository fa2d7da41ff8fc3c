"""Crowds of clips: what cannot be measured says why, what stands out is named."""

from __future__ import annotations

import numpy as np

from tunesmith.evaluation.crowds import Heard, findings
from tunesmith.evaluation.subjects import Wanted

SUBJECTS = (Wanted("base", "base", "pocket"), Wanted("mine", "run", "mine", against="base"))


def crowd(count: int, seed: int, shift: float = 0.0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.normal(shift, 1.0, (4, 6)) for _ in range(count)]


def heard(**sounds: list[np.ndarray]) -> Heard:
    reference = crowd(20, 0)
    files = {key: [f"{key} {i}.flac" for i in range(len(x))] for key, x in sounds.items()}
    return Heard(reference, sounds, {"base": crowd(20, 1)}, files)


def test_a_take_that_stands_out_is_named():
    own = crowd(16, 3)
    own[5] = own[5] + 30.0
    found = findings(heard(base=crowd(16, 2), mine=own), SUBJECTS, "ear", 0)
    fad = {one.subject: one for one in found if one.metric == "fad"}
    assert fad["mine"].details["outliers"] == ["mine 5.flac"]
    assert any("mine 5.flac" in text for text in fad["mine"].warnings)
    assert "outliers" not in fad["base"].details


def test_takes_that_are_no_numbers_cost_their_own_figures_alone():
    own = crowd(16, 3)
    own[2] = np.full((4, 6), np.nan)
    found = findings(heard(base=crowd(16, 2), mine=own), SUBJECTS, "ear", 0)
    by = {(one.subject, one.metric): one for one in found}
    for metric in ("kad", "gap", "fad", "fad_inf", "coverage", "density", "vendi"):
        one = by["mine", metric]
        assert one.value is None and "NaN" in one.missing, metric
    assert by["base", "kad"].value is not None and by["base", "vendi"].value is not None
