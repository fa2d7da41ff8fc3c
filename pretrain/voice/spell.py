"""Teach the text-to-speech model's encoder to spell: words to phones, no sound; ``WORK/spelt.safetensors``.

The decoder soon guesses frames from those before them, asks nothing of the encoder, and an encoder that
nothing is asked of smears its letters over the sentence: it does not recover. So the encoder comes first.
Words alone, drawn anew into rows of a few, cost seconds for a whole list. The head
(:func:`pretrain.voice.tts_align.add_head`) stays with the weights, which ``pretrain.voice.tts --begin`` takes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from pretrain.common import log, parser, read_jsonl, set_up
from pretrain.voice import export, tts_align, tts_model
from pretrain.voice.corpus import stems
from pretrain.voice.speak import PROGRAM, Unsayable, symbols
from pretrain.voice.text import FRAMES, words
from pretrain.voice.tts_align import SLOTS

MOST_WORDS = 6  # a row
SHOW_EVERY, WARM_UP = 25, 20
HEAD_HURRY = 10.0
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "positional_dropout", "attention_dropout", "activation_dropout"), 0.0
)


def phones_of(listed: Sequence[str], language: str) -> dict[str, list[str]]:
    """How espeak-ng says single words; those that it reads in another language are left out."""
    done = subprocess.run(
        [PROGRAM, "-v", language, "-b", "1", "-q", "--ipa", "--sep=_", "--stdin"],
        input="\n\n".join(listed).encode(), capture_output=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.decode().splitlines() if line.strip()]
    if len(lines) != len(listed):
        raise ValueError(f"{len(lines)} lines of {len(listed)} words")
    made = {}
    for word, line in zip(listed, lines, strict=True):
        try:
            made[word] = symbols(line)
        except Unsayable:
            continue
    return made


def phones_in(work: Path, language: str) -> list[str]:
    """Those of the training clips in languages whose names begin so, sorted: the head's outputs."""
    rows = (row for stem in stems(work, "train") for row in read_jsonl(stem.with_suffix(".jsonl")))
    return sorted(
        {p for row in rows if row["language"].startswith(language) for p in row["phones"]}
    )


def vocabulary(language: str) -> list[str]:
    """The words of a language's list and of its frames."""
    key = language[:2]
    framed = " ".join(FRAMES[key]).replace("*", " ").replace(",", " ").split()
    return sorted({*words(key), *framed})


def letters_say(said: dict[str, list[str]], rounds: int = 6) -> dict[str, list[tuple[str, ...]]]:
    """Which phones each letter of a word stands for: none, one or two, in order.

    The likeliest way by how often letters and phones go together, counted again from what it gives.
    """
    counts: dict[tuple[str, str], float] = defaultdict(float)
    totals: dict[str, float] = defaultdict(float)
    for word, phones in said.items():  # at first: by place in the word
        for at, phone in enumerate(phones):
            letter = word[min(len(word) - 1, int((at + 0.5) * len(word) / len(phones)))]
            counts[letter, phone] += 1
            totals[letter] += 1
    made: dict[str, list[tuple[str, ...]]] = {}
    for _ in range(rounds):
        for word, phones in said.items():
            made[word] = _likeliest(word, phones, counts, totals)
        counts.clear()
        totals.clear()
        for word, chunks in made.items():
            for letter, chunk in zip(word, chunks, strict=True):
                for phone in chunk or ("",):
                    counts[letter, phone] += 1
                    totals[letter] += 1
    return made


def _likeliest(
    word: str, phones: list[str], counts: dict[tuple[str, str], float], totals: dict[str, float]
) -> list[tuple[str, ...]]:
    """The best way to share phones among the letters of a word."""

    def cost(letter: str, chunk: list[str]) -> float:
        # Two of one letter are rare: they pay for it.
        each = (
            -math.log((counts.get((letter, p), 0) + 0.1) / (totals[letter] + 10))
            for p in chunk or [""]
        )
        return sum(each) + 2.0 * (len(chunk) == SLOTS)

    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for letter in word:
        reached: dict[int, tuple[float, int]] = {}
        for at, (sofar, _) in best[-1].items():
            for size in range(min(SLOTS, len(phones) - at) + 1):
                total = sofar + cost(letter, phones[at : at + size])
                if at + size not in reached or total < reached[at + size][0]:
                    reached[at + size] = (total, size)
        best.append(reached)
    at, chunks = len(phones), []
    for reached in reversed(best[1:]):
        size = reached[at][1]
        chunks.append(tuple(phones[at - size : at]))
        at -= size
    return chunks[::-1]


