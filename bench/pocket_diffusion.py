"""What the embedded diffusion base is worth: autoencoder, prompts followed, diversity.

    python -m bench.pocket_diffusion [--base FOLDER] [--guidance 4.0] [--steps 50] [--quick] [--choose]

Judge and prompts are those of ``bench.pocket``; everything goes through diffusers' own classes. Where the
folder holds no pipeline yet, only its autoencoder is measured. ``--choose`` reads the instrument at several
guidances, on prompts of no other measurement. ``--base``, ``--guidance`` and ``--steps`` write nothing to
RESULTS.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderOobleck, StableAudioPipeline

from bench._results import Row, parser, record
from bench._sounds import FIRST_SEED
from bench.pocket import JUDGE, PAIRS, codec_rows, one_of_each, right, same_prompt, share
from bench.tagger import as_audio, sounds_of
from pretrain.card import write_measured
from pretrain.compose import LEADS, STYLES, Composition, compose
from tunesmith.metrics import tagger, vendi
from tunesmith.metrics._distances import median_distance

BASE = Path(__file__).parents[1] / "src" / "tunesmith" / "pocket" / "diffusion"
CHOICE_SEED = FIRST_SEED + 900_000
INSTRUMENT_BAR, LENGTH_S, PER_PROMPT = 0.5, 5.0, 48


def opened(folder: Path) -> Any:
    """The pipeline as a plain user of diffusers opens it."""
    pipe: Any = StableAudioPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def played(
    pipe: Any, prompts: Sequence[str], seed: int, guidance: float, steps: int, batch: int = 24
) -> list[np.ndarray]:
    """Five seconds for each prompt, float32 ``[T]``; take i has the seed ``seed + i``."""
    made = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        generators = [
            torch.Generator().manual_seed(seed + start + index) for index in range(len(some))
        ]
        takes = pipe(
            some,
            audio_end_in_s=LENGTH_S,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
        ).audios
        made += [take[0].numpy() for take in takes]
    return made


@torch.no_grad()
def through(vae: Any, sound: np.ndarray) -> tuple[np.ndarray, float]:
    """What the autoencoder leaves of a sound float32 ``[T]``, and the power of its latents."""
    latents = vae.encode(torch.from_numpy(sound)[None, None]).latent_dist.mode()
    made = vae.decode(latents).sample[0, 0, : len(sound)].numpy()
    return made, float(latents.square().mean())


def autoencoder_rows(
    vae: Any,
    judge: tagger.Tagger,
    originals: list[np.ndarray],
    pieces: Sequence[Composition],
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Latents, mel distance, SI-SDR, what the judge still hears; and of which clips it hears it."""
    both = [through(vae, sound) for sound in originals]
    decoded = [made for made, _ in both]
    rms = float(np.mean([power for _, power in both])) ** 0.5
    # The scheduler takes unit variance for granted.
    rows = [
        Row("latents: root mean square", "0.9 to 1.1", f"{rms:.3f}", 0.9 <= rms <= 1.1),
    ]
    for row in codec_rows(originals, decoded):
        # The bar on the mel distance is the codec's of the other base; here the judge decides.
        rows.append(Row(row.what.replace("codec", "autoencoder"), "", row.figure))
    real, plain = right(judge, decoded, pieces), right(judge, originals, pieces)
    for head in real:
        barred = head == "instrument"
        rows.append(
            Row(
                f"judge: {head} of real clips through the autoencoder",
                ">= 85 %" if barred else "",
                f"{share(real[head])} of {len(pieces)} (the clips themselves {share(plain[head])})",
                bool(real[head].mean() >= 0.85) if barred else None,
            )
        )
    return rows, real


def diversity_rows(pipe: Any, guidance: float, steps: int, count: int) -> list[Row]:
    """Vendi score of takes of one prompt against as many real clips, five seconds each."""
    ear, rows = tagger.load(), []
    for lead, style in PAIRS:
        sounds, _ = sounds_of(same_prompt(lead, style, count))
        prompt = f"{style}, {lead}"
        takes = played(pipe, [prompt] * count, 10_000, guidance, steps)
        real, made = (
            np.stack([ear.embed(as_audio(one)).mean(axis=0) for one in many])
            for many in ([sound[: len(takes[0])] for sound in sounds], takes)
        )
        width = median_distance(real)
        before, after = (
            vendi.compute(one, kernel="rbf", bandwidth=width).value for one in (real, made)
        )
        figure = f"{after / before:.2f}x ({after:.2f} against {before:.2f}, {len(made)} clips each)"
        rows.append(Row(f"Vendi score: '{prompt}'", "", figure))
    return rows


