"""``tunesmith check``: what is wrong with a data set, and whether it is enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.data._histogram import Histogram
    from tunesmith.data.check import Check

_BLOCKS = " ▁▂▃▄▅▆▇█"
_CAPTIONS = 5  # listed here; the page has more, and their sound
_COLOURS = {"too little": "red", "enough to try": "yellow", "good": "green", "best": "green"}


def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A data set, prepared here or elsewhere.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="What it is for: lora, full, textual_inversion, dreambooth, voice, prefix, "
            "bottleneck."
        ),
    ] = "lora",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; else DIR/check.html.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print figures for programs; a page only with --out.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if the verdict is 'too little'.")
    ] = False,
) -> None:
    """Tell what is wrong with a data set, and whether there is enough of it.

    Nothing in the data set is changed. Clips that `prepare` did not measure are measured now.
    """
    from tunesmith.data.check import check as run

    with _bar() as on_progress:
        found = run(folder, method, on_progress=on_progress)
        page = None
        if out is not None or not as_json:
            from tunesmith.report.check import write_check

            on_progress("writing the page", 0, 0)
            page = write_check(found, out or folder / "check.html")
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False, indent=2))
    else:
        from rich.console import Console

        show(found, Console(highlight=False))
        typer.echo(f"\npage: {page}")
    if strict and found.verdict.word == "too little":
        raise typer.Exit(1)


def show(found: Check, console: Console) -> None:
    """Print the short page."""
    from rich.table import Table
    from rich.text import Text

    from tunesmith.report.check import seconds

    def say(text: str, style: str = "", indent: int = 0, mark: str = "") -> None:
        # Text that stands behind its mark when it runs on, and no markup: it is not all ours.
        before = " " * indent + mark
        lines = Text(text, style=style).wrap(console, max(20, console.width - len(before)))
        for number, line in enumerate(lines):
            line.rstrip()
            console.print(Text(before if not number else " " * len(before)) + line)

    def heading(text: str) -> None:
        console.print()
        console.print(Text(text, style="bold"))

    counts = found.counts
    say(
        f"{found.folder}: {_count(counts.clips, 'clip')}, {seconds(counts.seconds)}, from "
        f"{_count(counts.recordings, 'recording')}: {counts.train:,} to train, "
        f"{counts.valid:,} to validate"
        + (f"; {_count(counts.variants, 'varied version')} apart" if counts.variants else "")
        + (f"; {_count(counts.unreadable, 'file')} unreadable" if counts.unreadable else "")
    )
    say(", ".join(f"{name} ({count:,})" for name, count in found.formats.items()))

    verdict = found.verdict
    console.print()
    console.print(
        Text.assemble(
            (f"{verdict.method}: {verdict.word.upper()}", f"bold {_COLOURS[verdict.word]}")
        )
    )
    for sentence in verdict.sentences:
        say(sentence, indent=2)
    for line in verdict.mend:
        say(line, indent=2, mark="-> ")

    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("technique", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("counted", "least", "good", "best"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("of", no_wrap=True)
    for one in found.verdicts:
        counted = f"{one.counted:.1f}" if one.unit == "clean minutes" else f"{one.counted:,.0f}"
        bounds = (f"{bound:,.0f}" for bound in (one.least, one.good, one.best))
        word = Text(one.word + ("*" if one.lowered else ""), style=_COLOURS[one.word])
        table.add_row(one.method, word, counted, *bounds, one.unit)
    console.print(table)
    for reason in dict.fromkeys(one.lowered for one in found.verdicts if one.lowered):
        say(f"lowered: {reason}", indent=0, mark="* ")

    heading("What is in it")
    for histogram in found.histograms:
        say(_drawn(histogram), indent=2, mark=f"{histogram.name:<11}")
    _faults(found, heading, say)
    _captions(found, heading, say)
    if found.findings:
        heading("What to look at")
        for finding in found.findings:
            say(f"{finding.what} {finding.mend}".strip(), indent=2, mark="- ")
    for note in found.notes:
        say(f"note: {note}", style="dim")


def _faults(found: Check, heading: Callable[..., None], say: Callable[..., None]) -> None:
    screening, heard = found.screening, found.diversity
    heading("Faults and variety")
    say(_listed(screening.rejected), indent=2, mark=f"{'left out':<11}")
    say(_listed(screening.flagged), indent=2, mark=f"{'flagged':<11}")
    say(
        f"{_count(len(screening.repeats), 'clip')} with the sound of another",
        indent=2,
        mark=f"{'repeats':<11}",
    )
    if heard is not None:
        say(
            f"{_count(heard.n, 'clip')} like {_count(round(heard.vendi), 'different one')} "
            f"(Vendi score {heard.vendi:g}; {heard.embedding})",
            indent=2,
            mark=f"{'variety':<11}",
        )


def _captions(found: Check, heading: Callable[..., None], say: Callable[..., None]) -> None:
    from tunesmith.data.needs import percent
    from tunesmith.report.check import remarks

    captions = found.captions
    heading("Captions")
    rows = [
        (
            "captions",
            f"{captions.distinct:,} different ones for {_count(captions.clips, 'clip')}; "
            f"{percent(captions.same_share)} shared by recordings",
        ),
        ("sources", _listed(captions.sources)),
        (
            "specific",
            f"{captions.specificity:.2f} of 1; {percent(captions.weak_share)} hardly say "
            f"anything; {captions.mean_words:g} telling words each, {captions.words:,} in all",
        ),
        ("tell", ", ".join(f"{name} {percent(s)}" for name, s in captions.aspects.items())),
    ]
    if captions.trigger:
        guess = " (guessed)" if captions.trigger_guessed else ""
        rows.append(("trigger", f"{captions.trigger}{guess}, in {percent(captions.trigger_share)}"))
    if found.songs is not None:
        songs = found.songs
        rows.append(("lyrics", f"{songs.with_lyrics:,} of {_count(songs.clips, 'clip')}"))
        listed = (
            f"{one.name} {percent(one.clip_share)} ({_count(one.clips, 'clip')}, {one.minutes:.1f} min)"
            for one in songs.languages
        )
        rows.append(("languages", ", ".join(listed) or "none named"))
    for name, text in rows:
        say(text, indent=2, mark=f"{name:<11}")
    shown = dict.fromkeys((*captions.contradicting, *captions.worst, *captions.low_confidence))
    for row in list(shown)[:_CAPTIONS]:
        said = row.caption if len(row.caption) <= 90 else row.caption[:89] + "…"
        say(f"{row.file}: {said or '(no caption)'}", indent=2, mark="- ")
        for remark in remarks(row):
            say(remark, style="yellow", indent=4)
    if len(shown) > _CAPTIONS:
        say(f"... and {len(shown) - _CAPTIONS} more on the page", indent=2)


def _drawn(histogram: Histogram) -> str:
    """``▁▃█▂ 4 to 12 s, median 8``; names with their counts."""
    from tunesmith.report.check import apart, plain, top_names

    missing = f"{histogram.missing:,} unclear" if histogram.missing else ""
    if not histogram.total:
        return missing or "none"
    if not histogram.edges:
        parts = [f"{label} {count:,}" for label, count, _ in top_names(histogram, 6)]
        return ", ".join(filter(None, [*parts, missing]))
    most = max(histogram.counts)
    bars = "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // most)] for count in histogram.counts)
    low, middle, high = map(plain, (histogram.low, histogram.median, histogram.high))
    span = f"{low} to {high} {histogram.unit}, median {middle}"
    if low == high:
        span = f"all {low} {histogram.unit}"
    return f"{bars:<16}" + ", ".join(filter(None, [span, apart(histogram), missing]))


def _listed(counts) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=None)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield on_progress
