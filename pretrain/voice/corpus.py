"""Render the corpus of the pocket voice: shards of speech with text and phones, over the CPU's cores.

``corpus/<split>-NNNN.npy`` holds the int16 samples of all clips of a shard, joined, ``.jsonl`` beside
it one row a clip, in order. ``corpus/phones.json`` lists every phone of all splits. A shard is a
function of its split and number alone; whole ones stay.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common import (
    SAMPLE_RATE_HZ,
    log,
    parser,
    read_jsonl,
    set_up,
    write_array,
    write_json,
    write_jsonl,
)
from pretrain.voice.speak import Unsayable, speak
from pretrain.voice.speakers import SPLITS, speakers
from pretrain.voice.text import sentence

SHARD = 100  # clips
SHORTEST_S, LONGEST_S = 0.8, 5.2


def shard(work: Path, split: str, number: int, clips: int) -> int:
    """Render one shard, unless it is there; returns its samples."""
    stem = work / "corpus" / f"{split}-{number:04d}"
    if stem.with_suffix(".jsonl").exists() and stem.with_suffix(".npy").exists():
        return 0
    draw = np.random.default_rng((zlib.crc32(split.encode()), number))
    people = speakers(split)
    rows: list[dict[str, Any]] = []
    sounds: list[np.ndarray] = []
    start = 0
    # Every shard goes round the voices from another place, so that all are heard equally often.
    turn = number * SHARD
    while len(rows) < clips:
        speaker = people[(turn + len(rows)) * 7 % len(people)]
        text = sentence(speaker.language, split, draw)
        try:
            said = speak(text, speaker, seed=int(draw.integers(2**31)))
        except Unsayable:
            continue
        if not SHORTEST_S <= len(said.sound) / SAMPLE_RATE_HZ <= LONGEST_S:
            continue
        rows.append(
            {
                "start": start,
                "length": len(said.sound),
                "text": text,
                "phones": said.phones,
                "speaker": speaker.id,
                "language": speaker.language,
            }
        )
        sounds.append(said.sound)
        start += len(said.sound)
    write_array(stem.with_suffix(".npy"), np.concatenate(sounds))
    write_jsonl(stem.with_suffix(".jsonl"), rows)
    return start


def stems(work: Path, split: str) -> list[Path]:
    """The whole shards of a split, without suffix, in order."""
    found = sorted((work / "corpus").glob(f"{split}-[0-9][0-9][0-9][0-9].jsonl"))
    return [path.with_suffix("") for path in found if path.with_suffix(".npy").exists()]


def load(
    work: Path, split: str, limit: int | None = None
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """All samples int16 ``[T]`` of a split, joined, and its rows with ``start`` in that array.

    Args:
        work: work folder.
        split: which.
        limit: at most so many shards.

    Raises:
        FileNotFoundError: there is no shard of the split.
    """
    sounds: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    offset = 0
    for stem in stems(work, split)[:limit]:
        sounds.append(np.load(stem.with_suffix(".npy"), allow_pickle=False))
        for row in read_jsonl(stem.with_suffix(".jsonl")):
            rows.append(row | {"start": row["start"] + offset})
        offset += len(sounds[-1])
    if not rows:
        raise FileNotFoundError(f"{work / 'corpus'}: no shard of '{split}'; run the stage corpus")
    return np.concatenate(sounds), rows


def inventory(work: Path) -> list[str]:
    """The phones of ``phones.json``, sorted; index 0 of a recogniser is its blank, not one of these."""
    return json.loads((work / "corpus" / "phones.json").read_text(encoding="utf-8"))["phones"]


def _job(job: tuple[Path, str, int, int]) -> tuple[str, int]:
    return job[1], shard(*job)


def make(work: Path, counts: dict[str, int], processes: int) -> None:
    """Render ``counts`` clips of each split in parallel, then write the inventory of phones."""
    jobs = []
    for split, count in counts.items():
        full, rest = divmod(count, SHARD)
        sizes = [SHARD] * full + [rest] * bool(rest)
        jobs += [(work, split, number, size) for number, size in enumerate(sizes)]
    log(f"corpus: {sum(counts.values())} clips in {len(jobs)} shards, {processes} processes")
    samples: Counter[str] = Counter()
    # A server that has read the libraries once: each worker would take seconds to do so.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pretrain.voice.speak", "pretrain.voice.text"])
    with context.Pool(processes) as pool:
        for done, (split, size) in enumerate(pool.imap_unordered(_job, jobs, chunksize=1), 1):
            samples[split] += size
            if done % 25 == 0 or done == len(jobs):
                log(f"corpus: {done} of {len(jobs)} shards")
    for split, size in samples.items():
        log(f"corpus: {split}: {size / SAMPLE_RATE_HZ / 60:.1f} minutes made")
    counted: Counter[str] = Counter()
    for split in SPLITS:
        for stem in stems(work, split):
            for row in read_jsonl(stem.with_suffix(".jsonl")):
                counted.update(row["phones"])
    phones = sorted(counted)
    write_json(work / "corpus" / "phones.json", {"phones": phones, "counts": dict(counted)})
    log(f"corpus: {len(phones)} phones")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--clips", type=int, default=14000, help="of train")
    p.add_argument("--valid-clips", type=int, default=500)
    p.add_argument("--judge-clips", type=int, default=4000)
    p.add_argument("--held-clips", type=int, default=140, help="of each of the two held splits")
    p.add_argument("--accent-clips", type=int, default=800)
    p.add_argument("--crowd-clips", type=int, default=5760)
    p.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    args = p.parse_args()
    set_up(args)
    counts = {
        "train": args.clips,
        "judge": args.judge_clips,
        "valid": args.valid_clips,
        "heldvoice": args.held_clips,
        "heldaccent": args.held_clips,
        "accent": args.accent_clips,
        "crowd": args.crowd_clips,
    }
    make(args.work, counts, args.processes)


if __name__ == "__main__":
    main()
