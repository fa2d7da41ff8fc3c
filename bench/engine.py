"""The engine of sequences against ``MusicgenForConditionalGeneration.generate``.

    python -m bench.engine [--only pocket|small] [--quick]

Both make the same takes from text to sound (text encoder, guided sampling with the same settings, codec)
in one process and take turns. The contestants share their weights, so that they fit into memory together.
musicgen-small comes from no hub: its geometry is built with random weights. What a GPU does is measured by
:mod:`bench.engine_gpu`.
"""

from __future__ import annotations

import copy
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from bench._results import Row, parser, record, spread
from bench.small_geometry import save_musicgen_small
from tunesmith.families import EMBEDDED, find_base, load
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.serve._decoder import Decoder
from tunesmith.serve._openmp import rest
from tunesmith.serve._stream import StreamDecoder
from tunesmith.serve.request import Request
from tunesmith.serve.token_engine import TokenEngine
from tunesmith.types import Audio, GenerationSettings

PROMPT = "mellow calypso, steel drums"
SETTINGS = GenerationSettings()  # guidance 3, top-k 250: what generate does by default, too


class Ear:
    """Keeps what comes."""

    def __init__(self) -> None:
        self.parts: list[Audio] = []
        self.ended = threading.Event()
        self.error: Exception | None = None

    def progress(self, share: float) -> None: ...

    def part(self, audio: Audio) -> None:
        self.parts.append(audio)

    def finished(self) -> None:
        self.ended.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def cancelled(self) -> None:
        self.ended.set()

    def sound(self) -> np.ndarray:
        self.ended.wait()
        if self.error is not None:
            raise self.error
        return np.concatenate([one.samples for one in self.parts], 1)


def request(number: int, seconds: float, **more: Any) -> Request:
    return Request(
        **{
            "id": f"{number}",
            "prompt": PROMPT,
            "duration_s": seconds,
            "seed": number,
            "settings": SETTINGS,
            **more,
        }
    )


def sharing(model: Any) -> Any:
    """The same model with other modules and the same weights."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(one): one for one in tensors})


def bundle_of(model: Any, tokenizer: Any, max_s: float) -> MusicgenBundle:
    """A bundle that shares the weights of a plain model."""
    mine = sharing(model)
    codec = mine.audio_encoder
    mine.requires_grad_(False)
    names = dict.fromkeys(("base_hash", "codec_hash", "text_hash", "licence"), "")
    return MusicgenBundle(mine, tokenizer, lambda: codec, name="bench", max_s=max_s, **names)


def plain_takes(model: Any, tokenizer: Any, frames: int, batch: int) -> Callable[[], int]:
    """What the library does: samples that come out of ``batch`` takes."""
    inputs = tokenizer([PROMPT] * batch, return_tensors="pt", padding=True).to(model.device)
    delay = model.decoder.config.num_codebooks // model.decoder.config.audio_channels - 1

    def run() -> int:
        made = model.generate(
            **{name: inputs[name] for name in ("input_ids", "attention_mask")},
            do_sample=True,
            guidance_scale=SETTINGS.guidance,
            top_k=SETTINGS.top_k,
            temperature=SETTINGS.temperature,
            max_new_tokens=frames + delay,
            min_new_tokens=frames + delay,
        )
        return int(made.cpu().shape[-1])  # not before it is there

    return run


def engine_takes(engine: TokenEngine, seconds: float, batch: int) -> Callable[[], int]:
    """What the engine does, until the last of ``batch`` takes is there."""

    def run() -> int:
        ears = [Ear() for _ in range(batch)]
        for number, ear in enumerate(ears):
            engine.submit(request(number, seconds), ear)
        return min(ear.sound().shape[-1] for ear in ears)

    return run


def contest(contestants: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each in each round; all make sounds of the same length.

    Each finds the processors to itself: what OpenMP keeps for this thread would slow down an engine's,
    and the other way round.
    """
    lengths = {name: run() for name, run in contestants.items()}  # warm
    assert max(lengths.values()) - min(lengths.values()) <= 1, lengths
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            rest()
            time.sleep(0.05)  # the engine's thread lets go, too
            begin = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - begin)
    return found


