"""Compose and render clips: fluidsynth at 16 kHz into shards of int16 [N, 160000] and captions.

A shard is ``clips/<split>-<index>.npy`` plus ``.jsonl``; the latter is written last and marks the shard whole.
"""

from __future__ import annotations

import random
import resource
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mido
import numpy as np
import soundfile as sf

from pretrain.common import (
    CLIP_SAMPLES,
    SAMPLE_RATE_HZ,
    log,
    parser,
    read_jsonl,
    set_up,
    write_array,
    write_json,
    write_jsonl,
)
from pretrain.compose import Composition, compose

SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SLOT_S = 12.0  # ten seconds of music, two for tails to die away before the next clip
SHARD_CLIPS = 125
COUNTS = "clips.json"
"""In the work folder: clips of each split; some compositions do not render."""

FIRST_SEED = {
    "train": 0,
    "valid": 1_000_000,
    "demo-general": 2_000_000,
    "demo-style": 3_000_000,
    "judge": 6_000_000,  # for the tagger that judges: neither codec nor language model hears them
}
_TICKS_PER_S = 960
_RENDER_LIMIT_S = 240


def to_midi(pieces: list[Composition]) -> mido.MidiFile:
    """Join pieces in one file, one every 12 s, so that the sound font is loaded once."""
    events: list[tuple[int, int, mido.Message]] = []
    for index, piece in enumerate(pieces):
        begin = round(index * SLOT_S * _TICKS_PER_S)
        for channel, program in piece.programs.items():
            events.append(
                (begin, 0, mido.Message("control_change", channel=channel, control=120, value=0))
            )
            events.append(
                (begin, 1, mido.Message("program_change", channel=channel, program=program))
            )
            volume = piece.volumes[channel]
            events.append(
                (begin, 2, mido.Message("control_change", channel=channel, control=7, value=volume))
            )
        # A little later than the programs, so that no note starts on the old sound.
        origin = begin + 20
        for note in piece.notes:
            on, off = (
                origin + round(note.start_s * _TICKS_PER_S),
                origin + round(note.end_s * _TICKS_PER_S),
            )
            same: dict[str, Any] = {"channel": note.channel, "note": note.pitch}
            events.append((on, 4, mido.Message("note_on", velocity=note.velocity, **same)))
            events.append((max(off, on + 1), 3, mido.Message("note_off", velocity=0, **same)))
    file = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=500_000))
    now = 0
    for tick, _, message in sorted(events, key=lambda e: (e[0], e[1])):
        track.append(message.copy(time=tick - now))
        now = tick
    last = round(len(pieces) * SLOT_S * _TICKS_PER_S)
    track.append(mido.MetaMessage("end_of_track", time=max(last - now, 0)))
    return file


