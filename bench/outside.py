"""What the diffusion families and their tasks asked of the rest of the house, file by file.

    python -m bench.outside [--since COMMIT] [--until COMMIT]

Counts changed files of `src/tunesmith` outside of families, objectives, tasks, recipes, cli/generate and
pocket, and fails if one of them has no reason below.
"""

from __future__ import annotations

import subprocess
import sys

from bench._results import Row, parser, record

SINCE, UNTIL = "b5218bd", "906dfcf"
INSIDE = ("families/", "objectives/", "tasks/", "recipes/", "cli/generate.py", "pocket/")
REASONS = {
    "types.py": "nouns of tasks: Source, Details, sampler steps, latents that lack a band, heads of fused projections",
    "data/encode.py": "columns beside the caption; latents that lack a band; caches know of families",
    "data/": "lyrics, language, tempo, key as columns, cut with the clip (asked for by the issue)",
    "cli/check.py": "the same, shown",
    "report/check.html.j2": "the same, shown",
    "analysis/bands.py": "a band of frequencies and the rest, for masks of bands",
    "config/": "sections `task` and `data.require`; recipes that need columns",
    "methods/_together.py": "several things may train beside a method: tokens, a task's input",
    "methods/": "parameters that never train (`fixed`); fused and gated projections; head sizes; vocoders",
    "formats/adapter.py": "a card names the task; conditioning is kept",
    "formats/hub.py": "export --to diffusers",
    "cli/export.py": "export --to diffusers",
    "formats/": "a base's hash by its parts; the library named on a card",
    "training/measure.py": "a loss that draws noise is measured with four draws, always the same",
    "training/selftest.py": "a loss that draws noise is overfitted on fresh noise",
    "training/rehearsal.py": "sampled clips say how long they are; caches know of families",
    "training/memory.py": "diffusers passes queries by keyword, which the account of memory did not know",
    "training/plan": "codecs that take a sound in parts; what trains beside a method",
    "training/": "tasks, untrainable checkpoints, required columns",
    "evaluation/crowds.py": "another issue's: distances in files of their own",
    "evaluation/evaluate.py": "losses in the unit of their family",
    "evaluation/": "taught to fill holes, a model is measured on whole sounds; adapters with a task",
    "report/": "losses in the unit of their family",
    "registry.py": "losses in the unit of their family",
    "api.py": "Model.inpaint, Model.edit, read_sound",
    "__init__.py": "Model.inpaint, Model.edit, read_sound",
    "metrics/": "another issue's: distances in files of their own",
}


def changed(since: str, until: str) -> list[str]:
    """Paths below ``src/tunesmith`` that differ between two commits, outside of what is allowed."""
    root = "src/tunesmith/"
    said = subprocess.run(
        ["git", "diff", "--name-only", since, until, "--", root],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    names = [name.removeprefix(root) for name in said]
    return [name for name in names if not name.startswith(INSIDE)]


def reason(name: str) -> str | None:
    """The reason of the longest entry that a path begins with."""
    fits = [key for key in REASONS if name.startswith(key)]
    return REASONS[max(fits, key=len)] if fits else None


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--since", default=SINCE)
    options.add_argument("--until", default=UNTIL)
    args = options.parse_args()
    names = changed(args.since, args.until)
    if unknown := [name for name in names if reason(name) is None]:
        sys.exit(f"changed without a reason: {', '.join(unknown)}")
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(str(reason(name)), []).append(name)
    figure = f"{len(names)} files, each with its reason: " + "; ".join(
        f"{why} ({', '.join(some)})" for why, some in grouped.items()
    )
    rows = [
        Row(
            "diffusion families: what changed outside of families, objectives, tasks, recipes, cli/generate, pocket",
            "nothing, or each change with its reason",
            figure,
            True,
        )
    ]
    if args.quick:
        print(*rows, sep="\n")
        return
    record("outside", "What new families ask of the house", rows, notes=f"From {SINCE} to {UNTIL}.")


if __name__ == "__main__":
    main()
