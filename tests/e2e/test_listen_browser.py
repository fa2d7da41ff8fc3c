"""A listener at the keyboard of a real browser, which dies midway."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tunesmith.errors import Stopped
from tunesmith.listen import Sounds, Store, Voice, analyse, create, serve, write_results
from tunesmith.training.signals import StopFlag

playwright = pytest.importorskip("playwright.sync_api")
axe_core = pytest.importorskip("axe_core_python")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

AXE = (Path(axe_core.__file__ or "").parent / "axe.min.js").read_text(encoding="utf-8")
PLAYING = "#players .play[aria-disabled=false]"
_WAIT_MS = 30_000


def make_test(folder: Path, kind: str, **settings) -> Path:
    voices = []
    for side, name in enumerate(("base", "mine")):
        files = {}
        for item in range(3):
            path = folder / name / f"{item}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            times = np.arange(8000) / 16_000
            soundfile.write(
                path, 0.1 * np.sin(2 * np.pi * (300 + 100 * item + side) * times), 16_000
            )
            files[str(item)] = path
        voices.append(Voice(name, files))
    create(
        folder / kind,
        Sounds(tuple(voices)),
        kind=kind,  # type: ignore[arg-type]
        title="Two versions",
        **{"training": 1, "repeats": 0, "seed": 3} | settings,
    )
    return folder / kind


class Served:
    """A server in a thread, which can be stopped and started on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    def start(self) -> None:
        ready, self.stop, told = threading.Event(), StopFlag(), []

        def run() -> None:
            with contextlib.suppress(Stopped):
                serve(
                    self.folder,
                    port=self.port,
                    listeners=2,
                    invite=4,
                    ready=lambda links: (told.append(links), ready.set()),
                    stop=self.stop,
                )

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert ready.wait(30)
        self.links = told[0]
        self.port = int(self.links.address.rpartition(":")[2])

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        yield started.chromium


def opened(chromium, profile: Path, width: int = 1280):
    """A browser that keeps its storage in ``profile``."""
    context = chromium.launch_persistent_context(
        str(profile),
        executable_path=CHROMIUM,
        args=["--no-sandbox", "--mute-audio"],
        viewport={"width": width, "height": 800},
        reduced_motion="reduce",
    )
    context.set_default_timeout(_WAIT_MS)
    faults: list[str] = []
    page = context.pages[0] if context.pages else context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda message: faults.append(message.text) if "Content Security" in message.text else None,
    )
    return context, page, faults


def written(profile: Path, text: str) -> None:
    """Waits until the browser has said that an answer is on the disk: its strict transaction is over."""
    wanted = (text.encode(), text.encode("utf-16-le"))
    for _ in range(300):
        for file in profile.rglob("*.indexeddb.leveldb/*.log"):
            if any(form in file.read_bytes() for form in wanted):
                return
        time.sleep(0.1)
    raise AssertionError("the browser did not store the answer")


