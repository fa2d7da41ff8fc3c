"""Train the tagger: a small network that hears instrument, style, mood and tempo in compositions.

``--split embedding`` (shipped) learns from shards of the training clips, ``--split judge`` from clips
of its own, which neither the other nor codec and language model ever hear: what it says of them is
no echo of their training. Log-mels are kept as float16: plain; a
third of the clips through the codec; and leads of no style, as the unknown. All else is varied on
them. Curve: ``logs/tagger-<split>.jsonl``. When the codec changes: delete ``tagger/coded-*`` and
``tagger/<split>.safetensors``, run again, then ``--export FOLDER``.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import MusicgenForConditionalGeneration

from pretrain import checkpoint, render
from pretrain.common import (
    append_jsonl,
    autocast,
    log,
    parser,
    read_jsonl,
    set_up,
    write_array,
    write_json,
)
from pretrain.compose import LEADS, STYLES, compose
from pretrain.compose.phrases import MOOD_WORDS
from tunesmith.metrics import tagger as net
from tunesmith.metrics.tagger import BANDS, HOP, SAMPLE_RATE_HZ, TEMPOS_BPM, Network, normalised

CLASSES: dict[str, list[str]] = {
    "instrument": [lead.name for lead in LEADS],
    "style": [style.name for style in STYLES],
    "mood": list(MOOD_WORDS),
    "density": ["sparse", "medium", "busy"],
    "texture": ["solo", "duo", "band"],
}
OUTPUTS = {k: len(v) for k, v in CLASSES.items()} | {"tempo": len(TEMPOS_BPM), "known": 1}
WEIGHTS = {"instrument": 1.0, "style": 1.0, "mood": 0.4, "density": 0.3, "texture": 0.3}
SPLITS = ("embedding", "judge")
SHARDS = 24  # of 125 clips, per split
CODED_SHARE = 3  # one clip in three also goes through the codec
OUTLIER_SEED, OUTLIER_CLIPS = 4_000_000, 250
# General MIDI programs that no style and no lead uses, neighbours of the held-out one left out.
OUTLIER_PROGRAMS = (9, 10, 13, 14, 15, 20, 44, 45, 60, 68, 70, 75, 76, 79, 98, 104, 105, 107, 108)
BATCH, LEARNING_RATE, WARM_UP = 32, 3e-3, 60
CROPS_S, CROP_CHANCES = (10.0, 5.0, 3.0, 1.5), (0.15, 0.45, 0.25, 0.15)
SAVE_EVERY_S, EVALUATE_EVERY = 60.0, 400
LOWEST = 1e-10  # mel power at which the kept log-mels end


def load_coder(folder: Path) -> Any:
    """The codec of an exported base."""
    model: Any = MusicgenForConditionalGeneration.from_pretrained(folder)
    return model.audio_encoder.eval()


@torch.inference_mode()
def through(codec: Any, clip: np.ndarray) -> np.ndarray:
    """Sound float32 ``[T]`` encoded to codes and decoded again."""
    codes = codec.encode(torch.from_numpy(clip)[None, None]).audio_codes
    return codec.decode(codes, [None]).audio_values[0, 0, : len(clip)].numpy()


def _log_mel(clips: np.ndarray) -> np.ndarray:
    """Log10 mel power, float16 ``[N, 64, 626]``, of int16 or float clips ``[N, 160000]``."""
    made = []
    for clip in clips:
        sound = clip.astype(np.float32) / (32768 if clips.dtype == np.int16 else 1)
        power = net.mel_power(torch.from_numpy(sound)[None])[0]
        made.append(power.clamp_min(LOWEST).log10().half().numpy())
    return np.stack(made)


def prepare(clips: Path, target: Path, split: str, codec: Path) -> None:
    """Keep the log-mels of a split and of the validation clips; whole files stay."""
    stems = _stems(clips, split) + render.whole_shards(clips, "valid")
    coder = None
    for stem in stems:
        array = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        plain, coded = target / f"mel-{stem.name}.npy", target / f"coded-{stem.name}.npy"
        if not plain.exists():
            write_array(plain, _log_mel(array))
        if not coded.exists():
            coder = coder or load_coder(codec)
            part = array if stem.name.startswith("valid") else array[::CODED_SHARE]
            sounds = [through(coder, clip.astype(np.float32) / 32768) for clip in part]
            write_array(coded, _log_mel(np.stack(sounds)))
            log(f"tagger: log-mels of {stem.name}")
    outliers = target / f"outliers-{split}.npy"
    if not outliers.exists():
        first = OUTLIER_SEED + OUTLIER_CLIPS * SPLITS.index(split)
        pieces = []
        for seed in range(first, first + OUTLIER_CLIPS):
            piece = compose(seed)
            lead, other = piece.programs[0], random.Random(seed).choice(OUTLIER_PROGRAMS)
            programs = {c: other if p == lead else p for c, p in piece.programs.items()}
            pieces.append(replace(piece, programs=programs))
        write_array(outliers, _log_mel(render.render(pieces)[0]))
        log("tagger: log-mels of what is to count as unknown")


def _stems(clips: Path, split: str) -> list[Path]:
    return render.whole_shards(clips, "judge" if split == "judge" else "train")[:SHARDS]


def _targets(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    labels = [row["labels"] for row in rows]
    made = {h: torch.tensor([n.index(one[h]) for one in labels]) for h, n in CLASSES.items()}
    return made | {"bpm": torch.tensor([float(one["tempo_bpm"]) for one in labels])}


class Data:
    """Log-mels float16 ``[N, 64, 626]`` in memory, plain, coded and unknown, with their labels."""

    def __init__(self, clips: Path, kept: Path, split: str) -> None:
        stems = render.whole_shards(clips, "valid") if split == "valid" else _stems(clips, split)
        mels, rows = [], []
        for kind, step in (("mel", 1), ("coded", 1 if split == "valid" else CODED_SHARE)):
            for stem in stems:
                mels.append(np.load(kept / f"{kind}-{stem.name}.npy", allow_pickle=False))
                rows += read_jsonl(stem.with_suffix(".jsonl"))[::step]
            if kind == "mel":
                self.plain = len(rows)
        self.shards = [stem.name for stem in stems]
        self.count = len(rows)
        if split != "valid":
            mels.append(np.load(kept / f"outliers-{split}.npy", allow_pickle=False))
        self.mels = torch.from_numpy(np.concatenate(mels))
        # What is unknown has labels too, so that arrays are even; no loss looks at them.
        self.targets = _targets(rows + rows[:1] * (len(self.mels) - self.count))

    def batch(self, seed: int, step: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Power ``[B, 64, F]`` of crops, targets, rows: a function of seed and step alone."""
        draw = np.random.default_rng((seed, step))
        kinds = draw.choice(3, BATCH, p=(0.55, 0.35, 0.10))
        edges = (0, self.plain, self.count, len(self.mels))
        rows = torch.tensor([draw.integers(edges[k], edges[k + 1]) for k in kinds])
        wanted = round(draw.choice(CROPS_S, p=CROP_CHANCES) * SAMPLE_RATE_HZ / HOP)
        # Another tempo without another pitch: frames are cut wider or narrower and interpolated.
        ratio = draw.uniform(0.93, 1.07)
        length = min(round(wanted * ratio), self.mels.shape[-1])
        cuts = []
        for row in rows.tolist():
            start = draw.integers(self.mels.shape[-1] - length + 1)
            cuts.append(self.mels[row, :, start : start + length].float())
        mel = functional.interpolate(torch.stack(cuts), size=wanted, mode="linear")
        targets = {k: v[rows] for k, v in self.targets.items()}
        targets["bpm"] = targets["bpm"] * (length / wanted)
        targets["known"] = torch.from_numpy((kinds < 2).astype(np.float32))
        targets["coded"] = torch.from_numpy((kinds == 1).astype(np.float32))
        return torch.pow(10.0, mel), targets, rows


