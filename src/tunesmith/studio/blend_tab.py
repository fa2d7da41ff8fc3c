"""Blend: several adapters by sliders, heard at once, and kept as an adapter of their own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from tunesmith.errors import UserError
from tunesmith.families import EMBEDDED
from tunesmith.formats.sound import read_made_of
from tunesmith.studio import shown
from tunesmith.studio.band import triggers
from tunesmith.studio.parts import TICK_S, Studio, button, clock, news, on, stop_button

MOST = 6
"""Sliders."""

_KEY = "blend"
_SHOWN = 8


def blend_tab(studio: Studio, demo: gr.Blocks, tab: gr.Tab) -> None:
    """Build the tab."""
    places, work = studio.places, studio.work
    folder = places.root / "takes"
    seen, watched = gr.State({}), gr.State(_KEY)
    with gr.Row():
        adapters = gr.Dropdown(
            label="Adapters", choices=[], multiselect=True, max_choices=MOST, scale=3,
            info="Of one base; none is the base alone.", elem_id="blend-adapters",
        )  # fmt: skip
        base = gr.Dropdown(
            label="Base", info="Where no adapter is chosen.", choices=list(EMBEDDED),
            value="pocket", allow_custom_value=True,
        )  # fmt: skip
    with gr.Row():
        sliders = [
            gr.Slider(-1.0, 2.0, value=1.0, step=0.05, label=f"{place}", visible=False,
                      elem_id=f"weight-{place}", min_width=240)
            for place in range(MOST)
        ]  # fmt: skip
    hint = gr.HTML()
    with gr.Row():
        prompt = gr.Textbox(label="Prompt", scale=3, elem_id="blend-prompt")
        seconds = gr.Number(label="Seconds", value=4.0, minimum=0.5)
        seed = gr.Number(label="Seed", value=0, precision=0)
    with gr.Row():
        play = button("Hear it", "hear", main=True)
        stop = button("Stop")
    status = gr.HTML(elem_id="blend-status")
    heard = gr.HTML(elem_id="heard")
    gr.Markdown("### Keep it\nThe blend as one adapter, exactly the weighted sum.")
    with gr.Row(elem_classes="ends"):
        name = gr.Textbox(label="Name", value="blend")
        keep = button("Export the blend", "keep-blend")
    kept = gr.HTML(elem_id="kept")
    timer = gr.Timer(TICK_S, active=False)

    def weighed(labels: list[str] | None, weights: tuple) -> dict[str, tuple[Path, float]]:
        pairs = zip(labels or [], weights, strict=False)
        return {label: (places.adapter(label), float(weight or 0)) for label, weight in pairs}

    def choose(labels: list[str] | None) -> list:
        labels = labels or []
        shares = [
            gr.Slider(
                label=labels[place] if place < len(labels) else "",
                visible=place < len(labels),
                value=round(1 / max(1, len(labels)), 2) if place < len(labels) else 0.0,
            )
            for place in range(MOST)
        ]
        words = [word for label in labels for word in triggers(places.adapter(label))]
        said = f"Words that call for what they were taught: {', '.join(words)}" if words else ""
        return [*shares, shown.note(said)]

    def begin(labels, base, text, seconds, seed, *weights) -> Any:
        parts = weighed(labels, weights)
        chosen = places.base(base)
        out = folder / f"{time.time_ns()}.flac"
        work.start(
            _KEY,
            "Playing",
            lambda stop, on_event: studio.band.play(
                chosen,
                parts,
                text or "",
                seconds=float(seconds or 0),
                seed=int(seed or 0),
                out=out,
                stop=stop,
                on_event=on_event,
            ),
        )
        return clock(work, _KEY)

    def tick(seen: dict) -> tuple:
        piece = work.of(_KEY)
        said = shown.status(piece) if piece and piece.state != "done" else ""
        html = _heard(studio, folder)
        return seen, news(seen, "status", said), news(seen, "heard", html), clock(work, _KEY)

    def export(labels, name, *weights) -> tuple:
        parts = weighed(labels, weights)
        if len(parts) < 2:
            raise UserError("a blend needs two adapters", "choose another one above")
        from tunesmith.api import blend

        out = places.folder("blends", name)
        made = blend([(label, path, weight) for label, (path, weight) in parts.items()], out)
        line = f"blends/{out.name}: one adapter of rank {made.rank}, in {out}"
        return shown.note(line, "good"), gr.Dropdown(choices=places.adapters())

    on(adapters.change, choose, [adapters], [*sliders, hint])
    on(play.click, begin, [adapters, base, prompt, seconds, seed, *sliders], [timer])
    on(timer.tick, tick, [seen], [seen, status, heard, timer])
    on(keep.click, export, [adapters, name, *sliders], [kept, adapters], busy=True)
    on(
        tab.select,
        lambda: (gr.Dropdown(choices=places.adapters()), gr.Timer(TICK_S, active=True)),
        [],
        [adapters, timer],
    )
    stop_button(studio, stop, watched)


def _heard(studio: Studio, folder: Path) -> str:
    """The latest takes, with what they are made of."""
    rows = []
    for file in sorted(folder.glob("*.flac"), reverse=True)[:_SHOWN]:
        try:
            told = read_made_of(file)
        except (OSError, RuntimeError):
            continue
        weights = told.get("weights") or {}
        who = " + ".join(f"{weight:g} × {name}" for name, weight in weights.items())
        what = f"seed {told.get('seed')}, {told.get('seconds')} s, {told.get('base')}"
        sound = studio.shelf.sound(file)
        rows.append((str(told.get("prompt", "")), what, [(who or "base", sound)]))
    return shown.takes(rows)
