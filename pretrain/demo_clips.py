"""Write the demo's clips: five seconds, 16 kHz mono OGG Vorbis, a caption beside each.

``demo/style``: calypso led by steel drums, which pre-training never sees or names. ``demo/held-out``: more of the
same from other composition seeds, to measure against. ``demo/general``: styles and leads of pre-training, from
composition seeds that it does not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from pretrain.common import SAMPLE_RATE_HZ, log, parser, set_up, write_text
from pretrain.compose import compose
from pretrain.render import FIRST_SEED, render

LENGTH_S = 5.0
_LIMIT_BYTES = 5_600_000


@dataclass(frozen=True, slots=True)
class _Folder:
    """One folder of clips; ``compression`` is that of Vorbis, 0 to 1."""

    name: str
    first_seed: int
    clips: int
    of_style: bool
    compression: float


# Measured on the held-out clips: what Vorbis at 0.8 does to the tagger's embedding of a second is a tenth of
# the median distance between two of them, a twentieth at the usual 0.6, for four fifths of the bytes.
FOLDERS = (
    _Folder("style", FIRST_SEED["demo-style"], 60, True, 0.6),
    _Folder("held-out", FIRST_SEED["demo-style"] + 1000, 128, True, 0.8),
    _Folder("general", FIRST_SEED["demo-general"], 24, False, 0.6),
)


def make(out: Path, names: tuple[str, ...] = ()) -> None:
    """Write the folders under ``out``, or those of the given names."""
    for folder in FOLDERS:
        if not names or folder.name in names:
            _write(out / folder.name, folder)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    assert size <= _LIMIT_BYTES, f"the demo's clips take {size} bytes"
    log(f"demo clips: {size / 1e6:.2f} MB in {out}")


def _write(out: Path, folder: _Folder) -> None:
    # A few more than wanted, in case some do not render.
    seeds = range(folder.first_seed, folder.first_seed + folder.clips + 4)
    audio, kept = render([compose(seed, held_out=folder.of_style) for seed in seeds])
    pieces = zip(audio[: folder.clips], kept[: folder.clips], strict=True)
    for index, (clip, piece) in enumerate(pieces):
        # The first five seconds of the even clips, the last five of the odd ones: openings and middles.
        start = 0 if index % 2 == 0 else len(clip) - int(LENGTH_S * SAMPLE_RATE_HZ)
        cut = clip[start : start + int(LENGTH_S * SAMPLE_RATE_HZ)].astype(np.float32) / 32768
        stem = out / f"{folder.name}-{index:0{len(str(folder.clips - 1))}d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        sf.write(
            stem.with_suffix(".ogg"),
            cut,
            SAMPLE_RATE_HZ,
            format="OGG",
            subtype="VORBIS",
            compression_level=folder.compression,
        )
        caption = piece.captions[index % len(piece.captions)]
        if folder.of_style and "calypso" not in caption:
            raise AssertionError(f"a caption of the style does not name it: {caption}")
        write_text(stem.with_suffix(".txt"), caption + "\n")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--out", type=Path, default=Path("src/tunesmith/pocket/demo"))
    p.add_argument(
        "--folder",
        action="append",
        default=[],
        choices=[folder.name for folder in FOLDERS],
        help="only this folder; may be given again",
    )
    args = p.parse_args()
    set_up(args)
    make(args.out, tuple(args.folder))


if __name__ == "__main__":
    main()
