"""``tunesmith train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli._config_words import BaseName, Method, Recipe, Words, file_and_settings


def train(
    words: Words = None,
    base: BaseName = None,
    method: Method = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder made by `tunesmith prepare`; with a recipe also one of plain recordings."
        ),
    ] = None,
    general: Annotated[
        str | None, typer.Option(help="Other prepared recordings, to see what is forgotten.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="The run's folder.")] = None,
    recipe: Recipe = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps (train.steps).")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on exactly with the run in this folder.")
    ] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Start from another adapter's weights (a new run).")
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            help="With several processes (torchrun, accelerate launch): auto, ddp or fsdp; also with --resume."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print parameters, memory, disk and time; train nothing."),
    ] = False,
) -> None:
    """Train an adapter on prepared recordings.

    Every setting of the configuration can be given as KEY=VALUE: train.lr=5e-5 method.rank=32.
    """
    from tunesmith.config import load_config
    from tunesmith.errors import Stopped, UserError

    file, overrides = file_and_settings(words)
    settings = {
        "base": base,
        "method": method,
        "data": data,
        "data.general": general,
        "out": out,
        "train.steps": steps,
        "init_from": init_from,
    }
    spread = {"parallel": parallel}
    if resume is not None:
        if words or recipe or any(value is not None for value in settings.values()):
            raise UserError(
                "--resume goes on with the run as it was; other settings cannot be given with it",
                "leave them out, or start a new run with --init-from",
            )
        file = resume / "config.yaml"
        if not file.is_file():
            raise UserError(f"{resume} holds no run", "give the folder that was --out")
        settings = {"out": str(resume)}
    loaded = load_config(file, settings | spread, overrides, recipe)

    if dry_run:
        from tunesmith.training.plan import dry_run as plan

        typer.echo(plan(loaded))
        return

    from tunesmith.cli._progress import RunDisplay
    from tunesmith.formats.adapter import read_card
    from tunesmith.report.run import report_on_run
    from tunesmith.report.voices import of_training, weigh
    from tunesmith.training import launch
    from tunesmith.training.judging import figures_in_words
    from tunesmith.training.recipe import told, with_data
    from tunesmith.training.run import train as run
    from tunesmith.training.signals import StopFlag

    with RunDisplay(quiet=not launch.leads()) as display:
        if resume is None:
            with StopFlag() as stop:
                loaded = with_data(
                    loaded,
                    on_progress=lambda at: display(
                        "prepare", {"stage": at.stage, "done": at.done, "total": at.total}
                    ),
                    should_stop=stop,
                    say=display.say,
                )
            for line in told(loaded):
                display.say(line)
        try:
            result = run(loaded, resume=resume is not None, on_event=display)
        except Stopped as stopped:
            raise Stopped(
                stopped.signal_number,
                f"{stopped}; go on with `tunesmith train --resume {loaded.config.out}`",
            ) from None
    if not launch.leads():
        return
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    page = report_on_run(result.folder)
    state, card = result.state, read_card(result.folder)
    if (heard := of_training(card)) and (said := weigh(heard)):
        typer.echo(f"{said[0].upper()}. {said[1]}")
        for line in figures_in_words(state, result.used_step, heard.unit):
            typer.echo(line)
    if state.first_loss is not None:
        typer.echo(
            f"validation loss {state.first_loss:.4f} -> {state.best_loss:.4f} (step {result.used_step})"
        )
    typer.echo(f"adapter in {result.folder}, report in {page}")
    typer.echo(
        f'next: tunesmith generate --base {loaded.config.base.name} --adapter {result.folder} "PROMPT" --seconds 4'
    )
