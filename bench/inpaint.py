"""Holes filled: the adapted model against the unadapted one and against silence.

    python -m bench.inpaint [--quick] [--base pocket-diffusion] [--work DIR] [--steps N]
        [--method lora|full] [--batch N] [--rate LR] [--masks span,tail] [--minutes M]

Compositions that no training of the base heard, cut to the base's window. A hole of one second in each
held-out clip, at a place drawn from its number. The adapted model (task inpaint beside a LoRA) and the
base fill it with the same prompt, sampler steps and seed; the base can only be held to what is around
the hole while it samples (latent replacement).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy import stats

from bench._results import Row, parser, record
from bench._sounds import FIRST_SEED
from bench.tagger import as_audio, sounds_of
from pretrain.compose import compose
from pretrain.spectral import mel_distance
from tunesmith.analysis.repeats import sources, spectra
from tunesmith.config import load_config
from tunesmith.errors import UserError
from tunesmith.families import base_limits, find_base, load
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import load_adapter
from tunesmith.tasks.inpaint import FADE_S, inpaint
from tunesmith.training.log import read_metrics
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag

SEED = FIRST_SEED + 900_000
TRAINING = 1000
"""Number of the first composition that is trained on; those before it are held out."""
HOLE_S, SAMPLER_STEPS = 1.0, 50
GUIDANCES = {"pocket-diffusion": 2.0}
TRIED = (
    " Before: a LoRA of 240 steps on a CPU 1.03x; all weights on an H200, 1193 steps of 96 at 6e-4, not told of "
    "what repeats, 0.93x (0.488); a LoRA of 700 steps of 4 on a CPU, told of it, 0.96x (0.503). This adapter "
    "without guidance: 0.446, against 0.524 (0.85x). Trials by hand with it, for which there is no command, on 24 "
    "other held-out clips, of which one sample without guidance has 0.474 and the autoencoder 0.215: guidance of "
    "1.5, 2 and 3 away from neither text nor surroundings 0.462, 0.458, 0.459, away from no text alone 0.473, "
    "0.475, 0.480; told of nothing that repeats 0.490, of the stretch that is found by knowing the hole 0.462; "
    "begun from the stretch that it is told of, 0.8, 0.6, 0.45, 0.3 of the way to noise, 0.519, 0.501, 0.485, "
    "0.484; the mean of sample and stretch 0.455; a stretch of the recording chosen by the sample, copied, 0.436 "
    "where the one chosen by the surroundings has 0.444. The mean of six takes has 0.444 where one has 0.453 (16 "
    "clips). Validation loss fell from 0.481 to 0.436, and to the end; a longer training was not tried."
)


def composed(first: int, count: int, length: int) -> tuple[list[np.ndarray], list[str]]:
    """Sounds of ``length`` samples and captions of the compositions with these numbers that sound."""
    sounds, pieces = sounds_of([compose(SEED + index) for index in range(first, first + count)])
    captions = [piece.captions[i % len(piece.captions)] for i, piece in enumerate(pieces)]
    return [sound[:length] for sound in sounds], captions


def write_clips(folder: Path, first: int, count: int, length: int, rate: int) -> None:
    """An AudioFolder: a tenth of the clips validate."""
    for index, (sound, caption) in enumerate(zip(*composed(first, count, length), strict=True)):
        side = "valid" if index % 10 == 9 else "train"
        place = folder / side / f"{first + index:05d}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, sound, rate, subtype="PCM_16")
        place.with_suffix(".txt").write_text(caption, encoding="utf-8")


def write_data(folder: Path, clips: int, length: int, rate: int) -> None:
    """The training recordings, made by all cores; a folder that is there is whole."""
    if folder.is_dir():
        return
    part = folder.with_name(folder.name + ".part")
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(write_clips, part, TRAINING + at, min(100, clips - at), length, rate)
            for at in range(0, clips, 100)
        ]
        for job in jobs:
            job.result()
    part.rename(folder)


def hole_of(index: int, length_s: float) -> tuple[float, float]:
    """A second somewhere inside, at least half a second from both ends."""
    begin = random.Random(f"hole-{index}").uniform(0.5, length_s - HOLE_S - 0.5)
    return round(begin, 3), round(begin + HOLE_S, 3)


def filled(
    bundle: Bundle, sounds: Sequence[np.ndarray], captions: Sequence[str], length_s: float
) -> list[np.ndarray]:
    """Each clip with its hole filled; clip i has the seed i."""
    settings = replace(
        bundle.sampling, steps=SAMPLER_STEPS, guidance=GUIDANCES.get(bundle.name, 3.0)
    )
    made = []
    for index, (sound, caption) in enumerate(zip(sounds, captions, strict=True)):
        (take,) = inpaint(
            bundle,
            caption,
            as_audio(sound),
            [hole_of(index, length_s)],
            seed=index,
            settings=settings,
        )
        made.append(take.audio.samples[0])
    return made


def copied(sound: np.ndarray, begin: int, end: int, take: int) -> np.ndarray:
    """A clip whose hole is filled with its own samples from ``take`` on."""
    filled = sound.copy()
    filled[begin:end] = sound[take : take + end - begin]
    return filled


def beside(sound: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The hole filled with what comes before it, or after it where that is too short."""
    size = end - begin
    return copied(sound, begin, end, begin - size if begin >= size else end)


