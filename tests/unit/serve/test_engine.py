"""Which engine a base is served with, and the queue over a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import save_stable_audio

from tunesmith.errors import UserError
from tunesmith.families import find_base, load
from tunesmith.formats.adapter import save_adapter
from tunesmith.registry import plugin
from tunesmith.serve.batch_engine import BatchEngine
from tunesmith.serve.engine import open_engine
from tunesmith.serve.jobs import Ended, Jobs, Part
from tunesmith.serve.request import Request
from tunesmith.serve.shelf import shelved
from tunesmith.serve.token_engine import TokenEngine


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_audio(tmp_path_factory.mktemp("diffusion"))


def test_a_base_gets_the_engine_that_fits_it(tiny_base: Path, diffusion: Path):
    engine = open_engine(str(tiny_base), device="cpu", slots=3)
    assert isinstance(engine, TokenEngine)
    assert engine.slots == 3
    assert isinstance(open_engine(str(tiny_base), device="cpu", kind="batch"), BatchEngine)
    engine = open_engine(str(diffusion), device="cpu", slots=2)
    assert isinstance(engine, BatchEngine)
    assert engine.slots == 2
    assert next(engine.bundle.module.parameters()).dtype == torch.float32


def test_a_full_fine_tune_decides_on_batches(tiny_base: Path, tmp_path: Path):
    bundle, method = load(find_base(str(tiny_base))), plugin("methods", "full").load()
    attached = method.attach(bundle, method.Config())
    save_adapter(tmp_path / "tuned", attached, bundle, {})
    (tmp_path / "torn").mkdir()
    torn, tuned = tmp_path / "torn", tmp_path / "tuned"
    assert shelved(tmp_path, tmp_path / "nowhere") == [tuned]
    assert isinstance(open_engine(str(tiny_base), device="cpu", among=[torn, tuned]), BatchEngine)
    assert isinstance(open_engine(str(tiny_base), device="cpu", among=[torn]), TokenEngine)
    engine = open_engine(str(tiny_base), device="cpu", among=[tuned], kind="tokens")
    assert isinstance(engine, TokenEngine)
    with pytest.raises(UserError, match="--engine batch"):
        engine.add_adapter("tuned", tuned)


def test_what_does_not_go_together_is_refused(tiny_base: Path, diffusion: Path):
    for base, options in (
        (diffusion, {"int8": True}),
        (diffusion, {"kind": "tokens"}),
        (tiny_base, {"int8": True, "kind": "batch"}),
        (tiny_base, {"int8": True, "device": "cuda"}),
        (diffusion, {"slots": 0}),
    ):
        with pytest.raises(UserError):
            open_engine(str(base), **{"device": "cpu"} | options)


@pytest.mark.parametrize("kind", ["auto", "batch"])
def test_the_queue_over_a_model(tiny_base: Path, tmp_path: Path, kind: str):
    engine = open_engine(str(tiny_base), device="cpu", slots=2, kind=kind)  # type: ignore[arg-type]
    with Jobs(engine, tmp_path) as jobs:
        some = [
            jobs.submit(Request("", "blues", 0.4, seed, streamed=True)).id for seed in (1, 2, 1)
        ]
        jobs.cancel(some[1])
        for id in some:
            parts, last = [], None
            for event in jobs.listen(id):
                if isinstance(event, Part):
                    parts.append(event.audio.samples)
                last = event
            assert isinstance(last, Ended)
            if last.job.state == "done":
                kept, _ = soundfile.read(jobs.result(id), dtype="float32", always_2d=True)
                assert np.abs(np.concatenate(parts, axis=1) - kept.T).max() < 1e-4
        states = [jobs.get(id).state for id in some]
        assert states[::2] == ["done", "done"]
        assert states[1] in ("cancelled", "done")
        first, again = (jobs.result(id).read_bytes() for id in some[::2])
        assert first == again
