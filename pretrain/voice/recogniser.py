"""Train a recogniser of phones on the log-mels of the corpus.

``--name phones`` (shipped, small, of filters only) learns from train and half of accent, ``phones_judge``
(recurrent on top) from judge and the other half: what it says of a voice tuned with the first is no
echo of it. Sound is disturbed as microphones and vocoders would, so that synthesised speech is heard
too. Weights: ``weights/<name>.safetensors``; curve: ``logs/<name>.jsonl``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.common import autocast, parser, set_up
from pretrain.voice import hear
from pretrain.voice.corpus import inventory
from tunesmith.analysis.speech_nets import LOWEST, Recogniser, best_path, levelled, load

NETWORKS: dict[str, dict[str, Any]] = {
    "phones": {"width": 192, "depth": 8, "kernel": 11},
    "phones_judge": {"width": 192, "depth": 5, "kernel": 7, "recurrent": 128},
}
SPLITS = {"phones": ["train", "accent"], "phones_judge": ["judge", "accent"]}
HALVES = {"phones": {"accent": 0}, "phones_judge": {"accent": 1}}
BATCH, LEARNING_RATE = 64, 2e-3
SPEEDS = (0.88, 1.12)  # frames are read faster or slower by this
PLAIN = 0.06  # of training, its start
EVALUATE_EVERY_S = 45.0


def distance(heard: Sequence[Any], said: Sequence[Any]) -> int:
    """Fewest insertions, deletions and substitutions that make one sequence the other."""
    row = np.arange(len(said) + 1)
    places = np.arange(len(said) + 1)
    wanted = np.array(said)
    for count, one in enumerate(heard, 1):
        best = np.empty_like(row)
        best[0] = count
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (wanted != one))
        # Insertions run along the row: the least of all that is to the left, plus the way from there.
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])


def targets(data: hear.Mels, phones: list[str]) -> list[Tensor]:
    """Numbers from 1 of each row's phones; one that the list lacks is left out."""
    number = {phone: place for place, phone in enumerate(phones, 1)}
    return [
        torch.tensor([number[phone] for phone in row["phones"] if phone in number])
        for row in data.rows
    ]


