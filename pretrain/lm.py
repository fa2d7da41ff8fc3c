"""Train text encoder, projection and decoder together on cached codes. Curve: ``logs/lm.jsonl``.

Raise ``--steps`` or ``--minutes`` and start again to go on from the last checkpoint.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import MusicgenForConditionalGeneration, PreTrainedTokenizerFast

from pretrain import checkpoint, render
from pretrain.codec import load_codec
from pretrain.common import append_jsonl, fast_dtype, log, parser, read_jsonl, set_up
from pretrain.export import trained_model, write_folder
from pretrain.model import FULL_FRAMES, build_model, delayed, tokenizer_of

# Frames of a crop and how often. At a clip's beginning the caption is all there is to go by, later the music
# itself says what it is: many short crops teach to listen to the caption. Grooves and forms need long ones.
EARLY_CROPS = ((100, 0.35), (250, 0.45), (FULL_FRAMES, 0.20))
LATE_CROPS, LATE_FROM = ((100, 0.15), (250, 0.40), (FULL_FRAMES, 0.45)), 0.5
BATCH_TOKENS = 2000
LEARNING_RATE, WARM_UP, WEIGHT_DECAY, CLIP_NORM = 2.5e-3, 200, 0.05, 1.0
COOL_FROM, FINAL_SHARE = 0.6, 0.04
CAPTION_DROPOUT = 0.12
AVERAGE = 0.998
SAVE_EVERY_S, EVALUATE_EVERY, EXPORT_EVERY_S = 90.0, 300, 480.0


class Corpus:
    """Cached codes int16 [N, 4, 500] and the captions of the same clips."""

    def __init__(self, work: Path, split: str) -> None:
        stems = [
            s
            for s in render.whole_shards(work / "clips", split)
            if (work / "codes" / f"{s.name}.npy").exists()
        ]
        self.codes = np.concatenate(
            [np.load(work / "codes" / f"{s.name}.npy", allow_pickle=False) for s in stems]
        )
        self.captions = [
            row["captions"] for s in stems for row in read_jsonl(s.with_suffix(".jsonl"))
        ]
        assert len(self.codes) == len(self.captions)

    def batch(
        self, seed: int, step: int, crops: Sequence[tuple[int, float]]
    ) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """Codes [B, 4, T], captions, and which rows keep theirs [B]: a function of the arguments alone."""
        draw = np.random.default_rng((seed, step))
        frames = int(draw.choice([f for f, _ in crops], p=[share for _, share in crops]))
        picks = draw.integers(len(self.codes), size=BATCH_TOKENS // frames)
        starts = draw.integers(FULL_FRAMES - frames + 1, size=len(picks))
        codes = np.stack(
            [self.codes[i, :, s : s + frames] for i, s in zip(picks, starts, strict=True)]
        )
        texts = [self.captions[i][draw.integers(len(self.captions[i]))] for i in picks]
        kept = torch.from_numpy(draw.random(len(picks)) >= CAPTION_DROPOUT)
        return torch.from_numpy(codes.astype(np.int64)), texts, kept


def loss_of(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    codes: torch.Tensor,
    texts: list[str],
    kept: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy per codebook [4] in nats, each the mean over that codebook's valid positions.

    A row without caption is what ``generate`` makes for guidance: text states zeroed before the projection, and
    the attention mask zeroed, which also zeroes them after it.
    """
    text = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt").to(
        codes.device
    )
    kept = kept.to(codes.device)
    states = model.text_encoder(
        input_ids=text["input_ids"], attention_mask=text["attention_mask"]
    ).last_hidden_state
    states = states * kept[:, None, None]
    mask = text["attention_mask"] * kept[:, None]
    inputs, targets = delayed(codes)
    batch, books, length = inputs.shape
    logits = model(
        encoder_outputs=(states,),
        attention_mask=mask,
        decoder_input_ids=inputs.reshape(batch * books, length),
        use_cache=False,
    ).logits
    logits = logits.float().view(batch, books, length, -1)
    return torch.stack(
        [
            functional.cross_entropy(logits[:, k].flatten(0, 1), targets[:, k].flatten())
            for k in range(books)
        ]
    )


def learning_rate(step: int, progress: float) -> float:
    """Linear warm-up, constant, then a cosine to 4 % of the peak from ``COOL_FROM`` of the budget on."""
    fall = 1.0
    if progress > COOL_FROM:
        along = min((progress - COOL_FROM) / (1 - COOL_FROM), 1.0)
        fall = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * along))
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * fall


