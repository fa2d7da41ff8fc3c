"""``tunesmith listen`` as it is typed: generate, serve, stop, look at the results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import soundfile
from procs import cli

from tunesmith.listen import Store, read_test

WORDS = [sys.executable, "-m", "tunesmith", "listen"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_base) -> Path:
    """A test of two models that share a base, generated from a file of prompts."""
    folder = tmp_path_factory.mktemp("listen")
    (folder / "prompts.txt").write_text("slow blues\n\nfast waltz\n")
    other = folder / "other"
    other.mkdir()
    for item in range(3):
        samples, rate = [0.1, -0.1] * 800, 1600
        soundfile.write(other / f"{item:03d}.wav", samples, rate)
    done = cli(
        *("listen", "new", folder / "test", f"before={tiny_base}", f"after={other}"),
        *("--items", "3", "--training", "1", "--seconds", "0.8", "--title", "Blues"),
        *("--prompts", folder / "prompts.txt", "--show-prompt"),
    )
    assert done.code == 0, done.err
    assert "2 items and 1 for practice" in done.out and "listen serve" in done.out
    return folder / "test"


def test_takes_are_made_of_the_prompts(made):
    test = read_test(made)
    assert [side.name for side in test.sides] == ["before", "after"]
    assert {item.prompt for item in test.items} == {"slow blues", "fast waltz"}
    assert {item.seed for item in test.items} == {20_000, 20_001, 20_002}


class Server:
    """``tunesmith listen serve`` in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [*WORDS, "serve", str(folder), "--port", "0", "--listeners", "1", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().strip()

    def ask(self, path: str, body: dict | None = None) -> dict:
        root, _, token = self.link.partition("#")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body else None
        with urllib.request.urlopen(
            urllib.request.Request(root + path, data, headers), timeout=30
        ) as reply:
            return json.load(reply)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told


def test_serving_answering_stopping_and_results(made, tmp_path):
    server = Server(made)
    try:
        assert server.link.startswith("http://127.0.0.1:")
        told = server.ask("api/session")
        assert told["title"] == "Blues" and told["trial"]["prompt"]
        refused = subprocess.run(
            [*WORDS, "serve", str(made), "--port", "0"], capture_output=True, text=True, timeout=60
        )
        assert refused.returncode == 2 and "another server has" in refused.stderr
        while trial := told["trial"]:
            heard = {one["letter"]: trial["needed_s"] for one in trial["sounds"]}
            answer = {"place": trial["place"], "choice": "a", "heard": heard}
            told = server.ask("api/answer", answer | {"answer_id": f"{trial['place']:032x}"})
        with pytest.raises(urllib.error.HTTPError) as error:
            server.ask("api/sound/level/../../test.json")
        error.value.close()
        assert error.value.code == 404
    finally:
        code, said = server.end()
    assert code == 128 + signal.SIGTERM
    assert "4 answers are saved" in said and "Traceback" not in said
    done = cli("listen", "results", made, "--csv", tmp_path / "out.csv")
    assert done.code == 0, done.err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5
    assert json.loads((made / "results.json").read_text())["finished"] == 1
    assert (made / "results.html").read_text().startswith("<!doctype html>")


def test_ctrl_c_stops_it_and_links_stay(made):
    first = Server(made, "--url", "https://example.org/hear/")
    code, _ = first.end(signal.SIGINT)
    second = Server(made)
    second.end()
    assert code == 128 + signal.SIGINT
    assert first.link.startswith("https://example.org/hear/#")
    assert first.link.partition("#")[2] == second.link.partition("#")[2]
    with Store(made) as store:
        assert len(store.listeners()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["new", "{made}", "x"], "holds a test already"),
        (["new", "{tmp}/t", "nowhere-at-all"], "is no run, no base"),
        (["new", "{tmp}/t", "x", "--kind", "abc"], "unknown"),
        (["new", "{tmp}/t", "x", "--prompts", "{tmp}/gone"], "cannot be read"),
        (["serve", "{tmp}"], "no listening test there"),
        (["serve", "{made}", "--host", "999.1.1.1"], "cannot listen on"),
        (["results", "{tmp}"], "no listening test there"),
    ],
)
def test_mistakes_are_one_line(made, tmp_path, words, said):
    done = cli("listen", *(word.format(made=made, tmp=tmp_path) for word in words))
    assert done.code == 2 and said in done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