def batch(
    data: hear.Mels, said: list[Tensor], size: int, draw: np.random.Generator, plain: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-mels ``[B, T, 80]``, disturbed unless plain, frames ``[B]``, phones ``[B, P]``, their number.

    The two numbers ``[B]`` are on the CPU, where the loss wants them.
    """
    rows = data.alike(size, draw)
    mel, lengths = data.cut(rows, torch.zeros_like(rows), data.lengths[rows]), data.lengths[rows]
    low, high = SPEEDS
    rate = torch.from_numpy(draw.uniform(low, high, len(rows)).astype(np.float32))
    new = (lengths / rate).long().clamp_min(2)
    place = torch.arange(int(new.max())) * rate[:, None]
    place = torch.minimum(place, lengths[:, None] - 1.0).to(data.device)
    before = place.floor().long()
    after = (before + 1).clamp_max(mel.shape[1] - 1)
    shape = (-1, -1, mel.shape[2])
    first = mel.gather(1, before[:, :, None].expand(shape))
    second = mel.gather(1, after[:, :, None].expand(shape))
    mel = first + (place - before)[:, :, None] * (second - first)
    frames = new.to(data.device)
    if not plain:
        mel = hear.disturbed(hear.stretched(levelled(mel, frames), 0.06))
        mel = hear.masked(mel, frames, LOWEST)
    wanted = [said[row] for row in rows.tolist()]
    counts = torch.tensor([len(one) for one in wanted])
    filled = nn.utils.rnn.pad_sequence(wanted, batch_first=True).to(data.device)
    return mel, new, filled, counts


@torch.inference_mode()
def heard(
    model: Recogniser, data: hear.Mels, limit: int | None = None, noise: bool = False
) -> list[list[int]]:
    """What the network hears in the clips (as in ``data.rows``), disturbed if asked."""
    was = model.training
    model.eval()
    count = min(limit or len(data.rows), len(data.rows))
    found: dict[int, list[int]] = {}
    order = data.lengths[:count].argsort()
    for at in range(0, count, 64):
        rows = order[at : at + 64]
        lengths = data.lengths[rows]
        frames = lengths.to(data.device)
        mel = data.cut(rows, torch.zeros_like(rows), lengths)
        if noise:
            mel = hear.disturbed(levelled(mel, frames))
        with autocast(data.device):
            scores, sizes = model(mel, frames)
        found |= dict(zip(rows.tolist(), best_path(scores, sizes), strict=True))
    model.train(was)
    return [found[row] for row in range(count)]


def error_rates(
    model: Recogniser, data: hear.Mels, said: list[Tensor], key: str | None = None, **how: Any
) -> dict[str, float]:
    """Phone error rates: ``all``, and per value of a column of the rows if asked."""
    wrong: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for row, phones in enumerate(heard(model, data, **how)):
        truth = said[row].tolist()
        for name in ("all", data.rows[row][key]) if key else ("all",):
            wrong[name] += distance(phones, truth)
            total[name] += len(truth)
    return {name: round(wrong[name] / total[name], 4) for name in wrong}


def figures(model: Recogniser, work: Path, phones: list[str], device: str) -> dict[str, Any]:
    """Phone error rates of the splits that were not learnt from, and by language and voice of valid."""
    made: dict[str, Any] = {}
    for split in ("valid", "heldvoice", "heldaccent"):
        data = hear.Mels(work, [split], device)
        said = targets(data, phones)
        if split == "valid":
            made["valid_by_language"] = error_rates(model, data, said, "language")
            by_voice = error_rates(model, data, said, "speaker")
            made["worst_voices"] = dict(sorted(by_voice.items(), key=lambda one: -one[1])[:6])
            made["valid_disturbed"] = error_rates(model, data, said, noise=True)["all"]
        made[split] = error_rates(model, data, said)["all"]
    return made


def train(args: Any) -> None:
    """Train until the steps or the minutes are over; save every minute and at the end."""
    name, device = args.name, args.device
    begun = load(args.begin) if args.begin else None
    # Its outputs stand for the phones that it was begun with, whatever the corpus lists by now.
    phones = begun[1]["phones"] if begun else inventory(args.work)
    data = hear.Mels(args.work, SPLITS[name], device, HALVES[name])
    valid = hear.Mels(args.work, ["valid"], device)
    said, valid_said = targets(data, phones), targets(valid, phones)
    torch.manual_seed(args.seed + 1000 * list(NETWORKS).index(name))
    made = begun[0].requires_grad_(True) if begun else Recogniser(len(phones), **NETWORKS[name])
    model = made.to(device)
    size = sum(p.numel() for p in model.parameters())
    hear.report(args.work, name, {"clips": len(data.rows), "parameters": size})
    optimizer = hear.adamw(model.parameters(), args.rate, device)
    # Those who go on from what was learnt are not to see the same batches again.
    seen = begun[1].get("training", {}).get("steps", 0) if begun else 0
    draw = np.random.default_rng((args.seed, list(NETWORKS).index(name), seen))
    path = args.work / "weights" / f"{name}.safetensors"
    config: dict[str, Any] = {"phones": phones, "blank": 0}
    plan = hear.Schedule(optimizer, args.rate, args.steps, args.minutes)
    evaluated_s = 0.0
    model.train()
    while plan.progress < 1:
        plan.advance()
        # Undisturbed at first: so it leaves the plateau sooner on which it says blanks alone.
        plain = not begun and plan.progress < PLAIN
        mel, frames, wanted, counts = batch(data, said, args.batch, draw, plain)
        with autocast(device):
            scores, _ = model(mel, frames.to(device))
        loss = functional.ctc_loss(
            scores.transpose(0, 1), wanted, (frames + 1) // 2, counts, zero_infinity=True
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        if plan.step % 100 == 0 or plan.progress >= 1:
            row = {"step": plan.step, "s": round(plan.elapsed_s), "loss": round(loss.item(), 4)}
            if plan.elapsed_s - evaluated_s > EVALUATE_EVERY_S:
                row["valid"] = error_rates(model, valid, valid_said, limit=200)["all"]
                evaluated_s = plan.elapsed_s
            hear.report(args.work, name, row)
        if plan.due():
            hear.export(path, model, "recogniser", config)
    config["training"] = {
        **({"before": begun[1].get("training")} if begun else {}),
        "splits": SPLITS[name],
        "clips": len(data.rows),
        "steps": plan.step,
        "minutes": round(plan.elapsed_s / 60, 1),
        "seed": args.seed,
    }
    hear.export(path, model, "recogniser", config)
    config["figures"] = figures(model, args.work, phones, device)
    hear.export(path, model, "recogniser", config)
    hear.report(args.work, name, config["training"] | config["figures"])


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--name", choices=list(NETWORKS), default="phones")
    p.add_argument("--steps", type=int, default=40000)
    p.add_argument("--minutes", type=float, default=4.0)
    p.add_argument("--batch", type=int, default=BATCH)
    p.add_argument("--rate", type=float, default=LEARNING_RATE)
    p.add_argument("--begin", type=Path, help="weights to go on from, with a fresh optimizer")
    args = p.parse_args()
    set_up(args)
    train(args)


if __name__ == "__main__":
    main()
