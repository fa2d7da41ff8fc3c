"""``tunesmith serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tunesmith.cli._exposed import warn_exposed


def serve(
    base: Annotated[
        str, typer.Option(help="Base model: pocket, a folder, or a hub id.")
    ] = "pocket",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]WHERE",
            help="To begin with: a run's folder, a name under the adapters folder, or owner/name; "
            "several times.",
            show_default=False,
        ),
    ] = None,
    adapters_folder: Annotated[
        Path | None,
        typer.Option(
            help="The only folder that clients can add adapters of. [default: ~/.tunesmith/adapters]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that requests may call this machine by, behind a proxy; several times.",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the token; made with a new one if it is not there. "
            "[default: $TUNESMITH_TOKEN]",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of jobs and their sounds, this server's own. [default: ~/.tunesmith/serve/BASE]",
            show_default=False,
        ),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Requests that are worked on at once.")] = 8,
    most_adapters: Annotated[int, typer.Option(min=1, help="Adapters loaded at a time.")] = 16,
    rank: Annotated[int, typer.Option(min=1, help="The largest rank of an adapter.")] = 64,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda ... [default: the best]", show_default=False)
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Linears in 8 bits, on a CPU.")] = False,
    engine: Annotated[
        Literal["auto", "tokens", "batch"],
        typer.Option(
            help="Of MusicGen: with tokens requests join between two tokens, and sound streams while it is "
            "written; batch serves full fine-tunes, too. auto is tokens, but for a full one among the adapters."
        ),
    ] = "auto",
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 64,
    seconds: Annotated[float, typer.Option(help="Length of a request at most.")] = 300.0,
    prompt_chars: Annotated[int, typer.Option(min=1, help="Characters of a prompt.")] = 4000,
    job_seconds: Annotated[float, typer.Option(help="How long a job may run.")] = 600.0,
    adapter_mb: Annotated[
        int, typer.Option(min=1, help="Size of an adapter that is added or uploaded, in MB.")
    ] = 512,
    upload_mb: Annotated[
        int,
        typer.Option(min=1, help="Size of a sound that is sent to be continued or changed, in MB."),
    ] = 64,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that running jobs are given at the end.")
    ] = 30.0,
) -> None:
    """Serve a base and any blend of its adapters over HTTP until Ctrl-C or SIGTERM.

    What waits when it ends is made after the next start.
    """
    from tunesmith.formats.adapter import card_hash
    from tunesmith.serve.limits import Limits
    from tunesmith.serve.server import Ready, run
    from tunesmith.training.signals import StopFlag

    def tell(ready: Ready) -> None:
        typer.echo(ready.address)
        base_name, base_hash = ready.base
        typer.echo(f"base {base_name} ({base_hash[:12]})", err=True)
        for one, folder in sorted(ready.adapters.items()):
            typer.echo(f"adapter {one}: {folder} ({card_hash(folder)[:12]})", err=True)
        for note in ready.notes:
            typer.echo(note, err=True)
        typer.echo(f"adapters can be added of {ready.adapters_folder}", err=True)
        restored = f", {ready.restored} of them go on" if ready.restored else ""
        typer.echo(f"jobs are kept in {ready.jobs}{restored}", err=True)
        typer.echo(
            f"token: in {ready.token}" if ready.token else "no token: this machine alone can ask",
            err=True,
        )
        if ready.exposed:
            warn_exposed()
        typer.echo(f"how to ask: {ready.address}/docs; Ctrl-C stops it", err=True)

    with StopFlag() as stop:
        run(
            base,
            adapters=_named(adapter or []),
            adapters_folder=adapters_folder,
            host=host,
            port=port,
            names=name or (),
            token_file=token_file,
            jobs=jobs,
            slots=slots,
            most_adapters=most_adapters,
            rank=rank,
            device=device,
            int8=int8,
            engine=engine,
            limits=Limits(
                queue=queue,
                seconds=seconds,
                prompt_chars=prompt_chars,
                job_s=job_seconds,
                upload_bytes=upload_mb << 20,
            ),
            adapter_bytes=adapter_mb << 20,
            drain_s=drain,
            ready=tell,
            stop=stop,
        )


def _named(words: list[str]) -> dict[str, str]:
    """``NAME=WHERE`` words; without a name it is the last part of where."""
    from tunesmith.errors import UserError

    found: dict[str, str] = {}
    for word in words:
        name, equals, where = word.partition("=")
        if not equals or Path(word).exists():  # a folder may have an equals sign in its name
            name, where = Path(word).name, word
        if not name or not where:
            raise UserError(f"--adapter {word}: not NAME=WHERE", "give e.g. jazz=runs/jazz")
        if name in found:
            raise UserError(f"two adapters '{name}'", "give each its own: jazz=runs/jazz")
        found[name] = where
    return found
