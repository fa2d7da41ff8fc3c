"""The studio in a real browser, from a folder of recordings to a blend that is heard."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunesmith.families import EMBEDDED

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

CLIPS = EMBEDDED["pocket"].parent / "demo" / "style"
_WAIT_MS = 240_000


@dataclass(frozen=True)
class Running:
    """A studio that was started as a user starts it."""

    folder: Path
    address: str


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("studio")
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "studio", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        assert process.stdout is not None
        yield Running(folder, process.stdout.readline().removeprefix("studio: ").strip())
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        if process.stdout:
            process.stdout.close()
    assert code == 128 + signal.SIGINT


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--mute-audio"]
        )
        yield running
        running.close()


class Page:
    """A page of the studio, which notes what it should never do."""

    def __init__(self, browser, address: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(_WAIT_MS)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._outside(request.url, address))
        self.page.goto(address)
        self.page.wait_for_selector("#prepare")

    def _outside(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.faults.append(f"asks for {url}")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def fits(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def fetched(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for clip in sorted(CLIPS.glob("*.ogg"))[:4]:
        shutil.copy(clip, folder)
        shutil.copy(clip.with_suffix(".txt"), folder)
    shutil.copy(folder / clip.name, folder / "twice.ogg")
    return folder


def test_from_a_folder_of_recordings_to_a_blend_that_is_heard(studio, browser, recordings):
    one = Page(browser, studio.address)
    page = one.page

    page.get_by_label("Folder of recordings on this machine").fill("/not/there")
    page.click("#prepare")
    page.get_by_text("/not/there does not exist", exact=False).first.wait_for()

    page.get_by_label("Folder of recordings on this machine").fill(str(recordings))
    page.click("#prepare")
    page.wait_for_selector("#data-report .verdict")
    assert "Too little for lora" in page.inner_text("#data-report .verdict")
    assert "the same file as" in page.inner_text("#data-report .cards")
    address = page.get_attribute("#data-report .cards audio", "src")
    status, sound = fetched(f"{studio.address}/{address}")
    assert status == 200 and sound[:4] == b"RIFF"

    cell = page.locator("#captions [role=gridcell]").filter(has_text="calypso").first
    cell.dblclick()
    page.keyboard.press("Control+A")
    page.keyboard.type("a caption by hand")
    page.keyboard.press("Enter")
    page.click("#save-captions")
    page.get_by_text("1 caption written").wait_for()
    rows = (studio.folder / "data" / "mine" / "train" / "metadata.jsonl").read_text().splitlines()
    assert "a caption by hand" in [json.loads(row)["caption"] for row in rows]

    one.tab("Train")
    page.locator("#train-steps input, #train-steps textarea").fill("3")
    page.get_by_text("More settings").nth(1).click()
    page.locator("#train-words textarea").fill(
        "method.rank=two\npreview.seconds=1\npreview.count=1\npreview.every=3\n"
        "train.batch_size=2\ntrain.eval_every=3"
    )
    page.click("#train")
    page.get_by_text("not 'two'", exact=False).first.wait_for()  # in words, before anything runs
    words = page.locator("#train-words textarea")
    words.fill(words.input_value().replace("two", "2"))
    page.click("#train")
    page.get_by_text("Training mine").first.wait_for()
    page.reload()  # a page that is loaded anew finds its run
    page.wait_for_selector("#prepare")
    one.tab("Train")
    page.wait_for_selector("#curves svg.curve")
    page.locator("#train-status").get_by_text("done in", exact=False).wait_for()
    page.wait_for_selector("#previews audio >> nth=1")
    names = page.locator("#previews .who").all_inner_texts()
    assert names == ["base", "step 3"]
    report = page.locator("#train-status a").get_attribute("href")
    assert b"<html" in fetched(f"{studio.address}/{report}")[1][:200].lower()

    shutil.copytree(studio.folder / "runs" / "mine", studio.folder / "runs" / "other")
    one.tab("Blend")
    for name in ("mine", "other"):
        page.locator("#blend-adapters input").click()
        page.get_by_role("option", name=name, exact=True).click()
    page.keyboard.press("Escape")
    page.wait_for_selector("#weight-1 input")
    page.locator("#blend-prompt textarea").fill("steel drums")
    page.locator("#blend-prompt").locator("xpath=..").get_by_label("Seconds").fill("1")
    page.click("#hear")
    page.wait_for_selector("#heard audio")
    assert page.locator("#heard .who").first.inner_text() == "0.5 × mine + 0.5 × other"
    page.evaluate("document.querySelector('#heard audio').play()")
    page.wait_for_function("document.querySelector('#heard audio').currentTime > 0")
    assert page.evaluate("document.querySelector('#heard audio').duration") == pytest.approx(
        1, abs=0.1
    )
    assert one.faults == []
    page.close()


def test_stop_and_resume_listen_export_and_upload(studio, browser, recordings):
    run = studio.folder / "runs" / "mine"
    if not (run / "adapter.json").is_file():
        pytest.skip("the test before makes the run")
    one = Page(browser, studio.address)
    page = one.page

    one.tab("Train")
    page.get_by_label("Name of the run").fill("again")
    page.locator("#train-steps input, #train-steps textarea").fill("60")
    page.get_by_text("More settings").nth(1).click()
    page.locator("#train-words textarea").fill(
        "method.rank=2\npreview.seconds=1\npreview.count=1\ntrain.batch_size=2"
    )
    page.click("#train")
    page.locator("#train-status").get_by_text("of 60", exact=False).wait_for()
    page.click("#train-stop")
    page.locator("#train-status").get_by_text("Resume goes on", exact=False).wait_for()
    assert not (studio.folder / "runs" / "again" / "adapter.json").exists()
    page.click("#train-resume")
    page.locator("#train-status").get_by_text("Going on with again", exact=False).wait_for()
    page.locator("#train-status").get_by_text("of 60", exact=False).wait_for()
    page.click("#train-stop")
    page.locator("#train-status").get_by_text("Resume goes on", exact=False).wait_for()

    one.tab("Listen")
    page.locator("#sides input").click()
    page.get_by_role("option", name="mine", exact=True).click()
    page.keyboard.press("Escape")
    page.get_by_label("Items").fill("2")
    page.get_by_label("Seconds of each").last.fill("1")
    page.click("#make-test")
    page.locator("#listen-status").get_by_text("done in", exact=False).wait_for()
    page.click("#serve-test")
    page.wait_for_selector("#links li a")
    address = str(page.locator("#links li a").first.get_attribute("href")).partition("#")[0]
    status, body = fetched(address)
    assert status == 200 and b"<html" in body
    page.get_by_role("button", name="Stop showing").click()
    page.locator("#links").get_by_text("Or in a terminal", exact=False).wait_for()
    page.click("#results")
    page.locator("#found").get_by_text("Nobody has answered", exact=False).wait_for()

    one.tab("Export")
    page.locator("#export-adapter input").click()
    page.get_by_role("option", name="mine", exact=True).click()
    page.locator("#form input").click()
    page.get_by_role("option", name="PEFT adapter", exact=True).click()
    page.get_by_label("Name", exact=True).last.fill("PEFT")
    page.click("#export")
    page.locator("#export-status").get_by_text("done in", exact=False).wait_for()
    assert list((studio.folder / "exports" / "PEFT").rglob("adapter_model.safetensors"))
    page.click("#show-card")
    page.wait_for_function("document.querySelector('#card textarea')?.value.includes('# mine')")

    one.tab("Data")
    page.get_by_text("Or upload them").click()
    files = [str(file) for file in sorted(recordings.iterdir())[:4]]
    page.set_input_files("input[type=file][multiple]", files)
    page.get_by_text(Path(files[0]).name, exact=False).first.wait_for()
    page.get_by_label("Name of the data set").fill("sent")
    page.click("#prepare")
    page.locator("#data-status").get_by_text("Preparing sent: done", exact=False).wait_for()
    assert (studio.folder / "data" / "sent" / "train" / "metadata.jsonl").is_file()
    assert one.faults == []
    page.close()


def test_every_tab_fits_a_phone(studio, browser):
    one = Page(browser, studio.address, width=390)
    assert one.fits()
    for name in ("Train", "Compare"):
        one.tab(name)
        assert one.fits(), name
    assert one.faults == []
    one.page.close()


def test_nothing_of_this_machine_can_be_asked_for(studio, tmp_path):
    secret = tmp_path / "secret.txt"
    inside = studio.folder / "words.txt"
    for file in (secret, inside):
        file.write_text("hidden words")
    for path in (secret, inside, "/etc/hostname", "pyproject.toml", "%2e%2e/words.txt"):
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "sound/", "page/"):
            status, body = fetched(f"{studio.address}/{route}{path}")
            assert status in (403, 404, 405) and b"hidden" not in body, (route, path)
    status, body = fetched(f"{studio.address}/")
    assert status == 200 and b"Tunesmith studio" in body
    loaded = re.findall(rb"""(?:src|href)=["'](https?:[^"']+)""", body)
    loaded += re.findall(rb"""url\(["']?(https?:[^)"']+)""", body)
    assert [one for one in loaded if not one.startswith(studio.address.encode())] == []
    request = urllib.request.Request(studio.address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(request)
