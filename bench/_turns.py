"""What the contestants of ``bench.train_speed`` share: model, clips, the batches of a heat, and turns."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

from tunesmith.families.musicgen._tiny import byte_tokenizer

RANK, LEARNING_RATE = 16, 1e-4
FRAME_RATE_HZ = 50
GEOMETRIES: dict[str, dict[str, Any]] = {
    "small": {"layers": 8, "seconds": (10.0, 30.0), "batch": 4},
    "pocket": {"layers": 0, "seconds": (2.0, 10.0), "batch": 8},
    "micro": {"layers": 0, "seconds": (1.0, 3.0), "batch": 4},  # for a smoke run
    # Whole, for a GPU: layers, width, heads.
    "small-4": {"layers": 24, "seconds": (10.0, 30.0), "batch": 4},
    "small-8": {"layers": 24, "seconds": (10.0, 30.0), "batch": 8},
    "small-16": {"layers": 24, "seconds": (10.0, 30.0), "batch": 16},
    "large-2": {"layers": 48, "width": 2048, "heads": 32, "seconds": (10.0, 30.0), "batch": 2},
    "large-4": {"layers": 48, "width": 2048, "heads": 32, "seconds": (10.0, 30.0), "batch": 4},
    "large-8": {"layers": 48, "width": 2048, "heads": 32, "seconds": (10.0, 30.0), "batch": 8},
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM = 2 if DEVICE.type == "cuda" else 0
"""Rounds that nobody times: a step of each length is recorded when that comes for the second time."""


def block(steps: int) -> int:
    """Steps a turn: on a GPU a round, so that the processor may run ahead within; else one."""
    return steps if DEVICE.type == "cuda" else 1


def total_steps(steps: int, rounds: int) -> int:
    """Of :func:`chosen`."""
    return 1 + 2 * block(steps) + steps * (WARM + rounds)


def small_model(
    layers: int, width: int = 1024, heads: int = 16
) -> MusicgenForConditionalGeneration:
    """musicgen-small with fewer layers and random weights; its codec is a stub, nobody uses it."""
    decoder = MusicgenDecoderConfig(  # the rest are musicgen-small's own
        num_hidden_layers=layers,
        hidden_size=width,
        ffn_dim=4 * width,
        num_attention_heads=heads,
    )
    text = T5Config(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
    )
    codec = EncodecConfig(num_filters=2, hidden_size=8, num_lstm_layers=1)
    torch.manual_seed(0)
    return MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
    )


def build(geometry: str) -> tuple[MusicgenForConditionalGeneration, Any]:
    """The model and a tokenizer."""
    if geometry == "pocket":
        from transformers import AutoTokenizer

        from tunesmith.families import EMBEDDED

        folder = EMBEDDED["pocket"]
        return (
            MusicgenForConditionalGeneration.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
    if geometry == "micro":
        from tunesmith.families.musicgen._tiny import tiny_model

        return tiny_model(0), byte_tokenizer()
    own = GEOMETRIES[geometry]
    sizes = {name: own[name] for name in ("layers", "width", "heads") if name in own}
    with DEVICE:  # on a processor, the large one would take minutes
        return small_model(**sizes), byte_tokenizer()


def clips(geometry: str, count: int, vocabulary: int, text_size: int) -> list[dict[str, Any]]:
    """Cached codes of uniformly spread lengths, and token ids of one of twelve captions."""
    low, high = GEOMETRIES[geometry]["seconds"]
    draw = random.Random(1)
    generator = torch.Generator().manual_seed(1)
    captions = [
        torch.randint(3, min(text_size, 250), (draw.randint(8, 24),), generator=generator)
        for _ in range(12)
    ]
    made = []
    for number in range(count):
        frames = round(draw.uniform(low, high) * FRAME_RATE_HZ)
        codes = torch.randint(vocabulary, (4, frames), generator=generator, dtype=torch.int16)
        ids = captions[number % len(captions)]
        made.append({"codes": codes, "input_ids": ids, "length": frames})
    return made


def chosen(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], steps: int, rounds: int
) -> list[list[int]]:
    """Two batches to warm up, ``rounds`` times the same ``steps`` batches of an epoch, one to end.

    An epoch of hundreds of clips takes too long; batches at even ranks of padded length stand for
    it with less chance than its first few would.
    """
    whole = [list(batch) for batch in batches if len(batch) == len(batches[0])]
    ranked = sorted(whole, key=lambda batch: max(lengths[i] for i in batch))
    spread = [ranked[int((k + 0.5) * len(ranked) / steps)] for k in range(steps)]
    # One more turn untimed: what waited through the others' warm-up has gone cold.
    # And one at the end, so that nobody's farewell falls into the last timed turns.
    more = spread[: block(steps)]
    return [ranked[-1], *more, *(spread * (WARM + rounds)), *more]


def padding(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Share of an epoch's positions that is padding."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded


def lora_flops(config: Any, rows: list[dict[str, Any]], batch: Sequence[int]) -> int:
    """Floating-point operations that training a batch takes, of real positions alone.

    Per position 4 for each frozen weight that it meets (2 forward, 2 for the gradient of the input), 6
    for each weight of an adapter (its own gradient, too). Per layer, position and key, 4 · width forward and
    8 back, over the causal half in self-attention. Nothing for padding, for what is computed twice,
    for norms, dropout or the optimizer.
    """
    decoder = config.decoder
    width, layers = decoder.hidden_size, decoder.num_hidden_layers
    heads = decoder.num_codebooks * decoder.vocab_size * width
    total = 0
    for index in batch:
        length = rows[index]["length"] + decoder.num_codebooks - 1  # the delay's positions
        words = len(rows[index]["input_ids"])
        frozen = layers * (6 * width**2 + 2 * width * decoder.ffn_dim) + heads
        total += 4 * frozen * length + 6 * layers * 4 * 2 * RANK * width * length
        total += (
            layers * (4 * width**2 + 24 * RANK * width) * words
        )  # into the text goes nothing back
        total += layers * 12 * width * length * (length / 2 + words)
        total -= 2 * 3 * width**2 * length  # nothing that trains stands before the first layer
    return round(total)


class Turns:
    """Talks with the parent: announces, waits for the word, times the turn of ``size`` steps."""

    def __init__(self, size: int) -> None:
        self.size = self._left = size
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what libraries print is no answer
        self._begin: float | None = None
        self.steps = 0

    def say(self, **values: Any) -> None:
        self._out.write(json.dumps(values) + "\n")

    def between_steps(self) -> None:
        """End the turn if it was its last step, and wait for the word to begin another."""
        if self._begin is not None:
            self._left -= 1
            if self._left:
                return
        self._left = self.size
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps += 1
        if self._begin is not None:
            self.say(seconds=now - self._begin)
        else:
            self.say(ready=True)
        sys.stdin.readline()
        self._begin = time.perf_counter()

    def finish(self, **values: Any) -> None:
        from tunesmith.training.hardware import peak_memory_bytes

        self.say(peak_bytes=peak_memory_bytes(DEVICE), **values)
