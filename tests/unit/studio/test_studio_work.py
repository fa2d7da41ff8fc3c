"""Work in the background: it is found again, stopped, and its errors are one line."""

from __future__ import annotations

import threading

import pytest

from tunesmith.errors import Stopped, UserError
from tunesmith.studio.work import Work

_WAIT_S = 30


class Held:
    """A piece of work that runs until it is let go, or told to stop."""

    def __init__(self, result=None, error: Exception | None = None) -> None:
        self.result, self.error = result, error
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, stop, on_event):
        self.begun.set()
        while not self.go.wait(0.01):
            stop.check("stopped at a safe place")
        if self.error is not None:
            raise self.error
        on_event("start", {"step": 0, "total": 8})
        on_event("train", {"step": 2, "loss": 0.5})
        on_event("say", {"line": "half way"})
        return self.result


def _ended(piece):
    piece._thread.join(_WAIT_S)
    assert not piece.runs
    return piece


def test_work_is_found_by_its_key_and_tells_how_far_it_is():
    work, held = Work(), Held(result=[1, 2])
    piece = work.start("train/mine", "Training mine", held)
    assert held.begun.wait(_WAIT_S)
    assert work.of("train/mine") is piece and piece.runs
    assert work.running("train/") == [piece] and work.running("data/") == []
    with pytest.raises(UserError, match="running already"):
        work.start("train/mine", "Training mine", Held())
    held.go.set()
    _ended(piece)
    assert (piece.state, piece.result, piece.error) == ("done", [1, 2], "")
    assert (piece.stage, piece.done, piece.total) == ("training", 2, 8)
    assert list(piece.said) == ["half way"] and piece.told["train"]["loss"] == 0.5
    assert work.of("train/mine") is piece and not work.running() and not work.stop("train/mine")
    again = work.start("train/mine", "Training mine", held)
    assert _ended(again) is work.of("train/mine") is not piece


def test_no_more_runs_at_a_time_than_may():
    work, first = Work(most=1), Held()
    piece = work.start("a", "First", first)
    with pytest.raises(UserError, match="First"):
        work.start("b", "Second", Held())
    assert work.of("b") is None
    first.go.set()
    _ended(piece)
    second = Held()
    second.go.set()
    assert _ended(work.start("b", "Second", second)).state == "done"


def test_work_that_is_stopped_says_so():
    work, held = Work(), Held()
    piece = work.start("a", "A", held)
    assert not piece.stopping
    assert work.stop("a")
    assert (_ended(piece).state, piece.error) == ("stopped", "stopped at a safe place")


@pytest.mark.parametrize(
    ("error", "state", "line"),
    [
        (UserError("no folder", "give one"), "failed", "no folder - give one"),
        (Stopped(15, "saved at 3"), "stopped", "saved at 3"),
        (ValueError("first\nlast"), "failed", "a fault of the program: last"),
        (KeyError(), "failed", "a fault of the program: KeyError"),
    ],
)
def test_an_error_is_one_line_and_only_a_fault_of_ours_has_a_traceback(error, state, line, capsys):
    held = Held(error=error)
    held.go.set()
    piece = _ended(Work().start("a", "A", held))
    assert piece.state == state and piece.error.startswith(line) and "\n" not in piece.error
    assert ("Traceback" in capsys.readouterr().err) == line.startswith("a fault")


def test_closing_stops_all_and_begins_nothing_more():
    work, held = Work(), [Held(), Held()]
    pieces = [work.start(str(place), "A", one) for place, one in enumerate(held)]
    work.close(_WAIT_S)
    assert [piece.state for piece in pieces] == ["stopped", "stopped"]
    with pytest.raises(UserError, match="closing"):
        work.start("more", "More", Held())
