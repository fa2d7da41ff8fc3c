"""What runs in a process of its own: each job calls the public functions and returns plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.config import Loaded, load_config
from tunesmith.data import prepare as prepare_recordings
from tunesmith.data.check import check
from tunesmith.data.recaption import edited, restore
from tunesmith.evaluation.evaluate import Wishes
from tunesmith.evaluation.evaluate import evaluate as measure
from tunesmith.evaluation.subjects import wanted
from tunesmith.evaluation.takes import make_takes
from tunesmith.families import base_limits
from tunesmith.formats.adapter import read_card
from tunesmith.formats.hub import export_diffusers, export_peft
from tunesmith.formats.merged import merge
from tunesmith.listen import create, from_words, serve
from tunesmith.report.check import write_check
from tunesmith.report.evaluation import report_on_evaluation
from tunesmith.report.run import report_on_run
from tunesmith.training.recipe import told, with_data
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag

OnEvent = Callable[[str, Mapping[str, Any]], None]


def prepare(
    *,
    source: str,
    dest: str,
    base: str,
    method: str,
    settings: Mapping[str, Any],
    stop: StopFlag,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Prepare recordings, keep the captions that were edited, and check what came of it."""
    rate_hz, channels, longest_s = base_limits(base)
    before = edited(dest)
    made = prepare_recordings(
        source,
        dest,
        sample_rate_hz=rate_hz,
        channels=channels,
        base_max_s=longest_s,
        on_progress=lambda at: on_event(
            "prepare", {"stage": at.stage, "done": at.done, "total": at.total}
        ),
        should_stop=stop,
        **settings,
    )
    if before and not made.unchanged:
        kept = restore(dest, before)
        on_event("say", {"line": f"{kept} of {len(before)} edited captions were kept"})
    found = look(folder=dest, method=method, stop=stop, on_event=on_event)
    return found | {
        "recordings": made.recordings,
        "rejected": made.rejected,
        "faults": dict(made.faults),
        "warnings": list(made.warnings),
    }


def look(*, folder: str, method: str, stop: StopFlag, on_event: OnEvent) -> dict[str, Any]:
    """``check`` as plain values, and its page, ``check.html`` in the data set."""

    def progress(stage: str, done: int, total: int) -> None:
        stop.check("stopped while checking")
        on_event("prepare", {"stage": stage, "done": done, "total": total})

    found = check(folder, method, on_progress=progress)
    on_event("phase", {"name": "writing the page"})
    page = write_check(found, Path(folder) / "check.html")
    return {"folder": folder, "check": found.to_json(), "page": str(page)}


def configured(
    *, settings: Mapping[str, Any], words: Sequence[str], recipe: str | None, planning: bool = False
) -> Loaded:
    """The configuration of a run that the page describes.

    Raises:
        ConfigError: with every fault.
    """
    return load_config(None, dict(settings), list(words), recipe or None, planning=planning)


