"""The largest batch that fits, with as many clips a step."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.config import Loaded, load_config
from tunesmith.training import fitted as module
from tunesmith.training import run
from tunesmith.training.parallel import ALONE, Parallel

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def loaded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Six passes of two clips; a clip takes 100 bytes."""

    def memory(request: Any) -> Any:
        return SimpleNamespace(peak=100 * request.passes[0].clips)

    monkeypatch.setattr(module, "memory", memory)
    many = SimpleNamespace(clips=50, seconds=(1.0,), caption="")
    monkeypatch.setattr("tunesmith.training.plan.material_of", lambda *_: many)
    return load_config(
        settings=settings(train__batch_size=2, train__accumulate=6, train__fit_batch=True)
    )


def sizes(found: Loaded) -> tuple[int, int]:
    return found.config.train.batch_size, found.config.train.accumulate


@pytest.mark.parametrize(
    ("free", "wanted"), [(5000, (12, 1)), (800, (6, 2)), (500, (4, 3)), (120, (1, 12))]
)
def test_the_largest_that_fits(loaded: Loaded, free: int, wanted: tuple[int, int]):
    found = module.fitted(loaded, ALONE, free)
    assert sizes(found) == wanted
    assert not found.config.train.fit_batch  # a run that goes on does as it did


def test_processes_share_a_batch(loaded: Loaded):
    class Two(Parallel):
        world = 2

    assert sizes(module.fitted(loaded, Two(), 800)) == (12, 1)


def test_nothing_changes_unasked_or_beside_batches_of_their_own(settings: Settings):
    plain = load_config(settings=settings(train__batch_size=2, train__accumulate=6))
    assert module.fitted(plain, ALONE, 1) is plain
    replayed = load_config(
        settings=settings(
            train__batch_size=2, train__fit_batch=True, prior__weight=1.0, prior__batch_size=1
        )
    )
    assert sizes(module.fitted(replayed, ALONE, 10**12)) == (2, 1)


def test_a_run_trains_with_it(settings: Settings):
    given = settings(
        train__batch_size=1, train__accumulate=2, train__steps=2, train__fit_batch=True
    )
    run.train(load_config(settings=given))
    kept = load_config(file=run.Path(given["out"]) / "config.yaml")
    assert sizes(kept) == (2, 1)
