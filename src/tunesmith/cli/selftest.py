"""``tunesmith selftest``."""

from __future__ import annotations

from typing import Annotated

import typer


def selftest(
    base: Annotated[
        str, typer.Option(help="Base model: pocket, a folder, or a hub id.")
    ] = "pocket",
    seconds: Annotated[
        float, typer.Option(min=5, help="Most that the training part may take.")
    ] = 75.0,
) -> None:
    """Check a base on this machine: overfit one clip, regenerate it, print speed and memory."""
    from tunesmith.families import find_base, load
    from tunesmith.training.hardware import best_device
    from tunesmith.training.selftest import selftest as run
    from tunesmith.training.signals import StopFlag

    found = find_base(base)
    typer.echo(f"{found.name}: {found.family.name}, licence of the weights {found.licence}")
    bundle = load(found, device=best_device())
    with StopFlag() as stop:
        result = run(bundle, limit_s=seconds, should_stop=stop)
        stop.check("stopped; nothing was changed")
    for line in result.lines():
        typer.echo(line)
    if not result.passed:
        raise typer.Exit(1)