def train_run(
    *,
    settings: Mapping[str, Any],
    words: Sequence[str],
    recipe: str | None,
    resume: str | None,
    stop: StopFlag,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Train, or go on with the run in ``resume``, and write its report."""
    if resume is not None:
        loaded = load_config(Path(resume) / "config.yaml", {"out": resume})
    else:
        loaded = configured(settings=settings, words=words, recipe=recipe)
        loaded = with_data(
            loaded,
            on_progress=lambda at: on_event(
                "prepare", {"stage": at.stage, "done": at.done, "total": at.total}
            ),
            should_stop=stop,
            say=lambda line: on_event("say", {"line": line}),
        )
        for line in told(loaded):
            on_event("say", {"line": line})
    result = train(loaded, resume=resume is not None, stop=stop, on_event=on_event)
    on_event("phase", {"name": "writing the report"})
    page = report_on_run(result.folder)
    return {
        "folder": str(result.folder),
        "step": result.used_step,
        "warnings": list(result.warnings),
        "page": str(page),
    }


def evaluate(
    *, run: str, takes: int, general_takes: int, stop: StopFlag, on_event: OnEvent
) -> dict[str, Any]:
    """Measure a run against recordings that it has not heard, and write its report."""
    wishes = Wishes(takes=takes, general_takes=general_takes)
    found = measure([run], out=run, wishes=wishes, stop=stop, on_event=on_event)
    on_event("phase", {"name": "writing the report"})
    page, verdicts = report_on_evaluation(found, Path(run))
    return {
        "page": str(page),
        "verdicts": {name: dataclasses.asdict(one) for name, one in verdicts.items()},
    }


def compare(
    *,
    adapter: str,
    out: str,
    prompts: Sequence[str],
    seed: int,
    seconds: float,
    stop: StopFlag,
    on_event: OnEvent,
) -> list[dict[str, Any]]:
    """The same prompts and seeds from an adapter and from its base, as files.

    Returns:
        One row a prompt: ``prompt``, ``seed``, and the ``sounds`` by the name of who made them.
    """
    rows = [
        {"prompt": prompt, "seed": seed + place, "sounds": {}}
        for place, prompt in enumerate(prompts)
    ]
    for one in wanted([adapter]):
        assert one.base is not None
        name = f"base {one.name}" if one.kind == "base" else Path(one.path).name
        on_event("phase", {"name": name})
        files = make_takes(
            out=Path(out) / one.key,
            base=one.base.name,
            revision=one.base.revision,
            quantize=one.base.quantize,
            voice_of=one.base.voice_of if one.kind == "base" else "",
            run=one.path or None,
            prompts=prompts,
            seed=seed,
            duration_s=seconds,
            worded=True,
            stop=stop,
            on_event=on_event,
        )
        for row, file in zip(rows, files, strict=True):
            row["sounds"][name] = file
    return rows


def listening_test(
    *,
    folder: str,
    sides: Sequence[str],
    kind: str,
    title: str,
    items: int,
    seconds: float,
    prompts: Sequence[str],
    stop: StopFlag,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Make a blind listening test; its sides and what a reader of its results has to know."""
    found = from_words(
        sides,
        takes=Path(folder) / "takes",
        prompts=prompts,
        count=items,
        seconds=seconds,
        stop=stop,
        on_event=on_event,
    )
    made = create(
        folder,
        found,
        kind=kind,  # type: ignore[arg-type]
        title=title,
        items=min(items, len(found.keys)),
        stop=stop,
        on_event=on_event,
    )
    return {
        "folder": folder,
        "sides": [side.name for side in made.sides],
        "items": len(made.items),
        "notes": list(made.notes),
    }


def serve_test(
    *, folder: str, host: str, listeners: int, stop: StopFlag, on_event: OnEvent
) -> None:
    """Show a test to listeners until it is stopped; the links are told as ``links``."""
    serve(
        folder,
        host=host,
        port=0,
        listeners=listeners,
        ready=lambda links: on_event("links", dataclasses.asdict(links)),
        stop=stop,
    )


def export(*, adapter: str, form: str, out: str, stop: StopFlag, on_event: OnEvent) -> list[str]:
    """Write an adapter for other programs; lines about what was written."""
    folder, dest = Path(adapter), Path(out)
    on_event("phase", {"name": f"writing {form}"})
    if form == "merged":
        made = merge(folder, dest)
        return [
            f"Checkpoint in {made.folder}; it is a base as well.",
            f"Opened again: differs from the live adapter by {made.difference:.1e} at most.",
            *made.notes,
        ]
    write = export_peft if form == "peft" else export_diffusers
    base = read_card(folder)["base"]["name"]
    return [f"For {base}:", *(str(dest / one) for one in write(folder, dest))]


__all__ = [
    "compare",
    "configured",
    "evaluate",
    "export",
    "listening_test",
    "look",
    "prepare",
    "serve_test",
    "train_run",
]
