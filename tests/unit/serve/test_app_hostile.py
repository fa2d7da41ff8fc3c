"""What a server must refuse: strangers, other sites' pages, large and slow bodies, foreign adapters."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import struct

import pytest
from serving import BASE_HASH, Toy, adapter

from tunesmith.serve import guard
from tunesmith.serve.app import BODY_BYTES
from tunesmith.serve.shelf import Shelf

TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer ü"},
    ],
)
def test_nothing_without_the_token(serving, headers):
    here = serving(token=TOKEN)
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in ("/v1/jobs", "/v1/adapters", "/metrics", "/v1/models", "/nowhere"):
        reply = here.http.get(path, headers=headers)
        assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/audio/generations", "/v1/audio/speech", "/v1/adapters"):
        assert here.http.post(path, json={}, headers=headers).status_code == 401
    assert here.http.delete("/v1/adapters/jazz", headers=headers).status_code == 401
    for path in guard.OPEN_PATHS:
        assert here.http.get(path, headers=headers).status_code == 200
    assert here.http.get("/v1/jobs").status_code == 200  # with it
    assert here.http.get("/openapi.json").json()["security"] == [{"token": []}]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ],
)
def test_a_name_that_points_here_is_not_enough(serving, host, status):
    """DNS rebinding: the page's own name is sent, whatever address it leads to."""
    assert serving().http.get("/v1/jobs", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_another_sites_page_may_not_ask(serving, headers, status):
    here = serving()
    body = {"prompt": "blues", "seconds": 0.5}
    reply = here.http.post("/v1/audio/generations", json=body, headers=headers)
    assert reply.status_code == status
    assert "access-control-allow-origin" not in reply.headers


def test_headers(serving):
    here = serving()
    for path in ("/v1/jobs", "/nowhere", "/docs"):
        headers = here.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]


def ask(app, path: str, pieces, headers=(), wait_s: float = 0.0) -> tuple[int, dict]:
    """One POST whose body comes in pieces, ``wait_s`` apart."""
    sent, left = [], list(pieces)

    async def receive():
        await asyncio.sleep(wait_s)
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": True}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def test_large_bodies_are_not_read(serving):
    here = serving()
    generations = "/v1/audio/generations"
    status, told = ask(here.app, generations, [b"x" * 70_000] * 8)
    assert status == 413 and told["error"]["type"] == "too_large"
    said = [(b"content-length", str(BODY_BYTES + 1).encode())]
    assert ask(here.app, generations, [], said)[0] == 413
    assert ask(here.app, generations, [], [(b"content-length", b"9" * 5000)])[0] == 413
    assert ask(here.app, generations, [], [(b"content-length", b"-1")])[0] == 413
    # An upload has a limit of its own, held against what comes and not what was said.
    form = [(b"content-type", b"multipart/form-data; boundary=x")]
    start = b'--x\r\ncontent-disposition: form-data; name="card"; filename="c"\r\n\r\n'
    large = [start, *[b"y" * (1 << 20)] * 4]
    scope_headers = [(b"content-length", b"10")]
    assert _form(here.app, large, form + scope_headers) == 413


def _form(app, pieces, headers) -> int:
    sent, left = [], list(pieces)

    async def receive():
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": True}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/adapters", "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


def test_slow_bodies_are_given_up(serving, monkeypatch):
    monkeypatch.setattr(guard, "_SMALL_WAIT_S", 0.2)
    monkeypatch.setattr(guard, "_LARGE_WAIT_S", 0.2)
    here = serving()
    status, told = ask(here.app, "/v1/audio/generations", [b" "] * 50, wait_s=0.05)
    assert status == 408 and told["error"]["type"] == "too_slow"
    assert ask(here.app, "/v1/adapters", [b" "] * 50, wait_s=0.05)[0] == 408


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "seconds": NaN}',
        b'{"prompt": "a", "seconds": 1e999}',
        b'{"prompt": "a", "adapters": {"": 1}}',
        b'{"prompt": "a", "details": {"lyrics": "\\ud800"}}',
        b'{"prompt": "a", "prompt": {}}',
    ],
)
def test_bodies_that_are_no_requests(serving, body):
    here = serving()
    for path in ("/v1/audio/generations", "/v1/audio/speech", "/v1/adapters"):
        reply = here.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= reply.status_code < 500, reply.text
        assert set(reply.json()["error"]) == {"message", "mend", "type"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/..%2f..%2fsecret",
        "/v1/jobs/%2e%2e/audio",
        "/v1/jobs/a%00b",
        "/v1/jobs/" + "x" * 3000,
        "/v1/jobs/..%5c..%5csecret/audio",
        "/v1/adapters/..%2f..%2fsecret",
        "/static/../../etc/passwd",
    ],
)
def test_paths_lead_nowhere(serving, path):
    here = serving()
    for method in ("GET", "DELETE"):
        assert here.http.request(method, path).status_code in (404, 405, 422)


