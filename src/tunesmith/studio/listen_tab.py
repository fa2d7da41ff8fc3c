"""Listen: a blind listening test from runs, shown to listeners, and what they heard."""

from __future__ import annotations

import shlex
from typing import Any

import gradio as gr

from tunesmith.listen import analyse, write_results
from tunesmith.listen.words import headline, remarks, sentences
from tunesmith.studio import shown
from tunesmith.studio.parts import TICK_S, Studio, button, chosen, clock, news, on, stop_button
from tunesmith.studio.train_tab import _words
from tunesmith.studio.work import Piece, elsewhere

_KINDS = [
    ("A/B: which do you prefer?", "ab"),
    ("ABX: can they be told apart?", "abx"),
    ("MOS: how good is it, 1 to 5?", "mos"),
]


def listen_tab(studio: Studio, demo: gr.Blocks, tab: gr.Tab) -> None:
    """Build the tab."""
    places, work = studio.places, studio.work
    seen, watched = gr.State({}), gr.State("")
    with gr.Row():
        sides = gr.Dropdown(
            label="Adapters to compare", choices=[], multiselect=True, elem_id="sides", scale=2,
            info="Their base takes part by itself.",
        )  # fmt: skip
        kind = gr.Dropdown(label="Kind", choices=_KINDS, value="ab")
        name = gr.Textbox(label="Name of the test", value="mine")
    with gr.Row():
        title = gr.Textbox(
            label="Title that listeners read", value="Listening test", scale=2,
            info="It must not say what is compared.",
        )  # fmt: skip
        items = gr.Number(label="Items", value=12, precision=0, minimum=1)
        seconds = gr.Number(label="Seconds of each", value=4.0, minimum=0.5)
    prompts = gr.Textbox(
        label="Prompts, one a line", lines=2, info="Empty: captions of the held-out recordings."
    )
    with gr.Row():
        make = button("Make the test", "make-test", main=True)
        stop = button("Stop")
    status = gr.HTML(elem_id="listen-status")
    gr.Markdown("### Tests")
    with gr.Row(elem_classes="ends"):
        test = gr.Dropdown(label="Test", choices=[], elem_id="test")
        listeners = gr.Number(label="Listeners", value=5, precision=0, minimum=1)
        serve = button("Show it to listeners", "serve-test")
        end = button("Stop showing")
        results = button("Results", "results")
    links = gr.HTML(elem_id="links")
    found = gr.HTML(elem_id="found")
    timer = gr.Timer(TICK_S, active=False)

    def begin(sides, kind, name, title, items, seconds, prompts) -> tuple[str, Any]:
        folder = places.folder("tests", name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        key = f"test/{folder.name}"
        work.start(
            key,
            f"Making {folder.name}",
            elsewhere(
                "tunesmith.studio.jobs:listening_test",
                folder=str(folder),
                sides=[str(places.adapter(label)) for label in sides or ()],
                kind=kind,
                title=title or "Listening test",
                items=int(items or 0),
                seconds=float(seconds or 0),
                prompts=_words(prompts),
            ),
        )
        return key, clock(work, key)

    def show(name: str, listeners: float) -> Any:
        folder = places.folder("tests", name)
        work.start(
            f"show/{name}",
            f"Showing {name}",
            elsewhere(
                "tunesmith.studio.jobs:serve_test",
                folder=str(folder),
                host=studio.host,
                listeners=int(listeners or 1),
            ),
        )
        return clock(work, f"show/{name}")

    def tick(seen: dict, key: str, name: str | None) -> tuple:
        piece, showing = work.of(key), work.of(f"show/{name}")
        said = shown.status(piece)
        if piece is not None and piece.state == "done":
            made = piece.result
            line = f"{', '.join(made['sides'])}: {made['items']} items."
            said += shown.note(line) + "".join(shown.note(one) for one in made["notes"])
        names = gr.skip()
        if seen.get("tests") != (now := places.tests()):
            seen["tests"] = now
            names = chosen(now, name if name in now else None)
        active = any(one is not None and one.runs for one in (piece, showing))
        return (
            seen,
            news(seen, "status", said),
            news(seen, "links", _links(places.root / "tests", name, showing)),
            names,
            gr.Timer(TICK_S, active=active),
        )

    def tell(name: str) -> str:
        folder = places.folder("tests", name)
        heard = analyse(folder)
        page = studio.shelf.page(write_results(heard, folder / "results.html"))
        said = [*sentences(heard), *remarks(heard)]
        return shown.verdict(headline(heard), "even", said) + (
            f"<p>{shown.link(page, 'All results')}</p>"
        )

    def hide(name: str) -> None:
        work.stop(f"show/{name}")

    def lists(labels: list[str] | None, seen: dict) -> tuple:
        names = places.adapters()
        kept = [label for label in labels or [] if label in names]
        running = work.running("test/")
        seen.pop("tests", None)
        key = running[0].key if running else ""
        return gr.Dropdown(choices=names, value=kept), key, gr.Timer(TICK_S, active=True)

    on(make.click, begin, [sides, kind, name, title, items, seconds, prompts], [watched, timer])
    on(serve.click, show, [test, listeners], [timer])
    on(end.click, hide, [test], [])
    on(results.click, tell, [test], [found], busy=True)
    shows = [seen, status, links, test, timer]
    on(timer.tick, tick, [seen, watched, test], shows)
    on(test.input, tick, [seen, watched, test], shows)
    on(tab.select, lists, [sides, seen], [sides, watched, timer])
    stop_button(studio, stop, watched)


def _links(tests: Any, name: str | None, showing: Piece | None) -> str:
    """One link a listener while the test is shown; else the command that shows it."""
    if not name:
        return ""
    if showing is not None and showing.state == "failed":
        return shown.note(showing.error, "bad")
    if showing is None or not showing.runs:
        command = f"tunesmith listen serve {shlex.quote(str(tests / name))} --listeners 10"
        return f"<p>Or in a terminal: <code>{shown.text(command)}</code></p>"
    told = showing.told.get("links")
    if told is None:
        return shown.note("starting ...")
    rows = "".join(f"<li>{shown.link(one, one)}</li>" for one in told["personal"])
    warning = (
        shown.note("Other machines can reach this test, without encryption.")
        if told["exposed"]
        else ""
    )
    return f"<p>A link for each listener:</p><ul class='said'>{rows}</ul>{warning}"
