"""Whether noise and music under a voice, and clips of other voices, are found, and clean ones left alone.

    python -m bench.voice_screening [--quick]

Voices by espeak-ng (none of the corpus of the pocket voice) and real recordings go through ``tunesmith
prepare --voice`` as folders of files: as they are, with noise or with music under them at several levels,
and with a tenth of clips by other voices.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from bench._results import Row, parser, record
from bench._sounds import AUDIO, FIRST_SEED, compositions
from pretrain.voice.speak import Unsayable, speak
from pretrain.voice.speakers import Speaker, crowd
from pretrain.voice.text import sentence
from tunesmith.analysis.voice_activity import activity
from tunesmith.data import prepare
from tunesmith.data.voice_speakers import open_encoder

LEVELS_DB = (20, 15, 10, 5)
VOICES, CLIPS = 6, 6
FOLDERS, RIGHT, FOREIGN = 6, 36, 4
KINDS = ("white", "pink", "fan and hum", "babble")
Sound = tuple[np.ndarray, int]  # float32 [T], rate in Hz
Made = Callable[[Sound, int, np.random.Generator], np.ndarray]


def said(speaker: Speaker, count: int, seed: int) -> list[Sound]:
    """Clips of two sentences by a voice."""
    rng = np.random.default_rng([seed, 7])
    found: list[Sound] = []
    while len(found) < count:
        text = (
            f"{sentence(speaker.language, 'valid', rng)} {sentence(speaker.language, 'valid', rng)}"
        )
        try:
            spoken = speak(text, speaker, seed=int(rng.integers(2**31)))
        except Unsayable:
            continue
        found.append((spoken.sound.astype(np.float32) / 32768, 16_000))
    return found


def people(count: int, first: int) -> list[Speaker]:
    """Voices with one language each, far apart in the list of the crowd."""
    listed = crowd()[::2]
    return [listed[(first + 37 * index) % len(listed)] for index in range(count)]


def real() -> list[Sound]:
    """Cuts of five seconds of the readers, and of eight digits in a row."""
    found: list[Sound] = []
    for path in sorted(AUDIO.glob("speech/*.ogg")):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono, size = samples.mean(axis=1), 5 * rate
        found += [(mono[at : at + size], rate) for at in range(0, len(mono) - size + 1, size)]
    digits = [
        soundfile.read(path, dtype="float32") for path in sorted(AUDIO.glob("digits_jackson/*.wav"))
    ]
    for at in range(0, len(digits) - 7, 8):
        found.append((np.concatenate([one for one, _ in digits[at : at + 8]]), digits[at][1]))
    return found


def coloured(
    kind: str, sound: Sound, others: Sequence[Sound], rng: np.random.Generator
) -> np.ndarray:
    """Noise as long as a sound, at any level."""
    size, rate = len(sound[0]), sound[1]
    if kind == "babble":
        total = np.zeros(size)
        for index in rng.choice(len(others), 6):
            one = soxr.resample(others[index][0], others[index][1], rate)
            total += np.roll(np.resize(one / (one.std() + 1e-9), size), int(rng.integers(size)))
        return total
    white = rng.standard_normal(size)
    if kind == "white":
        return white
    spectrum, hz = np.fft.rfft(white), np.fft.rfftfreq(size, 1 / rate)
    slope = np.sqrt(np.maximum(hz, 20)) if kind == "pink" else np.maximum(hz, 60)
    noise = np.fft.irfft(spectrum / slope, size)
    if kind == "pink":
        return noise
    time_s = np.arange(size) / rate
    hum = sum(np.sin(2 * np.pi * (50 * k * time_s + rng.random())) / k for k in range(1, 9))
    return noise / noise.std() + 0.7 * hum / np.std(hum)


def tunes(seeds: Sequence[int]) -> list[Sound]:
    """Music of all kinds there are here: rendered, the demo's clips, and recordings."""
    found: list[Sound] = [(sound.mean(axis=1), 44_100) for sound, _ in compositions(seeds)]
    demo = Path(__file__).parents[1] / "src" / "tunesmith" / "pocket" / "demo"
    recorded = sorted(AUDIO.glob("music/*.ogg"))
    for path in [*sorted(demo.glob("*/*.ogg"))[::8], *recorded * 5]:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        found.append((samples.mean(axis=1), rate))
    return found


def part_of(tune: Sound, sound: Sound, rng: np.random.Generator) -> np.ndarray:
    """A stretch of a tune as long as a sound, that sounds."""
    size, rate = len(sound[0]), sound[1]
    music = soxr.resample(tune[0], tune[1], rate)
    music = np.resize(music, max(size + 1, len(music)))
    for _ in range(20):
        at = int(rng.integers(len(music) - size))
        if music[at : at + size].std() > 1e-3:
            break
    return music[at : at + size]


def under(sound: Sound, other: np.ndarray, level_db: float) -> np.ndarray:
    """A sound with another one so many dB below its speech, brought below full scale."""
    samples, rate = sound
    speaks = np.zeros(len(samples), bool)
    for one in activity(samples[:, None], rate).stretches:
        speaks[round(one.start_s * rate) : round(one.end_s * rate)] = True
    level = np.sqrt(np.mean(np.square(samples[speaks] if speaks.any() else samples)))
    mixed = samples + other * (level / (other.std() + 1e-12) * 10 ** (-level_db / 20))
    return (mixed * min(1.0, 0.9 / np.abs(mixed).max())).astype(np.float32)


