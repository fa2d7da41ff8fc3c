"""The pages in a real browser: axe-core, keyboard, narrow screens, and no word to any server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from evaluated import PROMPTS, evaluation_of, write_run
from tiny import write_data

from tunesmith.data.check import check
from tunesmith.evaluation.findings import to_json
from tunesmith.report.check import write_check
from tunesmith.report.compare import comparison_report
from tunesmith.report.page import write_report
from tunesmith.report.run import report_on_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PAGES = ("run", "bare", "compare", "check")
WIDE, NARROW = (1280, 900), (360, 740)


@pytest.fixture(scope="module")
def axe() -> str:
    """The script itself: the page's content policy lets no other in, so it is evaluated from outside."""
    package = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--mute-audio"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with all that a page can say, one that was never evaluated, a comparison, a data check."""
    folder = tmp_path_factory.mktemp("pages")
    pitfall = {
        "kind": "pitfall", "step": 6, "name": "training too long", "message": "it turned",
        "mend": "stop at `train.steps=4`", "action": "stopped", "values": {"now": 3.7},
    }  # fmt: skip
    run = write_run(folder / "run", pitfalls=(pitfall,))
    full = evaluation_of(folder / "one", {"run": run}, copies=("run",))
    (run / "evaluation.json").write_text(json.dumps(to_json(full)))
    runs = {name: folder / name for name in ("run", "other", "third")}
    compared = comparison_report(evaluation_of(folder / "more", runs, copies=("other",)))
    data = write_data(folder / "data", (0.6,) * 6, valid=2)
    return {
        "run": report_on_run(run),
        "bare": report_on_run(write_run(folder / "bare")),
        "compare": write_report(compared, folder / "compare.html"),
        "check": write_check(check(data), folder / "check.html"),
    }


Opened = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> Iterator[Opened]:
    """Opens a page; at the end nothing may have been fetched, and nothing said on the console."""
    contexts, said, asked = [], [], []

    def open_one(name: str, size: tuple[int, int] = WIDE, scheme: Any = "light") -> Page:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        asked.remove(pages[name].as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == []


def violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_axe_finds_nothing(opened: Opened, axe: str, name: str, size: Any, scheme: str):
    assert violations(opened(name, size, scheme), axe) == []


def test_axe_would_find_something(browser: Browser, axe: str):
    page = browser.new_page()
    page.set_content(f"<p style='color: #ccc; background: #fff'>{'pale ' * 9}<img src='data:,'>")
    page.evaluate(axe)
    found = {one["id"] for one in page.evaluate("axe.run()")["violations"]}
    page.close()
    assert {"image-alt", "color-contrast", "html-has-lang"} <= found


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_all_of_it_without_scrolling_sideways(opened: Opened, name: str):
    page = opened(name, NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW[0]
    cut = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(one => {
             const box = one.getBoundingClientRect();
             return box.width > 1 && !one.closest('.scroll, .unseen, svg') && box.right > 361;
           }).map(one => one.outerHTML.slice(0, 120))"""
    )
    assert cut == []


def reached(page: Page, most: int = 600) -> list[str]:
    """What Tab comes to, in order, until it leaves the page: labels of players, texts of the rest."""
    out: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        label = page.evaluate(
            """() => { const one = document.activeElement;
               if (!one || one === document.body) return null;
               const players = [...document.querySelectorAll('audio')];
               return one.tagName === 'AUDIO' ? `player ${players.indexOf(one)}` : one.innerText; }"""
        )
        if label is None:
            return out
        if not out or out[-1] != label:  # a player has several controls
            out.append(label)
    raise AssertionError("Tab never leaves the page")


@pytest.mark.slow
def test_tab_comes_to_every_player_in_order(opened: Opened):
    page = opened("run")
    count = page.evaluate("document.querySelectorAll('audio').length")
    assert count == 2 * len(PROMPTS) + 2
    stops = reached(page)
    assert stops[0].startswith("Skip")
    players = [stop for stop in stops if stop.startswith("player ")]
    assert players == [f"player {index}" for index in range(count)]
    assert sum(stop.startswith("Switch at the same moment") for stop in stops) == len(PROMPTS) + 1


def playing(page: Page, index: int) -> None:
    """Waits until this player, and no other, plays."""
    page.wait_for_function(
        """index => [...document.querySelectorAll('audio')].every(
             (one, at) => one.paused === (at !== index)) &&
             document.querySelectorAll('audio')[index].currentTime >= 0""",
        arg=index,
    )


def test_players_play_by_keyboard_one_at_a_time(opened: Opened):
    page = opened("run")
    players = page.locator("audio")
    # Sounds of a test are over before it has looked.
    page.evaluate("document.querySelectorAll('audio').forEach(one => { one.loop = true; })")
    players.nth(0).focus()
    page.keyboard.press("Space")
    playing(page, 0)
    players.nth(1).focus()
    page.keyboard.press("Space")
    playing(page, 1)
    # The button of the first row goes on in the other version, then back.
    page.locator(".switch").first.focus()
    page.keyboard.press("Enter")
    playing(page, 0)
    page.keyboard.press("Enter")
    playing(page, 1)
    players.nth(1).focus()
    page.keyboard.press("Space")
    page.wait_for_function("[...document.querySelectorAll('audio')].every(one => one.paused)")


def test_without_script_everything_is_there(browser: Browser, pages: dict[str, Path]):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["run"].as_uri())
    assert page.locator("audio[controls]").count() == 2 * len(PROMPTS) + 2
    assert page.locator(".switch:visible").count() == 0
    assert page.get_by_role("heading", name="Memorisation").count() == 1
    context.close()


def test_the_headline_comes_before_everything_else(opened: Opened):
    headings = opened("run").get_by_role("heading").all_inner_texts()
    assert headings[0] == "run"
    assert "It copies its training clips: 12 of 64 takes." in headings[1]
    order = [one for one in headings if one in {
        "Listen", "Measurements", "Training", "Before you trust this", "The recordings",
        "Memorisation", "Settings", "Licence and rights",
    }]  # fmt: skip
    assert order == [
        "Listen", "Measurements", "Training", "Before you trust this", "The recordings",
        "Memorisation", "Settings", "Licence and rights",
    ]  # fmt: skip
