"""An adapter trained on a base in 4 bits is heard on one in 4 bits, and merges into the full one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tunesmith
from tunesmith.errors import UserError

pytest.importorskip("bitsandbytes")


def test_trained_heard_and_merged(tmp_path: Path):
    data = Path(tunesmith.__file__).parent / "pocket" / "demo" / "general"
    settings = {"train.steps": 2, "train.batch_size": 2, "preview.every": 0, "method.rank": 2}
    folder = tmp_path / "mine"
    few = tmp_path / "data"
    for side, names in (("train", (0, 1)), ("valid", (2,))):
        (few / side).mkdir(parents=True)
        for file in sorted(data.glob("*.ogg"))[names[0] : names[-1] + 1]:
            for part in (file, file.with_suffix(".txt")):
                (few / side / part.name).write_bytes(part.read_bytes())
    tunesmith.train(base="pocket", method="qlora", data=few, out=folder, settings=settings)
    packed = tunesmith.open("pocket", adapter=folder, quantize="nf4")
    assert packed.origin["quantize"] == "nf4"
    plain = tunesmith.open("pocket", adapter=folder)
    assert "quantize" not in plain.origin
    left, right = (
        next(iter(model.generate(["slow blues"], duration_s=0.5, seed=1))).audio.samples
        for model in (packed, plain)
    )
    assert left.shape == right.shape
    assert not np.array_equal(left, right)
    with pytest.raises(UserError, match="full-precision"):
        packed.adapter.merge()  # type: ignore[union-attr]
    done = tunesmith.merge(folder, tmp_path / "merged")
    assert done.difference <= 1e-5
    assert tunesmith.open(str(tmp_path / "merged")).bundle.sample_rate_hz == 16_000