def test_an_adapter_by_name(serving):
    here = serving()
    adapter(here.top / "adapters" / "jazz")
    assert here.http.get("/v1/adapters").json() == {"adapters": [], "available": ["jazz"]}
    reply = here.http.post("/v1/adapters", json={"name": "swing", "folder": "jazz"})
    assert reply.status_code == 201
    view = reply.json()
    assert (view["name"], view["method"], view["tokens"]) == ("swing", "lora", ["[mine]"])
    assert here.make(adapters={"swing": 0.5}).status_code == 200
    assert (
        here.http.post("/v1/adapters", json={"name": "swing", "folder": "jazz"}).status_code == 409
    )
    again = {"name": "swing", "folder": "jazz", "replace": True}
    assert here.http.post("/v1/adapters", json=again).status_code == 201
    assert here.http.delete("/v1/adapters/swing").json()["name"] == "swing"
    assert here.http.delete("/v1/adapters/swing").status_code == 404
    assert (here.top / "adapters" / "jazz" / "adapter.json").is_file()


def upload(here, name: str, card: bytes, *tensors: bytes, **fields: str):
    files = [("card", ("adapter.json", card))]
    files += [("tensors", ("../../../evil.safetensors", one)) for one in tensors]
    return here.http.post("/v1/adapters", data={"name": name, **fields}, files=files)


def test_an_upload(serving):
    here = serving()
    card, tensors = adapter()
    reply = upload(here, "mine", card, tensors)
    assert reply.status_code == 201, reply.text
    folder = here.engine.adapters()["mine"]
    assert folder.parent == here.top / "jobs" / "uploads" and "mine" not in folder.name
    assert (folder / "adapter" / "decoder" / "adapter_model.safetensors").read_bytes() == tensors
    assert upload(here, "mine", card, tensors).status_code == 409
    assert upload(here, "mine", card, tensors, replace="true").status_code == 201
    assert not folder.exists()  # the old one's
    assert here.make(adapters={"mine": 1}).status_code == 200
    assert here.http.delete("/v1/adapters/mine").status_code == 200
    assert list((here.top / "jobs" / "uploads").iterdir()) == []


def test_what_was_added_is_there_after_a_restart(serving):
    here = serving()
    adapter(here.top / "adapters" / "jazz")
    here.http.post("/v1/adapters", json={"name": "jazz"})
    upload(here, "mine", *adapter())
    stray = here.top / "jobs" / "uploads" / ("0" * 32)
    stray.mkdir()
    engine = Toy()
    assert Shelf(engine, here.top / "adapters", here.top / "jobs").restore() == []
    assert sorted(engine.adapters()) == ["jazz", "mine"] and not stray.exists()
    (here.top / "adapters" / "jazz" / "adapter.json").unlink()
    (lost,) = Shelf(Toy(), here.top / "adapters", here.top / "jobs").restore()
    assert "'jazz' is gone" in lost


