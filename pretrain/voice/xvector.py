"""Train the speaker encoder that the pocket voice is steered with: 512 numbers of a few seconds of speech.

It learns to tell apart the voices of train and half of the crowd, from crops of 1.5 to 3 s that were
filtered and made noisy; the layer that named the voices is dropped. Weights:
``weights/xvector.safetensors``, only once training is over, for the speech model waits for that file;
curve: ``logs/xvector.jsonl``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.common import SAMPLE_RATE_HZ, autocast, set_up
from pretrain.voice import hear
from pretrain.voice.mel import HOP
from tunesmith.analysis.speech_nets import XVector, levelled

BATCH, LEARNING_RATE = 192, 2e-3
SHORTEST_S, LONGEST_S = 1.5, 3.0
COLOUR = 0.08  # log10, deviation of the random filter: formants have to stay where they are
SPLITS, HALF = ["train", "crowd"], {"crowd": 0}
TEST_SPLITS = ("valid", "heldvoice", "heldaccent")


def crops(data: hear.Mels, rows: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Disturbed log-mels ``[B, T, 80]`` of a random part of each row, and how many frames count ``[B]``."""
    frames = round(draw.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE_HZ / HOP)
    whole = data.lengths[rows]
    begins = (torch.from_numpy(draw.random(len(rows))) * (whole - frames).clamp_min(0)).long()
    lengths = whole.clamp_max(frames)
    counts = lengths.to(data.device)
    mel = levelled(data.cut(rows, begins, lengths), counts)
    return hear.disturbed(mel, COLOUR), counts


@torch.inference_mode()
def embedded(model: XVector, data: hear.Mels, noise: bool = False) -> Tensor:
    """Vectors ``[N, 512]`` of whole clips, in the order of ``data.rows``."""
    was = model.training
    model.eval()
    made = torch.zeros(len(data.rows), model.config["size"], device=data.device)
    for rows in data.order.split(64):
        counts = data.lengths[rows].to(data.device)
        mel = data.cut(rows, torch.zeros_like(rows), data.lengths[rows])
        if noise:
            mel = hear.disturbed(levelled(mel, counts), COLOUR)
        made[rows.to(data.device)] = model(mel, counts)
    model.train(was)
    return made


def figures(model: XVector, tests: dict[str, hear.Mels]) -> dict[str, float]:
    """Equal error rates of pairs of valid's clips, and of the held voice and accent against these."""
    vectors = {split: embedded(model, data) for split, data in tests.items()}
    names = [row["speaker"] for row in tests["valid"].rows]
    made = hear.verification(vectors, names, tests["heldaccent"].rows[0]["speaker"])
    noisy = embedded(model, tests["valid"], noise=True)
    return made | {"eer_valid_noisy": round(hear.equal_error(noisy, names), 4)}


def train(args: Any) -> None:
    """Train until the steps or the minutes are over; save every minute beside the final file."""
    data = hear.Mels(args.work, SPLITS, args.device, HALF)
    tests = {split: hear.Mels(args.work, [split], args.device) for split in TEST_SPLITS}
    torch.manual_seed(args.seed + 3000)
    model = XVector().to(args.device)
    draw = np.random.default_rng((args.seed, 3))

    def embed(rows: Tensor) -> Tensor:
        mel, counts = crops(data, rows, draw)
        with autocast(args.device):
            return model(mel, counts)

    mel = {"bands": 80, "size": 1024, "hop": HOP, "scale": "slaney", "log": "log10 of amplitude"}
    hear.tell_apart(
        args,
        "xvector",
        model,
        data.rows,
        draw,
        embed,
        lambda: figures(model, tests),
        splits=SPLITS,
        config={"mel": mel},
        partial=".partial",  # the speech model begins as soon as the final file is there
    )


def main() -> None:
    """Command line."""
    args = hear.encoder_parser(__doc__, BATCH, LEARNING_RATE).parse_args()
    set_up(args)
    train(args)


if __name__ == "__main__":
    main()
