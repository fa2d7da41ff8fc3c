"""Train the vocoder of ``pocket-voice``, a small HiFi-GAN; final weights: ``WORK/vocoder.safetensors``.

    first   30 |Δ ln mel| + 10 multi-resolution STFT        (:mod:`tunesmith.objectives.stft`)
    then    the same + adversary + 2 feature matching        (Kong et al. 2020, arXiv:2010.05646, section 2.4)

with small multi-period discriminators. Pieces of recordings with their true mels, drawn on the device;
on a GPU each of the two kinds of step is one CUDA graph. Sound is made in float32 (TF32 in convolutions):
with bfloat16's eight bits a wave's soft parts would be rounding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from pretrain import checkpoint
from pretrain.common import append_jsonl, log, parser, set_up
from pretrain.voice import mel
from pretrain.voice.tts import minutes_left, write_weights
from pretrain.voice.tts_model import Average
from tunesmith.objectives.stft import Resolution, mel_distance, multi_resolution_stft

PIECE = 32  # frames
PERIODS = (2, 3, 5, 7, 11)
MEL_WEIGHT, STFT_WEIGHT, MATCH_WEIGHT = 30.0, 10.0, 2.0
ALONE = 1 / 3  # of the time, without adversaries
WARM_UP, LAST_RATE = 200, 0.03
SAVE_EVERY_S, SHOW_EVERY = 60.0, 100
TERMS = ("mel", "stft", "adversary", "match", "judge")
_MELS = Resolution(mel.SIZE, mel.HOP, mel.SIZE)


def make_config(**changes: Any) -> SpeechT5HifiGanConfig:
    """Geometry: 64, 32 and 16 channels at 500, 4,000 and 16,000 Hz; ``changes`` are for tests."""
    chosen = {
        "model_in_dim": mel.BINS,
        "sampling_rate": mel.SAMPLE_RATE_HZ,
        "upsample_initial_channel": 128,
        "upsample_rates": [8, 8, 4],
        "upsample_kernel_sizes": [16, 16, 8],
    }
    return SpeechT5HifiGanConfig(**{**chosen, **changes})


def make_vocoder(
    config: SpeechT5HifiGanConfig, seed: int = 0, mean: Tensor | None = None, scale: Any = None
) -> Any:
    """A fresh ``SpeechT5HifiGan`` that takes mels of this mean and spread, ``[M]`` each."""
    torch.manual_seed(seed)
    made: Any = SpeechT5HifiGan(config)
    with torch.no_grad():
        # The library's spread of 0.01 needs weight normalisation, or sound is as good as none at first.
        for name, part in made.named_modules():
            if isinstance(part, nn.Conv1d | nn.ConvTranspose1d):
                inputs = part.in_channels * part.kernel_size[0] / part.stride[0]
                gain = 0.3 if ".convs2." in name else 0.5 if name == "conv_post" else 1.0
                part.weight.normal_(0, gain / inputs**0.5)
                if part.bias is not None:
                    part.bias.zero_()
        if mean is not None:
            made.mean.copy_(mean)
            made.scale.copy_(scale)
    return made


class Period(nn.Module):
    """A discriminator of a wave folded at a period: it sees what repeats."""

    def __init__(self, period: int, width: int = 16) -> None:
        super().__init__()
        self.period = period
        sizes = [1, width, 2 * width, 4 * width, 8 * width, 8 * width]
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(
            norm(nn.Conv2d(a, b, (5, 1), (3 if i < 4 else 1, 1), (2, 0)))
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.last = norm(nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """What each layer makes of waves ``[B, N]``; the last is the verdict."""
        rest = -wave.shape[1] % self.period
        states = F.pad(wave, (0, rest)).view(len(wave), 1, -1, self.period)
        found = []
        for layer in self.layers:
            states = F.leaky_relu(layer(states), 0.1)
            found.append(states)
        return [*found, self.last(states)]


class Judges(nn.Module):
    """A discriminator for each period."""

    def __init__(self, seed: int, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(seed + 1)
        self.parts = nn.ModuleList(Period(period, width) for period in PERIODS)

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """Of each part, what its layers make of waves ``[B, N]``."""
        return [part(wave) for part in self.parts]


class Pieces:
    """Recordings and their mels on the device."""

    def __init__(self, sound: Tensor, rows: list[dict[str, Any]], device: str) -> None:
        rows = [row for row in rows if row["length"] // mel.HOP >= PIECE]
        starts, lengths = mel.places(rows)
        self.sound = sound.to(device)
        self.mels, offsets = mel.corpus_mels(self.sound, starts, lengths)
        self.offsets, self.starts = offsets.to(device), starts.to(device)
        self.frames = (lengths // mel.HOP).to(device)

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """Mels ``[B, P, M]`` and waves ``[B, P · 256]`` of random pieces, some softer or louder."""
        device = self.sound.device
        at = (torch.rand(batch, device=device, dtype=torch.float64) * len(self.mels)).long()
        clip = torch.searchsorted(self.offsets, at, right=True) - 1
        begin = torch.minimum(at - self.offsets[clip], self.frames[clip] - PIECE)
        return self.cut(clip, begin, torch.rand(batch, 1, device=device) * 0.8 - 0.6)

    def cut(self, clip: Tensor, begin: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Pieces of clips from a frame on, ``[B]`` each; ``gain`` ``[B, 1]`` is of log10."""
        device = self.sound.device
        frames = (self.offsets[clip] + begin)[:, None] + torch.arange(PIECE, device=device)
        samples = self.starts[clip] + begin * mel.HOP
        samples = samples[:, None] + torch.arange(PIECE * mel.HOP, device=device)
        wave = self.sound[samples].float() / 32768
        # No louder than full scale, which nothing can be after tanh.
        gain = torch.minimum(gain, -(wave.abs().amax(1, keepdim=True) + 1e-3).log10())
        mels = self.mels[frames].float() + gain[:, None]
        return mels, wave * 10**gain


