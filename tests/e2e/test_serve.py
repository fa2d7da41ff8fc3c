"""``tunesmith serve`` as it is typed, on the embedded base: sounds, an adapter, an orderly end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import soundfile
from procs import cli

WORDS = [sys.executable, "-m", "tunesmith", "serve"]
TOKEN = "a-token-for-this-test"


class Server:
    """``tunesmith serve`` in a process of its own."""

    def __init__(self, top: Path, *words: str) -> None:
        self.log = (top / "log").open("w+")
        self.process = subprocess.Popen(
            [*WORDS, "--port", "0", "--jobs", str(top / "jobs"), *words],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "TUNESMITH_TOKEN": TOKEN},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def ask(
        self, path: str, body: dict | None = None, method: str = "", token: str = TOKEN
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method or None)
        try:
            with urllib.request.urlopen(request, timeout=200) as reply:
                return reply.status, _lower(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _lower(error.headers), error.read()

    def end(self) -> tuple[int, str]:
        """Asks for the end; exit code and what was said."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=250)
        self.log.seek(0)
        said = self.log.read()
        self.log.close()
        return self.process.returncode, said


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def make_adapter(folder: Path) -> None:
    """A LoRA of the embedded base, as if it had been trained."""
    import torch

    from tunesmith.families import find_base, load
    from tunesmith.formats.adapter import save_adapter
    from tunesmith.methods import lora

    bundle = load(find_base("pocket"))
    attached = lora.attach(bundle, lora.Config(rank=2))
    with torch.no_grad():
        for place, parameter in enumerate(attached.parameters().values()):
            draw = torch.Generator().manual_seed(place)
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    save_adapter(folder, attached, bundle, {"rights": "made for a test", "trigger_tokens": []})


def sound(data: bytes) -> tuple[int, int]:
    """Frames and rate."""
    samples, rate = soundfile.read(io.BytesIO(data))
    return len(samples), rate


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sounds_adapters_and_an_orderly_end(tmp_path: Path) -> None:
    shelf = tmp_path / "adapters"
    make_adapter(shelf / "bent")
    server = Server(
        tmp_path,
        "--slots",
        "2",
        "--drain",
        "180",
        "--device",
        "cpu",
        "--adapters-folder",
        str(shelf),
    )
    late: list[Any] = []
    try:
        assert server.url.startswith("http://127.0.0.1:"), server.log.read()
        assert server.ask("/v1/models", token="wrong")[0] == 401
        assert server.ask("/health", token="")[0] == 200
        (model,) = json.loads(server.ask("/v1/models")[2])["data"]
        wanted = {"prompt": "slow blues", "seconds": 0.5, "seed": 3}
        status, headers, whole = server.ask("/v1/audio/generations", wanted)
        assert (status, headers["x-seed"]) == (200, "3")
        assert sound(whole) == (model["sample_rate_hz"] // 2, model["sample_rate_hz"])
        status, headers, mp3 = server.ask("/v1/audio/generations", wanted | {"format": "mp3"})
        assert (status, headers["content-type"]) == (200, "audio/mpeg")
        assert sound(mp3)[1] == model["sample_rate_hz"]
        status, headers, stream = server.ask("/v1/audio/generations", wanted | {"stream": True})
        assert status == 200 and headers["transfer-encoding"] == "chunked"
        assert sound(stream) == sound(whole)
        assert server.ask("/v1/adapters", {"name": "../bent"})[0] == 422
        assert server.ask("/v1/adapters", {"name": "bent"})[0] == 201
        adapted = server.ask("/v1/audio/generations", wanted | {"adapters": {"bent": 1}})
        assert adapted[0] == 200 and adapted[2] != whole
        blank = server.ask("/v1/audio/generations", wanted | {"adapters": {"bent": 0}})
        assert blank[2] == whole
        # One that runs when the end is asked for is answered; what comes then is not taken.
        thread = threading.Thread(
            target=lambda: late.append(
                server.ask("/v1/audio/generations", wanted | {"seconds": 2, "seed": 4})
            )
        )
        thread.start()
        end = time.monotonic() + 60
        while not any(
            job["state"] == "running" for job in json.loads(server.ask("/v1/jobs")[2])["jobs"]
        ):
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        code, said = server.end()
    thread.join()
    assert code == 0, said
    assert (
        "Traceback" not in said and "base pocket (" in said and "token: in $TUNESMITH_TOKEN" in said
    )
    assert TOKEN not in said
    assert late[0][0] == 200 and sound(late[0][2])[0] == 2 * model["sample_rate_hz"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "there is no token"),
        (["--token-file", "{tmp}"], "token file"),
        (["--adapter", "mine=nowhere-at-all"], "no adapter 'nowhere-at-all'"),
        (["--adapter", "a/b=x"], "no name of an adapter"),
        (["--adapters-folder", "{tmp}/gone"], "no folder"),
        (["--base", "no-such-base"], "no base 'no-such-base'"),
        (["--host", "999.1.1.1"], "cannot listen on"),
        (["--seconds", "0"], "allows nothing"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    done = cli("serve", "--port", "0", *(word.format(tmp=tmp_path) for word in words))
    assert done.code == 2 and said in done.err, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1


def test_a_token_file_is_made_for_its_owner(tmp_path: Path) -> None:
    from tunesmith.errors import UserError
    from tunesmith.serve.tokens import find_token

    file = tmp_path / "token"
    token, where = find_token(file)
    assert len(token) >= 32 and where == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert find_token(file) == (token, where)
    file.write_text("short\n")
    with pytest.raises(UserError, match="no token"):
        find_token(file)
