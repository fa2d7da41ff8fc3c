"""The demo's table on real recordings: what the embedded base can learn from them, and what not.

Each recording is cut in two: an adapter is trained on the first part, and held-out clips are cut
from the second. Needs ../shared/audio/music; without it the rows keep their last figures.

python -m bench.real_gap [--quick]
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import soundfile

from bench._results import Row, parser, record
from bench._sounds import AUDIO
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.data.encode import read_audio
from tunesmith.evaluation.hearing import gap_closed
from tunesmith.evaluation.takes import make_takes, through_codec
from tunesmith.families import base_limits
from tunesmith.formats.adapter import read_card
from tunesmith.formats.sound import write_sound
from tunesmith.metrics import _logmel, tagger
from tunesmith.metrics.gap import Gap
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag
from tunesmith.types import Audio

MUSIC = AUDIO / "music"
SEEDS = (0, 1, 2)
EARS = {tagger.NAME: None, _logmel.NAME: _logmel.embed}
_MISSING = "not measured: ../shared/audio/music is not there"


@dataclass(frozen=True, slots=True)
class _Recording:
    """One recording: its file, a caption, and how it is divided (seconds)."""

    name: str
    file: str
    caption: str
    train_s: float
    clip_s: float
    takes: int


RECORDINGS = (
    _Recording(
        "jazz trio", "vibe_ace.ogg", "jazz trio with vibraphone, bass and drums", 40, 2.0, 32
    ),
    _Recording("solo trumpet", "solo_trumpet.ogg", "solo trumpet, slow", 2.5, 0.5, 16),
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one recording gave: the gap by each ear, and the losses of each seed (before, after)."""

    gaps: dict[str, Gap]
    losses: list[tuple[float | None, float | None]]


def _measure(recording: _Recording, out: Path, quick: bool) -> _Found:
    rate, channels, longest = base_limits("pocket")
    whole = read_audio(MUSIC / recording.file, rate, channels, 120.0)
    cut = round(recording.train_s * rate)
    write_sound(out / "raw" / "first.wav", Audio(whole.samples[:, :cut], rate))
    (out / "raw" / "first.txt").write_text(recording.caption, encoding="utf-8")
    size = round(recording.clip_s * rate)
    held_out = []
    for index in range((whole.samples.shape[1] - cut) // size):
        part = whole.samples[:, cut + index * size : cut + (index + 1) * size]
        file = out / "held-out" / f"{index:02d}.wav"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, part.T, rate, subtype="PCM_16")
        held_out.append(str(file))
    length_s = min(longest, 5.0, recording.train_s / 2)
    prepare(
        out / "raw",
        out / "data",
        sample_rate_hz=rate,
        channels=channels,
        min_s=min(1.0, length_s),
        max_s=length_s,
        base_max_s=longest,
        valid_share=0.2,
        rights="CC BY 3.0",
    )
    silent = {"stop": StopFlag(), "on_event": lambda kind, values: None}
    takes = 4 if quick else recording.takes
    song = {"base": "pocket", "seed": 10_000, "duration_s": recording.clip_s} | silent
    prompts = [recording.caption] * takes
    base = make_takes(out=out / "base", run=None, prompts=prompts, **song)
    codec = through_codec(out=out / "codec", base="pocket", files=held_out, **silent)
    adapted, losses = [], []
    for seed in SEEDS[:1] if quick else SEEDS:
        run = out / f"run-{seed}"
        settings = {
            "base": "pocket",
            "method": "lora",
            "data": str(out / "data"),
            "out": str(run),
            "seed": seed,
            "preview.every": 0,
        } | ({"train.steps": 2} if quick else {})
        train(load_config(settings=settings))
        told = read_card(run)["metrics"]["validation_loss"]
        losses.append((told["base"], told["adapted"]))
        adapted.append(make_takes(out=out / f"takes-{seed}", run=run, prompts=prompts, **song))
    gaps = {name: gap_closed(held_out, codec, base, adapted, ear=ear) for name, ear in EARS.items()}
    return _Found(gaps, losses)


