"""Train: what a run will take, the run itself while it goes, stop and resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from tunesmith.errors import UserError
from tunesmith.families import EMBEDDED
from tunesmith.registry import recipes
from tunesmith.studio import shown
from tunesmith.studio.parts import (
    TICK_S,
    Studio,
    button,
    chosen,
    clock,
    methods,
    news,
    number,
    on,
    optional,
)
from tunesmith.studio.work import elsewhere
from tunesmith.training.log import read_metrics

_NONE = "none"


def train_tab(studio: Studio, demo: gr.Blocks, tab: gr.Tab) -> None:
    """Build the tab."""
    places, work = studio.places, studio.work
    seen = gr.State({})
    with gr.Row():
        name = gr.Textbox(label="Name of the run", value="mine")
        data = gr.Dropdown(label="Data set", choices=[], elem_id="train-data")
        general = gr.Dropdown(
            label="Other recordings, to see what is forgotten", choices=[(_NONE, "")], value=""
        )
    with gr.Row():
        base = gr.Dropdown(
            label="Base",
            info="A folder or a hub id can be typed.",
            choices=list(EMBEDDED),
            value="pocket",
            allow_custom_value=True,
        )
        recipe = gr.Dropdown(
            label="Recipe",
            info="Settings for a purpose.",
            choices=[(_NONE, "")]
            + [(f"{key}: {told['summary']}", key) for key, told in recipes().items()],
            value="",
        )
        method = gr.Dropdown(
            label="Method",
            info="What trains.",
            choices=[("the recipe's, else lora", ""), *((one, one) for one in methods())],
            value="",
        )
        steps = optional("Steps", "Of the optimizer.", elem_id="train-steps")
    with gr.Accordion("More settings", open=False):
        words = gr.Textbox(
            label="KEY=VALUE, one a line",
            lines=3,
            placeholder="train.lr=5e-5\nmethod.rank=32\nauto_fix=true",
            elem_id="train-words",
        )
    with gr.Row():
        plan = button("Plan", "plan")
        start = button("Train", "train", main=True)
    planned = gr.HTML(elem_id="planned")
    gr.Markdown("### Run")
    with gr.Row(elem_classes="ends"):
        run = gr.Dropdown(label="Run", choices=[], elem_id="run")
        stop = button("Stop and save", "train-stop")
        resume = button("Resume", "train-resume")
    status = gr.HTML(elem_id="train-status")
    curves = gr.HTML(elem_id="curves")
    pitfalls = gr.HTML(elem_id="pitfalls")
    previews = gr.HTML(elem_id="previews")
    timer = gr.Timer(TICK_S, active=False)

    def asked(name, data, general, base, recipe, method, steps, words) -> dict[str, Any]:
        return {
            "settings": {
                "base": places.base(base),
                "method": method or (None if recipe else "lora"),
                "data": str(places.folder("data", data)) if data else None,
                "data.general": str(places.folder("data", general)) if general else None,
                "out": str(places.folder("runs", name)),
                "train.steps": number(steps, "steps"),
            },
            "words": _words(words),
            "recipe": recipe or None,
        }

    def tell_plan(*given: Any) -> str:
        from tunesmith.studio.jobs import configured
        from tunesmith.training.plan import lines, make_plan

        found = make_plan(configured(**asked(*given), planning=True))
        return f'<pre class="plan">{shown.text(chr(10).join(lines(found)))}</pre>'

    def begin(*given: Any) -> tuple:
        told = asked(*given)
        if not given[1]:
            raise UserError("no data set", "prepare one on the first tab")
        _check(told)
        return _started(Path(told["settings"]["out"]), {**told, "resume": None}, "Training")

    def go_on(name: str) -> tuple:
        folder = places.folder("runs", name)
        told = {"settings": {}, "words": [], "recipe": None, "resume": str(folder)}
        return _started(folder, told, "Going on with")

    def _started(folder: Path, told: dict[str, Any], verb: str) -> tuple:
        work.start(
            f"train/{folder.name}",
            f"{verb} {folder.name}",
            elsewhere("tunesmith.studio.jobs:train_run", **told),
        )
        names = list(dict.fromkeys([folder.name, *places.runs()]))
        return chosen(names, folder.name), gr.Timer(TICK_S, active=True)

    def tick(seen: dict, name: str | None) -> tuple:
        if not name:
            blank = [news(seen, key, "") for key in ("curves", "pitfalls", "previews")]
            idle = news(seen, "status", shown.note("No run yet."))
            return seen, idle, *blank, gr.Timer(TICK_S, active=False)
        folder = places.folder("runs", name)
        piece = work.of(f"train/{name}")
        said = shown.status(piece, _standing(folder)) + _report(studio, folder)
        if piece is not None and piece.state == "stopped":
            said += shown.note(_standing(folder))
        log = folder / "metrics.jsonl"
        size = (name, log.stat().st_size if log.is_file() else 0)
        drawn = wrong = gr.skip()
        if seen.get("size") != size:
            seen["size"] = size
            lines = read_metrics(log)
            drawn = news(seen, "curves", shown.curves(lines, _family(folder)))
            wrong = news(seen, "pitfalls", shown.pitfalls(lines))
        heard = news(seen, "previews", shown.previews(folder, studio.shelf))
        return (
            seen, news(seen, "status", said), drawn, wrong, heard, clock(work, f"train/{name}")
        )  # fmt: skip

    def stopped(name: str) -> None:
        if not work.stop(f"train/{name}"):
            raise UserError(f"{name or 'nothing'} is not training now")

    def lists(data: str | None, run: str | None) -> tuple:
        sets, runs = places.data_sets(), _runs(studio)
        return (
            chosen(sets, data),
            gr.Dropdown(choices=[(_NONE, ""), *((one, one) for one in sets)]),
            chosen(runs, run),
            gr.Timer(TICK_S, active=True),
        )

    settings = [name, data, general, base, recipe, method, steps, words]
    on(plan.click, tell_plan, settings, [planned], busy=True)
    on(start.click, begin, settings, [run, timer])
    on(resume.click, go_on, [run], [run, timer])
    on(stop.click, stopped, [run], [])
    shows = [seen, status, curves, pitfalls, previews, timer]
    on(timer.tick, tick, [seen, run], shows)
    on(run.input, tick, [seen, run], shows)
    on(tab.select, lists, [data, run], [data, general, run, timer])
    on(demo.load, lambda: lists(None, None), [], [data, general, run, timer])


def _runs(studio: Studio) -> list[str]:
    """Runs, those that train now first: a page that is loaded anew finds its own."""
    running = [piece.key.removeprefix("train/") for piece in studio.work.running("train/")]
    return list(dict.fromkeys([*running, *studio.places.runs()]))


def _words(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _check(told: dict[str, Any]) -> None:
    """Faults of the configuration now, rather than from the process that trains."""
    from tunesmith.studio.jobs import configured
    from tunesmith.training.guards import holds_run

    out = Path(told["settings"]["out"])
    if holds_run(out):
        raise UserError(f"'{out.name}' is a run already", "resume it, or give another name")
    configured(**told)


def _standing(folder: Path) -> str:
    """How a run stands that nothing works on now."""
    if (folder / "adapter.json").is_file():
        return "This run is finished."
    return "This run is not finished: Resume goes on where it was saved."


def _report(studio: Studio, folder: Path) -> str:
    address = studio.shelf.page(folder / "report.html")
    return f"<p>{shown.link(address, 'Report of this run')}</p>" if address else ""


def _family(folder: Path) -> str:
    try:
        return str(json.loads((folder / "run.json").read_bytes())["base"]["family"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