def prompt_rows(
    pipe: Any,
    judge: tagger.Tagger,
    pieces: Sequence[Composition],
    upper: dict[str, np.ndarray],
    guidance: float,
    steps: int,
) -> list[Row]:
    """Whether the judge hears in a take what its prompt says, as a share of real clips through the autoencoder."""
    prompts = [piece.captions[index % len(piece.captions)] for index, piece in enumerate(pieces)]
    begin = time.perf_counter()
    takes = played(pipe, prompts, 0, guidance, steps)
    took_s = time.perf_counter() - begin
    made, rows = right(judge, takes, pieces), []
    for head in made:
        barred, got = head == "instrument", made[head].mean() / upper[head].mean()
        rows.append(
            Row(
                f"prompt followed: {head}, as a share of that",
                f">= {INSTRUMENT_BAR:.0%} (two cores alone)" if barred else "",
                f"{100 * got:.1f} % ({share(made[head])} of {len(pieces)} takes)",
                bool(got >= INSTRUMENT_BAR) if barred else None,
            )
        )
    told = []
    for lead in sorted({piece.labels.instrument for piece in pieces}):
        own = np.array([piece.labels.instrument == lead for piece in pieces])
        told.append(f"{lead} {100 * made['instrument'][own].mean():.0f}")
    rows.append(Row("prompt followed: instrument, each lead in %", "", ", ".join(told)))
    rows.append(Row("generation, in batches of 24", "", f"{took_s / len(takes):.2f} s a take"))
    return rows


def choose(pipe: Any, judge: tagger.Tagger, steps: int) -> None:
    """Print how often the judge hears instrument and style at several guidances."""
    pieces = [compose(seed) for seed in range(CHOICE_SEED, CHOICE_SEED + 72)]
    prompts = [piece.captions[index % len(piece.captions)] for index, piece in enumerate(pieces)]
    for guidance in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0):
        heard = right(judge, played(pipe, prompts, 20_000, guidance, steps), pieces)
        print(f"guidance {guidance:g}: " + ", ".join(f"{k} {share(v)}" for k, v in heard.items()))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--base", type=Path, default=BASE)
    options.add_argument("--guidance", type=float, default=None)
    options.add_argument("--steps", type=int, default=None)
    options.add_argument("--choose", action="store_true", help="only compare guidances")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    judge = tagger.load(JUDGE)
    whole = (args.base / "model_index.json").exists()
    pipe = opened(args.base) if whole else None
    notes = json.loads((args.base / "tunesmith.json").read_text(encoding="utf-8"))
    guidance = notes["guidance"] if args.guidance is None else args.guidance
    steps = notes["steps"] if args.steps is None else args.steps
    if args.choose:
        choose(pipe, judge, steps)
        return
    vae: Any = AutoencoderOobleck.from_pretrained(args.base / "vae") if pipe is None else pipe.vae
    originals, pieces = sounds_of(one_of_each(12 if args.quick else 1000))
    rows, upper = autoencoder_rows(vae, judge, originals, pieces)
    if pipe is not None:
        rows += prompt_rows(pipe, judge, pieces, upper, guidance, steps)
        rows += diversity_rows(pipe, guidance, steps, 8 if args.quick else PER_PROMPT)
    else:
        missing = "not measured: the transformer is not trained yet"
        what = "prompt followed: instrument, as a share of that"
        rows.append(Row(what, f">= {INSTRUMENT_BAR:.0%}", None, missing=missing))
    if args.quick or args.base != BASE or args.guidance is not None or args.steps is not None:
        for row in rows:
            print(f"{row.what}: {row.figure}")
        return
    takes = (
        f"their captions as prompts; guidance {guidance:g}, {steps} steps, {LENGTH_S:g} s a take, "
        f"diffusers' own pipeline"
        if whole
        else "the transformer is not trained yet"
    )
    text = (
        f"{len(pieces)} compositions, one for each pair of {len(LEADS)} leads and {len(STYLES)} styles, "
        f"from seeds of no training set: 10 s of each through the autoencoder; {takes}. The judge "
        f"(`bench/judge`): {judge.config['training']['data']}, none of them heard by the base."
    )
    if whole:
        text += (
            f" Vendi: {tagger.NAME}, mean over a clip, Gaussian kernel as wide as the real clips' "
            f"median distance."
        )
    record(
        "pocket_diffusion",
        "The embedded diffusion base",
        rows,
        notes=text,
        packages=("torch", "diffusers", "transformers"),
    )
    table = "".join(
        f"| {row.what} | {row.bar} | {row.figure}{' (missed)' if row.passed is False else ''} |\n"
        for row in rows
    )
    head = "| what | bar | figure |\n|---|---|---|\n"
    made_by = "Made by `python -m bench.pocket_diffusion`."
    write_measured(BASE / "README.md", f"{head}{table}\n{text} {made_by}")


if __name__ == "__main__":
    main()
