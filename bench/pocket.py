"""What the embedded base is worth: codec, prompts followed, diversity, on compositions it never heard.

    python -m bench.pocket [--base FOLDER] [--judge FOLDER] [--guidance 3.0] [--quick]

One composition for each pair of lead and style, from seeds of no training set, gives the prompts and
the real clips. The judge is a tagger made from compositions that neither codec nor language model nor
the shipped tagger heard. `--base` or `--judge` measures others and writes nothing to RESULTS.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench._results import Row, parser, record
from bench._sounds import FIRST_SEED
from bench.demo import state_of_pocket
from bench.tagger import as_audio, sounds_of
from pretrain.card import write_measured
from pretrain.compose import LEADS, STYLES, Composition, compose
from pretrain.spectral import mel_distance, si_sdr_db
from tunesmith.families import EMBEDDED, find_base, load
from tunesmith.families._bundle import Bundle
from tunesmith.metrics import tagger, vendi
from tunesmith.metrics._distances import median_distance

JUDGE = Path(__file__).with_name("judge")
PROMPT_SEED, DIVERSITY_SEED = FIRST_SEED + 700_000, FIRST_SEED + 800_000
# Two cores alone; where a GPU trained the base, 0.80 and 0.70.
BARS = {"instrument": 0.65, "style": 0.55}
LENGTH_S, PER_PROMPT = 10.0, 64
PAIRS = (("flute", "bossa nova"), ("distorted guitar", "rock"), ("acoustic piano", "waltz"))


def one_of_each(count: int) -> list[Composition]:
    """A composition for every pair of lead and style, in the order of their seeds."""
    wanted = {(lead.name, style.name) for lead in LEADS for style in STYLES}
    found: dict[tuple[str, str], Composition] = {}
    seed = PROMPT_SEED
    while len(found) < min(count, len(wanted)):
        piece = compose(seed)
        found.setdefault((piece.labels.instrument, piece.labels.style), piece)
        seed += 1
    return list(found.values())


def same_prompt(lead: str, style: str, count: int) -> list[Composition]:
    """Compositions of one lead and one style."""
    found, seed = [], DIVERSITY_SEED
    while len(found) < count:
        piece = compose(seed)
        if (piece.labels.instrument, piece.labels.style) == (lead, style):
            found.append(piece)
        seed += 1
    return found


def right(
    judge: tagger.Tagger, sounds: Sequence[np.ndarray], pieces: Sequence[Composition]
) -> dict[str, np.ndarray]:
    """Whether the judge hears the instrument and the style that each piece has."""
    heard = [judge.tags(as_audio(sound)) for sound in sounds]
    return {
        head: np.array(
            [t.best(head) == getattr(p.labels, head) for t, p in zip(heard, pieces, strict=True)]
        )
        for head in BARS
    }


def played(
    bundle: Bundle, prompts: Sequence[str], seed: int, guidance: float, batch: int = 32
) -> list[np.ndarray]:
    """A take for each prompt, float32 ``[T]``; take i has the seed ``seed + i``."""
    made, settings = [], replace(bundle.sampling, guidance=guidance)
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        seeds = [seed + start + index for index in range(len(some))]
        takes = bundle.generate(some, LENGTH_S, seeds, settings)
        made += [take.samples[0] for take in takes]
    return made


def through(bundle: Bundle, sound: np.ndarray) -> np.ndarray:
    """What the codec leaves of a sound float32 ``[T]``."""
    decoded = bundle.decode_audio(bundle.encode_audio(as_audio(sound)))
    return decoded.samples[0, : len(sound)]


def share(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f} %"


def codec_rows(originals: list[np.ndarray], decoded: list[np.ndarray]) -> list[Row]:
    real, made = (torch.from_numpy(np.stack(many)) for many in (originals, decoded))
    distance = float(
        np.mean([mel_distance(m[None], r[None]) for m, r in zip(made, real, strict=True)])
    )
    return [
        Row(
            "codec: mel distance (log10, 80 bands, floor -80 dB)",
            "<= 0.25",
            f"{distance:.3f} on {len(real)} clips",
            distance <= 0.25,
        ),
        Row("codec: SI-SDR", "", f"{si_sdr_db(made, real):.1f} dB on {len(real)} clips"),
    ]


def adherence_rows(
    real: dict[str, np.ndarray], made: dict[str, np.ndarray], pieces: Sequence[Composition]
) -> list[Row]:
    rows = []
    for head, bar in BARS.items():
        upper, got = real[head].mean(), made[head].mean()
        rows += [
            Row(
                f"judge: {head} of real clips through the codec",
                ">= 85 %" if head == "instrument" else "",
                f"{share(real[head])} of {len(pieces)}",
                upper >= 0.85 if head == "instrument" else None,
            ),
            Row(
                f"prompt followed: {head}, as a share of that",
                f">= {bar:.0%} (two cores alone)",
                f"{100 * got / upper:.1f} % ({share(made[head])} of {len(pieces)} clips)",
                got / upper >= bar,
            ),
        ]
    leads = sorted({piece.labels.instrument for piece in pieces})
    told = []
    for lead in leads:
        own = np.array([piece.labels.instrument == lead for piece in pieces])
        told.append(f"{lead} {100 * made['instrument'][own].mean():.0f}")
    rows.append(Row("prompt followed: instrument, each lead in %", "", ", ".join(told)))
    return rows


def diversity_rows(bundle: Bundle, guidance: float, count: int) -> list[Row]:
    """Vendi score, Gaussian kernel as wide as the real clips' median distance."""
    ear, rows = tagger.load(), []
    for lead, style in PAIRS:
        sounds, _ = sounds_of(same_prompt(lead, style, count))
        prompt = f"{style}, {lead}"
        takes = played(bundle, [prompt] * count, 10_000, guidance)
        real, made = (
            np.stack([ear.embed(as_audio(one)).mean(axis=0) for one in many])
            for many in (sounds, takes)
        )
        width = median_distance(real)
        before, after = (
            vendi.compute(one, kernel="rbf", bandwidth=width).value for one in (real, made)
        )
        figure = f"{after / before:.2f}x ({after:.2f} against {before:.2f}, {len(made)} clips each)"
        rows.append(
            Row(f"Vendi score: '{prompt}'", ">= 0.6x real clips", figure, after / before >= 0.6)
        )
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--base", type=Path, default=EMBEDDED["pocket"])
    options.add_argument("--judge", type=Path, default=JUDGE)
    options.add_argument("--guidance", type=float, default=None)
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    judge, bundle = tagger.load(args.judge), load(find_base(str(args.base)), device="cpu")
    guidance = bundle.sampling.guidance if args.guidance is None else args.guidance
    originals, pieces = sounds_of(one_of_each(12 if args.quick else 1000))
    decoded = [through(bundle, sound) for sound in originals]
    rows = codec_rows(originals, decoded)
    begin = time.perf_counter()
    prompts = [piece.captions[index % len(piece.captions)] for index, piece in enumerate(pieces)]
    takes = played(bundle, prompts, 0, guidance)
    took_s = time.perf_counter() - begin
    rows += adherence_rows(right(judge, decoded, pieces), right(judge, takes, pieces), pieces)
    rows += diversity_rows(bundle, guidance, 8 if args.quick else PER_PROMPT)
    others = args.base != EMBEDDED["pocket"] or args.judge != JUDGE or args.guidance is not None
    if args.quick or others:
        for row in rows:
            print(f"{row.what}: {row.figure}")
        print(f"generation: {took_s / len(takes):.2f} s a clip")
        return
    notes = (
        f"State of the weights: {state_of_pocket()}. {len(pieces)} compositions of 10 s, one for each "
        f"pair of {len(LEADS)} leads and {len(STYLES)} styles, from seeds of no training set; their "
        f"captions are the prompts; guidance {guidance:g}, {LENGTH_S:g} s a take. The judge "
        f"(`bench/judge`): {judge.config['training']['data']}, none of them heard by the base or by the "
        f"shipped tagger. Vendi: {tagger.NAME}, mean over a clip, Gaussian kernel as wide as the real "
        f"clips' median distance."
    )
    record("pocket", "The embedded base", rows, notes=notes)
    table = "".join(
        f"| {row.what} | {row.bar} | {row.figure}{' (missed)' if row.passed is False else ''} |\n"
        for row in rows
    )
    text = f"| what | bar | figure |\n|---|---|---|\n{table}\n{notes} Made by `python -m bench.pocket`."
    write_measured(EMBEDDED["pocket"] / "README.md", text)


if __name__ == "__main__":
    main()
