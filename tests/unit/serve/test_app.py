"""Sound over HTTP: whole, streamed, later; and what is said of jobs."""

from __future__ import annotations

import io
import json
import threading
import time

import numpy as np
import pytest
import soundfile
from serving import RATE_HZ, Toy, bundle, tone

from tunesmith.serve.limits import Limits
from tunesmith.serve.request import Request


def heard(data: bytes) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return samples, rate


def wanted(seed: int = 7, seconds: float = 0.5) -> np.ndarray:
    return tone(Request("", "", seconds, seed))[0]


def eventually(right) -> None:
    end = time.monotonic() + 20
    while not right():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_the_answer_is_the_sound(serving):
    here = serving()
    reply = here.make()
    assert reply.status_code == 200 and reply.headers["content-type"] == "audio/wav"
    samples, rate = heard(reply.content)
    assert rate == RATE_HZ
    np.testing.assert_allclose(samples, wanted(), atol=1e-4)
    assert reply.headers["x-seed"] == "7"
    job = here.http.get(f"/v1/jobs/{reply.headers['x-job-id']}").json()
    assert job["state"] == "done" and job["audio_seconds"] == 0.5 and job["progress"] == 1


def test_its_comment_makes_it_again(serving):
    reply = serving().make("slow blues", format="flac")
    with soundfile.SoundFile(io.BytesIO(reply.content)) as file:
        made_of = json.loads(file.comment)
    assert (made_of["prompt"], made_of["seed"], made_of["base"]) == ("slow blues", 7, "toy")


def test_seeds_are_drawn_and_told(serving):
    here = serving()
    replies = [here.make(seed=None) for _ in range(2)]
    seeds = [int(reply.headers["x-seed"]) for reply in replies]
    assert seeds[0] != seeds[1]
    again = here.make(seed=seeds[0])
    assert again.content == replies[0].content


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "opus", "pcm"])
def test_formats(serving, name):
    here = serving()
    reply = here.make(format=name, seconds=2)
    assert reply.status_code == 200
    if name == "pcm":
        samples, rate = np.frombuffer(reply.content, "<i2") / 32767, RATE_HZ
    else:
        samples, rate = heard(reply.content)
    assert (len(samples), rate) == (2 * RATE_HZ, RATE_HZ)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) / 2 == 270  # Hz: the seed's


@pytest.mark.parametrize("name", ["wav", "ogg", "mp3", "opus", "pcm"])
def test_streams_are_whole(serving, name):
    here = serving()
    whole = here.make(format=name, seconds=2).content
    reply = here.make(format=name, seconds=2, stream=True)
    assert reply.status_code == 200 and "content-length" not in reply.headers
    if name == "pcm":
        one, other = (np.frombuffer(data, "<i2").astype(int) for data in (reply.content, whole))
        assert len(one) == len(other) and np.abs(one - other).max() <= 1
        return
    (samples, rate), (other, _) = heard(reply.content), heard(whole)
    assert rate == RATE_HZ
    extra = len(samples) - len(other)
    assert 0 <= extra <= (3000 if name == "mp3" else 0)  # an mp3 that cannot say how much it padded
    assert np.argmax(np.abs(np.fft.rfft(samples[: 2 * RATE_HZ]))) / 2 == 270


def test_a_stream_comes_while_it_is_made(serving):
    here = serving()
    got: list[bytes] = []

    def read() -> None:
        import asyncio

        async def ask() -> None:
            body = json.dumps({"prompt": "wait", "seconds": 1, "seed": 7, "stream": True}).encode()
            scope = {
                "type": "http", "method": "POST", "path": "/v1/audio/generations",
                "raw_path": b"/v1/audio/generations", "query_string": b"", "root_path": "",
                "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 80),
                "client": ("127.0.0.1", 1), "asgi": {"version": "3.0", "spec_version": "2.3"},
                "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
                            (b"content-length", str(len(body)).encode())],
            }  # fmt: skip
            sent = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive():
                if sent:
                    return sent.pop()
                return await asyncio.sleep(3600)

            async def send(message):
                got.append(message.get("body", b""))

            await here.app(scope, receive, send)

        asyncio.run(ask())

    thread = threading.Thread(target=read)
    thread.start()
    eventually(lambda: sum(map(len, got)) > 100)
    assert not here.engine.gate.is_set() and thread.is_alive()
    here.engine.gate.set()
    thread.join()
    samples, _ = heard(b"".join(got))
    np.testing.assert_allclose(samples, wanted(seconds=1), atol=1e-4)


