import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import RATE_HZ, tone, tree, write

import tunesmith
from tunesmith.data import load_dataset, prepare
from tunesmith.errors import Stopped, UserError

SHORT = {"min_s": 2.0, "max_s": 5.0, "workers": 0}


@pytest.fixture
def src(tmp_path):
    for i in range(6):
        write(tmp_path / "src" / f"part{i}.flac", 7.0, seed=i)
    (tmp_path / "src" / "part0.txt").write_text("a decaying note")
    (tmp_path / "src" / "bad.wav").write_text("no sound")
    return tmp_path / "src"


def test_a_folder_becomes_a_data_set(src, tmp_path):
    seen = []
    summary = prepare(
        src, tmp_path / "d", sample_rate_hz=16000, channels=2, rights="mine", trigger="ohwx",
        on_progress=seen.append, **SHORT,
    )  # fmt: skip
    clips = load_dataset(tmp_path / "d")
    assert len(clips) == summary.clips and summary.recordings == 6 and summary.rejected == 1
    assert summary.first_rejections[0].file == "bad.wav"
    assert sum(c.duration_s for c in clips) == pytest.approx(42.0, abs=1e-3)
    for clip in clips:
        info = soundfile.info(clip.path)
        assert (info.samplerate, info.channels, info.format) == (16000, 2, "FLAC")
        assert info.frames / 16000 == pytest.approx(clip.duration_s, abs=1e-6)
        assert clip.path.parent.name == clip.split
    sides = {(clip.recording, clip.split) for clip in clips}
    assert len(sides) == 6 and {side for _, side in sides} == {"train", "valid"}
    captions = {clip.recording: clip.caption for clip in clips}
    assert captions["part0.flac"] == "ohwx, a decaying note"
    # Too short to be sure of anything: the file's name, or a fact where there is one.
    assert captions["part1.flac"] in ("ohwx, part1", "ohwx, 120 bpm")
    assert any("5 of 6 recordings have no caption" in warning for warning in summary.warnings)
    described = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert described["rights"] == "mine" and described["settings"]["sample_rate_hz"] == 16000
    assert str(tmp_path) not in (tmp_path / "d" / "dataset.json").read_text()
    done = [p.done for p in seen if p.stage == "cutting"]
    assert done == sorted(done) and done[-1] == pytest.approx(seen[-1].total)
    assert not list(tmp_path.glob(".d*"))


def test_workers_make_the_same_bytes(src, tmp_path):
    prepare(src, tmp_path / "a", **SHORT)
    prepare(src, tmp_path / "b", **{**SHORT, "workers": 2})
    prepare(src, tmp_path / "c", **{**SHORT, "workers": None})
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")


def test_a_second_run_does_nothing(src, tmp_path):
    first = prepare(src, tmp_path / "d", **SHORT)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    again = prepare(src, tmp_path / "d", **SHORT)
    assert not first.unchanged and again.unchanged and again.clips == first.clips
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")} == before


@pytest.mark.parametrize("change", ["settings", "caption", "source", "damage", "missing"])
def test_whatever_changes_is_made_again(src, tmp_path, change):
    dest, options = tmp_path / "d", dict(SHORT)
    prepare(src, dest, **options)
    clip = load_dataset(dest)[0].path
    if change == "settings":
        options["max_s"] = 4.0
    elif change == "caption":
        (src / "part1.txt").write_text("another")
    elif change == "source":
        write(src / "part9.flac", 7.0, seed=9)
    elif change == "damage":
        clip.write_bytes(clip.read_bytes()[:-1] + b"\0")
    else:
        clip.unlink()
    assert not prepare(src, dest, **options).unchanged
    prepare(src, tmp_path / "fresh", **options)
    assert tree(dest) == tree(tmp_path / "fresh")
    assert prepare(src, dest, **options).unchanged


@pytest.mark.parametrize("where", ["notes.txt", "train/mine.wav", "extra/x"])
def test_foreign_files_are_not_replaced(src, tmp_path, where):
    dest = tmp_path / "d"
    prepare(src, dest, **SHORT)
    (dest / where).parent.mkdir(exist_ok=True)
    (dest / where).write_text("mine")
    before = tree(dest)
    with pytest.raises(UserError, match="prepare did not make") as caught:
        prepare(src, dest, **{**SHORT, "max_s": 4.0})
    assert "\n" not in str(caught.value) and tree(dest) == before


