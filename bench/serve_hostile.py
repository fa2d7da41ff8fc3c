"""A server under requests that follow its OpenAPI document, break it, or mean harm.

    python -m bench.serve_hostile [--examples 60] [--quick]

The real application on the embedded base, every file that the process opens being noted meanwhile
(`sys.addaudithook`). First schemathesis: requests made of the document, sound ones and broken ones, to
every route. Then what `tests/unit/serve/test_app_hostile.py` has one by one: path traversal, bodies
without end, sounds and tensors that claim to be huge, adapters of another base, pickles, links that lead
out. An answer of 5xx is a fault; so is an adapter that is taken, and a file that is opened under the folder
that nobody allowed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench._results import Row, parser, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

OPENED: list[str] = []


def watch() -> None:
    """Note every file that is opened from now on."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = arguments[0]
            OPENED.append(path.decode(errors="replace") if isinstance(path, bytes) else path)

    sys.addaudithook(hook)


def bent(tensors: bytes, **header: Any) -> bytes:
    """Safetensors with a header of one's own."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def card(base_hash: str, tensors: bytes, **changes: Any) -> bytes:
    """What an adapter of these tensors would say of itself."""
    plain = {
        "format": 1,
        "base": {"name": "pocket", "hash": base_hash},
        "method": {"name": "lora", "rank": 2},
        "components": {"decoder": hashlib.sha256(tensors).hexdigest()},
    }
    return json.dumps(plain | changes).encode()


def adapters(base_hash: str) -> dict[str, tuple[bytes, bytes]]:
    """Cards and tensors, none of which may be taken."""
    span = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    sound = bent(bytes(4), a=span)
    huge = bent(bytes(4), a=span | {"shape": [1 << 40, 1 << 40]})
    corrupt = {
        "a pickle": pickle.dumps({"a": 1}),
        "nothing": b"",
        "a header without end": struct.pack("<Q", 1 << 60) + b"{}",
        "a deep header": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "cut short": bent(b"\0", a=span),
        "a tensor of 2^80 numbers": huge,
        "a negative shape": bent(bytes(4), a=span | {"shape": [-1]}),
        "not a number": bent(struct.pack("<f", float("nan")), a=span),
        "other tensors than the method's": sound,
    }
    found = {what: (card(base_hash, one), one) for what, one in corrupt.items()}
    changes: dict[str, dict[str, Any]] = {
        "another base": {"base": {"name": "pocket", "hash": "c" * 64}},
        "a path for a component": {"components": {"../../../tmp/x": "0" * 64}},
        "a method that is a path": {"method": {"name": "../../evil.py"}},
        "a method of 2^31 ranks": {"method": {"name": "lora", "rank": 1 << 31}},
        "a component that is not the base's": {
            "components": {"ghost": hashlib.sha256(sound).hexdigest()}
        },
    }
    return found | {what: (card(base_hash, sound, **one), sound) for what, one in changes.items()}


def hostile(http: Any, shelf: Path, secret: Path, base_hash: str) -> tuple[Counter[str], list[str]]:
    """Ask what nobody should be given."""
    found: Counter[str] = Counter()
    faults = []

    def judge(what: str, answer: Any) -> None:
        found[str(answer.status_code)] += 1
        if not 400 <= answer.status_code < 500:
            faults.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        if str(secret) in answer.text:
            faults.append(f"{what}: says where things lie")

    for what, (text, tensors) in adapters(base_hash).items():
        files = [("card", ("c", text)), ("tensors", ("../../x", tensors))]
        name = f"x{len(found)}-{sum(found.values())}"  # of its own: none hides behind another
        judge(what, http.post("/v1/adapters", data={"name": name}, files=files))
        folder = shelf / hashlib.sha256(what.encode()).hexdigest()[:8]
        (folder / "adapter" / "decoder").mkdir(parents=True)
        (folder / "adapter.json").write_bytes(text)
        (folder / "adapter" / "decoder" / "adapter_model.safetensors").write_bytes(tensors)
        judge(what, http.post("/v1/adapters", json={"name": f"{name}f", "folder": folder.name}))
    (shelf / "link").symlink_to(secret)
    (shelf / "card").mkdir()
    (shelf / "card" / "adapter.json").symlink_to(secret / "adapter.json")
    for name in ("link", "card", "..", "../secret", str(secret), "link/../card", "%2e%2e", ""):
        judge(f"folder {name}", http.post("/v1/adapters", json={"name": "x", "folder": name}))
    for place in ("..%2f..%2fsecret", "%2e%2e", "a%00b", "x" * 4000, "..%5c..%5csecret"):
        for path in (f"/v1/jobs/{place}", f"/v1/jobs/{place}/audio", f"/v1/adapters/{place}"):
            judge(path, http.delete(path) if "adapters" in path else http.get(path))
    bodies = {
        "a megabyte": b" " * (1 << 20),
        "deep": b"[" * 200_000,
        "half a character": b'{"prompt": "\\ud800"}',
        "an hour": b'{"prompt": "a", "seconds": 3600}',
        "for ever": b'{"prompt": "a", "seconds": 1e999}',
        "a number of 5000 digits": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        "an adapter that is a path": b'{"prompt": "a", "adapters": {"../x": 1}}',
        "a speaker that is a file": b'{"prompt": "a", "details": {"speaker": "/etc/passwd"}}',
    }
    for what, body in bodies.items():
        headers = {"Content-Type": "application/json"}
        judge(what, http.post("/v1/audio/generations", content=body, headers=headers))
    judge("another host", http.get("/v1/jobs", headers={"Host": "evil.example"}))
    judge("another site", http.get("/v1/jobs", headers={"Origin": "http://evil.example"}))
    return found, faults


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--examples", type=int, default=60)
    args = options.parse_args()
    from fastapi.testclient import TestClient
    from serve_fuzz import fuzz

    from tunesmith.serve import Access, Jobs, Limits, Shelf, application, open_engine

    logging.disable(logging.WARNING)
    examples = 3 if args.quick else args.examples
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        shelf, secret = top / "adapters", top / "secret"
        shelf.mkdir()
        secret.mkdir()
        (secret / "adapter.json").write_text("{}")
        engine = open_engine("pocket", slots=4, device="cpu")
        base_hash = engine.bundle.base_hash
        with Jobs(engine, top / "jobs", Limits(seconds=0.2, queue=4)) as jobs:
            kept = Shelf(engine, shelf, top / "jobs", most_bytes=1 << 20)
            watch()
            everyone = application(jobs, kept, Access("", None))
            asked, broken = fuzz(everyone, examples)
            local = application(jobs, kept)
            with TestClient(local, "http://localhost", raise_server_exceptions=False) as http:
                refused, harm = hostile(http, shelf, secret, base_hash)
            taken = sorted(engine.adapters())
        harm += [f"adapter '{one}' was taken" for one in taken]
        outside = (str(secret), "/etc/passwd")
        harm += [f"{path} was opened" for path in OPENED if path.startswith(outside)]
    for fault in (*broken, *harm):
        print(fault, flush=True)
    told = ", ".join(f"{count} × {status}" for status, count in sorted(asked.items()))
    rows = [
        Row(
            "requests made of the OpenAPI document: answers of 5xx or of a shape it does not tell",
            "0",
            f"{len(broken)} of {sum(asked.values())} ({told})",
            not broken,
        ),
        Row(
            "hostile requests refused (4xx), no adapter taken, no file opened outside",
            "all",
            f"{sum(refused.values()) - len(harm)} of {sum(refused.values())}, "
            f"{len(OPENED)} opened files looked at",
            not harm,
        ),
    ]
    for row in rows:
        print(row)
    if not args.quick:
        packages = ["fastapi", "starlette", "schemathesis"]
        record("serve_hostile", "Hostile requests", rows, packages=packages)
    if broken or harm:
        sys.exit(1)


if __name__ == "__main__":
    main()
