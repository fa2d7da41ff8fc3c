"""Where the sounds of a test come from: folders, an evaluation, or models that make them now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.data.sources import READABLE
from tunesmith.errors import UserError
from tunesmith.evaluation.findings import from_json
from tunesmith.evaluation.subjects import Wanted, reference_of, wanted
from tunesmith.evaluation.takes import make_takes
from tunesmith.formats.sound import read_made_of
from tunesmith.training.signals import StopFlag

OnEvent = Callable[[str, Mapping[str, Any]], None]

EVALUATION = "evaluation.json"
_SEED = 20_000
"""Added to the seed, so that no take of a listening test was one of training's or the evaluation's."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A side before it is matched to the others.

    Attributes:
        name: as the results call it.
        files: by key; equal keys are the same item.
    """

    name: str
    files: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Sounds:
    """Sides, and what their items are.

    Attributes:
        voices: the sides, the base first.
        prompts, seeds: by key, where they are known.
        notes: what a reader of the results has to know, one sentence each.
    """

    voices: tuple[Voice, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Items that every side has."""
        shared = set.intersection(*(set(voice.files) for voice in self.voices))
        return sorted(shared)


def from_words(
    words: Sequence[str],
    *,
    takes: Path,
    prompts: Sequence[str] = (),
    count: int = 21,
    seconds: float = 5.0,
    seed: int = 0,
    stop: StopFlag | None = None,
    on_event: OnEvent | None = None,
) -> Sounds:
    """The sides that words name.

    Args:
        words: ``[NAME=]WHAT`` each. WHAT is a folder with an ``evaluation.json`` (all its subjects),
            a folder of sounds, a run (its base becomes a side too), or a base.
        takes: folder for what has to be generated; what is there already is not made again.
        prompts: for what is generated; the held-out captions of the runs' data by default.
        count: takes of each model.
        seconds: of each take.
        seed: of the first take.
        stop: polled while generating.
        on_event: told of progress.

    Raises:
        UserError: a word that names nothing, sides without a common item, or fewer than two sides.
        Stopped: a stop was asked for; takes that were made stay.
    """
    voices: list[Voice] = []
    texts: dict[str, str] = {}
    seeds: dict[str, int] = {}
    names: dict[str, str] = {}
    plain: list[str] = []
    for word in words:
        name, what = _named(word)
        if (Path(what) / EVALUATION).is_file():
            if name:
                raise UserError(
                    f"'{word}': an evaluation has several sides with names of their own",
                    "give the folder alone",
                )
            found = _evaluated(Path(what) / EVALUATION)
            voices += found.voices
            texts |= found.prompts
            seeds |= found.seeds
        else:
            plain.append(what)
            if name:
                names[what] = name
    subjects = wanted(plain) if plain else []
    makers = [one for one in subjects if one.kind != "folder"]
    if makers:
        said = list(prompts) or _held_out(makers)
        told = [said[index % len(said)] for index in range(count)]
        keys = [f"{index:03d}" for index in range(count)]
        texts |= dict(zip(keys, told, strict=True))
        seeds |= {key: seed + _SEED + index for index, key in enumerate(keys)}
        for one in makers:
            files = _generated(one, takes, told, seed + _SEED, seconds, stop, on_event)
            voices.append(Voice(_name(one, names), dict(zip(keys, files, strict=True))))
    for one in subjects:
        if one.kind == "folder":
            voices.append(Voice(_name(one, names), _folder(Path(one.path))))
    return _joined(voices, texts, seeds)


def _named(word: str) -> tuple[str, str]:
    """``name=what``; a path may itself hold an equals sign."""
    name, equals, what = word.partition("=")
    return (name, what) if equals and name and not Path(word).exists() else ("", word)


def _name(one: Wanted, names: Mapping[str, str]) -> str:
    """The user's name for a side, else its own."""
    for what, name in names.items():
        if one.kind == "base" and one.base is not None and one.base.name == what:
            return name
        if one.path and one.path in (what, str(Path(what).expanduser().resolve())):
            return name
        if one.kind == "run" and Path(what).name == Path(one.path).name:  # an adapter by its name
            return name
    return Path(one.name).name or one.key


