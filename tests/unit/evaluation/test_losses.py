"""Losses clip by clip: their mean is the run's own, their interval that of textbooks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tunesmith.evaluation.losses import chosen, compared, losses_of, ratio
from tunesmith.evaluation.open import BaseName, base_of
from tunesmith.training.signals import StopFlag


def measured(base: BaseName, run: Path | None, noises: Path, **more):
    sets = {"validation_loss": {"path": str(noises), "split": "valid", "worded": True}}
    return losses_of(
        base=base.plain(),
        run=str(run) if run else None,
        sets=sets,
        stop=StopFlag(),
        on_event=lambda kind, values: None,
        **more,
    )


def test_they_are_those_of_training(tiny_run: Path, noises: Path):
    card = json.loads((tiny_run / "adapter.json").read_text())["metrics"]["validation_loss"]
    base = base_of(tiny_run)
    for run, key in ((None, "base"), (tiny_run, "adapted")):
        clips = measured(base, run, noises)["validation_loss"]
        assert len(clips) == 4
        mean = sum(total for total, _ in clips) / sum(count for _, count in clips)
        assert mean == pytest.approx(card[key], abs=2e-5)


def test_what_the_base_samples_of_itself_is_a_set(tiny_run: Path, noises: Path):
    anchor = {"prompts": ["a hum", "a hiss"], "clips": 4, "seconds": 0.4, "seed": 5}
    base = base_of(tiny_run)
    own = measured(base, None, noises, anchor=anchor)["anchor_loss"]
    changed = measured(base, tiny_run, noises, anchor=anchor)["anchor_loss"]
    assert len(own) == len(changed) == 4
    assert [count for _, count in own] == [count for _, count in changed]  # the same clips
    # A model fits nothing better than what it says itself.
    assert sum(total for total, _ in own) < sum(total for total, _ in changed)


def test_an_interval_of_equal_counts_is_students():
    draw = np.random.default_rng(0)
    values = draw.normal(4, 1, 12)
    clips = [(10 * value, 10.0) for value in values]
    finding = compared("x", "run", clips, [(50.0, 10.0)] * 12, [str(i) for i in range(12)], "")
    low, high = stats.t.interval(0.95, 11, values.mean(), values.std(ddof=1) / np.sqrt(12))
    assert finding.interval == pytest.approx((low, high), rel=1e-9)
    assert finding.p_value == pytest.approx(stats.ttest_1samp(values, 5.0).pvalue, rel=1e-9)
    assert finding.n == 12 and not finding.warnings


def test_clips_of_one_recording_count_as_one():
    clips = [(4.0, 1.0), (4.0, 1.0), (6.0, 1.0), (6.0, 1.0)]
    alone = ratio(clips, ["a", "b", "c", "d"])
    together = ratio(clips, ["a", "a", "b", "b"])
    assert alone[0] == together[0] == 5.0
    assert together[1] > alone[1] and together[2] == 1
    few = compared("x", "run", clips, clips, ["a", "a", "b", "b"], "")
    assert "2 recording(s) are too few" in few.warnings[0]
    one = compared("x", "run", clips, clips, ["a"] * 4, "")
    assert one.interval is None and one.p_value is None


def test_varied_versions_are_left_out(noises: Path):
    assert {clip.split for clip in chosen(str(noises), "valid")} == {"valid"}
    assert len(chosen(str(noises), None)) == 10