def bent(tensors: bytes, **header) -> bytes:
    """Safetensors with another header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


SPAN = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
TORN = {
    "pickle": pickle.dumps({"a": 1}),
    "empty": b"",
    "a length of its own": struct.pack("<Q", 1 << 60) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{{{{" + bytes(8),
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "cut": bent(b"\0", a=SPAN),
    "too long": bent(bytes(8), a=SPAN),
    "overlap": bent(bytes(4), a=SPAN, b=SPAN),
    "hole": bent(bytes(12), a=SPAN, b=SPAN | {"data_offsets": [8, 12]}),
    "a shape of another size": bent(bytes(4), a=SPAN | {"shape": [2]}),
    "negative": bent(bytes(4), a=SPAN | {"shape": [-1]}),
    "foreign type": bent(bytes(4), a=SPAN | {"dtype": "OBJECT"}),
    "a bomb": bent(bytes(4), a=SPAN | {"shape": [1 << 62, 1 << 62]}),
    "true": bent(bytes(4), a=SPAN | {"shape": [True]}),
}


@pytest.mark.parametrize("what", TORN)
def test_torn_tensors(serving, what):
    here = serving()
    card, _ = adapter(components={"decoder": hashlib.sha256(TORN[what]).hexdigest()})
    reply = upload(here, "mine", card, TORN[what])
    assert reply.status_code == 422, reply.text
    assert str(here.top) not in reply.text
    assert here.engine.adapters() == {}
    assert list((here.top / "jobs" / "uploads").iterdir()) == []


CARDS = {
    "another base": {"base": {"name": "toy", "hash": "c" * 64}},
    "no base": {"base": None},
    "a path for a component": {"components": {"../../../../tmp/x": "0" * 64}},
    "an absolute one": {"components": {"/etc": "0" * 64}},
    "a hash that is none": {"components": {"decoder": "../../x"}},
    "no components": {"components": {}},
    "of tomorrow": {"format": 99},
    "a format that is none": {"format": "x"},
}


@pytest.mark.parametrize("what", CARDS)
def test_cards_that_are_not_of_here(serving, what):
    here = serving()
    card, tensors = adapter(**CARDS[what])
    reply = upload(here, "mine", card, tensors)
    assert reply.status_code == 422, reply.text
    assert str(here.top) not in reply.text
    adapter(here.top / "adapters" / "mine", **CARDS[what])
    reply = here.http.post("/v1/adapters", json={"name": "mine"})
    assert reply.status_code == 422 and str(here.top) not in reply.text
    assert here.engine.adapters() == {}


def test_uploads_that_are_not_adapters(serving):
    here = serving()
    card, tensors = adapter()
    other = adapter()[1][:-1] + b"\1"
    for reply, status in (
        (upload(here, "../mine", card, tensors), 422),
        (upload(here, "", card, tensors), 422),
        (upload(here, "mine", card), 422),
        (upload(here, "mine", card, other), 422),
        (upload(here, "mine", card, tensors, tensors), 422),
        (upload(here, "mine", b"{", tensors), 422),
        (upload(here, "mine", b"[" * 100_000, tensors), 422),
        (upload(here, "mine", b" " * (2 << 20), tensors), 422),
        (upload(here, "mine", card, tensors, path="/etc"), 422),
        (upload(here, "unmixable", card, tensors), 422),
        (upload(here, "mine", card, *[tensors] * 30), 400),
        (here.http.post("/v1/adapters", content=b"x", headers={"Content-Type": "text/plain"}), 415),
        (
            here.http.post(
                "/v1/adapters", content=b"x", headers={"Content-Type": "multipart/form-data"}
            ),
            400,
        ),
    ):
        assert reply.status_code == status, reply.text
        assert set(reply.json()["error"]) == {"message", "mend", "type"}
    assert here.engine.adapters() == {}
    left = here.top / "jobs" / "uploads"
    assert not left.exists() or list(left.iterdir()) == []


def test_folders_that_lead_out(serving, tmp_path):
    here = serving()
    outside, shelf = here.top / "outside", here.top / "adapters"
    adapter(outside)
    (shelf / "link").symlink_to(outside)
    adapter(shelf / "card")
    (shelf / "card" / "adapter.json").unlink()
    (shelf / "card" / "adapter.json").symlink_to(outside / "adapter.json")
    adapter(shelf / "tensors")
    weights = shelf / "tensors" / "adapter" / "decoder" / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(outside / "adapter" / "decoder" / "adapter_model.safetensors")
    adapter(shelf / "pickled")
    (shelf / "pickled" / "adapter" / "decoder" / "adapter_model.bin").write_bytes(pickle.dumps({}))
    (shelf / "loop").mkdir()
    (shelf / "loop" / "adapter.json").symlink_to(shelf / "loop" / "adapter.json")
    (shelf / "file").write_text("x")
    for name, status in (
        ("link", 422),
        ("card", 422),
        ("tensors", 422),
        ("pickled", 422),
        ("loop", 422),
        ("file", 404),
        ("nothing", 404),
        ("..", 422),
        ("../outside", 422),
        (str(outside), 422),
        ("", 422),
    ):
        reply = here.http.post("/v1/adapters", json={"name": "mine", "folder": name})
        assert reply.status_code == status, (name, reply.text)
        assert str(here.top) not in reply.text
    assert here.engine.adapters() == {}


def test_large_adapters(serving):
    here = serving(most_bytes=64)
    reply = upload(here, "mine", *adapter())
    assert reply.status_code == 422 and "more than 64 bytes" in reply.text
    assert BASE_HASH not in reply.text
