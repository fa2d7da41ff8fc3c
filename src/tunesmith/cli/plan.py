"""``tunesmith plan``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tunesmith.cli._config_words import BaseName, Method, Recipe, Words, file_and_settings


def plan(
    words: Words = None,
    base: BaseName = None,
    method: Method = None,
    data: Annotated[
        str | None, typer.Option(help="Prepared recordings; without, --clips and --seconds count.")
    ] = None,
    recipe: Recipe = None,
    clips: Annotated[
        int | None, typer.Option(help="Training clips, where there is no data yet (200).")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length of each, where there is no data yet (10).")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Propose settings that fit, e.g. 8GB.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda, also where it is not; else what is here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures for programs.")] = False,
) -> None:
    """Tell what a run will take, before anything is downloaded or trained.

    Of a base on the hub, only configuration and tokenizer are fetched.
    """
    from tunesmith.config import load_config
    from tunesmith.errors import UserError
    from tunesmith.training.plan import Plan, lines, make_plan
    from tunesmith.training.plan_fit import fit as fitting
    from tunesmith.training.plan_fit import parse_size

    file, overrides = file_and_settings(words)
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {device!r} is not known", "give cpu or cuda")
    limit = parse_size(fit) if fit is not None else 0
    settings = {"base": base, "method": method, "data": data}

    def load(further: Mapping[str, Any]) -> Any:
        more = [f"{key}={json.dumps(value)}" for key, value in further.items()]
        return load_config(file, settings, [*overrides, *more], recipe, planning=True)

    def plan_with(further: Mapping[str, Any]) -> Plan:
        return make_plan(load(further), clips=clips, seconds=seconds, device=device)

    if fit is None:
        found, proposal = plan_with({}), None
    else:
        proposal = fitting(load({}), limit, plan_with)
        found = proposal.plan
    if as_json:
        out = found.to_json()
        if proposal is not None:
            out["fit"] = {"settings": dict(proposal.settings), "costs": proposal.costs}
        typer.echo(json.dumps(out, ensure_ascii=False, indent=2))
        return
    if proposal is not None and not proposal.settings:
        typer.echo(f"it fits into {fit} as it is")
    elif proposal is not None:
        typer.echo(f"it fits into {fit} with: {proposal.words}")
        for cost in proposal.costs:
            typer.echo(f"            {cost}")
    for line in lines(found):
        typer.echo(line)
