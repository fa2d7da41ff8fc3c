"""The store: what was accepted stays, a job ends once, old sounds go first."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import UserError
from tunesmith.formats.sound import read_made_of
from tunesmith.serve.job import as_json, from_json, same_wish
from tunesmith.serve.limits import Limits
from tunesmith.serve.refusals import Closing
from tunesmith.serve.request import Request
from tunesmith.serve.store import Store
from tunesmith.types import Audio, GenerationSettings

TONE = Audio(np.full((1, 800), 0.25, dtype=np.float32), 1600)


def wish(id: str, **more: object) -> Request:
    return Request(**{"id": id, "prompt": "a tune", "duration_s": 0.5, "seed": 1} | more)  # type: ignore[arg-type]


def done(store: Store, id: str, audio: Audio = TONE) -> None:
    store.add(wish(id))
    store.begin(id)
    assert store.finish(id, audio, {"prompt": "a tune"}) is not None


plain = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Request,
        id=st.text(max_size=8),
        prompt=st.text(max_size=40),
        duration_s=plain,
        seed=st.integers(0, 2**63 - 1),
        settings=st.none() | st.builds(GenerationSettings, guidance=plain, top_p=plain),
        adapters=st.dictionaries(st.text(max_size=5), plain, max_size=3),
        details=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
        streamed=st.booleans(),
    )
)
def test_a_request_comes_back_as_it_was(request_: Request):
    again = from_json(as_json(request_))
    assert again == request_
    assert same_wish(again, replace(request_, id="other", streamed=not request_.streamed))
    assert not same_wish(again, replace(request_, seed=request_.seed + 1))


def test_details_that_are_no_text_are_refused():
    with pytest.raises(UserError, match="cannot be kept"):
        as_json(wish("a", details={"speaker": object()}))
    with pytest.raises(UserError, match="cannot be kept"):
        as_json(wish("a", details={"bpm": float("nan")}))


def test_a_job_from_acceptance_to_sound(tmp_path: Path):
    with Store(tmp_path) as store:
        job, new = store.add(wish("a"), "key")
        assert (job.state, job.key, new) == ("queued", "key", True)
        begun = store.begin("a")
        assert begun is not None
        assert (begun.state, begun.starts) == ("running", 1)
        ended = store.finish("a", TONE, {"prompt": "a tune", "seed": 1})
        assert ended is not None
        assert (ended.state, ended.progress, ended.audio_s) == ("done", 1.0, 0.5)
        assert ended == store.get("a") == store.by_key("key")
        path = store.results / ended.file
        assert path.stat().st_size == ended.bytes
        assert read_made_of(path)["seed"] == 1
        samples, rate = soundfile.read(path)
        assert rate == 1600
        assert np.allclose(samples, 0.25, atol=1e-4)
    assert not [path for path in store.results.iterdir() if path.name.startswith(".")]


def test_a_key_makes_one_job(tmp_path: Path):
    with Store(tmp_path) as store:
        first, _ = store.add(wish("a"), "key")
        assert store.add(wish("b"), "key") == (first, False)
        assert store.get("b") is None
        assert store.add(wish("c"))[1]
        with pytest.raises(ValueError, match="taken"):
            store.add(wish("a"))


@pytest.mark.parametrize("first", ["finish", "fail", "cancel"])
@pytest.mark.parametrize("second", ["finish", "fail", "cancel", "begin", "put_back"])
def test_a_job_ends_once(tmp_path: Path, first: str, second: str):
    acts = {
        "finish": lambda: store.finish("a", TONE),
        "fail": lambda: store.fail("a", "server", "broken"),
        "cancel": lambda: store.cancel("a"),
        "begin": lambda: store.begin("a"),
        "put_back": lambda: store.put_back("a"),
    }
    with Store(tmp_path) as store:
        store.add(wish("a"))
        store.begin("a")
        ended = acts[first]()
        assert ended is not None
        assert ended.ended
        if (first, second) != ("finish", "finish"):
            assert acts[second]() is None
        assert store.get("a") == ended
        # No file without a row that speaks of it, none lost that a row speaks of.
        assert {path.name for path in store.results.iterdir()} == ({ended.file} - {""})


def test_what_was_undone_is_queued_again_in_order(tmp_path: Path):
    with Store(tmp_path) as store:
        for id in "abcd":
            store.add(wish(id))
        store.begin("a")
        store.begin("b")
        store.cancel("b")
        store.begin("c")
        store.put_back("c")
        before = store.get("d")
    with Store(tmp_path) as store:
        restored = store.restore(3)
        assert [(job.id, job.state, job.starts) for job in restored] == [
            ("a", "queued", 1),
            ("c", "queued", 0),
            ("d", "queued", 0),
        ]
        assert restored[2] == before
        assert store.counts() == {
            "queued": 3, "running": 0, "done": 0, "failed": 0, "cancelled": 1,
        }  # fmt: skip


def test_a_job_that_ends_every_server_is_given_up(tmp_path: Path):
    for start in range(4):
        with Store(tmp_path) as store:
            restored = store.restore(3)
            if start == 0:
                store.add(wish("a"))
            elif start < 3:
                assert [job.id for job in restored] == ["a"]
            if start < 3:
                store.begin("a")
            else:
                assert restored == []
                job = store.get("a")
                assert job is not None
                assert (job.state, job.fault, job.starts) == ("failed", "restarts", 3)
                assert "3 times" in job.error


def test_a_request_of_another_version_fails_alone(tmp_path: Path):
    with Store(tmp_path) as store:
        store.add(wish("a"))
        store.add(wish("b"))
        store._db.execute("UPDATE jobs SET request = '{\"new\": 1}' WHERE id = 'a'")
    with Store(tmp_path) as store:
        assert [job.id for job in store.restore(3)] == ["b"]
        state = store._rows("SELECT state, error FROM jobs WHERE id = 'a'")[0]
        assert state["state"] == "failed"
        assert "another version" in state["error"]
        assert {job.id for job in store.list()} == {"a", "b"}


def test_strays_of_a_kill_are_removed(tmp_path: Path):
    with Store(tmp_path) as store:
        done(store, "a")
        kept = store.results / "a.flac"
        for name in ("b.flac", ".c.flac.tmp"):
            (store.results / name).write_bytes(kept.read_bytes())
        other = store.results / "notes.txt"
        other.touch()
        store.restore(3)
        assert set(store.results.iterdir()) == {kept, other}


def test_two_servers_cannot_have_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, timeout, **more: connect(path, timeout=0.01, **more)
    )
    with Store(tmp_path) as store:
        store.add(wish("a"))
        with pytest.raises(UserError, match="another server"):
            Store(tmp_path)
    with Store(tmp_path) as store:
        assert store.get("a") is not None


def test_a_damaged_or_newer_file_is_said_to_be_one(tmp_path: Path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="not readable"):
        Store(tmp_path)
    with Store(tmp_path / "new") as store:
        store._db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(UserError, match="newer version"):
        Store(tmp_path / "new")


def test_a_closed_store_says_that_the_server_closes(tmp_path: Path):
    store = Store(tmp_path)
    store.close()
    for ask in (lambda: store.get("a"), lambda: store.add(wish("a"))):
        with pytest.raises(Closing):
            ask()


def test_a_file_that_cannot_be_written_leaves_the_job_running(tmp_path: Path):
    with Store(tmp_path) as store:
        store.add(wish("a"))
        store.begin("a")
        store.results.rmdir()
        store.results.write_text("in the way")
        with pytest.raises((UserError, OSError)):
            store.finish("a", TONE)
        job = store.get("a")
        assert job is not None
        assert job.state == "running"


def test_the_oldest_sounds_go(tmp_path: Path):
    with Store(tmp_path) as store:
        for id in "abcde":
            done(store, id)
        size = store.results.joinpath("a.flac").stat().st_size
        assert store.sweep(Limits()) == 0
        assert store.sweep(Limits(results=4)) == 1
        assert store.sweep(Limits(result_bytes=3 * size)) == 1
        assert {path.stem for path in store.results.iterdir()} == {"c", "d", "e"}
        job = store.get("a")
        assert job is not None
        assert (job.state, job.file) == ("done", "")
        store._db.execute("UPDATE jobs SET ended_at = ? WHERE id = 'c'", (time.time() - 100,))
        assert store.sweep(Limits(result_age_s=50)) == 1
        assert {path.stem for path in store.results.iterdir()} == {"d", "e"}


def test_old_jobs_are_forgotten_and_living_ones_never(tmp_path: Path):
    with Store(tmp_path) as store:
        store.add(wish("waits"), "its key")
        for id in "abc":
            done(store, id)
        assert store.sweep(Limits(jobs=2)) == 1
        assert [job.id for job in store.list()] == ["c", "b", "waits"]
        assert {path.stem for path in store.results.iterdir()} == {"b", "c"}


def test_lists_go_on_where_they_ended(tmp_path: Path):
    with Store(tmp_path) as store:
        for id in "abcd":
            store.add(wish(id))
        store.cancel("c")
        assert [job.id for job in store.list(limit=2)] == ["d", "c"]
        assert [job.id for job in store.list(limit=2, before="c")] == ["b", "a"]
        assert [job.id for job in store.list(["queued"])] == ["d", "b", "a"]
        assert store.list(["done", "failed"]) == []


def test_a_request_is_kept_as_plain_json(tmp_path: Path):
    with Store(tmp_path) as store:
        store.add(wish("a", adapters={"jazz": 0.5}))
        (row,) = store._rows("SELECT request FROM jobs")
        assert json.loads(row["request"])["adapters"] == {"jazz": 0.5}
