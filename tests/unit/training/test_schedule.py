from __future__ import annotations

import math

import pytest

from tunesmith.config import RunConfig, TrainConfig
from tunesmith.training.run import intervals
from tunesmith.training.schedule import learning_rate, warmup_steps


def make(**changes: object) -> TrainConfig:
    return TrainConfig(**{"lr": 2.0, "warmup": 4.0, **changes})  # type: ignore[arg-type]


def test_warm_up_rises_in_equal_steps_to_the_peak():
    assert [learning_rate(make(), step, 20) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_to_zero(schedule: str):
    rates = [learning_rate(make(schedule=schedule), step, 20) for step in range(4, 21)]
    assert rates[0] == 2.0
    assert rates == sorted(rates, reverse=True)
    assert rates[8] == pytest.approx(1.0)  # half-way both are at half
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert rates[-2] > 0


def test_cosine_by_its_equation():
    for step in range(4, 20):
        wanted = 1 + math.cos(math.pi * (step - 4) / 16)
        assert learning_rate(make(), step, 20) == pytest.approx(wanted)


def test_constant_stays():
    assert {learning_rate(make(schedule="constant"), step, 20) for step in range(4, 20)} == {2.0}


def test_warm_up_is_a_count_or_a_share():
    assert warmup_steps(make(warmup=0.1), 55) == 6
    assert warmup_steps(make(warmup=0.0), 55) == 0
    assert warmup_steps(make(warmup=1.0), 55) == 1
    assert warmup_steps(make(warmup=99.0), 55) == 55
    assert learning_rate(make(warmup=0.0), 0, 10) == 2.0
    assert all(learning_rate(make(warmup=9.0), step, 5) > 0 for step in range(5))


def run_config(**train: object) -> RunConfig:
    return RunConfig.model_validate(
        {"base": {"name": "b"}, "data": {"path": "d"}, "out": "o", "method": {}, "train": train}
    )


def test_intervals_count_epochs_in_optimizer_steps():
    assert intervals(run_config(epochs=2, batch_size=4), 10).total == 6
    assert intervals(run_config(epochs=2, batch_size=4, accumulate=2), 10).total == 3
    assert intervals(run_config(epochs=0.1, batch_size=4), 10).total == 1
    assert intervals(run_config(epochs=3, batch_size=64), 10).total == 3
    assert intervals(run_config(), 10).total == 30
    assert intervals(run_config(steps=7), 10).total == 7


def test_intervals_recur_ten_times_unless_told():
    plan = intervals(run_config(steps=1000), 10)
    assert (plan.evaluate, plan.checkpoint, plan.preview) == (100, 100, 250)
    assert intervals(run_config(steps=3), 10).evaluate == 1
    assert intervals(run_config(steps=1000, eval_every=7, checkpoint_every=9), 10).evaluate == 7
