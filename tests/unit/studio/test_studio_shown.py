"""What the page shows: everything that is not ours is escaped, and no path is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tunesmith.formats.sound import write_sound
from tunesmith.studio import shown
from tunesmith.studio.shelf import Shelf
from tunesmith.studio.work import Piece
from tunesmith.types import Audio

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def _harmless(html: str) -> bool:
    return "<script" not in html and "<img" not in html and 'alert(2)>"' not in html


def _sound(path: Path, **made_of) -> Path:
    write_sound(path, Audio(np.zeros((1, 800), np.float32), 8000), made_of)
    return path


def _check(word="too little", **more):
    return {
        "counts": {"seconds": 125.0, "clips": 12, "train": 10, "valid": 2, "recordings": 4},
        "verdicts": [
            {"method": "lora", "word": word, "sentences": ["4 count."], "mend": ["add 46"]}
        ],
        "findings": [{"what": HOSTILE, "mend": "read them"}],
        "screening": {"clips": []},
    } | more


def test_a_status_tells_how_far_work_is_and_how_it_ended():
    piece = Piece("k", HOSTILE)
    assert "starting" in shown.status(piece) and "value=" not in shown.status(piece)
    piece.event("start", {"step": 0, "total": 8})
    piece.event("train", {"step": 2, "loss": 0.51234})
    piece.event("say", {"line": HOSTILE})
    html = shown.status(piece)
    assert _harmless(html)
    assert "2 of 8" in html and 'value="0.250"' in html and "loss 0.512" in html
    piece._stop.set()
    assert "stopping" in shown.status(piece)
    piece.state, piece.error, piece.ended_s = "failed", HOSTILE, piece.started_s + 65
    assert _harmless(shown.status(piece)) and "bad" in shown.status(piece)
    piece.state = "done"
    assert "done in 1 min 5 s" in shown.status(piece)
    assert "Nothing yet" in shown.status(None, "Nothing yet") and shown.status(None) == ""


def test_messages_speak_of_the_page_and_not_of_the_command_line():
    html = shown.note("no rights: `tunesmith prepare --rights` keeps it, or `tunesmith check`")
    assert "Rights in the recordings" in html and "--rights" not in html
    assert "<code>tunesmith check</code>" in html
    assert shown.prose("one ` alone") == "one ` alone"
    assert _harmless(shown.prose(f"`{HOSTILE}`")) and _harmless(shown.prose(HOSTILE))
    piece = Piece(
        "k", "Training mine", state="stopped", error="stopped; run the same command again"
    )
    assert "command" not in shown.status(piece)


def test_a_data_report_has_the_verdict_and_players_with_their_reasons(tmp_path):
    root, source = tmp_path / "set", tmp_path / "in"
    _sound(root / "train" / "a.flac")
    _sound(source / "b.wav")
    _sound(tmp_path / "secret.wav")
    (root / "rejected.jsonl").write_text(
        '{"file": "b.wav", "start_s": 3.0, "reason": "clipped: 9 %"}\n'
        '{"file": "../secret.wav", "start_s": 0, "reason": "elsewhere"}\n'
    )
    flagged = {"file": "train/a.flac", "faults": [{"name": "hum", "reason": HOSTILE}]}
    result = {"check": _check(screening={"clips": [flagged]}), "warnings": [HOSTILE]}
    shelf = Shelf()
    html = shown.data_report(result, root, source, shelf)
    assert _harmless(html) and str(tmp_path) not in html
    assert "2.1 min" in html and "Too little for lora" in html and "add 46" in html
    assert "clipped: 9 %" in html and "b.wav at 3 s" in html
    # The clip and the stretch are to be heard, what lies outside of the recordings is not.
    assert html.count("<audio") == 2 and html.count("not there") == 1
    lent = {one.path.name: one for one in shelf._lent.values()}
    assert set(lent) == {"a.flac", "b.wav"} and lent["b.wav"].start_s == 3.0
    assert shown.data_report(result, root, None, shelf).count("<audio") == 1


@pytest.mark.parametrize("word", ["too little", "enough to try", "good", "best"])
def test_every_verdict_of_a_data_set_has_a_tone(tmp_path, word):
    assert "verdict" in shown.data_report({"check": _check(word)}, tmp_path, None, Shelf())


def test_curves_and_pitfalls_come_from_what_the_run_wrote():
    lines = [
        {"kind": "train", "step": 1, "loss": 4.0, "lr": 1e-3},
        {"kind": "train", "step": 2, "loss": 3.0, "lr": 1e-3},
        {"kind": "valid", "step": 0, "loss": 4.5},
        {"kind": "valid", "step": 2, "loss": 3.5},
        {"kind": "pitfall", "step": 2, "message": HOSTILE, "mend": "train.lr=1e-5", "action": ""},
    ]
    html = shown.curves(lines, "musicgen")
    assert html.count("<polyline") == 2 and "best so far" in html
    assert "training" in html and "validation" in html
    assert shown.curves([], "musicgen") == ""
    told = shown.pitfalls(lines)
    assert _harmless(told) and "train.lr=1e-5" in told and "Step 2." in told
    assert shown.pitfalls(lines[:-1]) == ""


def test_previews_stand_beside_what_the_base_made_of_the_same_prompt(tmp_path):
    for step in (0, 4, 8, 12, 16):
        folder = tmp_path / "previews" / f"step-{step:08d}"
        _sound(folder / "00.flac", prompt=HOSTILE, seed=1)
    html = shown.previews(tmp_path, Shelf())
    assert _harmless(html)
    for who in ("base", "step 8", "step 12", "step 16"):
        assert f'<span class="who">{who}</span>' in html
    assert html.count("<audio") == 4
    assert shown.previews(tmp_path / "none", Shelf()) == ""
