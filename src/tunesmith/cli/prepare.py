"""``tunesmith prepare``: from a folder of recordings to a data set."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunesmith.data import PreparedSummary, Progress

_SHOWN = 10  # rejections and warnings printed; all of them stand in the data set


def prepare(
    src: Annotated[
        str,
        typer.Argument(
            help="A folder of recordings, or one; also s3://, gs://, hf:// ... (fsspec)."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="The data set: a folder to make.")],
    base: Annotated[
        str | None,
        typer.Option(help="Base model (name or folder): sets rate, channels, longest clip."),
    ] = None,
    min_seconds: Annotated[
        float | None, typer.Option(help="Shortest clip; 10, and 1 of a voice.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Longest clip; 30, and 12 of a voice.")
    ] = None,
    sample_rate: Annotated[
        int | None, typer.Option(help="Hz of the clips; else the base's, else as recorded.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 or 2; else the base's, else as recorded.")
    ] = None,
    beats: Annotated[
        bool, typer.Option(help="Cut on the beat where a pulse is clear, else in quiet places.")
    ] = True,
    normalise: Annotated[
        float | None,
        typer.Option(metavar="LUFS", help="Bring clips to this loudness, true peak -1 dBTP."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT",
            help="Let clips with this fault in; several times, or all. "
            "clipping, silence, dc, hum, mono_as_stereo, false_bandwidth, near_duplicate; of a voice "
            "also noise, music, reverberation, bandwidth, other_speaker, transcript.",
        ),
    ] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPERATION",
            help="Vary the training clips; several times. gain, pitch, stretch, noise, eq.",
        ),
    ] = None,
    variants: Annotated[
        int | None, typer.Option(help="Varied versions of each training clip; 2 with --augment.")
    ] = None,
    voice: Annotated[
        bool,
        typer.Option(
            "--voice",
            help="The recordings are of a speaking voice: cut at pauses, with what is said as text.",
        ),
    ] = False,
    consent: Annotated[
        str | None,
        typer.Option(help="Of the voice's owner: who agreed to what. Needed with --voice."),
    ] = None,
    asr: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Writes down what a voice says: a recogniser's hub id or folder."
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="That the voice speaks: en, de ...; for --asr and phonemes.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Embedding that tells voices apart; else the first that is installed."),
    ] = None,
    trigger: Annotated[
        str | None,
        typer.Option(help="A rare word to put before every caption, or for {trigger} in it."),
    ] = None,
    caption: Annotated[
        str | None, typer.Option(help="Caption of the recordings that have none of their own.")
    ] = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Listens to those without: a hub id, a folder, or clap."
        ),
    ] = None,
    valid_share: Annotated[
        float, typer.Option(help="Share of the sound kept aside to validate with.")
    ] = 0.1,
    rights: Annotated[
        str, typer.Option(help="What you may do with the recordings; kept with the data set.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the division into train and valid.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; else as many as pay.")] = None,
    engine: Annotated[
        str,
        typer.Option(help="Where the work is done: local, or ray for a cluster; the same rows."),
    ] = "local",
    encode: Annotated[
        bool, typer.Option("--encode", help="Encode the clips for --base now, not when training.")
    ] = False,
) -> None:
    """Cut recordings into screened, captioned clips that can be trained on.

    Captions are taken from x.caption.txt, x.txt or x.json beside x.wav, from metadata.csv or
    metadata.jsonl, from --caption, from tags in the file, from --captioner, from what can be
    measured (tempo, key ...), or from the file's name. What is left out stands with its reason in
    rejected.jsonl. Running again goes on where a run stopped, and does nothing where nothing has
    changed.

    With --voice clips end at pauses and are screened for noise, music, reverberation and other
    speakers; texts are what is said, from the same files or from --asr.
    """
    from tunesmith.data import prepare as run
    from tunesmith.errors import UserError

    if encode and base is None:
        raise UserError("--encode needs to know for which base", "give --base")
    base_max_s: float | None = None
    if base is not None:
        from tunesmith.families import base_limits

        base_rate_hz, base_channels, base_max_s = base_limits(base)
        for name, given, wanted in (
            ("--sample-rate", sample_rate, base_rate_hz),
            ("--channels", channels, base_channels),
        ):
            if given and given != wanted:
                typer.echo(f"warning: {name} {given}, but {base} takes {wanted}", err=True)
        sample_rate = sample_rate or base_rate_hz
        channels = channels or base_channels
    with _signals() as should_stop, _bar() as on_progress:
        summary = run(
            src,
            dest,
            sample_rate_hz=sample_rate,
            channels=channels,
            min_s=min_seconds,
            max_s=max_seconds,
            base_max_s=base_max_s,
            on_beats=beats,
            normalise_lufs=normalise,
            keep=keep or (),
            augment=augment or (),
            variants=variants,
            voice=voice,
            trigger=trigger,
            caption=caption,
            captioner=captioner,
            consent=consent,
            asr=asr,
            language=language,
            encoder=encoder,
            valid_share=valid_share,
            seed=seed,
            rights=rights,
            workers=workers,
            engine=engine,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        if encode and base is not None:
            from tunesmith.data.encode_ahead import encode_ahead
            from tunesmith.data.stages import Progress

            encode_ahead(
                dest,
                base,
                engine=engine,
                workers=workers,
                on_progress=lambda done, total: on_progress(Progress("encoding", done, total, "")),
                should_stop=should_stop,
            )
    for line in report(summary, dest, base):
        typer.echo(line)


def report(summary: PreparedSummary, dest: Path, base: str | None) -> list[str]:
    """The lines printed at the end of a run."""
    import shlex

    from tunesmith.data.screen import ALWAYS_OUT, TOO_SHORT

    lines: list[str] = []
    if summary.unchanged:
        lines.append("Nothing to do: the data set is there and nothing has changed.")
    lines.append(
        f"{_count(summary.clips, 'clip')}, {_length(summary.seconds)}, "
        f"from {_count(summary.recordings, 'recording')}: "
        f"{summary.train} to train ({_length(summary.train_s)}), "
        f"{summary.valid} to validate ({_length(summary.valid_s)})"
    )
    if summary.variants:
        lines.append(f"{_count(summary.variants, 'varied version')} of the training clips besides")
    if summary.faults:
        found = ", ".join(f"{count} {fault}" for fault, count in summary.faults.items())
        kept = " ".join(f"--keep {fault}" for fault in sorted(set(summary.faults) - ALWAYS_OUT))
        mends = [f"{kept} lets them in"] if kept else []
        mends += ["--min-seconds allows shorter clips"] if TOO_SHORT in summary.faults else []
        mend = f" ({'; '.join(mends)})" if mends else ""
        lines.append(f"left out: {found}{mend}")
    if summary.voice:
        from tunesmith.data.voice_verdict import sentences

        lines += [f"voice: {sentence}" for sentence in sentences(summary.voice)]
    lines += [f"warning: {warning}" for warning in summary.warnings[:_SHOWN]]
    if len(summary.warnings) > _SHOWN:
        lines.append(f"... and {len(summary.warnings) - _SHOWN} more warnings in dataset.json")
    for rejection in summary.first_rejections[:_SHOWN]:
        at = f" at {rejection.start_s:.1f} s" if rejection.start_s else ""
        lines.append(f"rejected: {rejection.file}{at}: {rejection.reason}")
    if summary.rejected > _SHOWN:
        lines.append(f"... and {summary.rejected - _SHOWN} more rejections in rejected.jsonl")
    lines.append(f"Data set: {dest}")
    method = "voice" if summary.voice else "lora"
    lines.append(f"Look at it: tunesmith check {shlex.quote(str(dest))} --method {method}")
    name = shlex.quote(base) if base else "BASE"
    lines.append(
        f"Next: tunesmith train --base {name} --method lora "
        f"--data {shlex.quote(str(dest))} --out run"
    )
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """Notes Ctrl-C and SIGTERM; a second Ctrl-C ends the program at once."""
    caught = 0

    def note(number: int, _: object) -> None:
        nonlocal caught
        caught = number
        signal.signal(number, before[signal.Signals(number)])

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, note)
    try:
        yield lambda: caught
    finally:
        for number in numbers:
            signal.signal(number, before[number])


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        # File names are not ours: "[red]" in one is no markup.
        TextColumn("{task.fields[item]}", markup=False),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=None, item="")
            bar.update(
                tasks[progress.stage],
                completed=progress.done,
                total=progress.total,
                item=progress.item[-50:],
            )

        yield on_progress
