"""Export: an adapter for other programs, and its card."""

from __future__ import annotations

import shlex
from typing import Any

import gradio as gr

from tunesmith.studio import shown
from tunesmith.studio.parts import TICK_S, Studio, button, chosen, clock, news, on, stop_button
from tunesmith.studio.work import elsewhere

_FORMS = [
    ("merged checkpoint", "merged"),
    ("PEFT adapter", "peft"),
    ("diffusers LoRA", "diffusers"),
]


def export_tab(studio: Studio, demo: gr.Blocks, tab: gr.Tab) -> None:
    """Build the tab."""
    places, work = studio.places, studio.work
    seen, watched = gr.State({}), gr.State("")
    with gr.Row():
        adapter = gr.Dropdown(label="Adapter", choices=[], elem_id="export-adapter")
        form = gr.Dropdown(label="Form", choices=_FORMS, value="merged", elem_id="form")
        name = gr.Textbox(label="Name", value="mine-merged")
    with gr.Row():
        write = button("Export", "export", main=True)
        stop = button("Stop")
    status = gr.HTML(elem_id="export-status")
    gr.Markdown("### Card\nWhat the hub would show: base, method, measures, rights.")
    with gr.Row():
        show = button("Show the card", "show-card")
    hint = gr.HTML()
    card = gr.Textbox(
        label="README.md", lines=12, max_lines=24, interactive=False, visible=False,
        buttons=["copy"], elem_id="card",
    )  # fmt: skip
    timer = gr.Timer(TICK_S, active=False)

    def begin(label: str, form: str, name: str) -> tuple[str, Any]:
        folder, out = places.adapter(label), places.folder("exports", name)
        out.parent.mkdir(parents=True, exist_ok=True)
        key = f"export/{out.name}"
        work.start(
            key,
            f"Exporting {label}",
            elsewhere("tunesmith.studio.jobs:export", adapter=str(folder), form=form, out=str(out)),
        )
        return key, clock(work, key)

    def tick(seen: dict, key: str) -> tuple:
        piece = work.of(key)
        said = shown.status(piece)
        if piece is not None and piece.state == "done":
            said += "".join(shown.note(line) for line in piece.result)
        return seen, news(seen, "status", said), clock(work, key)

    def describe(label: str) -> tuple[Any, str]:
        from tunesmith.formats.card import model_card

        folder = places.adapter(label)
        command = f"tunesmith push {shlex.quote(str(folder))} OWNER/NAME"
        hint = f"<p>To share it on the hub: <code>{shown.text(command)}</code></p>"
        return gr.Textbox(value=model_card(folder), visible=True), hint

    on(write.click, begin, [adapter, form, name], [watched, timer])
    on(timer.tick, tick, [seen, watched], [seen, status, timer])
    on(show.click, describe, [adapter], [card, hint])
    on(tab.select, lambda label: chosen(places.adapters(), label), [adapter], [adapter])
    stop_button(studio, stop, watched)
