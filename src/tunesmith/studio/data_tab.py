"""Data: a folder of recordings becomes a data set, with its report and its captions to edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from tunesmith.data.load import load_dataset
from tunesmith.data.needs import LIKE, NEEDS
from tunesmith.data.recaption import recaption
from tunesmith.data.screen import FAULTS
from tunesmith.errors import UserError
from tunesmith.families import EMBEDDED
from tunesmith.studio import shown
from tunesmith.studio.parts import (
    TICK_S,
    Studio,
    button,
    chosen,
    clock,
    news,
    number,
    on,
    optional,
    stop_button,
)
from tunesmith.studio.work import elsewhere

_HEADERS = ["clip", "caption", "source"]
_ROWS = 5000
"""Captions in the table; larger sets are edited in their files."""


def data_tab(studio: Studio, demo: gr.Blocks) -> gr.Dropdown:
    """Build the tab; gives its list of data sets."""
    places, work = studio.places, studio.work
    seen, watched = gr.State({}), gr.State("")
    with gr.Row():
        with gr.Column(scale=3):
            source = gr.Textbox(
                label="Folder of recordings on this machine", placeholder="/home/me/recordings"
            )
            with gr.Accordion("Or upload them", open=False):
                files = gr.File(
                    label="Recordings, and their .txt captions",
                    file_count="multiple",
                    height=150,
                )
        with gr.Column(scale=2):
            name = gr.Textbox(label="Name of the data set", value="mine")
            base = gr.Dropdown(
                label="For which base",
                info="Sets rate, channels and the longest clip; a folder or a hub id can be typed.",
                choices=list(EMBEDDED),
                value="pocket",
                allow_custom_value=True,
            )
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            min_s = optional("Shortest clip, s")
            max_s = optional("Longest clip, s")
            lufs = optional("Loudness to bring them to, LUFS")
            valid = optional("Share to validate with")
        with gr.Row():
            caption = gr.Textbox(label="Caption of recordings without one")
            trigger = gr.Textbox(label="Trigger word before every caption")
            keep = gr.Dropdown(label="Faults to let in", choices=list(FAULTS), multiselect=True)
        rights = gr.Textbox(label="Rights in the recordings", placeholder="my own; CC0 ...")
        with gr.Row():
            voice = gr.Checkbox(label="A speaking voice", value=False)
            consent = gr.Textbox(label="Consent of whoever speaks", scale=3)
            language = gr.Textbox(label="Language", placeholder="en")
    with gr.Row():
        start = button("Prepare", "prepare", main=True)
        stop = button("Stop")
    status = gr.HTML(elem_id="data-status")
    gr.Markdown("### Data set")
    with gr.Row(elem_classes="ends"):
        data = gr.Dropdown(label="Data set", choices=[], elem_id="data-set")
        method = gr.Dropdown(
            label="Enough for", choices=[*(need.method for need in NEEDS), *LIKE], value="lora"
        )
        look = button("Look through it")
    report = gr.HTML(elem_id="data-report")
    with gr.Column(visible=False) as editor:
        gr.Markdown(
            "### Captions\nWhat training reads. Click a row to hear its clip; edit, then save."
        )
        player = gr.HTML(elem_id="caption-player")
        table = gr.Dataframe(
            headers=_HEADERS,
            datatype="str",
            type="array",
            interactive=True,
            static_columns=[0, 2],
            column_count=3,
            column_widths=["28%", "57%", "15%"],
            wrap=True,
            max_height=420,
            show_search="filter",
            buttons=[],
            elem_id="captions",
            show_label=False,
        )
        with gr.Row():
            save = button("Save captions", "save-captions")
        saved = gr.HTML(elem_id="captions-saved")
    timer = gr.Timer(TICK_S, active=False)

    def begin(source, files, name, base, method, *rest) -> tuple[str, Any]:
        folder = places.folder("data", name)
        given = places.source(source) if (source or "").strip() else None
        if given is None and files:
            given, _ = places.take_in(name, files)
        if given is None:
            raise UserError("no recordings", "give a folder, or upload some")
        work.start(
            f"data/{folder.name}",
            f"Preparing {folder.name}",
            elsewhere(
                "tunesmith.studio.jobs:prepare",
                source=str(given),
                dest=str(folder),
                base=places.base(base),
                method=method,
                settings=_settings(*rest),
            ),
        )
        places.remember_source(folder.name, given)
        return f"data/{folder.name}", clock(work, f"data/{folder.name}")

    def check(name: str, method: str) -> tuple[str, Any]:
        folder = places.folder("data", name)
        work.start(
            f"data/{folder.name}",
            f"Looking through {folder.name}",
            elsewhere("tunesmith.studio.jobs:look", folder=str(folder), method=method),
        )
        return f"data/{folder.name}", clock(work, f"data/{folder.name}")

    def tick(seen: dict, key: str) -> tuple:
        piece = work.of(key)
        said = news(seen, "status", shown.status(piece, "Nothing is being prepared."))
        if piece is None or piece.state != "done" or seen.get("ended") == piece.ended_s:
            return seen, said, *[gr.skip()] * 4, clock(work, key)
        seen["ended"] = piece.ended_s
        folder = Path(piece.result["folder"])
        html = shown.data_report(piece.result, folder, places.source_of(folder.name), studio.shelf)
        names = chosen(places.data_sets(), folder.name)
        return seen, said, html, *edited(folder.name), names, clock(work, key)

    def edited(name: str | None) -> tuple:
        rows = _captions(places.folder("data", name)) if name else []
        return rows, gr.Column(visible=bool(rows))

    def choose(name: str) -> tuple:
        return "", *edited(name)

    def reload() -> tuple:
        running = work.running("data/")
        names = places.data_sets()
        key = running[0].key if running else f"data/{names[0]}" if names else ""
        name = key.removeprefix("data/")
        shown_now = edited(name if name in names else None)
        return key, *shown_now, chosen(names, name), gr.Timer(TICK_S, active=True)

    def hear(event: gr.SelectData, name: str) -> str:
        clip = str(event.row_value[0])
        path = places.folder("data", name) / clip
        # The name came back from the browser: only what stands in the data set is lent.
        if clip not in {row[0] for row in _captions(places.folder("data", name))}:
            return shown.note("that clip is not in the data set")
        return f"<p>{shown.text(clip)}</p>{shown.player(studio.shelf.sound(path), clip)}"

    def write(name: str, rows: Sequence[Sequence[Any]]) -> tuple[str, Any]:
        folder = places.folder("data", name)
        told = {str(row[0]): str(row[1] or "") for row in rows if row and row[0]}
        changed = recaption(folder, told)
        return shown.caption_note(changed), _captions(folder)

    settings = [min_s, max_s, lufs, valid, caption, trigger, keep, rights, voice, consent, language]
    on(start.click, begin, [source, files, name, base, method, *settings], [watched, timer])
    on(look.click, check, [data, method], [watched, timer])
    on(data.input, choose, [data], [report, table, editor])
    on(timer.tick, tick, [seen, watched], [seen, status, report, table, editor, data, timer])
    on(table.select, hear, [data], [player])
    on(save.click, write, [data, table], [saved, table])
    on(demo.load, reload, [], [watched, table, editor, data, timer])
    stop_button(studio, stop, watched)
    return data


def _captions(folder: Path) -> list[list[str]]:
    """Rows of the table: varied versions follow their originals and are not shown."""
    if not folder.is_dir():
        return []
    clips = [clip for clip in load_dataset(folder) if not clip.variant_of]
    return [
        [f"{clip.split}/{clip.path.name}", clip.caption, clip.caption_source]
        for clip in clips[:_ROWS]
    ]


def _settings(
    min_s, max_s, lufs, valid, caption, trigger, keep, rights, voice, consent, language
) -> dict[str, Any]:
    """Arguments of ``prepare``; what was left open is not among them."""
    given = {
        "min_s": number(min_s, "shortest clip"),
        "max_s": number(max_s, "longest clip"),
        "normalise_lufs": number(lufs, "loudness"),
        "valid_share": number(valid, "share to validate with"),
        "caption": caption,
        "trigger": trigger,
        "rights": rights,
        "keep": list(keep or ()),
        "consent": consent,
        "language": language,
    }
    kept = {name: value for name, value in given.items() if value not in (None, "", [])}
    return kept | {"voice": bool(voice)}
