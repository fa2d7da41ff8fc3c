"""``tunesmith ls``: what is installed, and what works with what."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def _tables() -> dict[str, Any]:
    from tunesmith.registry import COMPOSED, matrix, plugins, recipes

    return {
        **{
            kind: {name: dict(plugin.spec) for name, plugin in plugins(kind).items()}
            for kind in ("families", "methods", "metrics", "embeddings", "tasks")
        },
        "composed": {name: dict(parts) for name, parts in COMPOSED.items()},
        "recipes": recipes(),
        "matrix": matrix(),
    }


def ls(
    as_json: Annotated[bool, typer.Option("--json", help="The same, for programs.")] = False,
) -> None:
    """Show families, methods, metrics, embeddings, tasks, recipes, and which method works on which family."""
    tables = _tables()
    if as_json:
        typer.echo(json.dumps(tables, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    titles = {"composed": "methods composed of others"}
    for kind in ("families", "methods", "composed", "metrics", "embeddings", "tasks", "recipes"):
        table = Table(
            "name",
            "what it is",
            title=titles.get(kind, kind),
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for name, spec in tables[kind].items():
            on = f" (on {' or '.join(spec['on'])})" if kind == "composed" else ""
            table.add_row(name, spec["summary"] + on)
        console.print(table)
        console.print()
    methods = list(tables["methods"])
    table = Table(
        "family", *methods, title="support", title_justify="left", box=None, pad_edge=False
    )
    reasons = []
    for family, row in tables["matrix"].items():
        table.add_row(family, *("yes" if row[method] == "ok" else "no" for method in methods))
        reasons += [f"{method} on {family}: {why}" for method, why in row.items() if why != "ok"]
    console.print(table)
    for reason in reasons:
        console.print(f"  {reason}")
    from tunesmith.families._bases import EMBEDDED

    console.print(
        f"\nembedded bases: {', '.join(EMBEDDED)}; any folder or hub id of a family works as well"
    )