@torch.no_grad()
def evaluate(
    model: Any, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> dict[str, float | list[float]]:
    """Validation cross-entropy under the right captions, under other clips' captions, and under none."""
    model.eval()
    right, wrong, none = [], [], []
    for start in range(0, 96, 16):
        codes = torch.from_numpy(corpus.codes[start : start + 16, :, 125:375].astype(np.int64)).to(
            model.device
        )
        texts = [c[2] for c in corpus.captions[start : start + 16]]
        all_kept = torch.ones(len(texts), dtype=torch.bool)
        right.append(loss_of(model, tokenizer, codes, texts, all_kept))
        wrong.append(loss_of(model, tokenizer, codes, texts[5:] + texts[:5], all_kept).mean())
        none.append(loss_of(model, tokenizer, codes, texts, ~all_kept).mean())
    model.train()
    model.audio_encoder.eval()
    books = torch.stack(right).mean(0)
    return {
        "valid_ce": books.mean().item(),
        "valid_ce_books": [round(v, 4) for v in books.tolist()],
        "valid_ce_wrong_caption": torch.stack(wrong).mean().item(),
        "valid_ce_no_caption": torch.stack(none).mean().item(),
    }


def train(
    work: Path, steps: int, minutes: float, seed: int, out: Path | None, device: str = "cpu"
) -> None:
    """Train until ``steps`` or ``minutes`` of training time, whichever is first; export to ``out`` on the way."""
    path, curve = work / "lm.safetensors", work / "logs" / "lm.jsonl"
    tokenizer = tokenizer_of(work)
    corpus, held = Corpus(work, "train"), Corpus(work, "valid")
    model: Any = build_model(seed, load_codec(work, seed))
    model.to(device)
    model.train()
    model.audio_encoder.eval()
    # Measured on CPU: the plain attention is a fifth faster than the fused one at these lengths in bfloat16.
    model.decoder.set_attn_implementation("eager")
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    # Weights and moments stay float32; forward and backward run on a copy in the fast type.
    worker: Any = copy.deepcopy(model).to(fast_dtype(device))
    lows = dict(worker.named_parameters())
    working = [lows[n] for n in named]
    groups = [
        {
            "params": [p for n, p in named.items() if p.ndim > 1 and "embed" not in n],
            "weight_decay": WEIGHT_DECAY,
        },
        {
            "params": [p for n, p in named.items() if p.ndim < 2 or "embed" in n],
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))
    averages = {n: p.detach().clone() for n, p in named.items()}
    counters: dict[str, float] = {"step": 0, "trained_s": 0.0}
    if path.exists():
        counters, averages = checkpoint.load(path, model, optimizer)
        averages = {
            n: averages[n].to(device) for n in named
        }  # files sort by name, parameters do not
        log(f"lm: resumed at step {counters['step']:.0f}")
    _copy(working, list(named.values()))
    size = sum(p.numel() for p in named.values())
    log(f"lm: {size / 1e6:.2f} M parameters train on {len(corpus.codes)} clips")
    last_save = last_export = before = time.monotonic()
    while True:
        step = int(counters["step"])
        progress = max(step / steps, counters["trained_s"] / (60 * minutes))
        if progress >= 1:
            break
        rate = learning_rate(step, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        crops = EARLY_CROPS if progress < LATE_FROM else LATE_CROPS
        codes, texts, kept = corpus.batch(seed, step, crops)
        books = loss_of(worker, tokenizer, codes.to(device), texts, kept)
        worker.zero_grad()
        books.mean().backward()
        for parameter, low in zip(named.values(), working, strict=True):
            parameter.grad = None if low.grad is None else low.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(list(named.values()), CLIP_NORM)
        optimizer.step()
        _copy(working, list(named.values()))
        weight = 1 - min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(averages.values()), list(named.values()), weight)
        now = time.monotonic()
        counters = {"step": step + 1, "trained_s": counters["trained_s"] + now - before}
        before = now
        row = {
            "step": step + 1,
            "trained_s": round(counters["trained_s"], 1),
            "train_ce": round(books.mean().item(), 4),
        }
        if (step + 1) % 25 == 0:
            row |= {"lr": rate, "grad_norm": round(norm.item(), 3)}
            if (step + 1) % EVALUATE_EVERY == 0:
                _copy(working, list(averages.values()))
                row |= evaluate(worker, tokenizer, held)
                _copy(working, list(named.values()))
            log(
                "lm: "
                + " ".join(
                    f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()
                )
            )
            append_jsonl(curve, row)
        if now - last_save > SAVE_EVERY_S:
            checkpoint.save(path, model, optimizer, counters, averages)
            last_save = now
            if out is not None and now - last_export > EXPORT_EVERY_S:
                write_folder(*_with_work(work, seed, out))
                last_export = now
    checkpoint.save(path, model, optimizer, counters, averages)
    log(f"lm: done after {counters['step']:.0f} steps, {counters['trained_s'] / 60:.1f} min")


def _with_work(
    work: Path, seed: int, out: Path
) -> tuple[MusicgenForConditionalGeneration, Path, Path, str]:
    model, state = trained_model(work, seed)
    return model, work, out, state


@torch.no_grad()
def _copy(into: list[Any], values: list[Any]) -> None:
    """Overwrite parameters, rounding to their type."""
    torch._foreach_copy_(into, values)


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=8000)
    p.add_argument("--minutes", type=float, default=600.0)
    p.add_argument("--out", type=Path, default=None, help="export here every ten minutes")
    args = p.parse_args()
    set_up(args)
    train(args.work, args.steps, args.minutes, args.seed, args.out, args.device)


if __name__ == "__main__":
    main()