def synthesise(
    midi: mido.MidiFile, length_s: float, rate_hz: int = SAMPLE_RATE_HZ
) -> np.ndarray | None:
    """Stereo float32 [T, 2], or None where fluidsynth ran away (it now and then never ends)."""
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder) / "score.mid", Path(folder) / "sound.wav"
        midi.save(score)
        # The quarter gigabyte is for what the synthesiser itself lays down while it loads the sound font.
        limit_bytes = 250_000_000 + int((length_s + 60) * rate_hz * 4)

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

        command = [
            "fluidsynth",
            "-ni",
            "-q",
            "-r",
            str(rate_hz),
            "-g",
            "0.5",
            "-R",
            "1",
            "-C",
            "0",
        ]
        command += ["-o", "synth.reverb.level=0.4", "-T", "wav", "-O", "s16", "-F", str(sound)]
        try:
            done = subprocess.run(
                [*command, str(SOUND_FONT), str(score)],
                timeout=_RENDER_LIMIT_S,
                preexec_fn=limit,
                capture_output=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode != 0 or not sound.exists():
            return None
        audio, rate = sf.read(sound, dtype="float32", always_2d=True)
        assert rate == rate_hz
        return audio


def level(audio: np.ndarray, seed: int) -> np.ndarray:
    """Bring one clip to -20 dB RMS give or take 2 dB (clips differ as recordings do), peak below 0.95; int16."""
    rms = float(np.sqrt(np.mean(audio**2)) + 1e-9)
    wanted = 10 ** ((-20.0 + random.Random(f"level:{seed}").gauss(0, 2)) / 20)
    gain = min(wanted / rms, 0.95 / (float(np.abs(audio).max()) + 1e-9))
    return np.round(audio * gain * 32767).astype(np.int16)


def render(pieces: list[Composition]) -> tuple[np.ndarray, list[Composition]]:
    """Int16 [N, 160000] and the pieces that sounded; halves a batch whose render ran away, then skips."""
    audio = synthesise(to_midi(pieces), len(pieces) * SLOT_S)
    audio = None if audio is None else audio.mean(axis=1)
    slot = int(SLOT_S * SAMPLE_RATE_HZ)
    if audio is None or len(audio) < (len(pieces) - 1) * slot + CLIP_SAMPLES:
        if len(pieces) == 1:
            log(f"skipped composition {pieces[0].seed}: it does not render")
            return np.zeros((0, CLIP_SAMPLES), np.int16), []
        middle = len(pieces) // 2
        left, right = render(pieces[:middle]), render(pieces[middle:])
        return np.concatenate([left[0], right[0]]), left[1] + right[1]
    cuts, kept = [], []
    for index, piece in enumerate(pieces):
        cut = audio[index * slot : index * slot + CLIP_SAMPLES]
        if np.sqrt(np.mean(cut**2)) < 1e-4:
            log(f"skipped composition {piece.seed}: silent")
            continue
        cuts.append(level(cut, piece.seed))
        kept.append(piece)
    return np.stack(cuts) if cuts else np.zeros((0, CLIP_SAMPLES), np.int16), kept


def shard(folder: Path, split: str, index: int) -> None:
    """Render shard ``index`` of a split unless it is whole already."""
    stem = folder / f"{split}-{index:04d}"
    if stem.with_suffix(".jsonl").exists():
        return
    first = FIRST_SEED[split] + index * SHARD_CLIPS
    pieces = [compose(seed) for seed in range(first, first + SHARD_CLIPS)]
    audio, kept = render(pieces)
    write_array(stem.with_suffix(".npy"), audio)
    rows = [{"seed": p.seed, "captions": p.captions, "labels": asdict(p.labels)} for p in kept]
    write_jsonl(stem.with_suffix(".jsonl"), rows)
    log(
        f"{stem.name}: {len(kept)} clips, mean |x| {np.abs(audio.astype(np.float32)).mean() / 32767:.4f}"
    )


def whole_shards(folder: Path, split: str) -> list[Path]:
    """Paths (without suffix) of the shards of a split that are whole, in order."""
    return sorted(p.with_suffix("") for p in folder.glob(f"{split}-*.jsonl"))


def load(folder: Path, split: str) -> tuple[list[np.ndarray], list[dict]]:
    """Memory-mapped int16 arrays [N, 160000], one a shard, and the rows of all shards in the same order."""
    stems = whole_shards(folder, split)
    arrays = [np.load(s.with_suffix(".npy"), mmap_mode="r", allow_pickle=False) for s in stems]
    return arrays, [row for s in stems for row in read_jsonl(s.with_suffix(".jsonl"))]


def make(work: Path, counts: dict[str, int], workers: int) -> None:
    """Render so many clips of each split (``{"train": 6000, ...}``); whole shards are kept."""
    folder = work / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(split, i) for split, count in counts.items() for i in range(-(-count // SHARD_CLIPS))]
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(shard, folder, *job) for job in jobs]:
            done.result()
    write_json(work / COUNTS, {split: len(load(folder, split)[1]) for split in counts})


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--clips", type=int, default=6000)
    p.add_argument("--valid-clips", type=int, default=250)
    p.add_argument("--judge-clips", type=int, default=3000)
    args = p.parse_args()
    set_up(args)
    counts = {"valid": args.valid_clips, "train": args.clips, "judge": args.judge_clips}
    make(args.work, counts, args.threads)


if __name__ == "__main__":
    main()
