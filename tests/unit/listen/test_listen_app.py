"""Over HTTP: tokens, limits, and that nothing which is served gives a side away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tunesmith.listen.app import BODY_LIMIT, application
from tunesmith.listen.design import read_test
from tunesmith.listen.plan import plan
from tunesmith.listen.store import Store


class Listening:
    """A listener who answers as a browser would."""

    def __init__(self, folder: Path, most: int = 0) -> None:
        self.folder, self.test = folder, read_test(folder)
        self.store = Store(folder, create=True)
        self.listeners = self.store.add_listeners(4)
        self.http = TestClient(application(folder, self.test, self.store, most=most))

    def headers(self, who: int = 0) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.listeners[who].token}"}

    def state(self, who: int = 0) -> dict[str, Any]:
        reply = self.http.get("/api/session", headers=self.headers(who))
        assert reply.status_code == 200
        return reply.json()

    def send(self, who: int = 0, **changes: Any):
        trial = self.state(who)["trial"] or {"place": 0, "sounds": [], "needed_s": 0}
        body = {
            "place": trial["place"],
            "answer_id": f"{trial['place']:032x}",
            "choice": "a",
            "heard": {one["letter"]: trial["needed_s"] for one in trial["sounds"]},
        }
        return self.http.post("/api/answer", json=body | changes, headers=self.headers(who))


@pytest.fixture
def listening(test_folder):
    opened = []

    def make(*words: Any, most: int = 0, **settings: Any) -> Listening:
        opened.append(Listening(test_folder(*words, **settings), most))
        return opened[-1]

    yield make
    for one in opened:
        one.http.close()
        one.store.close()


def test_a_whole_test_and_its_end(listening):
    here = listening()
    total = here.state()["total"]
    assert total == 7  # one for practice, five, one of them twice
    for place in range(total):
        told = here.state()
        assert told["done"] == told["trial"]["place"] == place
        assert told["trial"]["practice"] == (place == 0)
        reply = here.send()
        assert reply.status_code == 200 and reply.json()["saved"] is True
    assert here.state()["trial"] is None and here.state()["done"] == total
    assert here.state(1)["done"] == 0


def test_a_lost_acknowledgment_is_asked_for_again(listening):
    here = listening()
    first = here.send()
    again = here.send(place=0, answer_id=f"{0:032x}")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert here.send(place=0, answer_id=f"{9:032x}").status_code == 409
    assert len(here.store.answers()) == 1


@pytest.mark.parametrize("path", ["/api/session", "/api/sound/level", "/api/answer", "/api/join"])
@pytest.mark.parametrize(
    "given", [{}, {"Authorization": "Bearer "}, {"Authorization": "Basic eDp5"}, "wrong", "cut"]
)
def test_nothing_without_a_token(listening, path, given):
    here = listening(most=5)
    token = here.listeners[0].token
    if given == "wrong":
        given = {"Authorization": f"Bearer {token[:-1]}{'0' if token[-1] != '0' else '1'}"}
    elif given == "cut":
        given = {"Authorization": f"Bearer {token[:-1]}"}
    if path in ("/api/answer", "/api/join"):
        body: dict[str, Any] = {"nonce": "0" * 32}
        if path == "/api/answer":
            body = {"place": 0, "answer_id": "0" * 32, "choice": "a", "heard": {}}
        reply = here.http.post(path, json=body, headers=given)
    else:
        reply = here.http.get(path, headers=given)
    assert reply.status_code == 401
    assert here.store.answers() == [] and len(here.store.listeners()) == 4


def test_the_page_says_nothing_and_needs_nothing(listening):
    here = listening(title="Secret title")
    reply = here.http.get("/")
    assert reply.status_code == 200
    assert reply.text == listening("mos").http.get("/").text
    assert "Secret" not in reply.text
    assert "://" not in reply.text.replace("http://www.w3.org/2000/svg", "")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "'sha256-" in policy.split("script-src")[1]


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2ftest.json",
        "../test.json",
        "%2e%2e/test.json",
        "/etc/passwd",
        "test.json",
        "..",
        "%00",
        "level/../../answers.sqlite",
    ],
)
def test_no_path_leads_out(listening, name):
    here = listening()
    reply = here.http.get(f"/api/sound/{name}", headers=here.headers())
    assert reply.status_code == 404 and b"sides" not in reply.content


def test_a_stored_file_name_is_no_sound(listening):
    here = listening()
    here.state()
    name = here.test.items[0].sounds[0]
    for asked in (name, name.removesuffix(".wav")):
        assert here.http.get(f"/api/sound/{asked}", headers=here.headers()).status_code == 404


def test_sounds_are_those_of_the_present_question_of_this_listener_only(listening):
    here = listening()
    mine = here.state(0)["trial"]["sounds"]
    other = here.state(1)["trial"]["sounds"]
    assert {one["id"] for one in mine}.isdisjoint(one["id"] for one in other)
    for one in mine:
        path = f"/api/sound/{one['id']}"
        assert here.http.get(path, headers=here.headers(0)).status_code == 200
        assert here.http.get(path, headers=here.headers(1)).status_code == 404
    here.send(0)
    assert here.http.get(path, headers=here.headers(0)).status_code == 404


@pytest.mark.parametrize("kind", ["ab", "abx", "mos"])
def test_what_is_served_is_the_same_whichever_side_it_is(listening, kind):
    """Headers, lengths and the words of a session do not depend on the side behind a letter."""
    here = listening(kind, sides=("base", "mine"), training=0, repeats=0)
    heads, sizes, sessions = set(), set(), {}
    for who in range(4):
        for trial in plan(here.test, who):
            told = here.state(who)
            for slot, one in enumerate(told["trial"]["sounds"]):
                reply = here.http.get(f"/api/sound/{one['id']}", headers=here.headers(who))
                heads.add(tuple(sorted(reply.headers.items())))
                sizes.add(len(reply.content))
                stored = here.test.items[trial.item].sounds[trial.slots[slot]]
                assert reply.content == (here.folder / "sounds" / stored).read_bytes()
                one["id"] = "-"
            place = told["done"]
            assert sessions.setdefault(place, told) == told
            choice = "3" if kind == "mos" else "a"
            assert here.send(who, choice=choice).status_code == 200
    assert len(heads) == len(sizes) == 1
    assert not {"etag", "last-modified", "server"} & {name for name, _ in heads.pop()}


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": "x"},
        {"choice": "3"},
        {"choice": 1},
        {"place": 99},
        {"place": -1},
        {"place": "0"},
        {"answer_id": "short"},
        {"answer_id": "'; DROP TABLE answers;--xx"},
        {"heard": {"A": 5.0}},
        {"heard": {"A": 5.0, "B": 0.0}},
        {"heard": {"A": 5.0, "B": 5.0, "X": 5.0}},
        {"heard": {"A": 5.0, "B": float("1e9")}},
        {"heard": [1, 2]},
        {"more": "fields"},
    ],
)
def test_answers_that_are_none(listening, changes):
    here = listening()
    reply = here.send(**changes)
    assert reply.status_code == 422
    assert here.store.answers() == []
    assert "DROP" not in reply.text


def test_no_preference_can_be_switched_off(listening):
    here = listening(ties=False)
    assert here.state()["choices"] == ["a", "b"]
    assert here.send(choice="tie").status_code == 422


def test_bodies_have_a_limit(listening):
    here = listening()
    for body in (b"[" * (BODY_LIMIT + 1), iter([b"x" * 1000] * 50)):
        reply = here.http.post("/api/answer", content=body, headers=here.headers())
        assert reply.status_code == 413
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert here.http.post("/api/answer", content=b"{", headers=here.headers()).status_code == 422


def test_the_prompt_is_shown_on_request_only(listening, tmp_path, voices):
    here = listening()
    assert here.state()["trial"]["prompt"] == ""
    shown = Listening(_prompted(tmp_path, voices))
    assert shown.state()["trial"]["prompt"] == "waltz"
    shown.store.close()


def _prompted(tmp_path, voices) -> Path:
    from dataclasses import replace

    from tunesmith.listen.make import create

    given = replace(voices("one", "two", items=1), prompts={"00": "waltz"})
    create(tmp_path / "shown", given, kind="ab", show_prompt=True)
    return tmp_path / "shown"


def test_joining_by_invitation(listening):
    here = listening(most=5)
    invited = {"Authorization": f"Bearer join.{here.store.invitation}"}

    def join(nonce: str):
        return here.http.post("/api/join", json={"nonce": nonce}, headers=invited)

    first = join("a" * 32)
    assert first.status_code == 200
    assert join("a" * 32).json() == first.json()
    token = {"Authorization": f"Bearer {first.json()['token']}"}
    assert here.http.get("/api/session", headers=token).status_code == 200
    assert join("b" * 32).status_code == 403  # four links and one guest are five
    assert join("no hex").status_code == 422
    assert here.http.get("/api/session", headers=invited).status_code == 401
    closed = TestClient(application(here.folder, here.test, here.store))
    reply = closed.post("/api/join", json={"nonce": "c" * 32}, headers=invited)
    assert reply.status_code == 401


def test_a_disk_that_is_full_is_a_reason_to_ask_again(listening, monkeypatch):
    import sqlite3

    here = listening()
    here.state()

    def full(given: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(here.store, "answer", full)
    assert here.send().status_code == 503
    monkeypatch.undo()
    assert here.send().status_code == 200


def test_no_documentation_is_served(listening):
    here = listening()
    for path in ("/docs", "/redoc", "/openapi.json", "/test.json", "/sounds/", "/answers.sqlite"):
        assert here.http.get(path, headers=here.headers()).status_code == 404
