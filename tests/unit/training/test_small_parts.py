from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

import tunesmith.training.hardware as hardware
from tunesmith.errors import Stopped, UserError
from tunesmith.training.hardware import choose_dtype, free_memory_bytes, peak_memory_bytes
from tunesmith.training.log import MetricLog, check_trackers, read_metrics
from tunesmith.training.signals import StopFlag

CPU = torch.device("cpu")


# --- the log ---


def test_what_a_killed_run_wrote_beyond_its_checkpoint_is_cut_off(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    log.write("train", 1, loss=2.0)
    offset = log.offset()
    log.write("train", 2, loss=1.0)
    log.close()
    again = MetricLog(path, offset)
    again.write("train", 2, loss=1.5)
    again.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 2.0), (2, 1.5)]
    MetricLog(path, 10**9).close()  # an offset beyond the end adds nothing
    assert len(read_metrics(path)) == 2
    MetricLog(path).close()
    assert read_metrics(path) == []


def test_a_line_torn_by_a_crash_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    assert read_metrics(tmp_path / "nowhere") == []


def test_what_is_not_finite_is_left_out(tmp_path: Path):
    log = MetricLog(tmp_path / "m")
    log.write("train", 1, loss=math.nan, grad_norm=math.inf, lr=0.5, skipped=True)
    log.close()
    (line,) = (tmp_path / "m").read_text().splitlines()
    found = json.loads(line)
    assert found.keys() == {"kind", "step", "time", "lr", "skipped"}


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        check_trackers(["wandb"])
    check_trackers([])


# --- hardware ---


@pytest.mark.parametrize(
    ("bf16_s", "fp32_s", "wanted"),
    [
        ([1.0], [2.0], torch.bfloat16),
        ([1.0], [1.2], torch.float32),
        ([9.0], [1.0], torch.float32),
        # Other work on the machine, for all but one product of each.
        ([9.0, 9.0, 9.0, 1.0], [5.0, 0.6, 5.0, 5.0], torch.float32),
        ([2.5, 0.4, 2.5, 2.5], [9.0, 9.0, 9.0, 1.0], torch.bfloat16),
    ],
)
def test_bfloat16_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch,
    bf16_s: list[float],
    fp32_s: list[float],
    wanted: torch.dtype,
):
    times = {torch.bfloat16: itertools.cycle(bf16_s), torch.float32: itertools.cycle(fp32_s)}
    monkeypatch.setattr(hardware, "_timed_product", lambda dtype: times[dtype].__next__)
    hardware.cpu_likes_bfloat16.cache_clear()
    assert choose_dtype("auto", CPU) == wanted
    hardware.cpu_likes_bfloat16.cache_clear()


def test_a_wish_is_granted():
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float32", torch.device("cuda")) == torch.float32


def test_cuda_without_bfloat16_gets_what_it_can(monkeypatch: pytest.MonkeyPatch):
    for can, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *a, can=can, **k: can)
        assert choose_dtype("auto", torch.device("cuda")) == wanted


def test_memory_is_told_in_bytes():
    peak = peak_memory_bytes(CPU)
    assert 50e6 < peak < 1e12
    assert free_memory_bytes(CPU) >= 0


# --- the stop flag ---


def test_the_flag():
    stop = StopFlag()
    stop.check("nothing asked")
    stop.set(15)
    assert stop() == 15
    with pytest.raises(Stopped, match="enough") as caught:
        stop.check("enough")
    assert caught.value.signal_number == 15


def test_outside_the_main_thread_no_handler_is_set():
    import threading

    seen = []

    def work() -> None:
        with StopFlag() as stop:
            seen.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
