"""Write the demo's clips: five seconds, 16 kHz mono OGG Vorbis, a caption beside each.

``demo/style``: calypso led by steel drums, which pre-training never sees or names. ``demo/general``: styles and
leads of pre-training, from composition seeds that it does not use.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf

from pretrain.common import SAMPLE_RATE_HZ, log, parser, set_up, write_text
from pretrain.compose import compose
from pretrain.render import FIRST_SEED, render

STYLE_CLIPS, GENERAL_CLIPS, LENGTH_S = 60, 24, 5.0
_LIMIT_BYTES = 3_000_000


def make(out: Path) -> None:
    """Write both folders under ``out``."""
    for folder, count, split in (
        ("style", STYLE_CLIPS, "demo-style"),
        ("general", GENERAL_CLIPS, "demo-general"),
    ):
        first, held_out = FIRST_SEED[split], split == "demo-style"
        # A few more than wanted, in case some do not render.
        pieces = [compose(seed, held_out=held_out) for seed in range(first, first + count + 4)]
        audio, kept = render(pieces)
        for index, (clip, piece) in enumerate(zip(audio[:count], kept[:count], strict=True)):
            # The first five seconds of the even clips, the last five of the odd ones: openings and middles.
            start = 0 if index % 2 == 0 else len(clip) - int(LENGTH_S * SAMPLE_RATE_HZ)
            cut = clip[start : start + int(LENGTH_S * SAMPLE_RATE_HZ)].astype(np.float32) / 32768
            stem = out / folder / f"{folder}-{index:02d}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            sf.write(stem.with_suffix(".ogg"), cut, SAMPLE_RATE_HZ, format="OGG", subtype="VORBIS")
            caption = piece.captions[index % len(piece.captions)]
            if held_out and "calypso" not in caption:
                raise AssertionError(f"a caption of the style does not name it: {caption}")
            write_text(stem.with_suffix(".txt"), caption + "\n")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    assert size <= _LIMIT_BYTES, f"the demo's clips take {size} bytes"
    log(f"demo clips: {size / 1e6:.2f} MB in {out}")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--out", type=Path, default=Path("src/tunesmith/pocket/demo"))
    args = p.parse_args()
    set_up(args)
    make(args.out)


if __name__ == "__main__":
    main()
