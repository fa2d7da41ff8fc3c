"""How often the tempo, key and loudness that are stated for a clip are right, and what they cost.

    python -m bench.facts [--clips 300] [--quick]

Renders compositions with known tempo and key that neither the confidence was fitted on nor the
pocket model trained on, and adds clicks, chords and noise of its own, and recordings where present.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read by numpy when it is loaded; what is timed is one core

import numpy as np
import soundfile

from bench._results import Row, parser, record
from bench._sounds import AUDIO, FIRST_SEED, compositions
from tunesmith.analysis.facts import Facts, measure
from tunesmith.analysis.loudness import integrated_lufs
from tunesmith.analysis.rhythm import bands, find_beats, find_pulse, region_onsets
from tunesmith.analysis.spectrum import to_mono
from tunesmith.analysis.tonality import KEYS, find_key

RATE_HZ = 44_100
NEAR = 0.04
OCTAVES = (1, 2, 1 / 2)
ANY_LEVEL = (*OCTAVES, 3, 1 / 3)
_SHARPS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_NO_AUDIO = "not measured: no recordings"


def agrees(bpm: float, truth: float, ratios: Iterable[float] = OCTAVES) -> bool:
    return any(abs(bpm / (truth * ratio) - 1) < NEAR for ratio in ratios)


def key_index(label: str) -> int:
    """Index in KEYS of ``F sharp minor``."""
    tonic, mode = label.rsplit(" ", 1)
    return _SHARPS.index(tonic) + 12 * (mode == "minor")


def key_error(found: int, truth: int) -> str:
    """``right``, or what kind of neighbour was taken for the key."""
    tonic, true_tonic, minor, true_minor = found % 12, truth % 12, found // 12, truth // 12
    if found == truth:
        return "right"
    if tonic == true_tonic:
        return "parallel"
    if minor != true_minor and (tonic - true_tonic) % 12 == (3 if true_minor else 9):
        return "relative"
    if minor == true_minor and (tonic - true_tonic) % 12 in (5, 7):
        return "fifth"
    return "other"


def share(values: Iterable[bool]) -> float:
    counted = list(values)
    return float(np.mean(counted)) if counted else 0.0


def percent(values: Iterable[bool]) -> str:
    counted = list(values)
    return f"{100 * share(counted):.1f} % of {len(counted)}"


def clicks(bpm: float, length_s: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Decaying tone bursts, float32 ``[T, 1]``, and when they begin."""
    begins = np.arange(0.37, length_s - 0.3, 60 / bpm)
    time_s = np.arange(int(0.1 * RATE_HZ)) / RATE_HZ
    burst = 0.5 * np.exp(-60 * time_s) * np.sin(2 * np.pi * 1500 * time_s)
    sound = np.zeros((int(length_s * RATE_HZ), 1), np.float32)
    for begin in begins:
        at = round(begin * RATE_HZ)
        sound[at : at + len(burst), 0] += burst
    return sound, begins


def chords(tonic: int, minor: bool) -> np.ndarray:
    """I-IV-V-I twice (i-iv-V-i in minor), a second each, with bass: float32 ``[T, 1]``."""
    third = 3 if minor else 4
    time_s = np.arange(RATE_HZ) / RATE_HZ
    parts = []
    for root, its_third in ((0, third), (5, third), (7, 4), (0, third)) * 2:
        notes = [36 + root, *(60 + root + step for step in (0, its_third, 7))]
        sound = np.zeros(RATE_HZ)
        for note in notes:
            hz = 440 * 2 ** ((note + tonic - 69) / 12)
            for harmonic in range(1, 6):
                sound += 0.05 / harmonic * np.sin(2 * np.pi * hz * harmonic * time_s)
        parts.append(sound * np.exp(-2 * time_s) * np.minimum(1, 100 * time_s))
    return np.concatenate(parts)[:, None].astype(np.float32)


