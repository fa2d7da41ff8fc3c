"""``tunesmith evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunesmith.evaluation.findings import Evaluation


def evaluate(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Runs, adapters, bases or folders of sound; a run's base comes by itself.",
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(help="Recordings to come near to. [default: held-out side of the run's data]"),
    ] = None,
    general: Annotated[
        Path | None,
        typer.Option(help="Other recordings, to see what is forgotten. [default: the run's]"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file, a prompt a line. [default: captions of the held-out clips]"),
    ] = None,
    takes: Annotated[int, typer.Option(min=3, help="Takes of each model.")] = 64,
    general_takes: Annotated[
        int, typer.Option(min=0, help="Takes of general prompts; 0 leaves them out.")
    ] = 32,
    seconds: Annotated[
        float | None, typer.Option(help="Of each take. [default: the held-out clips' median]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of takes and tests.")] = 0,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            help="What hears: pocket, clap, clap:owner/model, encodec:... ; several are compared."
        ),
    ] = None,
    losses: Annotated[bool, typer.Option(help="Measure the loss of each clip.")] = True,
    mos: Annotated[bool, typer.Option("--mos", help="Predict MOS with DNSMOS (speech).")] = False,
    speaker: Annotated[str, typer.Option(help="Model that compares voices.")] = "",
    asr: Annotated[str, typer.Option(help="Model that reads speech, for word errors.")] = "",
    phones: Annotated[
        bool, typer.Option("--phones", help="Count wrong phones (speech; on for bases that speak).")
    ] = False,
    pick: Annotated[
        bool,
        typer.Option("--pick", help="Give the run its checkpoint that comes nearest to held-out clips."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder. [default: the run's own; of several: evaluation]"),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Models at a time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:  # fmt: skip
    """Measure what adapting did: against held-out recordings, the base, and other runs.

    Writes evaluation.json, report.html and report.json.
    """
    from tunesmith.cli._progress import RunDisplay
    from tunesmith.errors import UserError
    from tunesmith.evaluation.evaluate import Wishes
    from tunesmith.evaluation.evaluate import evaluate as run
    from tunesmith.evaluation.findings import to_json
    from tunesmith.evaluation.pick import pick as choose
    from tunesmith.evaluation.subjects import wanted
    from tunesmith.report.evaluation import report_on_evaluation
    from tunesmith.report.run import is_run
    from tunesmith.training.signals import StopFlag

    lines = _lines(prompts) if prompts is not None else ()
    wishes = Wishes(
        embeddings=tuple(embedding or ()),
        prompts=lines,
        takes=takes,
        general_takes=general_takes,
        seconds=seconds,
        seed=seed,
        losses=losses,
        mos=mos,
        speaker=speaker,
        asr=asr,
        phones=phones,
        workers=workers,
    )
    runs = [Path(one.path) for one in wanted(names) if one.kind == "run"]
    alone = len(names) == 1 and len(runs) == 1
    if pick and not alone:
        raise UserError("--pick chooses among the checkpoints of one run", "name one run alone")
    # An adapter without its run may lie in the cache of the hub, which is no place for takes.
    folder = out or (runs[0] if alone and is_run(runs[0]) else Path("evaluation"))
    with StopFlag() as stop, RunDisplay() as display:
        if pick:
            picked = choose(
                runs[0],
                out=folder / "picking",
                wishes=wishes,
                reference=reference,
                stop=stop,
                on_event=display,
            )
            for step, kad in picked.kad.items():
                loss = f", validation loss {picked.loss[step]:.4f}" if step in picked.loss else ""
                typer.echo(f"step {step}: KAD {kad:.3f}{loss}", err=True)
            kept = "kept" if picked.step == picked.before else f"taken, instead of {picked.before}"
            typer.echo(f"step {picked.step} {kept}", err=True)
        evaluation = run(
            names,
            out=folder,
            reference=reference,
            general=general,
            wishes=wishes,
            stop=stop,
            on_event=display,
        )
        display("phase", {"name": "writing the report"})
        page, verdicts = report_on_evaluation(evaluation, folder)
    if as_json:
        typer.echo(json.dumps(to_json(evaluation), ensure_ascii=False, allow_nan=False, indent=2))
        return
    _table(evaluation)
    for name, verdict in verdicts.items():
        typer.echo(f"\n{name}: {verdict.word.upper()}. {verdict.headline}")
        for sentence in verdict.sentences:
            typer.echo(f"  {sentence}")
    typer.echo(f"\nreport: {page}")


def _lines(file: Path) -> tuple[str, ...]:
    from tunesmith.errors import UserError

    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {file}: not readable ({error})", "give a text file") from None
    if not any(found):
        raise UserError(f"--prompts {file}: it is empty", "write a prompt a line")
    return tuple(filter(None, found))


def _table(evaluation: Evaluation) -> None:
    """One line a metric and embedding, one column a subject."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("metric", no_wrap=True)
    table.add_column("better")
    for one in evaluation.subjects.values():
        table.add_column(one.name, justify="right")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    better: dict[tuple[str, str], str] = {}
    for one in evaluation.findings:
        place = (one.metric, one.embedding)
        better[place] = one.better
        text = "-" if one.value is None else f"{one.value:.4g}"
        if one.interval is not None:
            text += f" [{one.interval[0]:.3g}..{one.interval[1]:.3g}]"
        if one.p_value is not None:
            text += f" p={one.p_value:.2g}"
        rows.setdefault(place, {})[one.subject] = text
    several = len({embedding for _, embedding in rows if embedding}) > 1
    for place, values in rows.items():
        name = f"{place[0]} ({place[1]})" if several and place[1] else place[0]
        table.add_row(name, better[place], *(values.get(key, "") for key in evaluation.subjects))
    Console(highlight=False).print(table)
    warnings = dict.fromkeys(text for one in evaluation.findings for text in one.warnings)
    for text in warnings:
        typer.echo(f"note: {text}")
    for one in evaluation.findings:
        if one.value is None and one.missing:
            name = evaluation.subjects[one.subject].name
            typer.echo(f"not measured: {one.metric} of {name}: {one.missing}")