class Trainer:
    """Vocoder, judges, their optimizers, and the two kinds of step."""

    def __init__(self, vocoder: Any, judges: Judges, pieces: Pieces, batch: int) -> None:
        self.vocoder, self.judges, self.pieces, self.batch = vocoder, judges, pieces, batch
        self.device = pieces.sound.device
        cuda = self.device.type == "cuda"
        self.rate = torch.zeros((), device=self.device)
        self.optimizers = [
            torch.optim.AdamW(
                net.parameters(),
                lr=self.rate,
                betas=(0.8, 0.99),
                weight_decay=0.0,
                fused=cuda,
                capturable=cuda,
            )
            for net in (vocoder, judges)
        ]
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.rate  # itself: a copy would stay as it is
        self.average = Average(vocoder)
        self.filters = mel.filters(str(self.device), torch.float64).float()
        self.seen = torch.zeros(len(TERMS), device=self.device)
        self.graphs: list[Any] = [None, None]

    def distances(self, made: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Mel and STFT distances, means over a batch of waves ``[B, N]``."""
        apart = mel_distance(made, wave, self.filters, _MELS).mean()
        return apart, multi_resolution_stft(made, wave).mean()

    def _judged(self, wave: Tensor) -> list[list[Tensor]]:
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda, cache_enabled=False):
            return self.judges(wave)

    def step(self, adversary: bool) -> None:
        """One step; the judges learn first."""
        mels, wave = self.pieces.draw(self.batch)
        made = self.vocoder(mels)
        zero = torch.zeros((), device=self.device)
        against = matched = judge = zero
        if adversary:
            yes, no = self._judged(wave), self._judged(made.detach())
            judge = torch.stack(
                [
                    (a[-1].float() - 1).square().mean() + b[-1].float().square().mean()
                    for a, b in zip(yes, no, strict=True)
                ]
            ).sum()
            judge.backward()
            self.optimizers[1].step()
            self.judges.requires_grad_(False)
            with torch.no_grad():
                yes = self._judged(wave)
            no = self._judged(made)
            self.judges.requires_grad_(True)
            against = torch.stack([(b[-1].float() - 1).square().mean() for b in no]).sum()
            matched = torch.stack(
                [
                    (x.float() - y.float()).abs().mean()
                    for a, b in zip(yes, no, strict=True)
                    for x, y in zip(a[:-1], b[:-1], strict=True)
                ]
            ).sum()
        mels_apart, stft_apart = self.distances(made, wave)
        loss = MEL_WEIGHT * mels_apart + STFT_WEIGHT * stft_apart
        (loss + against + MATCH_WEIGHT * matched).backward()
        # Gradients are of tens; Adam does not mind, but a first step into a wall of them it does.
        nn.utils.clip_grad_norm_(self.vocoder.parameters(), 200.0, foreach=True)
        self.optimizers[0].step()
        self.average.update()
        terms = torch.stack([mels_apart, stft_apart, against, matched, judge]).detach()
        self.seen.lerp_(terms, 0.02)

    def clear(self) -> None:
        """No gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def capture(self, adversary: bool) -> None:
        """Make a graph of a step; warming up trains."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.clear()
                self.step(adversary)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.step(adversary)
        self.graphs[adversary] = graph

    def run(self, adversary: bool) -> None:
        """One step, by graph where there is one."""
        if self.graphs[adversary] is not None:
            self.graphs[adversary].replay()
        else:
            self.clear()
            self.step(adversary)

    @torch.no_grad()
    def validate(self, pieces: Pieces, count: int = 64) -> dict[str, float]:
        """Distances of pieces from the middle of other clips."""
        clips = torch.arange(min(count, len(pieces.frames)), device=self.device)
        begin = (pieces.frames[clips] - PIECE) // 2
        mels, wave = pieces.cut(clips, begin, torch.zeros(len(clips), 1, device=self.device))
        found = self.distances(self.vocoder(mels), wave)
        return {f"valid_{k}": round(float(v), 4) for k, v in zip(TERMS, found, strict=False)}


def rate_at(step: int, progress: float, peak: float, alone: float = ALONE) -> float:
    """Warm-up by steps and a cosine over the time; half of it beside adversaries."""
    fall = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * min(1.0, (step + 1) / WARM_UP) * fall * (1.0 if progress < alone else 0.5)


def restart(*further: str) -> None:
    """This process anew, from its last checkpoint, with further options (the last of a kind counts)."""
    log(f"vocoder: starts anew with {' '.join(further)}")
    module = ["-m", "pretrain.voice.vocoder"]
    os.execv(sys.executable, [sys.executable, *module, *sys.argv[1:], *further])


def _resume(folder: Path, trainer: Trainer) -> dict[str, float]:
    last = folder / "checkpoint.safetensors"
    if not last.exists():
        return {"step": 0.0, "trained_s": 0.0}
    counters, averages = checkpoint.load(last, trainer.vocoder, trainer.optimizers[0])
    checkpoint.load(folder / "judges.safetensors", trainer.judges, trainer.optimizers[1])
    trainer.average.load(averages)
    trainer.average.steps.fill_(counters["step"])
    for optimizer in trainer.optimizers:
        for state in optimizer.state.values():
            state["step"] = state["step"].to(trainer.device)
    log(f"vocoder: resumed at step {counters['step']:.0f}")
    return counters


def _save(folder: Path, trainer: Trainer, counters: dict[str, float]) -> None:
    checkpoint.save(folder / "judges.safetensors", trainer.judges, trainer.optimizers[1], counters)
    last, kept = folder / "checkpoint.safetensors", trainer.average.kept
    checkpoint.save(last, trainer.vocoder, trainer.optimizers[0], counters, kept)


def train(args: argparse.Namespace) -> None:
    """Train for the time that is given and write the weights."""
    folder, curve = args.work / "vocoder", args.work / "logs" / "vocoder.jsonl"
    cuda = torch.device(args.device).type == "cuda"
    pieces = Pieces(*mel.read_split(args.work, "train"), args.device)
    others = Pieces(*mel.read_split(args.work, "valid"), args.device)
    some = pieces.mels[::5].float()
    config = make_config(**json.loads(args.geometry))
    vocoder = make_vocoder(config, args.seed, some.mean(0).cpu(), some.std(0).cpu())
    judges = Judges(args.seed, args.judge_width).to(args.device)
    if args.begin:
        # Its own mean and spread are among the weights.
        vocoder.load_state_dict({k: v.float() for k, v in load_file(args.begin).items()})
    trainer = Trainer(vocoder.to(args.device).train(), judges, pieces, args.batch)
    sizes = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (vocoder, judges)]
    log(f"vocoder: {sizes[0]:.2f} M parameters, judges {sizes[1]:.2f} M")
    counters = _resume(folder, trainer)
    step, budget_s = int(counters["step"]), 60 * minutes_left(args.minutes, args.deadline)
    earlier_s = counters["trained_s"]
    budget_s += earlier_s if args.deadline else 0.0
    notes, final = {"config": config.to_diff_dict()}, args.work / "vocoder.safetensors"
    began = saved = time.monotonic()
    done = False
    while not done:
        progress = (earlier_s + time.monotonic() - began) / max(1e-9, budget_s)
        adversary = progress >= args.alone and not args.no_judges
        trainer.rate.fill_(rate_at(step, progress, args.rate, args.alone))
        if cuda and not args.no_graphs and trainer.graphs[adversary] is None:
            try:
                trainer.capture(adversary)
                log(f"vocoder: graph {'with judges' if adversary else 'alone'} at step {step}")
            except Exception as error:  # whatever it is, without graphs it is not
                log(f"vocoder: no graphs ({str(error)[:200]})")
                restart("--no-graphs")
        trainer.run(adversary)
        step += 1
        spent_s = earlier_s + time.monotonic() - began
        done = spent_s >= budget_s or step >= args.steps
        if step % SHOW_EVERY and not done:
            continue
        terms = trainer.seen.tolist()  # also keeps this side from running ahead
        if not all(map(math.isfinite, terms)):
            restart("--rate", str(args.rate / 2), *(["--no-judges"] if adversary else []))
        row: dict[str, Any] = {"step": step, "s": round(spent_s, 1)}
        row |= {k: round(v, 4) for k, v in zip(TERMS, terms, strict=True)}
        if time.monotonic() - saved > SAVE_EVERY_S or done:
            row |= trainer.validate(others)
            counters = {"step": step, "trained_s": spent_s}
            _save(folder, trainer, counters)
            # Also what it would be if it had to end here.
            kept = {**vocoder.state_dict(), **trainer.average.kept}
            write_weights(final, kept, {**notes, "counters": counters, "figures": row})
            saved = time.monotonic()
            log(f"vocoder: {row}")
        append_jsonl(curve, row)
    vocoder.load_state_dict(trainer.average.kept, strict=False)
    figures = trainer.validate(others)
    write_weights(final, vocoder.state_dict(), {**notes, "counters": counters, "figures": figures})
    log(f"vocoder: done, {figures}")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--minutes", type=float, default=5.5)
    p.add_argument("--deadline", type=float, default=0.0, help="end by this time (s since 1970)")
    p.add_argument("--steps", type=int, default=10**9, help="the most")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--rate", type=float, default=8e-4)
    p.add_argument("--judge-width", type=int, default=16)
    p.add_argument("--begin", type=Path, help="weights to begin with, instead of random ones")
    p.add_argument("--alone", type=float, default=ALONE, help="share of the time without judges")
    p.add_argument("--no-judges", action="store_true")
    p.add_argument("--no-graphs", action="store_true")
    p.add_argument("--geometry", default="{}", help="JSON: changes of the config, for tests")
    args = p.parse_args()
    set_up(args)
    torch.backends.cudnn.benchmark = True  # two shapes of step, thousands of times
    train(args)


if __name__ == "__main__":
    main()
