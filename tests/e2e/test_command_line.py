"""The verbs one after another, as a user types them, on a base small enough to train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from procs import cli
from tiny import write_noise

from tunesmith.formats.sound import read_made_of


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings prepared and trained on: ``data`` and ``run`` under the folder that is returned."""
    folder = tmp_path_factory.mktemp("e2e")
    for number in range(6):
        write_noise(folder / "recordings" / f"take {number}.wav", 2.3, number, rate_hz=8000)
        (folder / "recordings" / f"take {number}.txt").write_text(f"hiss number {number}")
    done = cli(
        *("prepare", "recordings", "data", "--base", tiny_base),
        *("--min-seconds", 0.5, "--max-seconds", 1, "--rights", "mine", "--workers", 0),
        where=folder,
    )
    assert done.code == 0, done.err
    assert "to train" in done.out
    (folder / "tune.yaml").write_text(
        f"base: {tiny_base}\nmethod: {{name: lora, rank: 4}}\ndata: data\nout: run\n"
        "train: {lr: 1e-2, steps: 6, batch_size: 2, eval_every: 3}\npreview: {every: 0}\n"
    )
    done = cli("train", "tune.yaml", "train.lr=2e-2", "base.dtype=float32", where=folder)
    assert done.code == 0, done.err
    assert "validation loss" in done.out
    assert "adapter in run, report in run/report.html" in done.out
    assert (folder / "run" / "report.html").read_text().startswith("<!doctype html>")
    card = json.loads((folder / "run" / "adapter.json").read_text())
    assert card["rights"] == "mine"
    assert card["steps"] == 6
    assert card["method"]["rank"] == 4
    return folder


def sounds(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_sweep_of_strengths(run: Path, tiny_base: Path, tmp_path: Path):
    done = cli(
        *("generate", "--base", tiny_base, "--adapter", "run", "--strength", "0,0.5,1"),
        *("hiss", "a slower hiss", "--seconds", 1.2, "--seed", 5, "-n", 2, "-o", tmp_path / "out"),
        where=run,
    )
    assert done.code == 0, done.err
    assert "adapter run (" in done.err
    files = sounds(tmp_path / "out")
    assert [str(file) for file in files] == sorted(done.out.split())
    assert len(files) == 2 * 2 * 3
    seen = {}
    for file in files:
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.frames) == (1600, 1, 1920)
        made_of = read_made_of(file)
        seen[made_of["prompt"], made_of["seed"], made_of["strength"]] = made_of
        assert made_of["base"] == str(tiny_base)
        assert len(made_of["base_hash"]) == len(made_of["adapter_hash"]) == 64
        assert made_of["data_rights"] == "mine" and made_of["base_licence"]
    assert {key[1:] for key in seen} == {(s, w) for s in (5, 6) for w in (0.0, 0.5, 1.0)}
    # Strength 0 is the base itself, and 1 is not.
    done = cli(
        *("generate", "--base", tiny_base, "hiss", "--seconds", 1.2, "--seed", 5),
        *("-o", tmp_path / "base"),
    )
    (base,) = sounds(tmp_path / "base")
    zero = tmp_path / "out" / "00-seed5-strength0.wav"
    one = tmp_path / "out" / "00-seed5-strength1.wav"
    assert soundfile.read(base)[0].tolist() == soundfile.read(zero)[0].tolist()
    assert soundfile.read(base)[0].tolist() != soundfile.read(one)[0].tolist()


def test_a_continuation_as_flac(run: Path, tiny_base: Path, tmp_path: Path):
    given = write_noise(tmp_path / "given.wav", 0.5, 77, rate_hz=4000, channels=2)
    done = cli(
        *("generate", "--base", tiny_base, "--adapter", run / "run" / "adapter.json", "hiss"),
        *("--continue", given, "--seconds", 1, "--format", "flac", "-o", tmp_path / "out"),
        *("--guidance", 2, "--temperature", 0.9, "--top-k", 5, "--top-p", 0.9),
    )
    assert done.code == 0, done.err
    (file,) = sounds(tmp_path / "out")
    info = soundfile.info(file)
    assert (info.format, info.samplerate, info.frames) == ("FLAC", 1600, 1600)
    made_of = read_made_of(file)
    assert made_of["continues"] == "given.wav"
    assert (made_of["guidance"], made_of["top_k"], made_of["top_p"]) == (2.0, 5, 0.9)


def test_a_dry_run_prints_and_trains_nothing(run: Path, tiny_base: Path):
    before = sorted(run.rglob("*"))
    done = cli("train", "tune.yaml", "out=elsewhere", "--dry-run", where=run)
    assert done.code == 0, done.err
    for word in ("parameters", "trainable", "memory", "disk", "time", "GiB"):
        assert word in done.out
    assert sorted(run.rglob("*")) == before


def test_resuming_a_run_that_is_done_changes_nothing(run: Path):
    before = (run / "run" / "metrics.jsonl").read_bytes()
    tensors = run / "run" / "adapter" / "decoder" / "adapter_model.safetensors"
    weights = tensors.read_bytes()
    done = cli("train", "--resume", run / "run")
    assert done.code == 0, done.err
    assert "going on from" in done.err
    assert (run / "run" / "metrics.jsonl").read_bytes() == before
    assert tensors.read_bytes() == weights


def test_mistakes_are_one_line_and_a_mend(run: Path, tiny_base: Path, other_base: Path):
    base = ("--base", tiny_base)
    for words, complaint in (
        (["train", "tune.yaml"], "already holds a run - go on with --resume run"),
        (["train", "tune.yaml", "--resume", "run"], "other settings cannot be given with it"),
        (["train", "--resume", "nowhere"], "nowhere holds no run"),
        (["train", "a.yaml", "b.yaml"], "two configuration files"),
        (["train", "nothere.yaml"], "nothere.yaml: cannot be read"),
        (["train", "tune.yaml", "--recipe", "gender"], "did you mean 'genre'?"),
        (["generate", *base, "--adapter", "nope", "x"], "no adapter 'nope'"),
        (["generate", "--base", other_base, "--adapter", "run", "x"], "was made for base"),
        (["generate", *base, "--strength", "0.5", "x"], "--strength without --adapter"),
        (["generate", *base, "--adapter", "run", "--strength", "much", "x"], "not numbers"),
        (["generate", *base, "--seconds", "99", "x"], "give at most 4"),
        (["generate", *base, "--format", "mp3", "x"], "give wav or flac"),
        (["generate", *base, "--continue", "gone.wav", "x"], "no such file"),
        (["generate", "--base", "pockt", "x"], "did you mean 'pocket'?"),
    ):
        done = cli(*words, where=run)
        assert (done.code, done.out) == (2, ""), done.err
        assert complaint in done.err
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in done.err


def test_the_self_test_passes_on_a_sound_base(tiny_base: Path):
    done = cli("selftest", "--base", tiny_base, "--seconds", 250)
    assert done.code == 0, done.out + done.err
    assert "FAIL" not in done.out
    assert "regenerated" in done.out
