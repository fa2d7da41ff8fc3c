"""Whether copies of a clip are found again, and different clips are told apart.

    python -m bench.duplicates [--quick]

Copies are made as recordings are copied: turned up or down, cut 50 ms later, coded, resampled,
mixed to mono. Different clips are rendered compositions of the same styles, takes of one spoken
word, and parts of one recording where it does not repeat itself sample for sample.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence

import numpy as np
import soxr
from scipy import signal

from bench._results import Row, parser, record
from bench._sounds import FIRST_SEED, compositions
from bench.screening import Sound, real_cuts, through_mp3
from tunesmith.analysis.fingerprint import Index, fingerprint

COPIED, DIFFERENT, MANY = 100, 300, 10_000
REPEATS = 0.7  # correlation from which on two seconds of a recording are the same sound


def copies(sounds: list[Sound]) -> Iterator[tuple[str, list[Sound]]]:
    """What was done, and every sound after it."""
    yield "gain +6 dB", [(2 * x, rate) for x, rate in sounds]
    yield "gain -6 dB", [(0.5 * x, rate) for x, rate in sounds]
    yield "shifted by 50 ms", [(x[round(0.05 * rate) :], rate) for x, rate in sounds]
    if shutil.which("ffmpeg"):
        yield "mp3 at 96 kbit/s", list(through_mp3(sounds, 96))
    for rate_hz in (16_000, 22_050):
        yield (
            f"resampled to {rate_hz} Hz",
            [(soxr.resample(x, r, rate_hz), rate_hz) for x, r in sounds],
        )
    yield "mixed to mono", [(x.mean(axis=1, keepdims=True), rate) for x, rate in sounds]
    yield "the last 60 %", [(x[round(0.4 * len(x)) :], rate) for x, rate in sounds]


def strangers(sounds: Sequence[Sound]) -> tuple[int, list[tuple[int, int]]]:
    """How many of the clips match any other, and which pairs do."""
    index = Index()
    prints = [fingerprint(*sound) for sound in sounds]
    for number, print_ in enumerate(prints):
        index.add(str(number), print_)
    pairs = [
        (number, int(match.key))
        for number, print_ in enumerate(prints)
        for match in index.find(print_)
        if match.key != str(number)
    ]
    return len({number for number, _ in pairs}), pairs


def repeats(one: Sound, two: Sound) -> bool:
    """Whether any two seconds of one are in two, by normalised cross-correlation."""
    rate_hz = 6000
    a, b = (soxr.resample(x.mean(axis=1), rate, rate_hz).astype(float) for x, rate in (one, two))
    energy = np.convolve(b**2, np.ones(2 * rate_hz), "valid")
    for start in range(0, len(a) - 2 * rate_hz + 1, rate_hz):
        part = a[start : start + 2 * rate_hz]
        found = np.abs(signal.correlate(b, part, "valid", "fft"))
        if (found / np.sqrt(energy * np.sum(part**2) + 1e-9)).max() > REPEATS:
            return True
    return False


def lookup(prints: list[bytes], count: int) -> tuple[float, float]:
    """CPU seconds to index that many clips and to find each once.

    The prints are real ones, moved in time, with a quarter of their bits flipped.
    """
    rng = np.random.default_rng(0)
    many = []
    for number in range(count):
        print_ = prints[number % len(prints)]
        words = np.frombuffer(print_, "<u4", offset=4)
        flips = rng.integers(0, 1 << 32, (2, len(words)), dtype=np.uint32)
        turned = np.roll(words, rng.integers(len(words))) ^ (flips[0] & flips[1])
        many.append(print_[:4] + turned.astype("<u4").tobytes())
    index = Index()
    start = time.process_time()
    for number, print_ in enumerate(many):
        index.add(str(number), print_)
    built = time.process_time()
    for print_ in many:
        index.find(print_)
    return built - start, time.process_time() - built


def main(first_seed: int = FIRST_SEED) -> None:
    args = parser(__doc__).parse_args()
    copied, different, many = (8, 12, 300) if args.quick else (COPIED, DIFFERENT, MANY)
    seeds = range(first_seed + 70_000, first_seed + 70_000 + different)
    rendered: list[Sound] = [(sound, 44_100) for sound, _ in compositions(seeds)]
    digits = real_cuts(10.0, 10.0, "digits_jackson/*.wav")
    real = real_cuts(10.0, 10.0) + digits[:: 8 if args.quick else 1]
    known = rendered[:copied] + real
    index = Index()
    prints = [fingerprint(*sound) for sound in known]
    for number, print_ in enumerate(prints):
        index.add(str(number), print_)
    rows = []
    for what, made in copies(known):
        part = what.startswith("the last")
        own = [
            next((m for m in index.find(fingerprint(*sound)) if m.key == str(number)), None)
            for number, sound in enumerate(made)
            if not part or len(sound[0]) > 2 * sound[1]  # what is left of a word is too short
        ]
        shares = [match.share for match in own if match]
        bar = "" if part else "≥ 98 %"
        figure = f"{len(shares)}/{len(own)}, share {np.median(shares):.2f}, least {min(shares):.2f}"
        passed = len(shares) >= 0.98 * len(own) if bar else None
        rows.append(Row(f"copies found, {what}", bar, figure, passed))
        print(rows[-1], flush=True)
    bad, pairs = strangers(rendered)
    figure = f"{bad}/{len(rendered)}"
    rows.append(
        Row("compositions matched to another one", "≤ 1 %", figure, bad <= 0.01 * len(rendered))
    )
    print(rows[-1], pairs)
    no_sound = "not measured: no recordings"
    bad, pairs = strangers(digits)
    figure = f"{bad}/{len(digits)}" if digits else None
    what = "spoken digits matched to another take"
    rows.append(Row(what, "≤ 1 %", figure, bad <= 0.01 * len(digits), missing=no_sound))
    print(rows[-1], pairs)
    parts = real_cuts(5.0, 5.0, "music/vibe_ace.ogg")
    _, pairs = strangers(parts)
    true = {pair for pair in pairs if repeats(parts[pair[0]], parts[pair[1]])}
    bad = len({number for number, _ in set(pairs) - true})
    repeated = len({number for number, _ in true})
    figure = f"{bad}/{len(parts)}; {repeated} do repeat another" if parts else None
    what = "parts of one recording matched where it does not repeat itself"
    rows.append(Row(what, "≤ 1 %", figure, bad <= 0.01 * len(parts), missing=no_sound))
    sizes = [len(print_) for print_ in prints]
    rows.append(Row("bytes of a fingerprint", "≤ 2048", f"{max(sizes)}", max(sizes) <= 2048))
    build_s, find_s = lookup([print_ for print_ in prints[:copied] if print_], many)
    figure = f"{build_s:.1f} s + {find_s:.1f} s CPU"
    what = f"indexing {many} ten-second clips and finding each once"
    rows.append(Row(what, "≤ 60 s", figure, build_s + find_s <= 60))
    if args.quick or first_seed != FIRST_SEED:
        for row in rows:
            print(f"{row.what}: {row.figure}")
        return
    notes = (
        f"{copied} rendered compositions, cuts of the real recordings and the spoken digits. "
        f"Thresholds were chosen on other compositions. Parts repeat if two of their seconds "
        f"correlate by more than {REPEATS}: the jazz recording is built of loops."
    )
    record("duplicates", "Near duplicates", rows, notes=notes, packages=["numpy", "scipy", "soxr"])


if __name__ == "__main__":
    main()
