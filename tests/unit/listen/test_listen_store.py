"""What was acknowledged is there, once, whatever dies."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tunesmith.errors import UserError
from tunesmith.listen.store import FILE, Answer, Store


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path, create=True) as made:
        yield made


def give(store: Store, trial: int, answer_id: str = "x", choice: str = "a", listener: int = 0):
    store.open_trial(listener, trial)
    return store.answer(Answer(listener, trial, answer_id, choice, {"A": 1.0, "B": 1.5}))


def test_an_answer_comes_back_as_it_was_given(store):
    store.add_listeners(1)
    assert give(store, 0, "id0", "tie") == "saved"
    (found,) = store.answers()
    assert (found.listener, found.trial, found.answer_id, found.choice) == (0, 0, "id0", "tie")
    assert found.heard == {"A": 1.0, "B": 1.5} and found.elapsed_s >= 0


def test_asking_again_is_acknowledged_and_kept_once(store):
    store.add_listeners(1)
    assert give(store, 0, "id0", "a") == "saved"
    assert give(store, 0, "id0", "a") == "again"
    assert give(store, 0, "id1", "b") == "other"
    assert [one.choice for one in store.answers()] == ["a"]


def test_only_the_trial_whose_turn_it_is_can_be_answered(store):
    store.add_listeners(1)
    assert store.answer(Answer(0, 0, "x", "a", {})) == "unopened"
    store.open_trial(0, 1)
    assert store.answer(Answer(0, 1, "x", "a", {})) == "unopened"
    assert store.answers() == [] and store.done(0) == 0


def test_writes_are_synchronous_and_ahead(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_links_stay_the_same_and_tokens_are_checked_whole(tmp_path, store):
    first = store.add_listeners(3)
    assert store.add_listeners(5)[:3] == first
    assert store.add_listeners(2) == first[:2]
    assert len({one.token for one in store.listeners()}) == 5
    with Store(tmp_path) as again:
        assert again.by_token(first[1].token) == first[1]
        for wrong in ("", ".", first[0].ident, f"{first[0].ident}.", f"{first[0].token}0"):
            assert again.by_token(wrong) is None
        assert again.by_token(f"{first[0].ident}.{first[1].secret}") is None
        assert again.by_token(f"nobody.{'0' * 32}") is None
        assert again.key == store.key


def test_an_invitation_makes_one_listener_a_browser_up_to_a_number(store):
    store.add_listeners(1)
    one = store.join("a" * 16, 3)
    assert one == store.join("a" * 16, 3)
    other = store.join("b" * 16, 3)
    assert one is not None and other is not None and one.number != other.number
    assert store.join("c" * 16, 3) is None
    assert store.join("a" * 16, 3) == one
    assert store.invited(f"join.{store.invitation}")
    assert not store.invited(store.invitation) and not store.invited("join.")


def test_a_commit_that_fails_leaves_nothing(store):
    """A full disk: the transaction ends without the answer, and the next try can have it."""
    store.add_listeners(1)
    store.open_trial(0, 0)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    big = Answer(0, 0, "x", "a", {f"{n}": 1.0 for n in range(20_000)})
    with pytest.raises(sqlite3.Error, match="full"):
        store.answer(big)
    assert store.answers() == [] and not store._db.in_transaction
    assert give(store, 0) == "saved"


def test_many_threads_make_no_double(store):
    store.add_listeners(8)
    outcomes: list[str] = []

    def listen(who: int) -> None:
        for trial in range(5):
            outcomes.append(give(store, trial, f"{who}-{trial}", listener=who))
            outcomes.append(give(store, trial, f"{who}-{trial}", listener=who))

    threads = [threading.Thread(target=listen, args=(who // 2,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("saved") == 20 and outcomes.count("again") == 60
    assert len(store.answers()) == 20


def test_two_processes_share_one_database(tmp_path, store):
    store.add_listeners(1)
    with Store(tmp_path) as other:
        assert give(store, 0, "one") == "saved"
        assert give(other, 0, "two") == "other"
        assert give(other, 1, "three") == "saved"
        assert store.done(0) == 2


_WRITER = """
import sys
from tunesmith.listen.store import Answer, Store
store = Store(sys.argv[1])
for trial in range(store.done(0), 100_000):
    store.open_trial(0, trial)
    store.answer(Answer(0, trial, f"id{trial}", "a", {"A": 1.0}))
    print(trial, flush=True)  # the acknowledgment
"""


def test_killed_while_writing_nothing_acknowledged_is_lost(tmp_path):
    with Store(tmp_path, create=True) as store:
        store.add_listeners(1)
    acknowledged = -1
    for more in (3, 40, 11):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(more):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()  # said before the kill came
        acknowledged = int(rest[-1]) if rest else acknowledged
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        with Store(tmp_path) as store:
            places = [one.trial for one in store.answers()]
        assert places == list(range(len(places)))
        assert acknowledged + 1 <= len(places) <= acknowledged + 2
    assert acknowledged >= 50


def test_a_folder_without_answers_and_a_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match="nobody has listened yet"):
        Store(tmp_path)
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="not readable"):
        Store(tmp_path)


def test_nobody_else_may_read_the_answers(tmp_path, store):
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