def test_later(serving):
    here = serving()
    for more, headers in (({"async": True}, {}), ({}, {"Prefer": "wait=5, respond-async"})):
        body = {"prompt": "wait", "seconds": 0.5, "seed": 3} | more
        reply = here.http.post("/v1/audio/generations", json=body, headers=headers)
        assert reply.status_code == 202
        job = reply.json()
        assert reply.headers["location"] == f"/v1/jobs/{job['id']}"
        assert job["state"] in ("queued", "running") and job["audio"] is None
        early = here.http.get(f"/v1/jobs/{job['id']}/audio")
        assert early.status_code == 409 and early.json()["error"]["type"] == "conflict"
    here.engine.gate.set()
    eventually(lambda: here.http.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")
    told = here.http.get(f"/v1/jobs/{job['id']}").json()
    sound = here.http.get(told["audio"], params={"format": "wav"})
    np.testing.assert_allclose(heard(sound.content)[0], wanted(3), atol=1e-4)
    listed = here.http.get("/v1/jobs", params={"limit": 1}).json()
    assert [one["id"] for one in listed["jobs"]] == [job["id"]] and listed["next"] == job["id"]
    rest = here.http.get("/v1/jobs", params={"before": listed["next"], "state": "done"}).json()
    assert len(rest["jobs"]) == 1 and rest["next"] is None


def test_calling_off(serving):
    here = serving()
    job = here.make("wait", **{"async": True}).json()
    here.engine.began.wait(20)
    ended = here.http.delete(f"/v1/jobs/{job['id']}").json()
    assert ended["state"] == "cancelled"
    assert here.http.delete(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
    eventually(lambda: job["id"] in here.engine.cancelled)
    assert here.http.get(f"/v1/jobs/{job['id']}/audio").status_code == 409


def test_events(serving):
    here = serving()
    job = here.make(**{"async": True}).json()
    reply = here.http.get(f"/v1/jobs/{job['id']}/events")
    assert reply.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    names = [block[0].removeprefix("event: ") for block in blocks]
    assert names[-1] == "ended" and set(names[:-1]) <= {"progress"}
    last = json.loads(blocks[-1][1].removeprefix("data: "))
    assert (last["id"], last["state"]) == (job["id"], "done")
    assert here.http.get(f"/v1/jobs/{'0' * 32}/events").status_code == 404


def test_a_key_makes_one_job(serving):
    here = serving()
    body = {"prompt": "blues", "seconds": 0.5, "seed": 1}
    ask = lambda **more: here.http.post(  # noqa: E731
        "/v1/audio/generations", json=body | more, headers={"Idempotency-Key": "mine"}
    )
    first, second = ask(), ask()
    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert first.content == second.content
    other = ask(seed=2)
    assert other.status_code == 409


def test_a_key_draws_the_same_seed_again(serving):
    here = serving()
    body = {"prompt": "blues", "seconds": 0.5, "async": True}
    seeds = [
        here.http.post("/v1/audio/generations", json=body, headers={"Idempotency-Key": key})
        for key in ("mine", "mine", "yours")
    ]
    assert [reply.status_code for reply in seeds] == [202] * 3
    first, second, third = (reply.headers["x-seed"] for reply in seeds)
    assert first == second != third


def test_the_queue_has_an_end(serving):
    here = serving(limits=Limits(queue=1), engine=Toy(slots=1))
    replies = [here.make("wait", **{"async": True}) for _ in range(6)]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert refused and {reply.status_code for reply in replies} == {202, 429}
    assert int(refused[0].headers["retry-after"]) >= 1
    assert refused[0].json()["error"]["type"] == "busy"


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"seconds": 11}, 422, "beyond"),
        ({"seconds": 0}, 422, "seconds"),
        ({"seconds": "nan"}, 422, "seconds"),
        ({"seconds": True}, 422, "seconds"),
        ({"seed": -1}, 422, "seed"),
        ({"seed": 2**53}, 422, "seed"),
        ({"prompt": None}, 422, "prompt"),
        ({"prompt": "x" * 70_000}, 422, "prompt"),
        ({"prompt": "x" * 5_000}, 422, "characters"),
        ({"colour": "blue"}, 422, "colour"),
        ({"format": "aac"}, 422, "format"),
        ({"format": "flac", "stream": True}, 422, "cannot be streamed"),
        ({"stream": True, "async": True}, 422, "at once"),
        ({"adapters": {"jazz": 1}}, 422, "no adapter 'jazz'"),
        ({"adapters": {"../../etc": 1}}, 422, "adapters"),
        ({"settings": {"steps": 4}}, 422, "means nothing"),
        ({"settings": {"top_p": 0}}, 422, "top_p"),
        ({"details": {"mood": "sad"}}, 422, "not conditioned on"),
        ({"details": {"bpm": [1]}}, 422, "details"),
        ({"prompt": "fail"}, 422, "cannot be sung"),
        ({"prompt": "break"}, 500, "RuntimeError"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_made(serving, changes, status, said, streamed):
    reply = serving().make(**({"stream": streamed, "format": "wav"} | changes))
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "mend", "type"} and said in error["message"]


