"""``tunesmith generate``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer


def generate(
    prompts: Annotated[list[str], typer.Argument(help="What to generate; several make several.")],
    base: Annotated[
        str, typer.Option(help="Base model: pocket, a folder, or a hub id.")
    ] = "pocket",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="A run's folder, a name under the adapters folder, or owner/name; several as "
            "NAME=WEIGHT are blended."
        ),
    ] = None,
    strength: Annotated[
        str,
        typer.Option(
            help="How much of the adapter: 0 is the base, 1 as trained; 0,0.5,1 makes each."
        ),
    ] = "1",
    seconds: Annotated[float, typer.Option(help="Length, a continued sound included.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of the first; the next has the next.")] = 0,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="How many of each prompt.")
    ] = 1,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")] = Path("out"),
    continue_from: Annotated[
        Path | None, typer.Option("--continue", help="A recording to go on from.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Classifier-free guidance; 1 is off. The base's own by default, as all of these.",
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy.")] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="Sample among the k likeliest; 0 is off."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Sample within this probability mass; 1 is off.",
        ),
    ] = None,
    quantize: Annotated[
        str, typer.Option(help="nf4 holds the base in 4 bits, as QLoRA trained on it.")
    ] = "none",
    kind: Annotated[str, typer.Option("--format", help="wav or flac.")] = "wav",
) -> None:
    """Generate sound from text, with or without an adapter."""
    from tunesmith.errors import UserError
    from tunesmith.formats.sound import FORMATS

    try:
        strengths = [float(part) for part in strength.split(",")]
    except ValueError:
        raise UserError(f"--strength {strength}: not numbers", "give e.g. 0.8 or 0,0.5,1") from None
    if kind not in FORMATS:
        raise UserError(f"--format {kind}: unknown", f"give {' or '.join(FORMATS)}")
    if not adapter and strengths != [1.0]:
        raise UserError("--strength without --adapter", "give the adapter whose strength it is")

    if quantize not in ("none", "nf4"):
        raise UserError(f"--quantize {quantize}: unknown", "give nf4 or none")

    from tunesmith.api import open as open_model
    from tunesmith.cli._named import name_and_weight
    from tunesmith.data.encode import read_audio
    from tunesmith.formats.adapter import card_hash
    from tunesmith.formats.sound import write_sound
    from tunesmith.tasks.generate import check_duration
    from tunesmith.tasks.generate import generate as run
    from tunesmith.training.signals import StopFlag

    model = open_model(base, quantize="" if quantize == "none" else quantize)
    bundle = model.bundle
    typer.echo(f"base {bundle.name} ({bundle.base_hash[:12]})", err=True)
    weights: dict[str, float] = {}
    for word in adapter or []:
        # A folder may have an equals sign in its name.
        name, weight = (word, None) if Path(word).exists() else name_and_weight(word)
        folder = model.add(name)
        weights[name] = 1.0 if weight is None else weight
        weighed = f"{weight:g} of " if weight is not None else ""
        typer.echo(f"{weighed}adapter {folder} ({card_hash(folder)[:12]})", err=True)
    model.select(weights)
    alone = next(iter(weights.values())) if len(weights) == 1 else 1.0
    continued = None
    if continue_from is not None:
        if not continue_from.is_file():
            raise UserError(f"--continue {continue_from}: no such file", "give a recording")
        continued = read_audio(continue_from, bundle.sample_rate_hz, bundle.channels, bundle.max_s)
    check_duration(bundle, seconds, continued.duration_s if continued else 0.0)
    given = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings = replace(bundle.sampling, **{k: v for k, v in given.items() if v is not None})
    with StopFlag() as stop:
        for level in strengths:
            model.set_strength(level * alone)
            takes = run(
                bundle,
                prompts,
                duration_s=seconds,
                seed=seed,
                count=count,
                settings=settings,
                continued=continued,
                should_stop=stop,
            )
            for number, take in enumerate(takes):
                made_of = {
                    "prompt": take.prompt,
                    "seed": take.seed,
                    "seconds": seconds,
                    **model.origin,
                    "strength": level * alone if weights else None,
                    **asdict(settings),
                    "continues": continue_from.name if continue_from else None,
                }
                part = f"-strength{level:g}" if len(strengths) > 1 else ""
                path = out / f"{number // count:02d}-seed{take.seed}{part}.{kind}"
                write_sound(path, take.audio, made_of)
                typer.echo(path)
