"""What the tagger hears in compositions it was not trained on, and what its embedding tells apart.

    python -m bench.tagger [--clips 300] [--folder FOLDER] [--quick]

Sounds come from composer seeds that stand in no training set. `--folder` measures another tagger
than the shipped one (the judge, a new one) and writes nothing to RESULTS.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read by numpy when it is loaded; what is timed is one core

import numpy as np
import torch
from scipy.signal import butter, sosfiltfilt

from bench._results import Row, parser, record
from bench._sounds import FIRST_SEED
from pretrain.compose import HELD_OUT_LEAD, LEADS, Composition, compose
from pretrain.render import render
from pretrain.tagger import load_coder, through
from tunesmith.metrics import fad, kad, tagger
from tunesmith.types import Audio

RATE_HZ = tagger.SAMPLE_RATE_HZ
BASE = Path(tagger.__file__).parents[1] / "pocket" / "musicgen"
SNR_DB = (30, 20, 10, 5, 0)
LOW_PASS_HZ = (6000, 4000, 3000, 2000, 1000)
CLIP_AT = (0.5, 0.25, 0.12, 0.06, 0.03)  # shares of the peak
SEMITONES = (1, 2, 3, 5, 7)
HEADS = ("instrument", "style", "mood", "density", "texture")
_AT_ONCE = 25


def rendered(
    first: int, count: int, *, held_out: bool = False, programs: Sequence[int] = ()
) -> tuple[list[np.ndarray], list[Composition]]:
    """Ten-second compositions, float32 ``[T]`` at 16 kHz, and what they are.

    Args:
        first: seed of the first.
        count: seeds.
        held_out: the style and lead of no training.
        programs: General MIDI programs that take turns in the place of the lead's.
    """
    made = [compose(seed, held_out=held_out) for seed in range(first, first + count)]
    if programs:
        made = [
            replace(piece, programs=piece.programs | {0: programs[piece.seed % len(programs)]})
            for piece in made
        ]
    return sounds_of(made)


def sounds_of(pieces: Sequence[Composition]) -> tuple[list[np.ndarray], list[Composition]]:
    """Float32 ``[160000]`` each, and the compositions that sounded."""
    sounds, kept = [], []
    for start in range(0, len(pieces), _AT_ONCE):
        clips, some = render(list(pieces[start : start + _AT_ONCE]))
        sounds += [clip.astype(np.float32) / 32768 for clip in clips]
        kept += some
    return sounds, kept


def as_audio(sound: np.ndarray) -> Audio:
    return Audio(sound[None], RATE_HZ)


def noisy(sound: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(len(sound))
    noise *= np.sqrt(np.mean(sound**2)) * 10 ** (-snr_db / 20)
    return (sound + noise).astype(np.float32)


def low_passed(sound: np.ndarray, edge_hz: float, seed: int) -> np.ndarray:
    del seed
    sections = butter(6, edge_hz, fs=RATE_HZ, output="sos")
    return sosfiltfilt(sections, sound).astype(np.float32)


def clipped(sound: np.ndarray, share: float, seed: int) -> np.ndarray:
    del seed
    edge = share * float(np.abs(sound).max())
    return np.clip(sound, -edge, edge)


def shifted(sound: np.ndarray, semitones: float, seed: int) -> np.ndarray:
    """Higher by resampling grains that overlap: pitch changes, tempo does not."""
    del seed
    ratio = 2 ** (semitones / 12)
    grain, hop = 2048, 512  # 128 and 32 ms
    window = np.hanning(grain)
    out, weight = np.zeros(len(sound) + grain), np.zeros(len(sound) + grain)
    wide = round(grain * ratio)
    padded = np.pad(sound, (grain, 2 * grain + wide))
    for start in range(0, len(sound), hop):
        # The place among those nearby that continues best what is there already (Verhelst 1993).
        best, place = -np.inf, start + grain
        made = out[start : start + hop] / np.maximum(weight[start : start + hop], 1e-3)
        for offset in range(-256, 257, 16):
            at = start + grain + offset
            head = np.interp(np.arange(hop) * ratio, np.arange(wide), padded[at : at + wide])
            likeness = float(made @ head)
            if likeness > best:
                best, place = likeness, at
        part = np.interp(np.arange(grain) * ratio, np.arange(wide), padded[place : place + wide])
        out[start : start + grain] += window * part
        weight[start : start + grain] += window
    return (out / np.maximum(weight, 1e-3))[: len(sound)].astype(np.float32)


DEGRADATIONS: dict[str, tuple[Callable[..., np.ndarray], Sequence[float], str]] = {
    "noise": (noisy, SNR_DB, "30 to 0 dB SNR"),
    "low-pass": (low_passed, LOW_PASS_HZ, "6 to 1 kHz"),
    "clipping": (clipped, CLIP_AT, "at 50 to 3 % of the peak"),
    "pitch shift": (shifted, SEMITONES, "1 to 7 semitones"),
}


def percent(values: Sequence[bool] | np.ndarray) -> str:
    return f"{100 * float(np.mean(values)):.1f} % of {len(values)}"


def truth(piece: Composition, head: str) -> str:
    return str(getattr(piece.labels, head))


def tag_rows(
    heard: list[tagger.Tags], pieces: list[Composition], what: str, bars: dict[str, float]
) -> list[Row]:
    """Share right per head, and tempo."""
    rows = []
    for head in HEADS:
        right = [
            tags.best(head) == truth(piece, head) for tags, piece in zip(heard, pieces, strict=True)
        ]
        bar = bars.get(head)
        rows.append(
            Row(
                f"{head}, {what}",
                f">= {100 * bar:.0f} %" if bar else "",
                percent(right),
                float(np.mean(right)) >= bar if bar else None,
            )
        )
    ratios = np.array(
        [t.tempo_bpm / p.labels.tempo_bpm for t, p in zip(heard, pieces, strict=True)]
    )

    def near(limit: float) -> np.ndarray:
        return np.abs(ratios - 1) <= limit

    octave = near(0.04) | (np.abs(ratios / 2 - 1) <= 0.04) | (np.abs(ratios * 2 - 1) <= 0.04)
    figure = f"{percent(near(0.04))}, within 8 % {100 * near(0.08).mean():.1f} %"
    figure += f", within 4 % or double or half {100 * octave.mean():.1f} %"
    rows.append(Row(f"tempo within 4 %, {what}", "", figure))
    return rows


def codec_rows(
    model: tagger.Tagger,
    sounds: list[np.ndarray],
    pieces: list[Composition],
    heard: list[tagger.Tags],
) -> list[Row]:
    """The same clips through the codec of the embedded base."""
    codec = load_coder(BASE)
    decoded = [model.tags(as_audio(through(codec, sound))) for sound in sounds]
    rows = tag_rows(decoded, pieces, "through the base's codec", {"instrument": 0.85})
    for head, bar in (("instrument", 0.85), ("style", None)):
        same = [a.best(head) == b.best(head) for a, b in zip(heard, decoded, strict=True)]
        rows.append(
            Row(
                f"{head}: decoded agrees with original",
                f">= {100 * bar:.0f} %" if bar else "",
                percent(same),
                float(np.mean(same)) >= bar if bar else None,
            )
        )
    return rows


def distance_rows(model: tagger.Tagger, sounds: list[np.ndarray]) -> list[Row]:
    """FAD and KAD of clips against the same clips, degraded more and more."""

    def embedded(many: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([model.embed(as_audio(one)) for one in many])

    clean = embedded(sounds)
    rows = []
    for name, (degrade, strengths, words) in DEGRADATIONS.items():
        # KAD of a set with itself is below 0, for it leaves rows with themselves out on one side.
        fads, kads = [0.0], [kad.compute(clean, clean, permutations=0).value]
        for strength in strengths:
            bad = embedded([degrade(one, strength, i) for i, one in enumerate(sounds)])
            fads.append(fad.distance(clean, bad))
            kads.append(kad.compute(clean, bad, permutations=0).value)
        for kind, values in (("FAD", fads), ("KAD", kads)):
            rising = bool(np.all(np.diff(values) > 0))
            figure = ", ".join(f"{value:.3g}" for value in values)
            rows.append(Row(f"{kind} rises with {name} ({words})", "at every step", figure, rising))
    return rows


def auroc(familiar: np.ndarray, strange: np.ndarray) -> float:
    """Chance that a familiar sound scores above a strange one (Mann and Whitney 1947)."""
    return float((familiar[:, None] > strange[None]).mean())


def open_set_rows(model: tagger.Tagger, sounds: list[np.ndarray], count: int) -> list[Row]:
    """Style and lead that no training has heard, against new pieces in those it has."""
    strange, _ = rendered(FIRST_SEED, count, held_out=True)
    rows, exact_10_s = [], 0.0
    for what, length_s, bar in (("10 s", 10.0, 0.9), ("5 s", 5.0, None)):
        kept = round(length_s * RATE_HZ)
        usual, unusual = (
            np.array([model.familiarity(as_audio(one[:kept])) for one in many])
            for many in (sounds, strange)
        )
        area = auroc(usual, unusual)
        exact = float(np.quantile(usual, 0.05))
        threshold = float(model.config["familiarity"]["threshold"])
        figure = f"{area:.3f} ({len(usual)} against {len(unusual)} clips)"
        passed = area >= bar if bar else None
        bar_text = f">= {bar}" if bar else ""
        rows.append(
            Row(f"unheard style and lead told apart, {what}: AUROC", bar_text, figure, passed)
        )
        figure = f"{percent(unusual < exact)}; at the stored threshold {threshold}: "
        figure += f"{percent(unusual < threshold)}, false alarms {percent(usual < threshold)}"
        rows.append(Row(f"recognised as unheard at 5 % false alarms, {what}", "", figure))
        if what == "10 s":
            exact_10_s = exact
    some = max(10, count // 4)
    for what, held_out, programs in (
        ("the unheard lead in known styles", False, [HELD_OUT_LEAD.program]),
        ("the unheard style on known leads", True, [lead.program for lead in LEADS]),
    ):
        sounds, _ = rendered(FIRST_SEED + 500_000, some, held_out=held_out, programs=programs)
        scores = np.array([model.familiarity(as_audio(one)) for one in sounds])
        rows.append(Row(f"the same, {what}", "", percent(scores < exact_10_s)))
    return rows


def speed_row(model: tagger.Tagger) -> Row:
    """Processor time for 44.1 kHz stereo."""
    sound = np.random.default_rng(0).standard_normal((2, 441_000)).astype(np.float32) * 0.1
    costs: dict[str, list[float]] = {"tags": [], "embed": []}
    for _ in range(15):
        for name, times in costs.items():
            begin = time.process_time()
            getattr(model, name)(Audio(sound, 44_100))
            times.append(100 * (time.process_time() - begin))
    figure = ", ".join(f"{name} {np.median(times[3:]):.1f} ms" for name, times in costs.items())
    return Row("processor time for a second of 44.1 kHz stereo", "", figure)


def measured(folder: Path, clips: int) -> tuple[list[Row], Any]:
    """All rows for the tagger in a folder."""
    torch.set_num_threads(1)
    model = tagger.load(folder)
    sounds, pieces = rendered(FIRST_SEED, clips)
    heard = [model.tags(as_audio(sound)) for sound in sounds]
    rows = tag_rows(heard, pieces, "10 s", {"instrument": 0.9, "style": 0.85})
    short = [model.tags(as_audio(sound[: 5 * RATE_HZ])) for sound in sounds]
    rows += tag_rows(short, pieces, "first 5 s", {})
    rows += codec_rows(model, sounds, pieces, heard)
    rows += distance_rows(model, sounds[: max(20, clips // 3)])
    rows += open_set_rows(model, sounds, clips)
    rows.append(speed_row(model))
    return rows, model


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clips", type=int, default=300)
    options.add_argument("--folder", type=Path, default=tagger.FOLDER)
    args = options.parse_args()
    rows, model = measured(args.folder, 25 if args.quick else args.clips)
    if args.quick or args.folder != tagger.FOLDER:
        for row in rows:
            print(f"{row.what}: {row.figure}")
        return
    trained = model.config["training"]
    notes = (
        f"{args.clips} ten-second clips at 16 kHz, and as many of the held-out style and lead, "
        f"from seeds of no training set; {tagger.NAME}, open-set score "
        f"`{model.config['familiarity']['score']}`. Trained {trained['minutes']} min on "
        f"{trained['data']}. Degradations: {max(20, args.clips // 3)} clips against themselves. "
        "One thread."
    )
    record("tagger", "The tagger", rows, notes=notes, packages=["torch", "numpy", "scipy", "soxr"])


if __name__ == "__main__":
    main()