def test_a_foreign_folder_is_refused_and_an_empty_one_taken(src, tmp_path):
    (tmp_path / "d").mkdir()
    prepare(src, tmp_path / "d", **SHORT)
    for dest in (src, tmp_path):
        with pytest.raises(UserError, match="would replace the recordings"):
            prepare(src, dest, **SHORT)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"thesis\.doc"):
        prepare(src, tmp_path / "e", **SHORT)
    (tmp_path / "f").touch()
    with pytest.raises(UserError, match="is a file"):
        prepare(src, tmp_path / "f", **SHORT)


def test_a_data_set_inside_the_recordings_is_not_read_as_recordings(src):
    first = prepare(src, src / "out", **SHORT)
    assert prepare(src, src / "out", **SHORT).unchanged
    assert prepare(src, src / "out", **{**SHORT, "seed": 1}).recordings == first.recordings


def test_equal_files_count_once(src, tmp_path):
    (src / "copy.flac").write_bytes((src / "part3.flac").read_bytes())
    summary = prepare(src, tmp_path / "d", **SHORT)
    assert summary.recordings == 6
    assert any("the same file as copy.flac" in r.reason for r in summary.first_rejections)


def test_a_base_bounds_the_clips(src, tmp_path):
    summary = prepare(src, tmp_path / "d", base_max_s=3.0, workers=0)
    lengths = [clip.duration_s for clip in load_dataset(tmp_path / "d")]
    assert max(lengths) <= 3.0 and min(lengths) >= 1.5
    assert any("3 s" in warning for warning in summary.warnings)


def test_mixed_formats_are_warned_about(src, tmp_path):
    write(src / "other.wav", 12.0, rate_hz=16000)
    summary = prepare(src, tmp_path / "d", **SHORT)
    assert any("differ in format" in warning for warning in summary.warnings)