def test_a_stream_that_fails_has_no_end(serving):
    """A client must not take a part for the whole."""
    here = serving()
    sent = []

    async def ask() -> None:
        body = json.dumps({"prompt": "fail late", "seconds": 1, "stream": True}).encode()
        scope = {
            "type": "http", "method": "POST", "path": "/v1/audio/generations", "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        }  # fmt: skip
        left = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if left:
                return left.pop()
            return await asyncio.sleep(3600)

        async def send(message):
            sent.append(message)

        await here.app(scope, receive, send)

    import asyncio

    asyncio.run(ask())
    assert sent[0]["status"] == 200
    assert all(message.get("more_body", False) for message in sent[1:])


def test_speech(serving):
    here = serving(engine=Toy(bundle=bundle(free_length=True, max_s=1.0)))
    here.engine.add_adapter("maria", here.top)
    body = {"model": "toy", "input": "Good evening.", "voice": "maria", "seed": 4}
    reply = here.http.post("/v1/audio/speech", json=body)
    assert reply.status_code == 200 and reply.headers["content-type"] == "audio/mpeg"
    job = here.http.get(f"/v1/jobs/{reply.headers['x-job-id']}").json()
    assert job["adapters"] == {"maria": 1.0} and job["prompt"] == "Good evening."
    plain = here.http.post(
        "/v1/audio/speech",
        json=body | {"voice": "base", "model": "tunesmith", "response_format": "wav"},
    )
    assert heard(plain.content)[1] == RATE_HZ
    for change, said in (
        ({"voice": "paul"}, "no adapter"),
        ({"model": "tts-1"}, "no model"),
        ({"speed": 2}, "speed"),
        ({"response_format": "aac"}, "response_format"),
        ({"instructions": "sadly"}, "instructions"),
        ({"input": ""}, "input"),
    ):
        refused = here.http.post("/v1/audio/speech", json=body | change)
        assert refused.status_code == 422 and said in refused.json()["error"]["message"]


def test_music_does_not_speak(serving):
    body = {"model": "toy", "input": "Good evening.", "voice": "base"}
    reply = serving().http.post("/v1/audio/speech", json=body)
    assert reply.status_code == 422 and "does not speak" in reply.json()["error"]["message"]


def test_who_leaves_calls_the_job_off(serving):
    """Of the whole sound and of a stream alike; with a key it goes on."""
    import asyncio

    here = serving(engine=Toy(slots=4))

    async def leave(streamed: bool, key: str) -> None:
        body = json.dumps({"prompt": "wait", "seconds": 1, "stream": streamed}).encode()
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        if key:
            headers.append((b"idempotency-key", key.encode()))
        scope = {
            "type": "http", "method": "POST", "path": "/v1/audio/generations", "query_string": b"",
            "headers": headers,
        }  # fmt: skip
        left = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def receive():
            if left:
                return left.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        call = asyncio.create_task(here.app(scope, receive, send))
        await asyncio.to_thread(here.engine.began.wait, 20)
        here.engine.began.clear()
        gone.set()
        await call

    for streamed in (False, True):
        asyncio.run(leave(streamed, ""))
        eventually(lambda: here.jobs.measures().cancelled == 1 + streamed)  # noqa: B023
        asyncio.run(leave(streamed, f"key {streamed}"))
    assert here.jobs.measures().running == 2
    here.engine.gate.set()
    eventually(lambda: here.jobs.measures().done == 2)


def test_health_and_figures(serving):
    here = serving()
    assert here.http.get("/health").json() == {"live": True, "ready": True}
    here.make()
    here.make("fail")
    text = here.http.get("/metrics").text
    assert 'tunesmith_jobs_ended_total{state="done"} 1.0' in text
    assert 'tunesmith_jobs_ended_total{state="failed"} 1.0' in text
    assert "tunesmith_audio_seconds_total 0.5" in text
    assert 'route="/v1/audio/generations",status="200"} 1.0' in text
    assert 'route="/v1/audio/generations",status="422"} 1.0' in text
    here.closing = True
    assert here.http.get("/health").status_code == 503
    assert here.http.get("/health/live").status_code == 200
    refused = here.make()
    assert refused.status_code == 503 and "retry-after" in refused.headers
    assert refused.json()["error"]["type"] == "closing"
    assert here.http.get("/v1/jobs").status_code == 200


def test_the_document_and_its_page(serving):
    here = serving()
    document = here.http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            assert one["summary"], f"{method} {path}"
            if not path.startswith("/health"):
                assert one["responses"]["401"]["content"]["application/json"]["schema"] == {
                    "$ref": "#/components/schemas/Refusal"
                }
    for name in ("Generation", "Speech"):
        assert document["components"]["schemas"][name]["examples"]
    page = here.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in document["paths"]:
        assert path in page.text
    assert "<script" not in page.text and "://" not in page.text
