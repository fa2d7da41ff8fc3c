"""Sounds that clients send: what is kept, what is refused, what is made of them, and who else may see them."""

from __future__ import annotations

import io
import json
import time
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from serving import RATE_HZ, Toy, bundle

from tunesmith.serve.limits import Limits


def noise(seconds: float = 0.25, rate_hz: int = RATE_HZ, channels: int = 1) -> np.ndarray:
    draw = np.random.default_rng(3)
    return draw.uniform(-0.5, 0.5, (round(seconds * rate_hz), channels)).astype(np.float32)


def file(
    samples: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "WAV", subtype: str = ""
) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate_hz, format=kind, subtype=subtype or None)
    return out.getvalue()


def sent(here, data: bytes, name: str = "take.wav"):
    return here.http.post("/v1/uploads", files={"file": (name, data)})


def kept(here) -> list[str]:
    folder = here.top / "jobs" / "sounds"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_sound_is_kept_told_and_forgotten(serving):
    here, data = serving(), file(noise(), subtype="FLOAT")
    reply = sent(here, data)
    assert reply.status_code == 201
    said = reply.json()
    assert (said["bytes"], said["seconds"], said["channels"]) == (len(data), 0.25, 1)
    assert said["sample_rate_hz"] == RATE_HZ and said["expires_at"] > time.time() + 3600
    place = reply.headers["location"]
    assert here.http.get(place).json() == said
    assert kept(here) == [f"{said['id']}.json", f"{said['id']}.sound"]
    assert here.http.delete(place).json()["id"] == said["id"]
    assert here.http.get(place).status_code == 404 and kept(here) == []
    assert here.http.delete(place).status_code == 404


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_24"),
        ("FLAC", ""),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", ""),
        ("AIFF", ""),
    ],
)
def test_formats_are_told_by_content(serving, kind, subtype):
    here = serving()
    reply = sent(here, file(noise(1.0), RATE_HZ, kind, subtype), "../../etc/passwd.txt")
    assert reply.status_code == 201, reply.text
    assert abs(reply.json()["seconds"] - 1.0) < 0.1


def test_it_is_continued(serving):
    here, samples = serving(), noise()
    id = sent(here, file(samples, subtype="PCM_16")).json()["id"]
    reply = here.make(task="continue", audio=id, format="flac")
    assert reply.status_code == 200, reply.text
    heard, _ = soundfile.read(io.BytesIO(reply.content), dtype="float32")
    assert len(heard) == RATE_HZ // 2
    np.testing.assert_allclose(heard[: len(samples)], samples[:, 0], atol=1e-3)
    assert np.abs(heard[len(samples) :]).max() > 0.1
    with soundfile.SoundFile(io.BytesIO(reply.content)) as told:
        made_of = json.loads(told.comment)
    sha256 = here.http.get(f"/v1/uploads/{id}").json()["sha256"]
    assert (made_of["task"], made_of["recording"]) == ("continue", sha256)


@pytest.mark.parametrize(
    "wish", [{"task": "inpaint", "spans": [[0.5, 1]]}, {"task": "edit", "strength": 0.3}]
)
def test_what_is_changed_is_as_long_as_it_was(serving, wish):
    here = serving()
    id = sent(here, file(noise(2.0))).json()["id"]
    reply = here.make(audio=id, seconds=None, **wish)
    assert reply.status_code == 200, reply.text
    assert here.http.get(f"/v1/jobs/{reply.headers['x-job-id']}").json()["seconds"] == 2.0


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"task": "continue"}, "without audio"),
        ({"task": "generate"}, "with audio"),
        ({"task": "continue", "seconds": 0.2}, "the sound to continue is 0.2"),
        ({"task": "continue", "spans": [[0, 1]]}, "spans with task"),
        ({"task": "inpaint", "spans": []}, "no span"),
        ({"task": "inpaint", "spans": [[0.1, 9]]}, "beyond the recording"),
        ({"task": "inpaint", "spans": [[0.2, 0.1]]}, "no span"),
        ({"task": "inpaint", "spans": [[0.1, 0.2]], "seconds": 1}, "seconds with task"),
        ({"task": "inpaint", "spans": [[0.1, 0.2]], "strength": 0.5}, "strength with task"),
        ({"task": "inpaint", "spans": [[0.1, 0.2, 0.3]]}, "spans"),
        ({"task": "edit", "strength": 1.5}, "strength"),
        ({"task": "sing"}, "task"),
    ],
)
def test_wishes_that_cannot_be(serving, wish, said):
    here = serving()
    id = sent(here, file(noise())).json()["id"]
    audio = None if said == "without audio" else id
    reply = here.make(**{"audio": audio, "seconds": None} | wish)
    assert reply.status_code == 422 and said in reply.json()["error"]["message"]
    assert here.jobs.list() == []


def test_a_family_that_cannot_says_why(serving):
    here = serving(engine=Toy(bundle(inpainting="")))
    assert here.http.get("/v1/models").json()["data"][0]["tasks"] == ["continue"]
    id = sent(here, file(noise())).json()["id"]
    reply = here.make(task="inpaint", audio=id, spans=[[0.1, 0.2]], seconds=None)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == "'toy' cannot inpaint a recording: it only hums"
    assert here.make(task="continue", audio=id).status_code == 200


