"""The command line: one file per verb, each thin over the public functions."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from tunesmith.cli.blend import blend
from tunesmith.cli.check import check
from tunesmith.cli.demo import demo
from tunesmith.cli.evaluate import evaluate
from tunesmith.cli.export import export
from tunesmith.cli.extract import extract
from tunesmith.cli.generate import generate
from tunesmith.cli.import_ import import_
from tunesmith.cli.listen import listen
from tunesmith.cli.ls import ls
from tunesmith.cli.merge import merge
from tunesmith.cli.plan import plan
from tunesmith.cli.prepare import prepare
from tunesmith.cli.push import push
from tunesmith.cli.selftest import selftest
from tunesmith.cli.serve import serve
from tunesmith.cli.studio import studio
from tunesmith.cli.sweep import sweep
from tunesmith.cli.train import train
from tunesmith.errors import ConfigError, Stopped, UserError
from tunesmith.training.launch import tells

app = typer.Typer(
    name="tunesmith",
    help="Adapt pre-trained audio generation models to your own recordings, prove it, use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_VERBS = (
    *(prepare, check, plan, train, sweep, evaluate, generate),
    *(blend, merge, extract, export, import_, push),
    *(serve, studio, ls, selftest, demo),
)
for verb in _VERBS:
    name = verb.__name__.rstrip("_")  # import_ cannot go by its own name in Python
    app.command(name, context_settings={"allow_interspersed_args": True})(verb)
app.add_typer(listen)


def _version(value: bool) -> None:
    if value:
        from tunesmith import __version__

        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Adapt pre-trained audio generation models to your own recordings, prove it, use it."""


def main() -> NoReturn:
    """Entry point: user errors become one line and an exit code, bugs keep their traceback."""
    try:
        app()
    except ConfigError as error:
        for fault in error.faults if tells() else ():
            typer.echo(f"error: {fault}", err=True)
        sys.exit(error.exit_code)
    except UserError as error:
        if tells():
            typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        if tells():
            typer.echo(str(stopped), err=True)
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt:  # a second Ctrl-C: at once, without waiting for a safe place
        typer.echo("interrupted at once; the last checkpoint is whole", err=True)
        sys.exit(130)
    sys.exit(0)
