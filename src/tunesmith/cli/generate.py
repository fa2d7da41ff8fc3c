"""``tunesmith generate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tunesmith.tasks.generate import Take


def generate(
    prompts: Annotated[list[str], typer.Argument(help="What to generate; several make several.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model: pocket, a folder, or a hub id; by default the adapter's, or pocket."
        ),
    ] = None,
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
    inpaint_in: Annotated[
        Path | None,
        typer.Option("--inpaint", help="A recording whose --span is made anew; the rest stays."),
    ] = None,
    span: Annotated[
        list[str] | None,
        typer.Option(help="BEGIN:END in seconds of --inpaint; several make several holes."),
    ] = None,
    band: Annotated[
        str | None,
        typer.Option(
            help="LOW:HIGH in Hz of --inpaint, made anew instead of a span, by a base that was taught to."
        ),
    ] = None,
    edit_in: Annotated[
        Path | None, typer.Option("--edit", help="A recording to make anew by degrees.")
    ] = None,
    change: Annotated[
        float,
        typer.Option(min=0, max=1, help="How far --edit goes: 0 stays, 1 keeps nothing of it."),
    ] = 0.6,
    detail: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE beside the prompt, where the base listens to it: lyrics=FILE or text, "
            "language=en, bpm=120, key='C major'."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps of a diffusion base.")
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
    from tunesmith.api import open as open_model
    from tunesmith.cli._named import name_and_weight
    from tunesmith.errors import UserError
    from tunesmith.formats.adapter import card_hash, find_adapter, read_card
    from tunesmith.formats.merged import base_of
    from tunesmith.formats.sound import write_sound
    from tunesmith.training.signals import StopFlag

    strengths = _strengths(strength, bool(adapter), kind, quantize)
    made_from = _source(continue_from, inpaint_in, edit_in, span, band)
    # A folder may have an equals sign in its name.
    named = [(w, None) if Path(w).exists() else name_and_weight(w) for w in adapter or []]
    if base is None:
        base = base_of(read_card(find_adapter(named[0][0]))).name if named else "pocket"
    model = open_model(base, quantize="" if quantize == "none" else quantize)
    bundle = model.bundle
    typer.echo(f"base {bundle.name} ({bundle.base_hash[:12]})", err=True)
    weights: dict[str, float] = {}
    for name, weight in named:
        folder = model.add(name)
        weights[name] = 1.0 if weight is None else weight
        weighed = f"{weight:g} of " if weight is not None else ""
        typer.echo(f"{weighed}adapter {folder} ({card_hash(folder)[:12]})", err=True)
    model.select(weights)
    alone = next(iter(weights.values())) if len(weights) == 1 else 1.0
    given = {
        "guidance": guidance,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "steps": steps,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    if unused := [name for name in asked if name not in bundle.settings]:
        raise UserError(
            f"--{unused[0].replace('_', '-')} means nothing to '{bundle.name}'",
            f"it listens to: {', '.join(bundle.settings)}",
        )
    settings = replace(bundle.sampling, **asked)
    details = _details(detail or [])
    with StopFlag() as stop:
        run = _task(bundle, prompts, made_from, seconds, change)
        for level in strengths:
            model.set_strength(level * alone)
            takes = run(
                seed=seed, count=count, settings=settings, should_stop=stop, details=details
            )
            for number, take in enumerate(takes):
                made_of = {
                    "prompt": take.prompt,
                    "seed": take.seed,
                    "seconds": take.audio.duration_s if made_from else seconds,
                    **model.origin,
                    "strength": level * alone if weights else None,
                    **{name: getattr(settings, name) for name in bundle.settings},
                    **details,
                    **({f"{made_from.verb}s": made_from.file.name} if made_from else {}),
                    **({"spans": made_from.spans} if made_from and made_from.spans else {}),
                    **({"band": made_from.band} if made_from and made_from.band else {}),
                    **({"change": change} if edit_in else {}),
                }
                part = f"-strength{level:g}" if len(strengths) > 1 else ""
                path = out / f"{number // count:02d}-seed{take.seed}{part}.{kind}"
                write_sound(path, take.audio, made_of)
                typer.echo(path)


@dataclass(frozen=True, slots=True)
class _Source:
    """The recording that takes are made from: what is done with it, which file, which holes."""

    verb: str
    file: Path
    spans: tuple[tuple[float, float], ...] = ()
    band: tuple[float, float] | None = None


def _strengths(strength: str, adapted: bool, kind: str, quantize: str) -> list[float]:
    """The levels asked for; what the words alone tell to be wrong is refused here."""
    from tunesmith.errors import UserError
    from tunesmith.formats.sound import FORMATS

    try:
        strengths = [float(part) for part in strength.split(",")]
    except ValueError:
        raise UserError(f"--strength {strength}: not numbers", "give e.g. 0.8 or 0,0.5,1") from None
    if kind not in FORMATS:
        raise UserError(f"--format {kind}: unknown", f"give {' or '.join(FORMATS)}")
    if not adapted and strengths != [1.0]:
        raise UserError("--strength without --adapter", "give the adapter whose strength it is")
    if quantize not in ("none", "nf4"):
        raise UserError(f"--quantize {quantize}: unknown", "give nf4 or none")
    return strengths


def _source(
    continued: Path | None,
    inpainted: Path | None,
    edited: Path | None,
    spans: list[str] | None,
    band: str | None,
) -> _Source | None:
    from tunesmith.errors import UserError

    given = {"continue": continued, "inpaint": inpainted, "edit": edited}
    found = [(verb, file) for verb, file in given.items() if file is not None]
    if len(found) > 1:
        verbs = " and ".join(f"--{verb}" for verb, _ in found)
        raise UserError(f"{verbs} at once", "give one of them")
    for word, said in (("span", spans), ("band", band)):
        if said and inpainted is None:
            raise UserError(f"--{word} without --inpaint", "give the recording that it is of")
    if not found:
        return None
    ((verb, file),) = found
    if not file.is_file():
        raise UserError(f"--{verb} {file}: no such file", "give a recording")
    if verb != "inpaint":
        return _Source(verb, file)
    if bool(spans) == bool(band):
        raise UserError(
            "--inpaint with neither or both of --span and --band",
            "say what is made anew: --span 3.0:5.5, or --band 4000:16000",
        )
    if band:
        return _Source(verb, file, band=_pair(band, "--band", "Hz, such as 4000:16000"))
    holes = tuple(_pair(word, "--span", "seconds, such as 3.0:5.5") for word in spans or [])
    return _Source(verb, file, holes)


def _pair(word: str, option: str, example: str) -> tuple[float, float]:
    """Two numbers with a colon between them."""
    from tunesmith.errors import UserError

    try:
        begin, end = map(float, word.split(":"))
    except ValueError:
        raise UserError(f"{option} {word}: not BEGIN:END", f"give {example}") from None
    return begin, end


def _details(words: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` words; a value that names a text file is what it holds."""
    from tunesmith.errors import UserError

    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(f"--detail {word}: not NAME=VALUE", "give e.g. bpm=120")
        file = Path(value)
        if name == "lyrics" and len(value) < 200 and file.suffix == ".txt":
            try:
                value = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(
                    f"--detail {word}: not readable ({error})", "give a text file"
                ) from None
        found[name] = value
    return found