def test_nothing_usable_is_one_line(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(UserError, match="no recordings"):
        prepare(tmp_path / "s", tmp_path / "d")
    write(tmp_path / "s" / "x.wav", 1.0)
    with pytest.raises(UserError, match=r"1\.00 s long") as caught:
        prepare(tmp_path / "s", tmp_path / "d", workers=0)
    assert "\n" not in str(caught.value) and not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "options",
    [{"channels": 3}, {"sample_rate_hz": 0}, {"min_s": 0.1}, {"valid_share": 1.0}, {"workers": -1}],
)
def test_senseless_settings(src, tmp_path, options):
    with pytest.raises(UserError):
        prepare(src, tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_long_unicode_and_misleading_names(tmp_path):
    src = tmp_path / "src"
    names = ["음악" * 40, "my_train_song", "test", "valid-dev", "a b'c\"d", "[red]x"]
    for i, name in enumerate(names):
        write(src / f"{name}.flac", 3.0, seed=i)
    prepare(src, tmp_path / "d", **SHORT)
    clips = load_dataset(tmp_path / "d")
    assert {clip.recording for clip in clips} == {f"{name}.flac" for name in names}
    for clip in clips:
        assert clip.path.name.isascii() and len(clip.path.name) < 100
        assert not any(word in clip.path.name for word in ("train", "test", "val", "dev"))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("polls", [3, 9])
def test_stopping_is_clean_and_goes_on(src, tmp_path, polls, workers):
    calls = 0

    def should_stop():
        nonlocal calls
        calls += 1
        return signal.SIGTERM if calls > polls else 0

    options = {**SHORT, "workers": workers}
    with pytest.raises(Stopped) as caught:
        prepare(src, tmp_path / "d", should_stop=should_stop, **options)
    assert caught.value.signal_number == signal.SIGTERM and not (tmp_path / "d").exists()
    prepare(src, tmp_path / "d", **options)
    prepare(src, tmp_path / "fresh", **options)
    assert tree(tmp_path / "d") == tree(tmp_path / "fresh")


KILLED = """
import os, signal, sys
from tunesmith.data import prepare
src, dest, workers, what, count = sys.argv[1:]
left = int(count)
def die(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
options = {}
if what == "progress":
    options["on_progress"] = die
else:
    real = getattr(os, what)
    def dying(*arguments, **named):
        die()
        return real(*arguments, **named)
    setattr(os, what, dying)
prepare(src, dest, min_s=2.0, max_s=5.0, workers=int(workers), **options)
"""


def kill(src, dest, workers, what, count):
    """Runs ``prepare`` in a process that ends at the given call."""
    root = str(Path(tunesmith.__file__).parents[1])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(src), str(dest), str(workers), what, str(count)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_the_old_data_set_comes_back_after_a_kill_between_the_renames(src, tmp_path):
    prepare(src, tmp_path / "d", **{**SHORT, "max_s": 4.0})
    old = tree(tmp_path / "d")
    kill(src, tmp_path / "d", 0, "rename", 2)
    assert not (tmp_path / "d").exists()
    assert prepare(src, tmp_path / "d", **{**SHORT, "max_s": 4.0}).unchanged
    assert tree(tmp_path / "d") == old and not list(tmp_path.glob(".d*"))


@pytest.mark.parametrize(
    ("workers", "what", "count"),
    [
        (0, "progress", 9),
        (1, "progress", 12),
        (2, "progress", 15),
        (0, "replace", 1),  # a clip
        (0, "replace", 8),
        (0, "replace", 20),  # a table of the finished data set
        (0, "link", 5),
        (0, "fsync", 11),
        (0, "rename", 1),  # the old data set makes room
        (0, "rename", 2),  # the new one takes its place: neither is there
        (0, "rmdir", 1),  # all is done but the tidying
    ],
)
def test_killed_and_run_again_ends_with_the_same_bytes(src, tmp_path, workers, what, count):
    dest = tmp_path / "d"
    prepare(src, dest, **{**SHORT, "max_s": 4.0})
    old = tree(dest)
    kill(src, dest, workers, what, count)
    prepare(src, tmp_path / "fresh", **SHORT)
    whole = [old, tree(tmp_path / "fresh")]
    assert not dest.exists() or tree(dest) in whole
    prepare(src, dest, **SHORT)
    assert tree(dest) == tree(tmp_path / "fresh")
    assert not list(tmp_path.glob(".d*"))


def test_finished_recordings_are_not_cut_again(src, tmp_path, monkeypatch):
    import tunesmith.data.pool as pool

    stop_after = iter([0] * 14 + [2] * 100)
    with pytest.raises(Stopped):
        prepare(src, tmp_path / "d", should_stop=lambda: next(stop_after), **SHORT)
    staged = {p.parent.name for p in (tmp_path / ".d.partial").glob("*/record.json")}
    assert 0 < len(staged) < 7
    done = []
    real = pool.cut

    def counted(path, folder, *rest):
        done.append(folder.name)
        return real(path, folder, *rest)

    monkeypatch.setattr(pool, "cut", counted)
    prepare(src, tmp_path / "d", **SHORT)
    assert len(done) == 7 - len(staged) and not staged & set(done)


def test_only_one_run_at_a_time(src, tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.data.staging._LOCK_TRIES", 2)

    def second(_):
        prepare(src, tmp_path / "d", **SHORT)

    with pytest.raises(UserError, match="another run"):
        prepare(
            src, tmp_path / "d", on_progress=lambda p: p.stage == "cutting" and second(p), **SHORT
        )


def test_a_crashing_decoder_takes_one_recording(src, tmp_path, monkeypatch):
    import tunesmith.data.pool as pool

    real = pool.subprocess.Popen
    crash = (
        "import os, tunesmith.data.pool as p; real = p.cut\n"
        "p.cut = lambda path, *r: os.abort() if path.name == 'part2.flac' else real(path, *r)\n"
        "p.serve()"
    )

    def popen(command, **options):
        return real([*command[:-1], crash], **options)

    monkeypatch.setattr(pool.subprocess, "Popen", popen)
    summary = prepare(src, tmp_path / "d", **{**SHORT, "workers": 2})
    assert summary.recordings == 5
    reasons = {r.file: r.reason for r in summary.first_rejections}
    assert "crashed" in reasons["part2.flac"]


def test_a_script_without_a_guard_can_call_it(src, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from tunesmith.data import prepare\n"
        "print(prepare(sys.argv[1], sys.argv[2], min_s=2, max_s=5, workers=2).clips)\n"
    )
    root = str(Path(tunesmith.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, str(script), str(src), str(tmp_path / "d")],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and not run.stderr, run.stderr
    assert int(run.stdout) == len(load_dataset(tmp_path / "d"))


def test_a_bomb_of_silence_is_rejected(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    soundfile.write(src / "bomb.flac", np.zeros(RATE_HZ * 600, np.int16), RATE_HZ)
    assert (src / "bomb.flac").stat().st_size < 30_000
    soundfile.write(src / "good.wav", tone(4.0), RATE_HZ)
    summary = prepare(src, tmp_path / "d", **SHORT)
    assert summary.clips == 1 and {r.fault for r in summary.first_rejections} == {"silence"}
