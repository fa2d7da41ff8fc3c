"""How fast clips and captions become cached codes and states, against a plain loop over the library's models.

    python -m bench.encode [--clips 24] [--seconds 10] [--only pocket|small] [--quick]

The loop is what training scripts do: read a clip, `EncodecModel.encode`, tokenize, text encoder, one file of
tensors a clip. Both read the same FLAC files, write safetensors, take turns group by group in one process,
and must make the same codes. Then all of it once more: what a second run pays.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from bench._results import Row, parser, record, spread

CAPTIONS = (
    "slow blues, electric guitar, live",
    "fast swing, piano and brushes",
    "a waltz, strings",
)
GROUP = 4
TITLES = {
    "pocket": "pocket's codec and text encoder",
    "small": "musicgen-small's codec and T5-base (random weights)",
}


def write_clips(folder: Path, rate_hz: int, clips: int, seconds: float) -> list[Any]:
    """FLAC files of noise with a beat, as rows of a data set; every fourth clip brings a new caption."""
    from tunesmith.data.sources import file_sha256
    from tunesmith.types import Clip

    draw = np.random.default_rng(0)
    fall = 0.3 * np.exp(-8 * (np.arange(round(rate_hz * seconds)) / rate_hz % 0.5))
    rows = []
    for number in range(clips):
        path = folder / f"{number:03d}.flac"
        soundfile.write(path, fall * draw.uniform(-1, 1, len(fall)), rate_hz)
        caption = f"{CAPTIONS[number % len(CAPTIONS)]}, take {number // GROUP}"
        rows.append(Clip(path, caption, "train", path.stem, 0.0, seconds, file_sha256(path)))
    return rows


def plain_loop(clips: list[Any], codec: Any, text: Any, tokenizer: Any, dest: Path) -> list[Any]:
    """Codes of each clip, as a script makes them that knows nothing of caches."""
    found = []
    for clip in clips:
        samples, _ = soundfile.read(clip.path, dtype="float32", always_2d=True)
        wave = torch.from_numpy(np.ascontiguousarray(samples.T))[None]
        with torch.no_grad():
            codes = codec.encode(wave).audio_codes[0, 0]
            ids = tokenizer(clip.caption, return_tensors="pt").input_ids
            states = text(input_ids=ids).last_hidden_state[0]
        tensors = {"codes": codes.to(torch.int16), "ids": ids[0], "states": states}
        save_file(tensors, dest / f"{clip.path.stem}.safetensors")
        found.append(tensors["codes"])
    return found


def measure(folder: Path, base: str, clips: int, seconds: float) -> tuple[str, float]:
    """What to say of one base, and the median over groups of the ratio of rates."""
    from tunesmith.data.encode import encode
    from tunesmith.families import find_base, load

    bundle: Any = load(find_base(base))
    codec, text = bundle.codec, bundle.module.model.text_encoder.eval()
    rows = write_clips(folder, bundle.sample_rate_hz, clips, seconds)
    warm, *groups = [rows[start : start + GROUP] for start in range(0, len(rows), GROUP)]
    plain_loop(warm, codec, text, bundle.tokenizer, folder)
    encode(warm, bundle)
    ours: list[float] = []
    theirs: list[float] = []
    for number, group in enumerate(groups):
        turns = [(ours, lambda: list(encode(group, bundle)))]  # noqa: B023 - called at once
        turns.append((theirs, lambda: plain_loop(group, codec, text, bundle.tokenizer, folder)))  # noqa: B023
        made: dict[int, Any] = {}
        for rates, run in turns if number % 2 else turns[::-1]:
            begin = time.perf_counter()
            made[id(rates)] = run()
            rates.append(len(group) * seconds / (time.perf_counter() - begin))
        for example, codes in zip(made[id(ours)], made[id(theirs)], strict=True):
            assert torch.equal(example.codes, codes), "the two do not make the same codes"
    begin = time.perf_counter()
    list(encode(rows, bundle))
    again = len(rows) * seconds / (time.perf_counter() - begin)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    ratio = float(np.median(ratios))
    said = (
        f"{spread(ratios, 'x')} ({spread(ours, digits=1)} against {spread(theirs, digits=1)} s of sound a "
        f"second); from the cache {again:.0f}, {again / float(np.median(theirs)):.0f}x"
    )
    return said, ratio


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clips", type=int, default=24)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--only", choices=list(TITLES))
    args = options.parse_args()
    clips, seconds = (8, 2.0) if args.quick else (args.clips, args.seconds)
    rows = []
    for name, title in TITLES.items():
        figure = passed = None
        if args.only in (None, name) and not (args.quick and name == "small"):
            with tempfile.TemporaryDirectory() as place:
                top = Path(place)
                os.environ["TUNESMITH_CACHE"] = str(top / "cache")
                base = name
                if name == "small":
                    from bench.small_geometry import save_musicgen_small

                    base = str(top / "base")
                    save_musicgen_small(Path(base), layers=1)
                (top / "clips").mkdir()
                figure, ratio = measure(top / "clips", base, clips, seconds)
                passed = ratio >= 0.95  # the same work: neither may cost more than the noise
        what = f"{title}: clips of 10 s and captions, against one clip at a time"
        rows.append(Row(what, "no slower", figure, passed, missing="not measured"))
    if args.quick:
        print(*rows, sep="\n")
        return
    record(
        "encode",
        "Encoding: recordings to codes, captions to states",
        rows,
        notes=f"{clips} clips of {seconds:g} s, groups of {GROUP} by turns, the first to warm up; three captions "
        "in four are new. The codec takes one clip at a time on both sides: a code that depended on what was "
        "encoded beside it could not be cached. `no slower`: at least 0.95 of the loop's rate.",
    )


if __name__ == "__main__":
    main()
