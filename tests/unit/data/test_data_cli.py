import subprocess
import sys

import pytest
import typer
from sounds import write
from typer.testing import CliRunner

from tunesmith.cli.prepare import prepare


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(prepare)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_summary_says_what_was_made_and_what_comes_next(run, tmp_path):
    for i in range(5):
        write(tmp_path / "s" / f"{i}.wav", 3.0, seed=i)
    write(tmp_path / "s" / "short.wav", 0.5)
    done = run(tmp_path / "s", tmp_path / "d", "--min-seconds", 1, "--caption", "x", "--workers", 0)
    assert done.exit_code == 0, done.output
    assert "5 clips, 15.0 s, from 5 recordings: 4 to train (12.0 s), 1 to validate" in done.output
    assert "rejected: short.wav: is 0.50 s long" in done.output
    assert f"tunesmith train --base BASE --method lora --data {tmp_path / 'd'}" in done.output
    again = run(tmp_path / "s", tmp_path / "d", "--min-seconds", 1, "--caption", "x")
    assert "Nothing to do" in again.output


def test_import_is_light():
    code = (
        "import sys, tunesmith.cli.prepare\n"
        "print([m for m in ('numpy', 'soundfile', 'torch', 'tunesmith.data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_stages_do_without_torch():
    code = "import sys, tunesmith.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