def kill(profile: Path) -> None:
    """SIGKILL to the browser that this test started: no goodbye, nothing is flushed."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(profile).encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    (profile / "SingletonLock").unlink(missing_ok=True)


def begin(page, link: str) -> None:
    page.goto("about:blank")  # a link that differs behind the # alone would load nothing
    page.goto(link)
    page.wait_for_selector("#level .play[aria-disabled=false]")
    page.keyboard.press("Space")
    page.wait_for_selector("#begin[aria-disabled=false]")
    page.keyboard.press("Enter")
    page.wait_for_selector(PLAYING)


def hear_all(page, letters: str) -> None:
    for at in range(len(letters)):
        page.wait_for_selector(f"#players .play:nth-child({at + 1})[aria-disabled=false]")
    for at, letter in enumerate(letters):
        page.keyboard.press(letter)
        page.wait_for_selector(f"#players .play:nth-child({at + 1}).heard")
    page.wait_for_selector("#answers:not([disabled])")


def answer(page, letters: str, key: str) -> None:
    """Hears and answers one question, and waits for what follows it."""
    hear_all(page, letters)
    before = page.inner_text("#count")
    page.keyboard.press(key)
    page.keyboard.press("Enter")
    for _ in range(300):
        if page.is_visible("#s-end") or page.inner_text("#count") != before:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the answer was not taken")


def violations(page) -> list[str]:
    page.evaluate(AXE)  # through the debugger, which the page's policy does not bind
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found["violations"]
    ]


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_whole_test_by_keyboard_with_a_browser_killed_midway(chromium, tmp_path):
    served = Served(make_test(tmp_path, "ab"))
    try:
        link = served.links.personal[0]
        context, page, faults = opened(chromium, tmp_path / "profile")
        begin(page, link)
        assert page.inner_text("#count") == "Practice"
        page.keyboard.press("1")  # nothing was heard yet
        page.keyboard.press("Enter")
        assert page.inner_text("#hint") == "Listen to both first."
        answer(page, "ab", "1")
        assert page.inner_text("#count") == "Question 1 of 2"
        hear_all(page, "ab")
        page.keyboard.press("2")
        served.end()  # the server dies first; the answer stays in the browser
        page.keyboard.press("Enter")
        page.wait_for_selector("#toast:not([hidden])")
        assert "kept here" in page.inner_text("#toast")
        assert faults == []
        kept = page.evaluate(
            "Object.entries(localStorage).find(([key]) => key.includes('unsent'))[1]"
        )
        written(tmp_path / "profile", json.loads(kept)["answer_id"])
        kill(tmp_path / "profile")
        with contextlib.suppress(playwright.Error):
            context.close()
        served.start()
        assert served.links.personal[0] == link
        with Store(served.folder) as store:
            assert len(store.answers()) == 1
        context, page, faults = opened(chromium, tmp_path / "profile")
        page.goto(link)
        page.wait_for_selector("#s-start:not([hidden])")
        assert page.inner_text("#start-h") == "Welcome back"
        assert page.inner_text("#start-p").startswith("2 of 3 answers are saved")
        begin(page, link)
        assert page.inner_text("#count") == "Question 2 of 2"
        answer(page, "ab", "0")
        page.wait_for_selector("#s-end:not([hidden])")
        assert "All 3" in page.inner_text("#end-p")
        assert violations(page) == []
        page.reload()
        page.wait_for_selector("#s-end:not([hidden])")
        assert faults == []
        context.close()
    finally:
        served.end()
    with Store(served.folder) as store:
        assert [one.choice for one in store.answers()] == ["a", "b", "tie"]
    found = analyse(served.folder)
    assert found.finished == 1 and found.counted == 2 and found.hurried == 0


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize(
    ("kind", "letters", "key"), [("ab", "ab", "2"), ("abx", "abx", "1"), ("mos", "a", "4")]
)
def test_every_screen_is_accessible_and_fits(chromium, tmp_path, kind, letters, key, width):
    served = Served(make_test(tmp_path, kind))
    try:
        context, page, faults = opened(chromium, tmp_path / "profile", width)
        page.goto(served.links.personal[0])
        page.wait_for_selector("#level .play[aria-disabled=false]")
        assert violations(page) == [] and fits(page)
        begin(page, served.links.personal[0])
        assert violations(page) == [] and fits(page)
        page.click("#keys summary") if page.is_visible("#keys") else None
        hear_all(page, letters)
        page.keyboard.press(key)
        assert page.get_attribute("#next", "aria-disabled") == "false"
        assert violations(page) == [] and fits(page)
        assert faults == []
        context.close()
    finally:
        served.end()


def test_an_invitation_gives_each_browser_a_link_of_its_own(chromium, tmp_path):
    served = Served(make_test(tmp_path, "mos"))
    try:
        context, page, _ = opened(chromium, tmp_path / "one")
        page.goto(served.links.invitation)
        page.wait_for_selector("#s-start:not([hidden])")
        mine = page.url
        assert "#join" not in mine and mine not in served.links.personal
        page.goto("about:blank")
        page.goto(served.links.invitation)
        page.wait_for_selector("#s-start:not([hidden])")
        assert page.url == mine
        page.goto("about:blank")
        page.goto(served.links.address + "/#nobody.0000")
        page.wait_for_selector("#s-stop:not([hidden])")
        assert "does not work" in page.inner_text("#stop-h") and violations(page) == []
        context.close()
        with Store(served.folder) as store:
            assert len(store.listeners()) == 3
    finally:
        served.end()


@pytest.mark.parametrize("kind", ["ab", "abx", "mos"])
def test_the_page_of_results_is_accessible_and_fits(chromium, tmp_path, kind):
    from tunesmith.listen.design import read_test
    from tunesmith.listen.plan import plan
    from tunesmith.listen.store import Answer

    folder = make_test(tmp_path, kind)
    with Store(folder, create=True) as store:
        store.add_listeners(7)
        for who in range(7):
            for place in range(len(plan(read_test(folder), who))):
                store.open_trial(who, place)
                choice = str(3 + (who + place) % 3) if kind == "mos" else "ab"[(who * place) % 2]
                store.answer(Answer(who, place, f"{place}", choice, {"A": 1.0}))
    path = write_results(analyse(folder), tmp_path / "results.html")
    for width in (1280, 360):
        context, page, faults = opened(chromium, tmp_path / f"profile{width}", width)
        page.goto(path.as_uri())
        assert violations(page) == [] and fits(page) and faults == []
        context.close()