@pytest.mark.parametrize(
    "id", ["0" * 32, "../jobs", "..%2fjobs.sqlite", "a/b", "0" * 31 + "\n", "", None, 7, ["0" * 32]]
)
def test_ids_lead_nowhere(serving, id):
    here = serving()
    reply = here.make(task="continue", audio=id)
    assert reply.status_code == (404 if id == "0" * 32 else 422)
    if isinstance(id, str) and id:
        for ask in (here.http.get, here.http.delete):
            assert ask(f"/v1/uploads/{quote(id, safe='')}").status_code in (404, 405, 422)
    assert (here.top / "jobs" / "jobs.sqlite").is_file()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"\x80\x04K\x01.",
        b"PK\x03\x04" + b"\0" * 100,
        b"<html>hello</html>",
        file(noise(1.0))[:-8000],
        file(np.full((1000, 1), np.nan, np.float32), subtype="FLOAT"),
        file(noise(channels=3)),
        file(noise(rate_hz=4000), 4000),
        file(noise(rate_hz=384_000), 384_000),
        file(noise(), kind="AU"),
    ],
)
def test_what_is_no_sound_is_not_kept(serving, data):
    here = serving()
    reply = sent(here, data)
    assert reply.status_code == 422 and kept(here) == []
    assert str(here.top) not in reply.text


def test_a_bomb_is_given_up(serving):
    here = serving(limits=Limits(upload_samples=100_000))
    silence = np.zeros((RATE_HZ * 600, 1), np.float32)
    bomb = file(silence, kind="FLAC")
    assert len(bomb) < 50_000
    reply = sent(here, bomb)
    assert reply.status_code == 413 and "100000 samples" in reply.json()["error"]["message"]
    assert kept(here) == []


def test_large_files_are_not_read(serving):
    here = serving(limits=Limits(upload_bytes=10_000))
    assert sent(here, bytes(20_000)).status_code == 413
    assert sent(here, bytes(400_000)).status_code == 413  # the guard's, by its length alone
    assert kept(here) == []


def test_forms_that_are_none(serving):
    here, data = serving(), file(noise())
    forms = [
        {"files": {"sound": ("a.wav", data)}},
        {"files": [("file", ("a.wav", data)), ("file", ("b.wav", data))]},
        {"data": {"file": "a.wav"}, "files": {}},
        {"files": {"file": ("a.wav", data)}, "data": {"path": "/etc/passwd"}},
    ]
    for form in forms:
        assert here.http.post("/v1/uploads", **form).status_code in (400, 415, 422)
    assert here.http.post("/v1/uploads", json={"file": "x"}).status_code == 415
    assert kept(here) == []


def test_so_many_and_no_more(serving):
    here, data = serving(limits=Limits(uploads=2)), file(noise())
    ids = [sent(here, data).json()["id"] for _ in range(2)]
    reply = sent(here, data)
    assert reply.status_code == 429 and int(reply.headers["retry-after"]) > 3600
    here.http.delete(f"/v1/uploads/{ids[0]}")
    assert sent(here, data).status_code == 201
    tight = Limits(uploads_bytes=len(data) + 1)
    here.jobs.sounds._limits = tight
    assert sent(here, data).status_code == 429


def test_what_nobody_asks_for_goes(serving):
    here = serving(limits=Limits(upload_age_s=0.3))
    id = sent(here, file(noise())).json()["id"]
    time.sleep(0.35)
    assert here.http.get(f"/v1/uploads/{id}").status_code == 404
    assert here.make(task="continue", audio=id).status_code == 404
    assert here.jobs.sounds.sweep() in (0, 1) and kept(here) == []


def test_deleted_between_accepting_and_running(serving):
    here = serving()
    id = sent(here, file(noise())).json()["id"]
    jobs = [  # twice the places of the engine: the last wait in the queue
        here.make("wait to read", task="continue", audio=id, **{"async": True}).json()["id"]
        for _ in range(8)
    ]
    here.http.delete(f"/v1/uploads/{id}")
    here.engine.gate.set()
    for job in jobs:
        *_, end = here.jobs.listen(job)
        assert (end.job.state, end.job.fault) == ("failed", "request")
        assert id in end.job.error and str(here.top) not in end.job.error


def test_sounds_and_their_jobs_survive_a_restart(serving):
    here, samples = serving(engine=Toy(slots=1)), noise()
    id = sent(here, file(samples, subtype="PCM_16")).json()["id"]
    jobs = [
        here.make(prompt, task="continue", audio=id, **{"async": True}).json()["id"]
        for prompt in ("wait", "blues", "blues")
    ]
    folder = here.top / "jobs" / "sounds"
    (folder / ("f" * 32 + ".sound")).write_bytes(b"half done")
    (folder / "foreign.json").write_text("{}")
    here.jobs.close()
    again = serving()
    assert again.http.get(f"/v1/uploads/{id}").status_code == 200
    assert kept(again) == [f"{id}.json", f"{id}.sound"]
    again.engine.gate.set()
    for job in jobs:
        *_, end = again.jobs.listen(job)
        assert end.job.state == "done", end.job.error
        heard, _ = soundfile.read(again.jobs.result(job), dtype="float32")
        np.testing.assert_allclose(heard[: len(samples)], samples[:, 0], atol=1e-3)


def test_asked_again_with_a_key_it_is_the_same_job(serving):
    here = serving()
    id = sent(here, file(noise(2.0))).json()["id"]
    wish = {
        "prompt": "blues", "task": "edit", "audio": id, "strength": 0.5, "async": True, "seed": 1
    }  # fmt: skip
    ask = lambda **more: here.http.post(  # noqa: E731
        "/v1/audio/generations", json=wish | more, headers={"Idempotency-Key": "k"}
    )
    first = ask().json()["id"]
    here.http.delete(f"/v1/uploads/{id}")
    assert ask().json()["id"] == first
    assert ask(strength=0.6).status_code == 409