def _rows(recording: _Recording, found: _Found | None) -> list[Row]:
    rows = []
    for ear in EARS:
        gap = found.gaps[ear] if found else None
        what = f"{recording.name}: gap closed, by {ear}"
        if gap is None:
            rows.append(Row(what, "", None, missing=_MISSING))
            continue
        each = ", ".join(f"{share:.0%}" for share in gap.closed if share is not None)
        shares = (
            f"median {gap.median:.0%} ({each}; standard error up to "
            f"{max(error for error in gap.errors if error is not None):.0%})"
            if gap.median is not None
            else f"no clear gap: {gap.width:.1f}, give or take {gap.width_error:.1f}"
        )
        adapted = ", ".join(f"{one:.1f}" for one in gap.adapted)
        rows.append(
            Row(
                what,
                "",
                f"{shares}; p = {gap.p_value:.3g}; KAD base {gap.base:.1f}, adapted {adapted}, real "
                f"clips through the codec {gap.ceiling:.1f}; {gap.n_reference} held-out clips of "
                f"{recording.clip_s:g} s, {gap.n_takes} takes of each model",
            )
        )
    what = f"{recording.name}: validation loss of three seeds, base -> adapted"
    if not found:
        return [*rows, Row(what, "", None, missing=_MISSING)]
    told = [
        f"{before:.3f} -> {after:.3f}"
        for before, after in found.losses
        if before is not None and after is not None
    ]
    return [*rows, Row(what, "", "; ".join(told) or "too short to set clips aside")]


def _notes(found: dict[str, _Found]) -> str:
    """What was learned and what not, from the figures alone."""
    said = []
    for name, one in found.items():
        nearer = [
            ear
            for ear, gap in one.gaps.items()
            if gap.p_value < 0.05 and gap.base > max(gap.adapted)
        ]
        deaf = [ear for ear, gap in one.gaps.items() if gap.width < gap.base / 2]
        learnt = (
            f"the adapted takes lie nearer to the recording than the base's, beyond chance, by "
            f"{' and by '.join(nearer)}"
            if nearer
            else "no embedding hears the adapted takes nearer to the recording beyond chance"
        )
        lost = (
            f"; by {' and by '.join(deaf)}, most of the base's distance is there in the codec's rendering "
            "of the recording already, which no adapter can mend"
            if deaf
            else ""
        )
        said.append(f"{name.capitalize()}: {learnt}{lost}.")
    return " ".join(said) or "The recordings were not there."


_PLAIN = (
    "Plainly: base and codec were made from synthesised General MIDI music at 16 kHz. An adapter chooses "
    "among the sounds that this codec has; it adds none. What it can learn from such recordings is which "
    "of those sounds to play, and how densely. What the codec's own distance in these rows stands for "
    "(a real player's tone, noise, room) it cannot learn. These are one recording each, with held-out "
    "clips of that same recording: nothing follows for other recordings of the kind. So few clips show "
    "large differences only, and a loop of five seconds is barely a measurement. The tagger heard no "
    "recordings in its training either; beside it stand log-mel statistics, which were trained on "
    "nothing."
)


def main() -> None:
    args = parser(__doc__).parse_args()
    found: dict[str, _Found] = {}
    for recording in RECORDINGS:
        if (MUSIC / recording.file).is_file():
            with tempfile.TemporaryDirectory() as folder:
                found[recording.name] = _measure(recording, Path(folder), args.quick)
    rows = [row for one in RECORDINGS for row in _rows(one, found.get(one.name))]
    notes = f"{_notes(found)} {_PLAIN}"
    if args.quick:
        print(*rows, notes, sep="\n")
        return
    record("real_gap", "Real recordings: what the embedded base can learn", rows, notes=notes)


if __name__ == "__main__":
    main()
