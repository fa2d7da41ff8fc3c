"""Makes a test's folder: sounds matched and renamed, and the key to them."""

from __future__ import annotations

import random
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.atomic import disk_error, sync_folder
from tunesmith.errors import UserError
from tunesmith.listen import sounds as matching
from tunesmith.listen.design import (
    FILE,
    KINDS,
    QUESTIONS,
    SOUNDS,
    Item,
    Kind,
    Side,
    Test,
    write_test,
)
from tunesmith.listen.gather import Sounds, Voice
from tunesmith.training.signals import StopFlag

LOUDNESS_LUFS = -23.0
"""EBU R 128's level; headroom enough for nearly everything."""

LOWPASS = "lowpass"
LONGEST_S = 60.0
_TRAINING_FROM = 6
_OURS = {"takes", SOUNDS, ".lock"}


def create(
    folder: str | Path,
    given: Sounds,
    *,
    kind: Kind,
    title: str = "Listening test",
    question: str = "",
    items: int | None = None,
    training: int | None = None,
    ties: bool = True,
    repeats: int = 1,
    reference: str = "",
    anchor: str = "",
    show_prompt: bool = False,
    loudness_lufs: float = LOUDNESS_LUFS,
    longest_s: float = 30.0,
    seed: int | None = None,
    stop: StopFlag | None = None,
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> Test:
    """Make a listening test.

    Args:
        folder: new, or holding no more than ``takes/``.
        given: the sides; A/B and ABX compare the first with each other one.
        kind: ``ab``, ``abx`` or ``mos``.
        title, question: what listeners read; must not say what is compared.
        items: how many of the common items, practice included; all by default.
        training: practice items, whose answers do not count; by default one if there are six or
            more items, else none. They are drawn at random and are not used in the test.
        ties: A/B only: allow "no preference".
        repeats: items that each listener gets twice; not in ABX, where a right answer is known.
        reference: MOS only: the side of real recordings, hidden among the others.
        anchor: MOS only: the side that must be worst; ``lowpass`` makes one from the reference.
        show_prompt: let listeners read the prompt.
        loudness_lufs: level of all sounds; lowered as far as it takes that none clips.
        longest_s: seconds kept of each sound, at most 60.
        seed: of order and sides; random by default, which nobody can guess.
        stop: polled between sounds.
        on_event: told ``takes`` with ``done`` and ``total``.

    Raises:
        UserError: a folder in use, sides or settings that make no test.
    """
    folder = Path(folder)
    stop = stop or StopFlag()
    event = on_event or (lambda name, values: None)
    _check(folder, given, kind, reference, anchor, longest_s)
    voices, sides, lowpass = _sides(given, kind, reference, anchor)
    key_seed = secrets.token_hex(16) if seed is None else str(seed)
    keys, practice = _choose(given, items, training, key_seed)
    files = [[voice.files[key] for voice in voices] for key in keys]
    wanted = matching.common_format([file for row in files for file in row])
    measured: list[list[matching.Measured]] = []
    cut = 0.0
    for index, row in enumerate(files):
        stop.check("stopped while measuring; run the same command again")
        made, longer_s = matching.conformed(row, wanted, longest_s, lowpass)
        cut = max(cut, longer_s)
        measured.append([matching.measure(sound, wanted.sample_rate_hz) for sound in made])
        event("takes", {"done": index, "total": 2 * len(files)})
    pairs = [
        (file, one)
        for row, found in zip(files, measured, strict=True)
        for file, one in zip(row, found, strict=True)
    ]
    level = matching.common_level(pairs, loudness_lufs)
    target = folder / SOUNDS
    try:
        shutil.rmtree(target, ignore_errors=True)  # of a try that was interrupted
        target.mkdir(parents=True, mode=0o700)
        made_items = []
        for index, (key, row, found) in enumerate(zip(keys, files, measured, strict=True)):
            stop.check("stopped while writing; run the same command again")
            made, _ = matching.conformed(row, wanted, longest_s, lowpass)
            gains = [matching.gain_db(one, level) for one in found]
            names = [
                _write(target, sound * np.float32(10 ** (gain / 20)), wanted)
                for sound, gain in zip(made, gains, strict=True)
            ]
            made_items.append(
                Item(
                    prompt=given.prompts.get(key, ""),
                    seed=given.seeds.get(key),
                    sounds=tuple(names),
                    seconds=len(made[0]) / wanted.sample_rate_hz,
                    gains_db=tuple(round(gain, 2) for gain in gains),
                    training=key in practice,
                )
            )
            event("takes", {"done": len(files) + index + 1, "total": 2 * len(files)})
        noise = _write(target, matching.pink_noise(wanted, level), wanted)
        sync_folder(target)
    except OSError as error:
        raise disk_error(error, target) from error
    test = Test(
        kind=kind,
        title=title,
        question=question or QUESTIONS[kind],
        seed=key_seed,
        sides=sides,
        items=tuple(sorted(made_items, key=lambda item: not item.training)),
        ties=ties and kind == "ab",
        repeats=0 if kind == "abx" else repeats,
        show_prompt=show_prompt,
        loudness_lufs=round(level, 2),
        sample_rate_hz=wanted.sample_rate_hz,
        channels=wanted.channels,
        level=noise,
        notes=(*given.notes, *_notes(pairs, level, loudness_lufs, cut)),
    )
    write_test(folder, test)
    return test


def _write(folder: Path, sound: np.ndarray, wanted: matching.Format) -> str:
    name = f"{secrets.token_hex(12)}.wav"
    matching.write_plain(folder / name, sound, wanted.sample_rate_hz)
    return name


def _check(
    folder: Path, given: Sounds, kind: str, reference: str, anchor: str, longest_s: float
) -> None:
    if kind not in KINDS:
        raise UserError(f"kind '{kind}': unknown", f"give {', '.join(KINDS)}")
    if not 0.5 <= longest_s <= LONGEST_S:
        raise UserError(f"{longest_s:g} s of each sound", f"give 0.5 to {LONGEST_S:g}")
    if kind != "mos" and (reference or anchor):
        raise UserError(f"--kind {kind} has no reference or anchor", "leave them out, or give mos")
    if (folder / FILE).exists():
        raise UserError(f"{folder} holds a test already", "give another folder, or remove it")
    if folder.is_dir() and (other := {path.name for path in folder.iterdir()} - _OURS):
        raise UserError(f"{folder} is in use ({min(other)})", "give a new folder")
    names = [voice.name for voice in given.voices]
    for what, name in (("reference", reference), ("anchor", anchor)):
        if name and name not in names and not (what == "anchor" and name == LOWPASS):
            raise UserError(f"{what} '{name}' is no side", f"the sides are {', '.join(names)}")
    if anchor == LOWPASS and not reference:
        raise UserError("a low-pass anchor is made from the reference", "give the reference too")


def _sides(
    given: Sounds, kind: str, reference: str, anchor: str
) -> tuple[tuple[Voice, ...], tuple[Side, ...], list[bool]]:
    """Systems first, in the order given; then the reference and the anchor."""
    voices = list(given.voices)
    if anchor == LOWPASS and anchor not in {voice.name for voice in voices}:
        source = next(voice for voice in voices if voice.name == reference)
        voices.append(Voice(LOWPASS, source.files))
    ends = {reference: 1, anchor: 2}
    ends.pop("", None)
    voices.sort(key=lambda voice: ends.get(voice.name, 0))
    roles = {reference: "reference", anchor: "anchor"}
    sides = tuple(Side(voice.name, roles.get(voice.name, "system")) for voice in voices)  # type: ignore[arg-type]
    made = {voice.name for voice in given.voices}
    if not any(side.role == "system" for side in sides):
        raise UserError("nothing but a reference and an anchor", "give a side to be judged")
    return tuple(voices), sides, [side.name not in made for side in sides]


def _choose(
    given: Sounds, items: int | None, training: int | None, seed: str
) -> tuple[list[str], set[str]]:
    """Keys of the items in a random order, and which of them are for practice."""
    keys = given.keys
    draw = random.Random(f"{seed}/items")
    draw.shuffle(keys)
    if items is not None:
        if not 1 <= items <= len(keys):
            raise UserError(f"{items} items: there are {len(keys)}", f"give 1 to {len(keys)}")
        keys = keys[:items]
    if training is None:
        training = 1 if len(keys) >= _TRAINING_FROM else 0
    if not 0 <= training < len(keys):
        raise UserError(
            f"{training} practice items of {len(keys)} leave none to test", "give fewer of them"
        )
    return keys, set(keys[:training])


def _notes(
    pairs: list[tuple[Path, matching.Measured]], level: float, asked: float, cut_s: float
) -> list[str]:
    notes = []
    if level < asked - 0.05:
        notes.append(
            f"All sounds are at {level:.1f} LUFS instead of {asked:g}: the one with the highest peaks "
            "would clip above that."
        )
    if silent := [file.name for file, one in pairs if one.lufs is None]:
        notes.append(
            f"{len(silent)} of {len(pairs)} sounds are silent or shorter than 0.4 s and were left as "
            f"they are ({silent[0]})."
        )
    if cut_s > 0.05:
        notes.append(
            f"Versions of one item were cut to the shortest of them, by up to {cut_s:.1f} s: length "
            "itself would have given them away."
        )
    return notes