def rows_of(
    said: dict[str, list[tuple[str, ...]]], numbers: dict[str, int], draw: random.Random
) -> list[tuple[str, list[int]]]:
    """All words once, in random order, a few a row: text, and for each of its tokens two phones or blanks."""
    left, made = draw.sample(sorted(said), len(said)), []
    while left:
        part = [left.pop() for _ in range(min(len(left), draw.randint(1, MOST_WORDS)))]
        slots: list[int] = []
        for word in part:
            for chunk in [(), *said[word]]:  # a word begins with a token of its own
                here = [numbers[phone] for phone in chunk]
                slots += here + [0] * (SLOTS - len(here))
        made.append((" ".join(part) + draw.choice(".?"), slots + [0] * 2 * SLOTS))
    return made


def loss_of(model: Any, rows: Sequence[tuple[str, list[int]]], tokenizer: Any) -> Tensor:
    """Of each slot."""
    filled = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    letters, none = filled.attention_mask.sum(1), torch.zeros(len(rows), 2, 1)
    wanted = torch.full((len(rows), filled.input_ids.shape[1] * SLOTS), -100)
    for row, (_, slots) in zip(wanted, rows, strict=True):
        row[: len(slots)] = torch.tensor(slots)
    batch = tts_model.Batch(filled.input_ids, letters, none, letters, none, none, none, letters)
    made = getattr(model, tts_align.HEAD)(tts_model.text_states(model, batch))
    return F.cross_entropy(made.view(wanted.numel(), -1), wanted.view(-1))


def fresh(model: Any, weights: dict[str, Tensor]) -> None:
    """Take over weights of an earlier training, but neither the encoder's nor how the decoder looks at it."""
    kept = {
        k: v
        for k, v in weights.items()
        if not k.startswith("speecht5.encoder.") and ".encoder_attn." not in k
    }
    model.load_state_dict(kept, strict=False)


def train(args: argparse.Namespace) -> None:
    """Train for the time that is given."""
    weights, notes = export.read_weights(args.begin)
    inventory = phones_in(args.work, args.language[:2])
    numbers = {phone: number for number, phone in enumerate(inventory, 1)}
    model = tts_model.make_model(tts_model.make_config(notes["letters"], **NO_DROPOUT), args.seed)
    fresh(model, weights)
    tts_align.add_head(model, len(inventory))
    model.train()
    said = {
        word: phones
        for word, phones in phones_of(vocabulary(args.language), args.language).items()
        if numbers.keys() >= set(phones) and len(phones) <= SLOTS * len(word)
    }
    shared = letters_say(said)
    log(f"spell: {len(said)} words, {len(inventory)} phones")
    groups = [
        list(part.parameters()) for part in (model.speecht5.encoder, getattr(model, tts_align.HEAD))
    ]
    optimizer = torch.optim.AdamW(
        [{"params": part} for part in groups], betas=(0.9, 0.98), fused=True
    )
    tokenizer = tts_model.make_tokenizer(notes["letters"])
    draw, left, step, mean = random.Random(args.seed), [], 0, 0.0
    began = time.process_time()
    while (progress := (time.process_time() - began) / 60 / args.minutes) < 1 and step < args.steps:
        if len(left) < args.batch:
            left += rows_of(shared, numbers, draw)
        part, left = left[: args.batch], left[args.batch :]
        rate = args.rate * min(1, (step + 1) / WARM_UP) * (1 - 0.9 * progress)
        # Layers that norm what they add to collapse when hurried; the head, which is new, must hurry.
        for group, factor in zip(optimizer.param_groups, (1.0, HEAD_HURRY), strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad()
        loss = loss_of(model, part, tokenizer)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group], 1.0)
        optimizer.step()
        step += 1
        mean += (0.1 if step > 1 else 1.0) * (float(loss.detach()) - mean)
        if step % SHOW_EVERY == 0:
            log(f"spell: step {step}: {mean:.3f} a slot, {progress:.0%}")
    final = args.work / "spelt.safetensors"
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    save_file(model.state_dict(), temporary, metadata={k: json.dumps(v) for k, v in notes.items()})
    os.replace(temporary, final)
    log(f"spell: {step} steps, {mean:.3f} a slot")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--begin", type=Path, required=True, help="weights whose decoder is kept")
    p.add_argument("--language", default="en-us", help="of the words")
    p.add_argument("--minutes", type=float, default=3.0, help="of the processor's time")
    p.add_argument("--steps", type=int, default=10**9, help="the most")
    p.add_argument("--batch", type=int, default=32, help="rows of a few words")
    p.add_argument("--rate", type=float, default=5e-4)
    args = p.parse_args()
    set_up(args)
    train(args)


if __name__ == "__main__":
    main()
