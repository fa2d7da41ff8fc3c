"""Train the second speaker encoder, for evaluation only: how alike two voices are, by another ear.

Unlike the x-vector it has filters over bands and time, hears power mels of its own from the wave, and
learns from judge and the other half of the crowd; it has never steered any voice. Weights:
``weights/voiceprint.safetensors``; curve: ``logs/voiceprint.jsonl``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain.common import SAMPLE_RATE_HZ, autocast, set_up
from pretrain.voice import hear
from pretrain.voice.mel import places, read_split
from tunesmith.analysis.speech_nets import Voiceprint, load

BATCH, LEARNING_RATE = 128, 2e-3
SHORTEST_S, LONGEST_S = 1.5, 3.0
SPLITS, HALF = ["judge", "crowd"], {"crowd": 1}
TEST_SPLITS = ("valid", "heldvoice", "heldaccent")


class Waves:
    """All samples int16 of some splits on one device, and their rows."""

    def __init__(
        self, work: Path, splits: list[str], device: str, keep: dict[str, int] | None = None
    ) -> None:
        """Read splits; ``keep`` maps one to 0 or 1, the half of its speakers to take."""
        sounds, self.rows = [], []
        at = 0
        for split in splits:
            sound, rows = read_split(work, split)
            wanted = [
                r for r in rows if not keep or split not in keep or hear.half_of(r) == keep[split]
            ]
            self.rows += [row | {"start": row["start"] + at} for row in wanted]
            sounds.append(sound)
            at += len(sound)
        self.sound = torch.cat(sounds).to(device)
        self.starts, self.lengths = places(self.rows)
        self.device = device

    def cut(self, rows: Tensor, begins: Tensor, samples: int) -> Tensor:
        """``[B, samples]`` float32 in [-1, 1]; a clip that is too short is heard again from its start."""
        # On the device: these are millions of places a step.
        first, start, length = (
            one.to(self.device)[:, None] for one in (begins, self.starts[rows], self.lengths[rows])
        )
        place = (first + torch.arange(samples, device=self.device)) % length
        return self.sound[start + place].float() / 32768


def disturbed(wave: Tensor) -> Tensor:
    """Waves ``[B, N]`` through a random smooth filter, with noise of a random colour 8 to 50 dB below."""
    count, samples = wave.shape
    device = str(wave.device)
    spectrum = torch.fft.rfft(wave)
    bins = spectrum.shape[1]
    spectrum = spectrum * torch.pow(10.0, hear.curve(count, 8, bins, 0.08, device)[:, 0])
    colour = torch.pow(10.0, hear.curve(count, 5, bins, 0.4, device)[:, 0])
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn_like(wave)) * colour, n=samples)
    wave = torch.fft.irfft(spectrum, n=samples)
    decibels = 8 + 42 * torch.rand(count, 1, device=device)
    gain = wave.square().mean(1, keepdim=True).sqrt() * torch.pow(10.0, -decibels / 20)
    share = hear.chance(count, 0.6, device)[:, 0]
    return wave + share * gain * functional.normalize(noise, dim=1) * samples**0.5


@torch.inference_mode()
def embedded(model: Voiceprint, data: Waves, noise: bool = False) -> Tensor:
    """Vectors ``[N, 256]``, each of 3 s from a clip's start, in the order of ``data.rows``."""
    was = model.training
    model.eval()
    made = []
    for rows in torch.arange(len(data.rows)).split(64):
        wave = data.cut(rows, torch.zeros_like(rows), round(LONGEST_S * SAMPLE_RATE_HZ))
        made.append(model(disturbed(wave) if noise else wave))
    model.train(was)
    return torch.cat(made)


def figures(model: Voiceprint, tests: dict[str, Waves]) -> dict[str, float]:
    """Equal error rates of pairs of valid's clips, and of the held voice against these."""
    vectors = {split: embedded(model, data) for split, data in tests.items()}
    names = [row["speaker"] for row in tests["valid"].rows]
    made = hear.verification(vectors, names, tests["heldaccent"].rows[0]["speaker"])
    noisy = embedded(model, tests["valid"], noise=True)
    return made | {"eer_valid_noisy": round(hear.equal_error(noisy, names), 4)}


def train(args: Any) -> None:
    """Train until the steps or the minutes are over; save every minute and at the end."""
    data = Waves(args.work, SPLITS, args.device, HALF)
    tests = {split: Waves(args.work, [split], args.device) for split in TEST_SPLITS}
    torch.manual_seed(args.seed + 4000)
    begun = load(args.begin) if args.begin else None
    model = (begun[0].requires_grad_(True) if begun else Voiceprint()).to(args.device)
    before = begun[1].get("training") if begun else None
    # Those who go on from what was learnt are not to see the same batches again.
    draw = np.random.default_rng((args.seed, 4, (before or {}).get("steps", 0)))

    def embed(rows: Tensor) -> Tensor:
        begins = (torch.from_numpy(draw.random(len(rows))) * data.lengths[rows]).long()
        samples = round(draw.uniform(SHORTEST_S, LONGEST_S) * 20) * SAMPLE_RATE_HZ // 20
        wave = disturbed(data.cut(rows, begins, samples))
        with autocast(args.device):
            return model(wave)

    hear.tell_apart(
        args,
        "voiceprint",
        model,
        data.rows,
        draw,
        embed,
        lambda: figures(model, tests),
        splits=SPLITS,
        config={"input": "wave, 16 kHz mono, 1.5 s or more"},
        before=before,
    )


def main() -> None:
    """Command line."""
    p = hear.encoder_parser(__doc__, BATCH, LEARNING_RATE)
    p.add_argument("--begin", type=Path, help="weights to go on from, with a fresh optimizer")
    args = p.parse_args()
    set_up(args)
    train(args)


if __name__ == "__main__":
    main()
