"""Write the clips of ``tunesmith demo --voice``: 16 kHz mono OGG Vorbis, what is said beside each.

``voice``: minutes of the held voice, which nothing has been trained with, to adapt to. ``held-out``: other
sentences of it, to measure against. ``others``: other voices, to know how alike two voices are that are not one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from pretrain.common import SAMPLE_RATE_HZ, log, parser, set_up, write_text
from pretrain.voice import corpus

TRAIN, HELD_OUT = 108, 24
VOICES, OF_EACH = 8, 3
COMPRESSION = 0.85  # of Vorbis, 0 to 1: more is smaller
_LIMIT_BYTES = 2_500_000


def make(out: Path, work: Path) -> None:
    """Write the three folders under ``out``; shards of the corpus that are not in ``work`` are rendered."""
    (work / "corpus").mkdir(parents=True, exist_ok=True)
    for number, clips in ((0, corpus.SHARD), (1, TRAIN + HELD_OUT + 8 - corpus.SHARD)):
        corpus.shard(work, "heldvoice", number, clips)
    corpus.shard(work, "valid", 0, corpus.SHARD)
    sound, rows = corpus.load(work, "heldvoice", 2)
    _write(out / "voice", sound, rows[:TRAIN])
    _write(out / "held-out", sound, rows[TRAIN : TRAIN + HELD_OUT])
    sound, rows = corpus.load(work, "valid", 1)
    _write(out / "others", sound, _others(rows))
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    assert size <= _LIMIT_BYTES, f"the clips take {size} bytes"
    log(f"demo clips of voices: {size / 1e6:.2f} MB in {out}")


def _others(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some clips each of some voices that speak the held voice's language."""
    english = [row for row in rows if row["language"].startswith("en")]
    known = Counter(row["speaker"] for row in english)
    chosen = [name for name, count in known.items() if count >= OF_EACH][:VOICES]
    if len(chosen) < VOICES:  # a shard goes round all voices: take more voices of fewer clips
        chosen = [name for name, _ in known.most_common(VOICES * OF_EACH)]
    kept: Counter[str] = Counter()
    out = []
    for row in english:
        if row["speaker"] in chosen and kept[row["speaker"]] < OF_EACH:
            kept[row["speaker"]] += 1
            out.append(row)
    return out[: VOICES * OF_EACH]


def _write(folder: Path, sound: np.ndarray, rows: list[dict[str, Any]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, row in enumerate(rows):
        clip = sound[row["start"] : row["start"] + row["length"]].astype(np.float32) / 32768
        stem = folder / f"{folder.name}-{index:03d}"
        sf.write(
            stem.with_suffix(".ogg"),
            clip,
            SAMPLE_RATE_HZ,
            format="OGG",
            subtype="VORBIS",
            compression_level=COMPRESSION,
        )
        write_text(stem.with_suffix(".txt"), row["text"] + "\n")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--out", type=Path, default=Path("src/tunesmith/pocket/demo-voice"))
    p.add_argument("--fresh", action="store_true", help="render the shards anew, elsewhere")
    args = p.parse_args()
    set_up(args)
    if args.fresh:
        with tempfile.TemporaryDirectory() as folder:
            make(args.out, Path(folder))
    else:
        make(args.out, args.work)


if __name__ == "__main__":
    main()