def varied(power: Tensor, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Tilt, band limits, smearing, noise, masks on power ``[B, 64, F]``; how strong ``[B, 3]``.

    Smearing over time and bands with random gains stands for codecs other than the present one.
    """
    draw = np.random.default_rng((seed, step, 1))
    made, strength = [], np.zeros((len(power), 3), np.float32)
    for index, one in enumerate(power):
        if draw.random() < 0.3:
            kernel = torch.ones(1, 1, draw.choice((1, 3)), draw.choice((3, 5, 7)))
            kernel = kernel / kernel.sum()
            size = (kernel.shape[2] // 2, kernel.shape[3] // 2)
            soft = functional.conv2d(one[None, None], kernel, padding=size)[0, 0]
            share = draw.uniform(0.2, 1)
            jitter = draw.normal(0, 0.25 * share, one.shape).astype(np.float32)
            one = (one + share * (soft - one)) * torch.from_numpy(10**jitter)
            strength[index, 2] = share
        points = draw.normal(0, 0.35, 6) * (draw.random() < 0.8)  # log10 power, 3.5 dB
        points = points + np.linspace(-1, 1, 6) * draw.normal(0, 0.4)
        gain = np.interp(np.linspace(0, 5, BANDS), np.arange(6), points)
        if draw.random() < 0.3:
            edge = draw.uniform(28, BANDS)
            gain -= np.maximum(0, np.arange(BANDS) - edge) * draw.uniform(0.1, 0.6)
            strength[index, 1] = 1 - edge / BANDS
        if draw.random() < 0.15:
            gain -= np.maximum(0, draw.uniform(0, 14) - np.arange(BANDS)) * draw.uniform(0.1, 0.5)
        one = one * torch.from_numpy(10**gain).float()[:, None]
        if draw.random() < 0.45:
            snr_db = draw.uniform(0, 45)
            colour = np.linspace(draw.uniform(-1.5, 0), 0, BANDS) if draw.random() < 0.8 else 0
            noise = (
                draw.gamma(2.0, 0.5, one.shape) * 10.0 ** np.broadcast_to(colour, BANDS)[:, None]
            )
            noise *= float(one.mean()) * 10 ** (-snr_db / 10) / noise.mean()
            one = one + torch.from_numpy(noise.astype(np.float32))
            strength[index, 0] = 1 - snr_db / 50
        if draw.random() < 0.3:
            low, wide = draw.integers(BANDS - 8), draw.integers(2, 9)
            one = torch.cat([one[:low], one[low : low + wide] * 1e-4, one[low + wide :]])
        made.append(one)
    return torch.stack(made), torch.from_numpy(strength)


class Learner(nn.Module):
    """The network, and a head that tells from the mean embedding what was done to the sound.

    Tags are to survive noise and codecs, but an embedding that no longer heard them would be no use
    for FAD; the second head keeps them in it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = Network(OUTPUTS)
        self.quality = nn.Linear(net.WIDTH, 4)

    def loss(
        self, power: Tensor, targets: dict[str, Tensor], done: Tensor, share: Tensor
    ) -> Tensor:
        """Mean loss of a batch; ``share`` [B] says how much of the sound the targets stand for."""
        made = self.network(normalised(power))
        known = targets["known"] * share
        total = functional.mse_loss(self.quality(made["mean"]), done)
        for head, weight in WEIGHTS.items():
            loss = functional.cross_entropy(made[head], targets[head], reduction="none")
            total = total + weight * (loss * known).sum() / known.sum()
        distance = (targets["bpm"][:, None].log() - torch.from_numpy(np.log(TEMPOS_BPM))) / 0.02
        soft = functional.softmax(-0.5 * distance.float() ** 2, dim=1)
        loss = functional.cross_entropy(made["tempo"], soft, reduction="none")
        total = total + 0.7 * (loss * known).sum() / known.sum()
        return total + 0.5 * functional.binary_cross_entropy_with_logits(
            made["known"][:, 0], targets["known"]
        )


@torch.inference_mode()
def hear(network: Network, mels: Tensor) -> dict[str, Tensor]:
    """What the network makes of log10 mels ``[N, 64, F]``, in evaluation mode, one at a time."""
    network.eval()
    made = [network(normalised(torch.pow(10.0, mel[None].float()))) for mel in mels]
    return {key: torch.cat([one[key] for one in made]) for key in made[0]}


def figures(made: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, float]:
    """Share right per head, and tempo within 4 %, also where it is double or half."""
    right = {h: (made[h].argmax(1) == targets[h]).float().mean().item() for h in CLASSES}
    heard = np.array([net.tempo_bpm(one.softmax(0).numpy()) for one in made["tempo"]])
    ratios = heard[:, None] / targets["bpm"].numpy()[:, None] / np.array([1.0, 2.0, 0.5])
    near = np.abs(ratios - 1) <= 0.04
    right |= {"tempo": float(near[:, 0].mean()), "tempo_octave": float(near.any(axis=1).mean())}
    return {k: round(v, 4) for k, v in right.items()}


def evaluate(network: Network, valid: Data) -> dict[str, dict[str, float]]:
    """Figures of the validation clips as they are and through the codec."""
    parts = {"plain": slice(0, valid.plain), "coded": slice(valid.plain, valid.count)}
    return {
        kind: figures(hear(network, valid.mels[at]), {k: v[at] for k, v in valid.targets.items()})
        for kind, at in parts.items()
    }


def train(clips: Path, work: Path, split: str, steps: int, seed: int) -> None:
    """Train until ``steps``; goes on from the last checkpoint."""
    kept, curve = work / "tagger", work / "logs" / f"tagger-{split}.jsonl"
    path = kept / f"{split}.safetensors"
    data, valid = Data(clips, kept, split), Data(clips, kept, "valid")
    seed += 1000 * SPLITS.index(split)
    learner = Learner(seed)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    counters = {"step": 0.0, "trained_s": 0.0}
    if path.exists():
        counters, _ = checkpoint.load(path, learner, optimizer)
        log(f"tagger: resumed at step {counters['step']:.0f}")
    last_save = before = time.monotonic()
    for step in range(int(counters["step"]), steps):
        torch.manual_seed(seed + step)  # dropout
        learner.train()
        falling = 0.5 * (1 + np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, 0.01 + falling)
        power, targets, _ = data.batch(seed, step)
        power, strength = varied(power, seed, step)
        done = torch.cat([strength, targets["coded"][:, None]], dim=1)
        share = torch.ones(len(power))
        draw = np.random.default_rng((seed, step, 2))
        if draw.random() < 0.3 and step < 0.8 * steps:
            # Mixup (Zhang et al. 2018) of power: a second clip below the first, whose labels stand.
            level = power.mean(dim=(1, 2), keepdim=True)
            under = torch.from_numpy(draw.uniform(0, 0.3, (len(power), 1, 1)).astype(np.float32))
            power = power / level + under * (power / level).roll(1, 0)
            share = 1 - under[:, 0, 0]
        with autocast("cpu"):
            loss = learner.loss(power, targets, done, share)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        optimizer.step()
        now = time.monotonic()
        counters = {"step": step + 1, "trained_s": counters["trained_s"] + now - before}
        before = now
        row: dict[str, Any] = {"step": step + 1, "loss": round(loss.item(), 4)}
        row["trained_s"] = round(counters["trained_s"], 1)
        if (step + 1) % EVALUATE_EVERY == 0 or step + 1 == steps:
            row |= evaluate(learner.network, valid)
            log(f"tagger {split}: {row}")
            before = time.monotonic()
        if (step + 1) % 20 == 0:
            append_jsonl(curve, row)
        if now - last_save > SAVE_EVERY_S or step + 1 == steps:
            checkpoint.save(path, learner, optimizer, counters)
            last_save = now


def statistics(network: Network, data: Data) -> dict[str, Tensor]:
    """What :func:`tunesmith.metrics.tagger.score` needs of the plain training clips."""
    made = hear(network, data.mels[: data.plain])
    labels, clip = data.targets["instrument"][: data.plain], made["clip"].double()
    classes, own = labels.unique(return_inverse=True)
    centres = torch.stack([clip[labels == i].mean(0) for i in classes])
    values, vectors = torch.linalg.eigh((clip - centres[own]).T.cov())
    # Directions of next to no spread would rule the distance: the largest 64 are kept.
    whiten = vectors[:, -64:] / values[-64:].clamp_min(1e-9).sqrt()
    mean = clip.mean(0)
    wanted = {"mean": mean, "whiten": whiten, "centres": (centres - mean) @ whiten}
    made_of = {k: v.float() for k, v in wanted.items()}
    scales = torch.stack([net.score(kind, made, made_of).std() for kind in ("energy", "known")])
    return made_of | {"scales": scales}


def export(clips: Path, work: Path, split: str, seed: int, out: Path, kind: str) -> None:
    """Write ``model.safetensors`` (float16) and ``config.json``; the open-set level is set here."""
    kept = work / "tagger"
    learner = Learner(seed)
    counters, _ = checkpoint.load(kept / f"{split}.safetensors", learner)
    data, valid = Data(clips, kept, split), Data(clips, kept, "valid")
    numbers = statistics(learner.network, data)
    usual = net.score(kind, hear(learner.network, valid.mels[: valid.plain]), numbers)
    level = (usual - usual.mean()) / usual.std()
    tensors = {k: v for k, v in learner.network.state_dict().items() if "num_batches" not in k}
    tensors |= {f"statistics.{k}": v for k, v in numbers.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in tensors.items()}, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)
    outlier = f"{OUTLIER_CLIPS} clips with {len(OUTLIER_PROGRAMS)} other General MIDI leads"
    config = {
        "name": net.NAME,
        "licence": "Apache-2.0",
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "mel": {"size": net.SIZE, "hop": HOP, "bands": BANDS, "from_hz": 40, "to_hz": 7800},
        "classes": CLASSES,
        "outputs": OUTPUTS,
        "familiarity": {
            "score": kind,
            "mean": round(usual.mean().item(), 5),
            "deviation": round(usual.std().item(), 5),
            "threshold": round(torch.quantile(level, 0.05).item(), 3),
        },
        "training": {
            "split": split,
            "data": f"{data.plain} rule-based compositions of 10 s, sound font FluidR3 GM; "
            f"{data.count - data.plain} of them also through the codec; as the unknown {outlier}",
            "shards": f"{data.shards[0]} to {data.shards[-1]}",
            "steps": int(counters["step"]),
            "minutes": round(counters["trained_s"] / 60, 1),
        },
        "figures": {f"valid_{k}": v for k, v in evaluate(learner.network, valid).items()},
    }
    write_json(out / "config.json", config)
    size = sum(path.stat().st_size for path in out.iterdir())
    assert size <= 1_500_000, f"the tagger takes {size} bytes"
    log(f"tagger: {size / 1e6:.2f} MB in {out}: {config['figures']}")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--clips", type=Path, help="folder of rendered shards; by default WORK/clips")
    p.add_argument("--codec", type=Path, default=Path("src/tunesmith/pocket/musicgen"))
    p.add_argument("--split", choices=SPLITS, default="embedding")
    p.add_argument("--steps", type=int, default=2400)
    p.add_argument("--export", type=Path, help="only write the trained network to this folder")
    p.add_argument("--score", default="both", help="energy, mahalanobis, known or both")
    args = p.parse_args()
    set_up(args)
    clips = args.clips or args.work / "clips"
    if args.export:
        export(clips, args.work, args.split, args.seed, args.export, args.score)
    else:
        prepare(clips, args.work / "tagger", args.split, args.codec)
        train(clips, args.work, args.split, args.steps, args.seed)


if __name__ == "__main__":
    main()