def screened(sounds: Sequence[Sound], keep: Sequence[str] = ()) -> list[set[str]]:
    """The faults that each sound is left out for; empty for one that is kept."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "in"
        source.mkdir()
        for index, (samples, rate) in enumerate(sounds):
            soundfile.write(source / f"{index:04d}.wav", samples, rate, "PCM_16")
        prepare(
            source, Path(place) / "out", voice=True, consent="a bench's", valid_share=0.0,
            keep=["transcript", "near_duplicate", *keep], workers=1,
        )  # fmt: skip
        found: list[set[str]] = [set() for _ in sounds]
        for line in (Path(place) / "out" / "rejected.jsonl").read_text().splitlines():
            row = json.loads(line)
            found[int(row["file"][:4])].add(row["fault"] or row["reason"])
        return found


def alone(sounds: Sequence[Sound], anchor: Sequence[Sound]) -> list[set[str]]:
    """As :func:`screened`, one folder of them with a few that are surely kept: a folder needs a clip."""
    return screened([*sounds, *anchor], ["other_speaker"])[: len(sounds)]


def curve(
    sounds: Sequence[Sound], make: Made, anchor: Sequence[Sound]
) -> dict[int, list[set[str]]]:
    """What is found at each level."""
    return {
        level: alone(
            [
                (under(one, make(one, index, np.random.default_rng([index, level])), level), one[1])
                for index, one in enumerate(sounds)
            ],
            anchor,
        )
        for level in LEVELS_DB
    }


def told(found: dict[int, list[set[str]]]) -> str:
    """``10 dB 64/64 (noise 60, hum 4)``, level by level."""
    parts = []
    for level, clips in found.items():
        names = Counter(name for one in clips for name in one)
        listed = ", ".join(f"{name} {count}" for name, count in names.most_common(3))
        parts.append(f"{level} dB {sum(map(bool, clips))}/{len(clips)} ({listed})")
    return "; ".join(parts)


def folders(
    count: int, right: int, foreign: int, first: int
) -> Iterator[tuple[list[Sound], list[bool]]]:
    """Folders of a voice with a tenth of others: by turns of one other voice, and of several."""
    for index in range(count):
        mine, *others = people(1 + foreign, first + 11 * index)
        strangers = others[:1] * foreign if index % 2 else others
        sounds = said(mine, right, 1000 + index)
        for number, stranger in enumerate(strangers):
            sounds += said(stranger, 1, 2000 + 10 * index + number)
        yield sounds, [False] * right + [True] * len(strangers)


def main() -> None:
    args = parser(__doc__).parse_args()
    voices, clips = (2, 3) if args.quick else (VOICES, CLIPS)
    made = [one for n, who in enumerate(people(voices, 20)) for one in said(who, clips, n)]
    anchor = said(people(1, 333)[0], 1, 99)
    music = tunes(range(FIRST_SEED + 80_000, FIRST_SEED + 80_000 + (4 if args.quick else 40)))
    rows = []
    for title, sounds in (("espeak-ng's voices", made), ("readers and digits", real())):
        if args.quick:
            sounds = sounds[:6]
        missing = "not measured: no recordings"

        def noise(one: Sound, index: int, rng: np.random.Generator) -> np.ndarray:
            return coloured(KINDS[index % len(KINDS)], one, made, rng)

        def tune(one: Sound, index: int, rng: np.random.Generator) -> np.ndarray:
            return part_of(music[int(rng.integers(len(music)))], one, rng)

        clean = alone(sounds, anchor) if sounds else []
        bad = sum(map(bool, clean))
        names = Counter(name for one in clean for name in one)
        figure = f"{bad}/{len(clean)} " + ", ".join(f"{name} {n}" for name, n in names.items())
        rows.append(
            Row(
                f"clean clips left out, {title}", "≤ 5 %", figure.strip() if clean else None,
                bad <= 0.05 * len(clean) if clean else None, missing=missing,
            )
        )  # fmt: skip
        for what, make in (
            ("noise (white, pink, fan and hum, babble in turn)", noise),
            ("music", tune),
        ):
            found = curve(sounds, make, anchor) if sounds else {}
            share = np.mean([bool(one) for one in found[10]]) if found else 0.0
            rows.append(
                Row(
                    f"{what} under the voice: clips left out, {title}", "≥ 90 % at 10 dB",
                    told(found) if found else None, bool(share >= 0.9) if found else None,
                    missing=missing,
                )
            )  # fmt: skip
            print(rows[-1], flush=True)
    hits = of = wrong = rest = 0
    for sounds, strange in folders(2 if args.quick else FOLDERS, RIGHT, FOREIGN, 5):
        found = screened(sounds)
        listed = ["other_speaker" in one for one in found]
        hits += sum(a and b for a, b in zip(listed, strange, strict=True))
        of += sum(strange)
        wrong += sum(a and not b for a, b in zip(listed, strange, strict=True))
        rest += len(strange) - sum(strange)
    encoder = open_encoder(None)
    rows.append(
        Row(
            "a tenth of a folder by other voices: their clips listed, and those of the right voice",
            "≥ 90 %, ≤ 5 %", f"{hits}/{of}, {wrong}/{rest}",
            hits >= 0.9 * of and wrong <= 0.05 * rest,
        )
    )  # fmt: skip
    if args.quick:
        for row in rows:
            print(f"{row.what}: {row.figure}")
        return
    notes = (
        f"{VOICES} voices of espeak-ng with {CLIPS} clips of two sentences each, and the real recordings in "
        "cuts of 5 s and of eight digits. Levels are those of the speech over the mean of what lies under it. "
        f"Folders: {FOLDERS} of {RIGHT} clips of one voice and {FOREIGN} of one other or of four others. "
        f"Voices told apart by {encoder.label if encoder else 'nothing'}. Thresholds were chosen on other "
        "voices, but with the same readers and digits among them. Left out for any fault counts, whatever its "
        "name."
    )
    record(
        "voice_screening", "Screening of voices", rows, notes=notes,
        packages=["numpy", "soxr", "onnxruntime", "silero-vad", "speechmos"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