def _task(
    bundle: Any, prompts: list[str], source: _Source | None, seconds: float, change: float
) -> Callable[..., Iterator[Take]]:
    """What is asked of the model, but for seeds and settings."""
    from tunesmith.data.encode import read_audio
    from tunesmith.errors import UserError
    from tunesmith.tasks.edit import edit
    from tunesmith.tasks.generate import check_duration, generate
    from tunesmith.tasks.inpaint import fill_band, inpaint

    if source is None:
        check_duration(bundle, seconds)
        return partial(generate, bundle, prompts, duration_s=seconds)
    if source.verb == "inpaint":
        if len(prompts) > 1:
            raise UserError("--inpaint with several prompts", "give the one that is to sound there")
        # The base hears the part around the holes; the recording may be a whole song, and stays as it is.
        audio = read_audio(source.file, None, None, 3600.0)
        if source.band:
            return partial(fill_band, bundle, prompts[0], audio, source.band)
        return partial(inpaint, bundle, prompts[0], audio, source.spans)
    audio = read_audio(source.file, bundle.sample_rate_hz, bundle.channels, bundle.max_s)
    if source.verb == "continue":
        check_duration(bundle, seconds, audio.duration_s)
        return partial(generate, bundle, prompts, duration_s=seconds, continued=audio)
    return partial(edit, bundle, prompts, audio, change)
