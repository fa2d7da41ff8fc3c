"""Compare: the same prompts and seeds from base and adapter, and what an evaluation says."""

from __future__ import annotations

from typing import Any

import gradio as gr

from tunesmith.formats.sound import read_made_of
from tunesmith.studio import shown
from tunesmith.studio.parts import TICK_S, Studio, button, chosen, clock, news, on, stop_button
from tunesmith.studio.train_tab import _words
from tunesmith.studio.work import elsewhere


def compare_tab(studio: Studio, demo: gr.Blocks, tab: gr.Tab) -> None:
    """Build the tab."""
    places, work = studio.places, studio.work
    seen, watched = gr.State({}), gr.State("")
    with gr.Row():
        adapter = gr.Dropdown(label="Adapter", choices=[], elem_id="compare-adapter")
        seconds = gr.Number(label="Seconds of each", value=4.0, minimum=0.5)
        seed = gr.Number(label="Seed of the first", value=1, precision=0)
    prompts = gr.Textbox(
        label="Prompts, one a line", lines=3, elem_id="compare-prompts",
        info="Base and adapter get the same prompts and seeds.",
    )  # fmt: skip
    with gr.Row():
        play = button("Play base and adapter", "compare", main=True)
        stop = button("Stop")
    status = gr.HTML(elem_id="compare-status")
    heard = gr.HTML(elem_id="compared")
    gr.Markdown(
        "### Did it help?\nMeasures base and adapter against the held-out recordings: nearer, "
        "forgotten, copied. More takes tell more surely and take longer."
    )
    with gr.Row(elem_classes="ends"):
        takes = gr.Number(label="Takes of each", value=64, precision=0, minimum=3)
        others = gr.Number(
            label="Takes of other prompts", value=32, precision=0, minimum=0,
            info="To see what is forgotten; 0 leaves it out.",
        )  # fmt: skip
        measure = button("Evaluate", "evaluate")
    verdict = gr.HTML(elem_id="verdict")
    timer = gr.Timer(TICK_S, active=False)

    def begin(label: str, text: str, seconds: float, seed: float) -> tuple[str, Any]:
        folder = places.adapter(label)
        lines = _words(text) or _asked(folder)
        key = f"compare/{label}"
        work.start(
            key,
            f"Playing {label}",
            elsewhere(
                "tunesmith.studio.jobs:compare",
                adapter=str(folder),
                out=str(folder / "compared"),
                prompts=lines,
                seed=int(seed or 0),
                seconds=float(seconds or 0),
            ),
        )
        return key, clock(work, key)

    def evaluate(label: str, takes: float, others: float) -> tuple[str, Any]:
        folder = places.adapter(label)
        key = f"evaluate/{label}"
        work.start(
            key,
            f"Evaluating {label}",
            elsewhere(
                "tunesmith.studio.jobs:evaluate",
                run=str(folder),
                takes=int(takes or 0),
                general_takes=int(others or 0),
            ),
        )
        return key, clock(work, key)

    def tick(seen: dict, key: str, label: str | None) -> tuple:
        said = news(seen, "status", shown.status(work.of(key)))
        compared, measured = work.of(f"compare/{label}"), work.of(f"evaluate/{label}")
        rows = compared.result if compared and compared.state == "done" else []
        html = shown.takes(
            [
                (
                    row["prompt"],
                    f"seed {row['seed']}",
                    [(who, studio.shelf.sound(file)) for who, file in row["sounds"].items()],
                )
                for row in rows
            ]
        )
        told = ""
        if measured and measured.state == "done":
            found = measured.result
            told = shown.evaluated(found["verdicts"], studio.shelf.page(found["page"]))
        elif label and (page := studio.shelf.page(places.adapter(label) / "report.html")):
            told = f"<p>{shown.link(page, 'Report of this run')}</p>"
        return (
            seen, said, news(seen, "heard", html), news(seen, "verdict", told), clock(work, key)
        )  # fmt: skip

    def choose(seen: dict, key: str, label: str | None) -> tuple:
        text = "\n".join(_asked(places.adapter(label))) if label else ""
        return text, *tick(seen, key, label)

    def lists(seen: dict, label: str | None, text: str) -> tuple:
        names = places.adapters()
        running = work.running("compare/") or work.running("evaluate/")
        key = running[0].key if running else seen.get("key", "")
        label = label if label in names else names[0] if names else None
        text = text or ("\n".join(_asked(places.adapter(label))) if label else "")
        return chosen(names, label), text, key, gr.Timer(TICK_S, active=True)

    shows = [seen, status, heard, verdict, timer]
    on(play.click, begin, [adapter, prompts, seconds, seed], [watched, timer])
    on(measure.click, evaluate, [adapter, takes, others], [watched, timer])
    on(timer.tick, tick, [seen, watched, adapter], shows)
    on(adapter.input, choose, [seen, watched, adapter], [prompts, *shows])
    on(tab.select, lists, [seen, adapter, prompts], [adapter, prompts, watched, timer])
    stop_button(studio, stop, watched)


def _asked(folder) -> list[str]:
    """Prompts of a run's previews: captions of its own data."""
    found = []
    for step in sorted((folder / "previews").glob("step-*"))[:1]:
        for file in sorted(step.glob("*.flac")):
            try:
                found.append(str(read_made_of(file).get("prompt") or ""))
            except (OSError, RuntimeError):
                continue
    return [prompt for prompt in found if prompt][:4]