def best_copy(sound: np.ndarray, begin: int, end: int, rate: int) -> np.ndarray:
    """The hole filled with the most similar stretch of the same clip, found by knowing what was in it."""
    size, wanted = end - begin, torch.from_numpy(sound[begin:end].copy())[None]
    places = [
        at for at in range(0, len(sound) - size, rate // 20) if at + size <= begin or at >= end
    ]
    stretches = torch.stack([torch.from_numpy(sound[at : at + size].copy()) for at in places])
    apart = [float(mel_distance(one[None], wanted)) for one in stretches]
    return copied(sound, begin, end, places[int(np.argmin(apart))])


def pointed_at(sound: np.ndarray, begin: int, end: int, frame_rate_hz: float) -> np.ndarray:
    """The hole filled with the stretch that the adapted model is told of, found by what is around the hole."""
    audio = as_audio(sound)
    frames = int(audio.duration_s * frame_rate_hz + 1e-6)
    hop = audio.sample_rate_hz / frame_rate_hz
    first, last = int(begin / hop), -int(-end // hop)
    given = torch.ones(frames, dtype=torch.bool)
    given[first:last] = False
    energies = torch.from_numpy(spectra(audio, frame_rate_hz, frames))
    middle = (first + last) // 2  # a frame at an end may be two lags away
    found = int(sources(energies, given, frame_rate_hz)[middle])
    if found < 0:  # nothing stands in: silence
        return np.zeros_like(sound)
    return copied(sound, begin, end, begin + round((found - middle) * hop))


def distances(
    made: Sequence[np.ndarray], real: Sequence[np.ndarray], length_s: float, rate: int
) -> np.ndarray:
    """Log-mel distance inside each hole (log10, 80 bands, floor -80 dB)."""
    found = []
    for index, (one, other) in enumerate(zip(made, real, strict=True)):
        begin, end = (round(x * rate) for x in hole_of(index, length_s))
        parts = (torch.from_numpy(x[begin:end].copy())[None] for x in (one, other))
        found.append(mel_distance(*parts))
    return np.array(found)


def untouched(
    made: Sequence[np.ndarray], real: Sequence[np.ndarray], length_s: float, rate: int
) -> bool:
    """Whether all samples outside of hole and fades are the recording's own."""
    fade = round(FADE_S * rate) + 1
    for index, (one, other) in enumerate(zip(made, real, strict=True)):
        begin, end = (round(x * rate) for x in hole_of(index, length_s))
        outside = np.ones(len(other), bool)
        outside[begin - fade : end + fade] = False
        if not np.array_equal(one[outside], other[outside]):
            return False
    return True


def ratio_row(what: str, bar: float, own: np.ndarray, other: np.ndarray) -> Row:
    """Mean distance as a share of another's, with the p-value of the paired difference."""
    share = own.mean() / other.mean()
    p = stats.wilcoxon(own, other).pvalue if np.any(own != other) else 1.0
    figure = (
        f"{share:.2f}x ({own.mean():.3f} against {other.mean():.3f}, {len(own)} clips, p = {p:.2g})"
    )
    return Row(what, f"<= {bar:g}x", figure, bool(share <= bar))


def adapted(
    work: Path, base: str, data: Path, args: argparse.Namespace, steps: int, name: str = "run"
) -> Path:
    """A run of the recipe on these clips; one that was finished stays."""
    run = work / name

    def say(kind: str, values: object) -> None:
        if kind == "valid":
            print(kind, values, flush=True)

    if not (run / "adapter.json").is_file():
        settings = {
            "base": base,
            "data": str(data),
            "out": str(run),
            "train.steps": steps,
            "train.eval_every": max(1, steps // 8),
            "train.patience": 0,
            "preview.every": 0,
        }
        # Thousands of steps of all weights end in a walk around the optimum: their mean is kept.
        settings |= {"method": "full", "train.ema": 0.999} if args.method == "full" else {}
        settings |= {"train.batch_size": args.batch} if args.batch else {}
        settings |= {"train.lr": args.rate} if args.rate else {}
        settings |= {"task.masks": args.masks.split(",")} if args.masks else {}
        loaded = load_config(settings=settings, recipe="inpaint")
        begun = (run / "checkpoints").is_dir()
        train(loaded, resume=begun, stop=StopFlag(), on_event=say)
    return run


def steps_that_fit(work: Path, base: str, data: Path, args: argparse.Namespace) -> int:
    """Steps that ``args.minutes`` hold on this machine, by a short run that is thrown away."""
    lines = read_metrics(adapted(work, base, data, args, 60, "probe") / "metrics.jsonl")
    took = [line["seconds"] for line in lines if line["kind"] == "train" and line["step"] > 20]
    shutil.rmtree(work / "probe")
    return max(60, round(60 * args.minutes / statistics.mean(took)))


def _again(args: argparse.Namespace) -> str:
    """The command of this measurement."""
    names = ("method", "steps", "batch", "rate", "masks", "clips", "held_out")
    given = {name: getattr(args, name) for name in names if getattr(args, name)}
    return "inpaint" + "".join(f" --{k.replace('_', '-')} {v}" for k, v in given.items())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--base", default="pocket-diffusion")
    options.add_argument("--work", type=Path, help="keep what is made here, and go on from it")
    options.add_argument("--steps", type=int, default=1200)
    options.add_argument("--minutes", type=float, default=0.0, help="of training, instead of steps")
    options.add_argument("--method", choices=("lora", "full"), default="lora")
    options.add_argument("--batch", type=int, default=0, help="clips a step; default: the recipe's")
    options.add_argument("--rate", type=float, default=0.0, help="default: the recipe's")
    options.add_argument("--masks", default="", help="such as span; default: the task's")
    options.add_argument("--data-only", action="store_true", help="with --work: train later")
    options.add_argument("--train-only", action="store_true", help="with --work: measure later")
    options.add_argument("--clips", type=int, default=1000)
    options.add_argument("--held-out", type=int, default=64)
    args = options.parse_args()
    clips, held = (40, 4) if args.quick else (args.clips, args.held_out)
    steps = 10 if args.quick else args.steps
    try:
        base = find_base(args.base)
    except UserError as error:
        missing = f"not measured: {error.message}"
        whats = ("adapted against latent replacement", "adapted against silence")
        rows = [Row(f"hole filled: {what}", "<= 0.7x", None, missing=missing) for what in whats]
        record("inpaint", "Inpainting", rows)
        return
    rate, _, longest = base_limits(args.base)
    length = int(longest * rate)
    length_s = length / rate
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        write_data(work / "data", clips, length, rate)
        if args.data_only:
            return
        real, texts = composed(0, held, length)
        if args.minutes:
            steps = args.steps = steps_that_fit(work, args.base, work / "data", args)
            print(f"{steps} steps", flush=True)
        run = adapted(work, args.base, work / "data", args, steps)
        if args.train_only:
            return
        trained_on = json.loads((run / "run.json").read_text())["device"]
        steps_s = sum(one.get("seconds", 0.0) for one in read_metrics(run / "metrics.jsonl"))
        bundle = load(base, device="cpu")
        plain = filled(bundle, real, texts, length_s)
        load_adapter(run, bundle)
        taught = filled(bundle, real, texts, length_s)
    silent = [sound.copy() for sound in real]
    for index, sound in enumerate(silent):
        begin, end = (round(x * rate) for x in hole_of(index, length_s))
        sound[begin:end] = 0

    def through_codec(sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        latents = [bundle.encode_audio(as_audio(sound)) for sound in sounds]
        return [bundle.decode_audio(one).samples[0][:length] for one in latents]

    holes = [[round(x * rate) for x in hole_of(i, length_s)] for i in range(len(real))]
    near = [beside(sound, *hole) for sound, hole in zip(real, holes, strict=True)]
    known = [best_copy(sound, *hole, rate) for sound, hole in zip(real, holes, strict=True)]
    guessed = [
        pointed_at(sound, *hole, bundle.frame_rate_hz)
        for sound, hole in zip(real, holes, strict=True)
    ]
    codec, told = through_codec(real), through_codec(guessed)
    own, replaced, silence, best, near, known, guess, told = (
        distances(made, real, length_s, rate)
        for made in (taught, plain, silent, codec, near, known, guessed, told)
    )
    whole = untouched(taught, real, length_s, rate) and untouched(plain, real, length_s, rate)
    rows = [
        ratio_row("hole filled: adapted against latent replacement", 0.7, own, replaced),
        ratio_row("hole filled: adapted against silence", 0.7, own, silence),
        Row(
            "the autoencoder alone in the same second: the least there can be",
            "",
            f"{best.mean():.3f}",
        ),
        Row("the stretch beside the hole, copied into it", "", f"{near.mean():.3f}"),
        Row(
            "the stretch that the adapted model is told of, copied into it",
            "",
            f"{guess.mean():.3f}; through the autoencoder {told.mean():.3f}",
        ),
        Row(
            "the most similar stretch of the clip, found by knowing the hole, copied into it",
            "",
            f"{known.mean():.3f}",
        ),
        Row(
            "samples outside of holes and fades",
            "unchanged",
            "unchanged" if whole else "changed",
            whole,
        ),
    ]
    if args.quick or args.base != "pocket-diffusion":
        print(*rows, sep="\n")
        return
    notes = (
        f"{held} held-out clips of {length_s:.2f} s with a hole of {HOLE_S:g} s each; log-mel distance inside "
        f"of it (log10, 80 bands, floor -80 dB). Adapted: recipe inpaint, method {args.method}, {steps} "
        f"steps on {clips} other compositions ({trained_on}, {steps_s:.0f} s in its steps), none heard by "
        f"the base. {SAMPLER_STEPS} sampler steps, guidance {GUIDANCES.get(args.base, 3.0):g}, the same "
        f"seeds. p: Wilcoxon's signed ranks."
        f"{TRIED}"
    )
    record("inpaint", "Inpainting", rows, notes=notes, command=_again(args))


if __name__ == "__main__":
    main()
