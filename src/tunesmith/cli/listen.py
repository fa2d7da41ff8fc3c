"""``tunesmith listen``: new, serve, results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli._exposed import warn_exposed

listen = typer.Typer(
    name="listen",
    help="Blind listening tests: A/B, ABX and MOS, in a browser.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Test = Annotated[Path, typer.Argument(help="Folder of the test.", show_default=False)]


@listen.command()
def new(
    test: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]SIDE...",
            help="A run (its base becomes a side too), a base, a folder of sounds, or a folder with "
            "an evaluation.json. The first is what the others are compared with.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str, typer.Option(help="ab: which is preferred; abx: is it heard; mos: 1 to 5.")
    ] = "ab",
    items: Annotated[
        int,
        typer.Option(min=1, help="Items at most, practice included: spread over what there is."),
    ] = 21,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts to generate, one a line. [default: held-out captions]"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of what is generated.")] = 5.0,
    longest: Annotated[
        float, typer.Option(min=0.5, max=60, help="Seconds kept of each sound.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of what is generated.")] = 0,
    order_seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of order and sides. [default: a random one, which nobody can guess]"
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="What listeners read on top.")] = "Listening test",
    question: Annotated[
        str, typer.Option(help="What they are asked. [default: by kind]", show_default=False)
    ] = "",
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Let listeners read the prompt.")
    ] = False,
    ties: Annotated[
        bool, typer.Option("--ties/--no-ties", help="A/B: allow 'no preference'.")
    ] = True,
    training: Annotated[
        int | None,
        typer.Option(min=0, help="Items for practice. [default: 1 if there are 6 or more]"),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=0, help="Questions that come twice, as a check; not in ABX.")
    ] = 1,
    reference: Annotated[
        str, typer.Option(help="MOS: the side of real recordings.", show_default=False)
    ] = "",
    anchor: Annotated[
        str,
        typer.Option(
            help="MOS: the side that must be worst; lowpass makes one from the reference.",
            show_default=False,
        ),
    ] = "",
    loudness: Annotated[float, typer.Option(max=-10, help="Common level in LUFS.")] = -23.0,
) -> None:
    """Make a test: sounds of one loudness, length and format, with the key kept apart."""
    from tunesmith.cli._progress import RunDisplay
    from tunesmith.errors import UserError
    from tunesmith.listen.design import FILE, KINDS
    from tunesmith.listen.gather import from_words
    from tunesmith.listen.make import create
    from tunesmith.training.signals import StopFlag

    if kind not in KINDS:
        raise UserError(f"--kind {kind}: unknown", f"give {', '.join(KINDS)}")
    if (test / FILE).exists():  # said before minutes of generating
        raise UserError(f"{test} holds a test already", "give another folder, or remove it")
    with StopFlag() as stop, RunDisplay() as display:
        found = from_words(
            sides,
            takes=test / "takes",
            prompts=_lines(prompts) if prompts is not None else (),
            count=items,
            seconds=seconds,
            seed=seed,
            stop=stop,
            on_event=display,
        )
        made = create(
            test,
            found,
            kind=kind,
            title=title,
            question=question,
            items=min(items, len(found.keys)),
            training=training,
            ties=ties,
            repeats=repeats,
            reference=reference,
            anchor=anchor,
            show_prompt=show_prompt,
            loudness_lufs=loudness,
            longest_s=longest,
            seed=order_seed,
            stop=stop,
        )
    practice = sum(item.training for item in made.items)
    typer.echo(f"{test}: {', '.join(side.name for side in made.sides)}")
    typer.echo(
        f"{len(made.items) - practice} items and {practice} for practice, "
        f"{made.loudness_lufs:.1f} LUFS, {made.sample_rate_hz} Hz"
    )
    for note in made.notes:
        typer.echo(note)
    typer.echo(f"next: tunesmith listen serve {test} --listeners 10")


@listen.command()
def serve(
    test: _Test,
    listeners: Annotated[
        int, typer.Option(min=0, max=1000, help="Personal links to have, one a listener.")
    ] = 0,
    invite: Annotated[
        int,
        typer.Option(
            min=0, max=1000, help="One link for all: it may bring as many listeners. 0 is off."
        ),
    ] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    url: Annotated[
        str,
        typer.Option(
            help="Where listeners reach it, if that is not its own address (behind a proxy).",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Show a test to listeners until Ctrl-C. Every link keeps its place."""
    from tunesmith.listen.server import Links
    from tunesmith.listen.server import serve as run
    from tunesmith.training.signals import StopFlag

    def tell(links: Links) -> None:
        for link in links.personal:
            typer.echo(link)
        if links.invitation:
            typer.echo(f"for everybody: {links.invitation}")
        if not links.personal and not links.invitation:
            typer.echo("no links yet: give --listeners 10 or --invite 10", err=True)
        if links.exposed:
            warn_exposed()
        typer.echo(f"serving {test} at {links.address}; Ctrl-C stops it", err=True)

    with StopFlag() as stop:
        run(
            test,
            host=host,
            port=port,
            listeners=listeners,
            invite=invite,
            url=url,
            ready=tell,
            stop=stop,
        )


@listen.command()
def results(
    test: _Test,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page. [default: TEST/results.html]")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Every answer as a row.", show_default=False)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="The figures. [default: TEST/results.json]")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave a listener out; may be given again.", show_default=False),
    ] = None,
) -> None:
    """Say what the listeners of a test have heard so far."""
    from tunesmith.listen.analysis import analyse
    from tunesmith.listen.export import write_csv, write_json
    from tunesmith.listen.results_page import write_results
    from tunesmith.listen.words import headline, remarks, sentences

    found = analyse(test, without=without or ())
    typer.echo(headline(found))
    for sentence in (*sentences(found), *remarks(found)):
        typer.echo(sentence)
    write_json(found, json or test / "results.json")
    page = write_results(found, out or test / "results.html")
    if csv is not None:
        typer.echo(f"answers: {write_csv(found, csv)}")
    typer.echo(f"results: {page}")


def _lines(file: Path) -> list[str]:
    from tunesmith.errors import UserError

    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error})", "give a text file") from None
    if not any(lines):
        raise UserError(f"{file} is empty", "write one prompt a line")
    return [line for line in lines if line]