def without_pulse(seed: int) -> np.ndarray:
    """Ten seconds of noise, of swelling pads, or of notes at random times: float32 ``[T, 1]``."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(10 * RATE_HZ) / RATE_HZ
    sound = 0.003 * rng.standard_normal(len(time_s))
    if seed % 3 == 1:
        for _ in range(12):
            swell = np.exp(-0.5 * ((time_s - rng.uniform(0, 10)) / rng.uniform(1, 3)) ** 2)
            sound += 0.05 * swell * np.sin(2 * np.pi * rng.uniform(80, 900) * time_s)
    if seed % 3 == 2:
        begin = 0.0
        while begin < 9:
            note = np.exp(-4 * time_s[:RATE_HZ]) * np.sin(
                2 * np.pi * rng.uniform(100, 900) * time_s[:RATE_HZ]
            )
            at = int(begin * RATE_HZ)
            sound[at : at + RATE_HZ] += 0.2 * note[: len(sound) - at]
            begin += 0.4 * np.exp(0.6 * rng.standard_normal())
    return sound[:, None].astype(np.float32)


def likeliest_bpm(samples: np.ndarray, rate_hz: int) -> float:
    """Tempo of the pulse, however unlikely; 1 where there is none."""
    pulse = find_pulse(region_onsets(bands(to_mono(samples, rate_hz))))
    return pulse.tempo_bpm if pulse else 1.0


def composition_rows(count: int) -> list[Row]:
    """Tempo, key, loudness and speed on compositions."""
    facts: list[Facts] = []
    true_bpm, true_key, bpm, key, others_bpm, lufs_off, cost = [], [], [], [], [], [], []
    librosa, meter = _references()
    for sound, piece in compositions(range(FIRST_SEED, FIRST_SEED + count)):
        start = time.process_time()
        facts.append(measure(sound, RATE_HZ))
        cost.append(1e3 * (time.process_time() - start) / facts[-1].duration_s)
        true_bpm.append(piece.labels.tempo_bpm)
        true_key.append(key_index(piece.labels.key))
        bpm.append(likeliest_bpm(sound, RATE_HZ))
        found = find_key(sound, RATE_HZ)
        key.append(KEYS.index(found[0]) if found else -1)
        if librosa is not None:
            mono = to_mono(sound, RATE_HZ)
            tempo = librosa.beat.beat_track(y=mono, sr=22_050)[0]
            others_bpm.append(max(1.0, float(np.atleast_1d(tempo)[0])))
        if meter is not None:
            # Its own K-weighting is an approximation; "DeMan" is the standard's.
            lufs_off.append(integrated_lufs(sound, RATE_HZ) - meter.integrated_loudness(sound))

    told = [i for i, fact in enumerate(facts) if fact.tempo_bpm is not None]
    right = [agrees(bpm[i], true_bpm[i]) for i in range(len(facts))]
    named = [i for i, fact in enumerate(facts) if fact.key is not None]
    key_right = [found == truth for found, truth in zip(key, true_key, strict=True)]
    errors = Counter(key_error(key[i], true_key[i]) for i in named)
    kinds = ", ".join(
        f"{kind} {errors[kind]}" for kind in ("relative", "parallel", "fifth", "other")
    )
    tempo_rate = share(right[i] for i in told)
    key_rate = share(key_right[i] for i in named)

    def all_of(estimates: list[float], ratios: Iterable[float]) -> str:
        return percent(agrees(a, b, ratios) for a, b in zip(estimates, true_bpm, strict=True))

    tempo_gap = share(right) - float(np.mean([fact.tempo_confidence for fact in facts]))
    key_gap = share(key_right) - float(np.mean([fact.key_confidence for fact in facts]))
    return [
        Row(
            "tempo within 4 % (or double, half), where stated",
            ">= 90 %",
            f"{percent(right[i] for i in told)}; exact level "
            f"{100 * share(agrees(bpm[i], true_bpm[i], (1,)) for i in told):.1f} %, with thirds "
            f"{100 * share(agrees(bpm[i], true_bpm[i], ANY_LEVEL) for i in told):.1f} %",
            tempo_rate >= 0.9,
        ),
        Row(
            "share of clips with a tempo stated",
            ">= 60 %",
            f"{100 * len(told) / len(facts):.1f} %",
            len(told) >= 0.6 * len(facts),
        ),
        Row(
            "tempo if stated always",
            "",
            f"{all_of(bpm, OCTAVES)}; exact level {all_of(bpm, (1,))}",
        ),
        Row(
            "the same of librosa.beat.beat_track",
            "",
            f"{all_of(others_bpm, OCTAVES)}; exact level {all_of(others_bpm, (1,))}"
            if others_bpm
            else None,
            missing="not measured: no librosa",
        ),
        Row(
            "key exactly right, where stated",
            ">= 75 %",
            f"{percent(key_right[i] for i in named)}; wrong: {kinds}",
            key_rate >= 0.75,
        ),
        Row(
            "share of clips with a key stated",
            ">= 50 %",
            f"{100 * len(named) / len(facts):.1f} %",
            len(named) >= 0.5 * len(facts),
        ),
        Row("key if stated always", "", percent(key_right)),
        Row(
            "share right less mean confidence, tempo and key",
            "",
            f"{tempo_gap:+.3f} and {key_gap:+.3f}",
        ),
        Row(
            "LUFS against pyloudnorm, largest difference",
            "<= 0.1 LU",
            f"{np.abs(lufs_off).max():.3f} LU" if lufs_off else None,
            bool(np.abs(lufs_off).max() <= 0.1) if lufs_off else None,
            missing="not measured: no pyloudnorm",
        ),
        Row(
            "processor time for a second of 44.1 kHz stereo",
            "<= 8 ms",
            f"{np.median(cost):.1f} ms, 95th percentile {np.percentile(cost, 95):.1f} ms",
            bool(np.median(cost) <= 8),
        ),
    ]


def _references():  # optional packages, each None where it is not installed
    try:
        import librosa
    except ImportError:
        librosa = None
    try:
        import pyloudnorm

        meter = pyloudnorm.Meter(RATE_HZ, filter_class="DeMan")
    except ImportError:
        meter = None
    return librosa, meter


def made_rows() -> list[Row]:
    """Clicks, chords and what has no pulse."""
    right, late_ms, levels = [], [], []
    tempos = range(60, 201, 10)
    for bpm in tempos:
        sound, begins = clicks(bpm)
        beats = find_beats(sound, RATE_HZ)
        right.append(beats is not None and agrees(beats.tempo_bpm, bpm))
        levels.append(beats is not None and agrees(beats.tempo_bpm, bpm, (1,)))
        if beats is not None:
            nearest = np.abs(beats.times_s[:, None] - begins).min(axis=1)
            late_ms.extend(1e3 * nearest)
    keys = [find_key(chords(i % 12, i >= 12), RATE_HZ) for i in range(24)]
    key_right = [found is not None and found[0] == KEYS[i] for i, found in enumerate(keys)]
    stated = [measure(without_pulse(seed), RATE_HZ) for seed in range(60)]
    tempos_stated = sum(fact.tempo_bpm is not None for fact in stated)
    return [
        Row(
            "clicks, 60 to 200 bpm: tempo (or double, half)",
            "all",
            f"{sum(right)} of {len(right)}, exact level {sum(levels)}",
            all(right),
        ),
        Row(
            "clicks: beats off by",
            "<= 20 ms",
            f"{np.median(late_ms):.1f} ms, at most {np.max(late_ms):.1f} ms",
            bool(np.max(late_ms) <= 20),
        ),
        Row(
            "I-IV-V-I in 24 keys: key",
            "all",
            f"{sum(key_right)} of 24, least confidence "
            f"{min(found[1] for found in keys if found):.2f}",
            all(key_right),
        ),
        Row(
            "noise, pads, notes at random times: tempo stated",
            "<= 5 %",
            f"{tempos_stated} of {len(stated)}",
            tempos_stated <= 0.05 * len(stated),
        ),
    ]


def _read(path: Path) -> tuple[np.ndarray, int] | None:
    if not path.is_file():
        return None
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return samples, rate_hz


def _said(fact: Facts) -> str:
    tempo = f"{fact.tempo_bpm:.1f} bpm" if fact.tempo_bpm else "no tempo"
    return (
        f"{tempo} ({fact.tempo_confidence:.2f}), {fact.key or 'no key'} ({fact.key_confidence:.2f})"
    )


def recording_rows() -> list[Row]:
    """Real recordings: two readers, a trumpet, a jazz trio."""
    rows = []
    spoken = [_read(AUDIO / "speech" / f"reader_{who}.ogg") for who in "fm"]
    facts = [measure(*sound) for sound in spoken if sound]
    silent = all(fact.tempo_bpm is None and fact.key is None for fact in facts)
    rows.append(
        Row(
            "two readers: what is stated",
            "no tempo, no key",
            "; ".join(map(_said, facts)) if facts else None,
            silent if facts else None,
            missing=_NO_AUDIO,
        )
    )
    sound = _read(AUDIO / "music" / "solo_trumpet.ogg")
    figure = None
    if sound:
        fact, key = measure(*sound), find_key(*sound)
        always = f"{likeliest_bpm(*sound):.1f} bpm, {key[0] if key else 'no key'}"
        figure = f"{_said(fact)}; if stated always: {always}"
    rows.append(Row("solo trumpet, 5 s, F, 90 bpm", "", figure, missing=_NO_AUDIO))
    sound = _read(AUDIO / "music" / "vibe_ace.ogg")
    figure = None
    if sound:
        samples, rate_hz = sound
        cuts = [samples[at : at + 10 * rate_hz] for at in range(0, 60 * rate_hz, 10 * rate_hz)]
        each = [measure(cut, rate_hz) for cut in cuts if len(cut) > 9 * rate_hz]
        whole = measure(samples, rate_hz)
        tempos = [f"{fact.tempo_bpm:.1f}" for fact in each if fact.tempo_bpm]
        keys = [fact.key for fact in each if fact.key]
        figure = (
            f"whole: {_said(whole)}; {len(each)} cuts of 10 s: tempo stated {len(tempos)} times "
            f"({', '.join(tempos)}), key {len(keys)} times ({', '.join(keys)})"
        )
    rows.append(Row("jazz trio, 61 s, and its cuts", "", figure, missing=_NO_AUDIO))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clips", type=int, default=300)
    args = options.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="librosa|audioread|numba|pyloudnorm")
        rows = composition_rows(20 if args.quick else args.clips)
    rows += made_rows() + recording_rows()
    if args.quick:
        for row in rows:
            print(f"{row.what}: {row.figure}")
        return
    notes = (
        f"{args.clips} ten-second clips with known tempo and key, rendered with fluidsynth from "
        f"seeds the confidence was not fitted on; one thread (OMP_NUM_THREADS=1)."
    )
    record("facts", "Facts of a clip", rows, notes=notes, packages=["numpy", "scipy", "soxr"])


if __name__ == "__main__":
    main()
