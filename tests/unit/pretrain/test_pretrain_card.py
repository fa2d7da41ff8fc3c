"""The model card: curves from logs with repeated steps, figures that belong to these very weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

pytest.importorskip("mido", reason="the composer's extra is not installed")

from pretrain import card
from pretrain.common import write_jsonl


@pytest.fixture
def work(tmp_path: Path) -> Path:
    rows = [
        {
            "step": step,
            "trained_s": 3.6 * step,
            "valid_mel_distance": 1 / step,
            "valid_si_sdr_db": 1.0,
            "quantised": int(step > 1000),
        }
        for step in range(250, 5001, 250)
    ]
    # A kill after step 500: it was done again, and the later line is of the weights that went on.
    rows[2:2] = [rows[1] | {"valid_mel_distance": 0.777}]
    write_jsonl(tmp_path / "logs" / "codec.jsonl", rows)
    write_jsonl(tmp_path / "clips" / "train-0000.jsonl", [{}] * 3)
    return tmp_path


def test_the_curve_is_short_and_ends_where_training_ended(work: Path) -> None:
    lines = card._curve(work / "logs")
    steps = [int(line.split("|")[1]) for line in lines]
    assert len(steps) <= 9
    assert steps == sorted(set(steps))
    assert steps[-1] == 5000
    assert "not quantised yet" in lines[0]
    assert "not quantised" not in lines[-1]


def test_a_step_done_twice_counts_once(tmp_path: Path) -> None:
    row = {"step": 250, "valid_mel_distance": 0.5, "valid_si_sdr_db": 1.0, "quantised": 0}
    rows = [row, row | {"valid_mel_distance": 0.4}]
    write_jsonl(tmp_path / "codec.jsonl", rows)
    assert card._curve(tmp_path) == ["| 250 | 0.400 | 1.0 dB | not quantised yet |"]


def test_measured_figures_go_in_and_an_export_takes_them_out(work: Path) -> None:
    model = nn.ModuleDict(
        {n: nn.Linear(1, 1) for n in ("decoder", "text_encoder", "audio_encoder")}
    )
    folder = work / "model"
    samples = [("samples/a.ogg", "slow blues")]
    card.write_card(folder, work, model, "random weights", samples)
    path = folder / "README.md"
    fresh = path.read_text()
    assert "python -m bench.pocket" in fresh
    assert "| training | codec 5.0 h |" in fresh
    assert "- [slow blues](samples/a.ogg)" in fresh
    card.write_measured(path, "| first |")
    card.write_measured(path, "| second |")
    measured = path.read_text()
    assert "| second |" in measured
    assert "| first |" not in measured
    begin, end = fresh.split("Not measured yet: `python -m bench.pocket`.")
    assert measured == f"{begin}| second |{end}"
    card.write_card(folder, work, model, "random weights", samples)
    assert path.read_text() == fresh
