"""What the networks that hear share in training: data on the device, disturbances, a schedule, export."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from pretrain.common import append_jsonl, log, parser
from pretrain.voice.mel import corpus_mels, places, read_split
from pretrain.voice.speakers import HIGH, LOW, STRANGERS
from tunesmith.analysis.speech_nets import mask_of

SAVE_EVERY_S = 60.0


class Mels:
    """All log-mels of some splits on one device, and batches of them."""

    def __init__(
        self, work: Path, splits: list[str], device: str, keep: dict[str, int] | None = None
    ) -> None:
        """Read splits; ``keep`` maps one to 0 or 1, the half of its speakers or clips to take."""
        self.rows: list[dict[str, Any]] = []
        mels, lengths = [], []
        for split in splits:
            sound, rows = read_split(work, split)
            if keep and split in keep:
                rows = [row for row in rows if half_of(row) == keep[split]]
            starts, sizes = places(rows)
            made, offsets = corpus_mels(sound.to(device), starts, sizes)
            mels.append(made)
            lengths.append(offsets.diff())
            self.rows += rows
        self.mels = torch.cat(mels)
        self.lengths = torch.cat(lengths)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.long), self.lengths.cumsum(0)[:-1]])
        self.order = self.lengths.argsort()
        self.device = device

    def cut(self, rows: Tensor, begins: Tensor, lengths: Tensor) -> Tensor:
        """``[B, T, 80]`` float32, T the longest; zeros behind the end. All arguments ``[B]``, CPU."""
        frames = torch.arange(int(lengths.max()))
        index = (self.starts[rows] + begins)[:, None] + torch.minimum(frames, lengths[:, None] - 1)
        return self.mels[index.to(self.device)].float()

    def alike(self, count: int, draw: np.random.Generator, pool: int = 8) -> Tensor:
        """Rows of about one length: ``count`` of the ``pool`` times as many around a random place."""
        size = min(count * pool, len(self.order))
        first = int(draw.integers(len(self.order) - size + 1))
        picked = draw.choice(size, min(count, size), replace=False)
        return self.order[first + torch.from_numpy(picked)]


def half_of(row: dict[str, Any]) -> int:
    """0 or 1: the half that a row's speaker belongs to; both halves have voices of every variant."""
    number = int(row["speaker"].lstrip("vcheld") or 0)
    return (number + number // len(LOW + HIGH + STRANGERS)) % 2


def curve(count: int, points: int, bands: int, spread: float, device: str) -> Tensor:
    """Smooth random curves over the bands ``[B, 1, bands]``, of a deviation in log10."""
    drawn = spread * torch.randn(count, 1, points, device=device)
    return functional.interpolate(drawn, size=bands, mode="linear", align_corners=True)


def chance(count: int, share: float, device: str) -> Tensor:
    """``[B, 1, 1]`` one with a probability, else zero."""
    return (torch.rand(count, 1, 1, device=device) < share).float()


def disturbed(mel: Tensor, colour: float = 0.15) -> Tensor:
    """Levelled log-mels ``[B, T, M]`` as a microphone, a room's noise or a vocoder might have them.

    Args:
        mel: log10 amplitude, levelled.
        colour: deviation in log10 of the random filter.
    """
    count, _, bands = mel.shape
    device = str(mel.device)
    # What synthesisers do: details smeared over time and bands, and something random in each point.
    kernel = torch.ones(1, 1, 3, 3, device=device) / 9
    soft = functional.conv2d(functional.pad(mel[:, None], (1, 1, 1, 1), "replicate"), kernel)[:, 0]
    share = chance(count, 0.4, device) * torch.rand(count, 1, 1, device=device)
    mel = mel + share * (soft - mel)
    mel = mel + 0.12 * torch.rand(count, 1, 1, device=device) * torch.randn_like(mel)
    mel = mel + curve(count, 6, bands, colour, device) * chance(count, 0.8, device)
    # Noise of any colour, 5 to 50 dB below.
    level = -(5 + 45 * torch.rand(count, 1, 1, device=device)) / 20
    noise = level + curve(count, 5, bands, 0.25, device) + 0.2 * torch.randn_like(mel)
    mixed = torch.log10(torch.pow(10.0, 2 * mel) + torch.pow(10.0, 2 * noise)) / 2
    return torch.where(chance(count, 0.6, device) > 0, mixed, mel)


def stretched(mel: Tensor, warp: float) -> Tensor:
    """Bands moved by up to a share ``warp`` of their number, as by a longer or shorter vocal tract."""
    count, _, bands = mel.shape
    factor = 1 + warp * (2 * torch.rand(count, 1, device=mel.device) - 1)
    place = (torch.arange(bands, device=mel.device) * factor).clamp(0, bands - 1)
    low = place.floor().long()
    part = (place - low)[:, None]
    high = (low + 1).clamp_max(bands - 1)
    shape = (-1, mel.shape[1], -1)
    below = mel.gather(2, low[:, None].expand(shape))
    above = mel.gather(2, high[:, None].expand(shape))
    return below + part * (above - below)


def masked(mel: Tensor, lengths: Tensor, value: float) -> Tensor:
    """Two runs of bands and two of frames of each clip at ``value`` (SpecAugment, Park et al. 2019)."""
    count, frames, bands = mel.shape
    for axis, size, most in ((2, bands, 10), (1, frames, 7)):
        at = torch.arange(size, device=mel.device)
        for _ in range(2):
            width = most * torch.rand(count, 1, device=mel.device)
            ends = lengths[:, None] if axis == 1 else bands
            first = torch.rand(count, 1, device=mel.device) * ends
            hidden = (at >= first) & (at < first + width)
            mel = mel.masked_fill(hidden[:, :, None] if axis == 1 else hidden[:, None], value)
    mask = mask_of(lengths, frames)[:, :, None]
    return mel.masked_fill(~mask, value)


class Margin(nn.Module):
    """Softmax over cosines to a direction per voice, with an additive margin (Wang et al. 2018)."""

    SCALE, MARGIN = 30.0, 0.25

    def __init__(self, size: int, voices: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(voices, size) / math.sqrt(size))

    def forward(self, vectors: Tensor, voices: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Mean loss, and share of vectors ``[B, E]`` nearest to their own voice ``[B]``.

        ``share`` of the margin is used: from the start the whole of it keeps a network from learning.
        """
        cosines = vectors @ functional.normalize(self.directions, dim=1).T
        right = (cosines.argmax(dim=1) == voices).float().mean()
        taken = share * self.MARGIN * functional.one_hot(voices, cosines.shape[1])
        return functional.cross_entropy(self.SCALE * (cosines - taken), voices), right


class Voices:
    """Rows by voice, so that every voice is drawn equally often."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.names, codes = np.unique([row["speaker"] for row in rows], return_inverse=True)
        self.of = torch.from_numpy(codes)
        self._order = np.argsort(codes, kind="stable")
        self._counts = np.bincount(codes)
        self._firsts = np.cumsum(self._counts) - self._counts

    def rows(self, count: int, draw: np.random.Generator) -> Tensor:
        """Numbers of ``count`` rows of random voices."""
        voice = draw.integers(len(self.names), size=count)
        place = (draw.random(count) * self._counts[voice]).astype(np.int64)
        return torch.from_numpy(self._order[self._firsts[voice] + place])


def adamw(parameters: Iterable[nn.Parameter], rate: float, device: str) -> torch.optim.AdamW:
    """AdamW, in one kernel where there is one."""
    return torch.optim.AdamW(
        parameters, lr=rate, weight_decay=0.02, betas=(0.9, 0.98), fused="cuda" in device
    )


class Schedule:
    """How far training has come, by steps or by time, whichever is further; sets the learning rate.

    On a CPU time is what this process computes, not what it waits for others: a machine that is shared
    would else take the steps away, and not the budget.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, rate: float, steps: int, minutes: float
    ) -> None:
        self.optimizer, self.rate, self.steps, self.limit_s = optimizer, rate, steps, minutes * 60
        parameter = optimizer.param_groups[0]["params"][0]
        self._clock = time.process_time if parameter.device.type == "cpu" else time.monotonic
        self.started_s = self.saved_s = self._clock()
        self.step = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first step."""
        return self._clock() - self.started_s

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        return min(1.0, max(self.step / self.steps, self.elapsed_s / self.limit_s))

    def advance(self) -> None:
        """Count a step: a short warm-up, then half a cosine down to a hundredth."""
        # 200 steps or a twentieth of all: where steps are dear, they might be all that there are.
        warm = min(1.0, max(self.step / 200, self.progress / 0.05))
        self.step += 1
        falling = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * warm * falling

    def due(self) -> bool:
        """True when the last save is a while ago."""
        if self._clock() - self.saved_s < SAVE_EVERY_S:
            return False
        self.saved_s = self._clock()
        return True


def tell_apart(
    args: argparse.Namespace,
    name: str,
    model: Any,
    rows: list[dict[str, Any]],
    draw: np.random.Generator,
    embed: Callable[[Tensor], Tensor],
    figures: Callable[[], dict[str, float]],
    *,
    splits: list[str],
    config: dict[str, Any],
    before: dict[str, Any] | None = None,
    partial: str = "",
) -> None:
    """Train a network to tell voices apart, until the steps or the minutes are over.

    Args:
        args: ``work``, ``device``, ``batch``, ``rate``, ``steps``, ``minutes``, ``seed``.
        name: of the weights and the log.
        model: gives vectors of length 1; its ``config`` has their ``size``.
        rows: the clips, with their ``speaker``.
        draw: of the clips of each batch.
        embed: vectors ``[B, E]`` of a part of each of these rows ``[B]``, drawn and disturbed.
        figures: of the model as it is.
        splits: that the rows are from.
        config: what else a reader of the weights has to know.
        before: what the weights that it goes on from say of their training.
        partial: suffix of the weights that are saved on the way; none overwrites the final ones.
    """
    voices = Voices(rows)
    margin = Margin(model.config["size"], len(voices.names)).to(args.device)
    learnt = [*model.parameters(), *margin.parameters()]
    size = sum(p.numel() for p in model.parameters())
    report(args.work, name, {"clips": len(rows), "voices": len(voices.names), "parameters": size})
    plan = Schedule(adamw(learnt, args.rate, args.device), args.rate, args.steps, args.minutes)
    path = args.work / "weights" / f"{name}.safetensors"
    model.train()
    while plan.progress < 1:
        plan.advance()
        chosen = voices.rows(args.batch, draw)
        vectors = embed(chosen)
        share = min(1.0, 4 * plan.progress)
        loss, right = margin(vectors, voices.of[chosen].to(args.device), share)
        plan.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 2.0)
        plan.optimizer.step()
        if plan.step % 200 == 0 or plan.progress >= 1:
            row = {"step": plan.step, "s": round(plan.elapsed_s), "loss": round(loss.item(), 4)}
            report(args.work, name, row | {"right": round(right.item(), 4)})
        if plan.due():
            export(path.with_suffix(partial) if partial else path, model, name, config)
            report(args.work, name, {"step": plan.step} | figures())
    training = {
        **({"before": before} if before else {}),
        "splits": splits,
        "clips": len(rows),
        "voices": len(voices.names),
        "steps": plan.step,
        "minutes": round(plan.elapsed_s / 60, 1),
        "seed": args.seed,
    }
    found = figures()
    export(path, model, name, config | {"training": training, "figures": found})
    report(args.work, name, training | found)


def encoder_parser(doc: str | None, batch: int, rate: float) -> argparse.ArgumentParser:
    """The options of what trains with :func:`tell_apart`."""
    p = parser(doc)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--steps", type=int, default=20000)
    p.add_argument("--minutes", type=float, default=3.0)
    p.add_argument("--batch", type=int, default=batch)
    p.add_argument("--rate", type=float, default=rate)
    return p


def export(path: Path, model: nn.Module, kind: str, config: dict[str, Any]) -> None:
    """Write float16 weights, with all that is to be known of them in the file's metadata, atomically."""
    weights = {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in model.state_dict().items()
        if "num_batches" not in key
    }
    whole = {
        "kind": kind,
        "licence": "Apache-2.0",
        "sample_rate_hz": 16000,
        "network": model.config,
        **config,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(weights, temporary, metadata={"config": json.dumps(whole, ensure_ascii=False)})
    os.replace(temporary, path)
    path.chmod(0o644)


def report(work: Path, name: str, row: dict[str, Any]) -> None:
    """One line in the log and in ``logs/<name>.jsonl``."""
    append_jsonl(work / "logs" / f"{name}.jsonl", row)
    log(f"{name}: {row}")


def equal_error(vectors: Tensor, names: list[str], others: Tensor | None = None) -> float:
    """Share of pairs told wrongly where both kinds of mistake are equally frequent.

    Args:
        vectors: ``[N, E]`` of length 1.
        names: whose each is.
        others: if given, pairs of different voices are those of ``vectors`` with these ``[K, E]``.

    Returns:
        0.5, as of chance, where there are no pairs of one of the two kinds.
    """
    codes = np.unique(names, return_inverse=True)[1]
    scores = (vectors @ vectors.T).cpu().numpy()
    upper = np.triu_indices(len(names), 1)
    equal = codes[upper[0]] == codes[upper[1]]
    same = np.sort(scores[upper][equal])
    if others is None:
        different = np.sort(scores[upper][~equal])
    else:
        different = np.sort((vectors @ others.T).cpu().numpy().ravel())
    if not len(same) or not len(different):
        return 0.5
    misses = np.searchsorted(same, same) / len(same)
    alarms = 1 - np.searchsorted(different, same) / len(different)
    at = int(np.abs(misses - alarms).argmin())
    return float((misses[at] + alarms[at]) / 2)


def verification(vectors: dict[str, Tensor], names: list[str], known: str) -> dict[str, float]:
    """How well voices are told apart: equal error rates and cosines.

    Args:
        vectors: of length 1 ``[N, E]`` of the splits valid, heldvoice, heldaccent.
        names: whose those of valid are.
        known: whose those of heldaccent are.
    """
    valid, held, accent = (vectors[split] for split in ("valid", "heldvoice", "heldaccent"))
    own = torch.tensor([name == known for name in names], device=valid.device)
    centres = {name: valid[[n == name for n in names]].mean(0) for name in sorted(set(names))}
    directions = functional.normalize(torch.stack(list(centres.values())), dim=1)
    middle = functional.normalize(held.mean(0), dim=0)
    made = {
        "eer_valid": equal_error(valid, names),
        "eer_heldvoice": equal_error(held, ["held"] * len(held), valid),
        "eer_heldaccent": equal_error(accent, [known] * len(accent), valid[~own]),
        "held_own_cosine": (held @ middle).mean().item(),
        "held_nearest_cosine": (held @ directions.T).mean(0).max().item(),
        "accent_own_cosine": (accent @ functional.normalize(accent.mean(0), dim=0)).mean().item(),
    }
    if known in centres:
        place = list(centres).index(known)
        made["accent_known_cosine"] = (accent @ directions[place]).mean().item()
    return {name: round(value, 4) for name, value in made.items()}