def compared(
    what: str,
    model: Any,
    tokenizer: Any,
    max_s: float,
    seconds: float,
    batch: int,
    bars: dict[str, float],
    repeats: int,
) -> list[Row]:
    """Tokens per second of engines with as many slots as takes: ``fp32``, ``int8``, ``bf16``."""
    codebooks = model.decoder.config.num_codebooks
    rows = []
    for kind, bar in bars.items():
        bundle = bundle_of(model, tokenizer, max_s)
        frames = round(seconds * bundle.frame_rate_hz)
        engine = TokenEngine(bundle, slots=batch, int8=kind == "int8")
        engine.start()
        try:
            times = contest(
                {
                    "generate": plain_takes(model, tokenizer, frames, batch),
                    "engine": engine_takes(engine, seconds, batch),
                },
                repeats,
            )
        finally:
            engine.stop()
        ratios = [a / b for a, b in zip(times["generate"], times["engine"], strict=True)]
        rates = {
            name: batch * codebooks * frames / sorted(some)[len(some) // 2]
            for name, some in times.items()
        }
        rows.append(
            Row(
                f"{what}, {kind}, {batch} at a time: tokens per second against generate",
                f">= {bar:g}x" if bar else "",
                f"{spread(ratios, 'x')}: {rates['engine']:.0f} against {rates['generate']:.0f}",
                min(ratios) >= bar if bar else None,
            )
        )
    return rows


@torch.no_grad()
def int8_error(what: str, bundle: MusicgenBundle, steps: int) -> Row:
    """Logits along the same tokens, in 8 bits and in full precision."""
    bundle.module.eval()
    (codes,) = bundle.generate_codes([PROMPT], steps / bundle.frame_rate_hz, [0], SETTINGS)
    (text,) = bundle.encode_text([PROMPT])
    given = {"states": text["states"][None], "mask": torch.ones(1, len(text["ids"]))}
    states, mask = bundle.module.text_states(given, fresh=True)
    found: list[Tensor] = []
    for int8 in (False, True):
        decoder = Decoder(bundle.module, 1, steps + 1, int8=int8)
        decoder.begin(0, torch.cat([states, 0 * states]), torch.cat([mask, 0 * mask]))
        logits = [
            decoder.step(codes[None, :, place].long(), torch.tensor([place]), place)
            for place in range(steps)
        ]
        found.append(torch.stack(logits)[:, :1])
    exact, near = found
    error = float((near - exact).norm() / exact.norm())
    p, q = exact.log_softmax(-1), near.log_softmax(-1)
    nats = float((p.exp() * (p - q)).sum(-1).mean())
    same = float((exact.argmax(-1) == near.argmax(-1)).float().mean())
    figure = (
        f"logits {error:.2%} off, {nats:.1e} nats a token, likeliest token the same in {same:.1%}"
    )
    return Row(f"{what}: int8 against fp32 along the same tokens", "stated", figure)


def company(bundle: MusicgenBundle, seconds: float, rounds: int) -> Row:
    """The same request alone, and among others that come and go, in whatever slot."""
    engine, draw = TokenEngine(bundle, slots=4), random.Random(0)
    engine.start()
    alone, same = Ear(), 0
    engine.submit(request(7, seconds), alone)
    wanted = alone.sound()
    for turn in range(rounds):
        others, ear = [Ear() for _ in range(6)], Ear()
        place = draw.randrange(6)
        for number, other in enumerate(others):
            if number == place:
                engine.submit(request(7, seconds, id="again"), ear)
            name = f"{turn} {number}"
            length = draw.uniform(0.2, seconds)
            engine.submit(request(number, length, id=name), other)
            if draw.random() < 0.3:
                engine.cancel(name)
        same += bool(np.array_equal(ear.sound(), wanted))
        for other in others:
            other.ended.wait()
    engine.stop()
    return Row(
        "the same seed alone and among others that join and leave, fp32",
        "the same tokens",
        f"the same sound, bit for bit, in {same} of {rounds}",
        same == rounds,
    )


def seam(bundle: MusicgenBundle, seconds: float) -> Row:
    """Pieces of a second against one piece, and against pieces that know nothing of each other."""
    (codes,) = bundle.generate_codes([PROMPT], seconds, [3], SETTINGS)
    whole = bundle.decode_audio(codes).samples
    step, stream = round(bundle.frame_rate_hz), StreamDecoder(bundle)
    pieces, blind = [], []
    for begin in range(0, codes.shape[1], step):
        end = min(begin + step, codes.shape[1])
        piece = stream.push(codes[:, :end], last=end == codes.shape[1])
        pieces += [] if piece is None else [piece.samples]
        blind.append(bundle.decode_audio(codes[:, begin:end]).samples)
    off = [np.abs(np.concatenate(some, 1) - whole).max() for some in (pieces, blind)]
    decibels = [20 * np.log10(max(float(one), 1e-9)) for one in off]
    return Row(
        "streamed in pieces of a second against one piece, largest difference",
        "< -60 dB of full scale",
        f"{decibels[0]:.0f} dB (pieces decoded each by itself: {decibels[1]:.0f} dB)",
        decibels[0] < -60,
    )


def pocket(quick: bool) -> list[Row]:
    base = find_base("pocket")
    model = MusicgenForConditionalGeneration.from_pretrained(EMBEDDED["pocket"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED["pocket"])
    seconds, repeats = (0.5, 1) if quick else (5.0, 5)
    rows = []
    for batch, bars in ((1, {"fp32": 3.0, "int8": 0.0}), (8, {"fp32": 0.0, "int8": 0.0})):
        rows += compared("pocket", model, tokenizer, 10.0, seconds, batch, bars, repeats)
    bundle: Any = load(base)
    rows.append(int8_error("pocket", bundle, 20 if quick else 200))
    rows.append(seam(bundle, 2.0 if quick else 10.0))
    rows.append(company(bundle, 0.5 if quick else 3.0, 2 if quick else 10))
    return rows


def small(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as top:
        save_musicgen_small(Path(top) / "small")
        model = MusicgenForConditionalGeneration.from_pretrained(Path(top) / "small").eval()
        tokenizer = AutoTokenizer.from_pretrained(Path(top) / "small")
    seconds, repeats = (0.1, 1) if quick else (1.0, 3)
    what, bars = "musicgen-small's geometry", {"int8": 4.0, "fp32": 0.0}
    rows = compared(what, model, tokenizer, 30.0, seconds, 1, bars, repeats)
    return [*rows, int8_error(what, bundle_of(model, tokenizer, 30.0), 5 if quick else 50)]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=("pocket", "small"), help="these rows alone, printed")
    args = options.parse_args()
    made: dict[str, Callable[[bool], Sequence[Row]]] = {"pocket": pocket, "small": small}
    rows = [
        row for name, part in made.items() if args.only in (None, name) for row in part(args.quick)
    ]
    if args.quick or args.only:
        for row in rows:
            print(f"{row.what}: {row.figure}" + (f"  (bar: {row.bar})" if row.bar else ""))
        return
    record(
        "engine",
        "The engine against generate",
        rows,
        notes=(
            "From text to sound, codec included, both in one process, in turns; the ratio is that of "
            "each round, and the smallest has to reach the bar. Random weights where a geometry is named."
        ),
        packages=("torch", "transformers"),
    )


if __name__ == "__main__":
    main()