def _evaluated(file: Path) -> Sounds:
    try:
        found = from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: not readable ({error})", "run `tunesmith evaluate` again"
        ) from None
    voices, notes = [], []
    for subject in found.subjects.values():
        if subject.kind == "folder" or not subject.takes:
            continue  # its files are not of the same prompts
        files = {
            f"{index:03d}": take if (take := Path(name)).is_absolute() else file.parent / take
            for index, name in enumerate(subject.takes)
        }
        voices.append(Voice(subject.name, files))
    keys = [f"{index:03d}" for index in range(len(found.prompts))]
    return Sounds(
        tuple(voices),
        dict(zip(keys, found.prompts, strict=True)),
        dict(zip(keys, found.seeds, strict=False)),
        tuple(notes),
    )


def _folder(folder: Path) -> dict[str, Path]:
    files = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in READABLE and path.is_file() and path.name[0] != "."
    }
    if not files:
        raise UserError(
            f"{folder}: no sounds in it", "give a folder of wav, flac, ogg or mp3 files"
        )
    return files


def _held_out(subjects: Sequence[Wanted]) -> list[str]:
    try:
        clips = reference_of(None, subjects).clips
    except UserError as error:
        raise UserError(
            f"no prompts: {error.message}", "give --prompts FILE with one prompt a line"
        ) from None
    return list(dict.fromkeys(clip.caption for clip in clips if clip.caption))


def _generated(
    one: Wanted,
    takes: Path,
    prompts: Sequence[str],
    seed: int,
    seconds: float,
    stop: StopFlag | None,
    on_event: OnEvent | None,
) -> list[Path]:
    assert one.base is not None
    made = make_takes(
        out=takes / one.key,
        base=one.base.name,
        revision=one.base.revision,
        quantize=one.base.quantize,
        run=one.path or None,
        prompts=prompts,
        seed=seed,
        duration_s=seconds,
        worded=True,
        stop=stop or StopFlag(),
        on_event=on_event or (lambda kind, values: None),
    )
    return [Path(file) for file in made]


def _joined(voices: Sequence[Voice], texts: dict[str, str], seeds: dict[str, int]) -> Sounds:
    if len(voices) < 2:
        names = ", ".join(voice.name for voice in voices) or "none"
        raise UserError(
            f"a test needs two sides, found {names}", "give another folder, run or base"
        )
    unique: list[Voice] = []
    for voice in voices:
        name, number = voice.name, 2
        while name in {other.name for other in unique}:
            name, number = f"{voice.name} {number}", number + 1
        unique.append(replace(voice, name=name))
    sounds = Sounds(tuple(unique), texts, seeds)
    if not sounds.keys:
        raise UserError(
            f"no file name is common to {' and '.join(voice.name for voice in unique)}",
            "give versions of the same item the same file name",
        )
    most = max(len(voice.files) for voice in unique)
    notes = []
    if left := most - len(sounds.keys):
        notes.append(f"{left} of {most} items are not there from every side and were left out.")
    for key in sounds.keys:
        told = _told(key, unique)
        if key not in texts and told.get("prompt"):
            texts[key] = str(told["prompt"])
        if key not in seeds and isinstance(told.get("seed"), int):
            seeds[key] = told["seed"]
    return replace(sounds, notes=tuple(notes))


def _told(key: str, voices: Sequence[Voice]) -> dict[str, Any]:
    """What all versions of an item say that they were asked for; empty where they disagree."""
    told = []
    for voice in voices:
        try:
            told.append(read_made_of(voice.files[key]))
        except (OSError, RuntimeError):
            told.append({})
    first = told[0]
    return {
        name: first[name]
        for name in ("prompt", "seed")
        if name in first and all(one.get(name) == first[name] for one in told)
    }
