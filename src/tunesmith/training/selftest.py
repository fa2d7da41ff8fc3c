"""Does this base train and generate rightly on this machine? Two minutes tell.

Overfits one short clip and asks for it back. A shifted label, a leaked state or a wrong schedule
gives a loss that falls all the same, but not the clip.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter
from tunesmith.objectives.mixture import total_loss
from tunesmith.registry import plugin
from tunesmith.training.hardware import free_memory_bytes, peak_memory_bytes
from tunesmith.training.measure import own_randomness, seed_everything
from tunesmith.types import Audio, Example, GenerationSettings

_NOISY_ROWS = 16


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What a self-test saw.

    Attributes:
        method: what was trained: ``full`` where memory allows it.
        agreement: largest difference between stepwise generation and the loss in one pass.
        first_loss, last_loss: of the clip.
        steps: training steps.
        mismatch: of the regenerated clip, 0 is the same.
        steps_per_s: training speed on the one clip.
        frames_per_s: generation speed, one clip at a time.
        peak_memory_bytes: of the process or device.
        restored: the base came back bit for bit after the adapter was taken off.
    """

    method: str
    agreement: float
    first_loss: float
    last_loss: float
    steps: int
    mismatch: float
    steps_per_s: float
    frames_per_s: float
    peak_memory_bytes: int
    restored: bool

    @property
    def passed(self) -> bool:
        """Whether the base can be trusted to train and generate here."""
        return self.agreement < 1e-3 and self.mismatch < 0.05 and self.restored

    def lines(self) -> list[str]:
        """What to tell the user."""
        yes = {True: "ok  ", False: "FAIL"}
        return [
            f"{yes[self.agreement < 1e-3]} loss and generation agree (largest difference {self.agreement:.1e})",
            f"{yes[self.mismatch < 0.05]} one clip overfitted by {self.method} in {self.steps} steps "
            f"(loss {self.first_loss:.3f} -> {self.last_loss:.3f}) and regenerated, "
            f"{100 * (1 - self.mismatch):.1f} % the same",
            f"{yes[self.restored]} the base is bit for bit what it was after the adapter is taken off",
            f"     training {self.steps_per_s:.1f} steps/s, generation {self.frames_per_s:.0f} frames/s, "
            f"peak memory {self.peak_memory_bytes / 2**30:.2f} GiB",
        ]


def busy_clip(bundle: Bundle, duration_s: float = 1.0) -> Audio:
    """A short, busy sound: a rising run of decaying tones."""
    rate = bundle.sample_rate_hz
    time_s = np.arange(int(duration_s * rate)) / rate
    note = (time_s * 8).astype(int)
    pitch = 220.0 * 2.0 ** (np.array([0, 4, 7, 12, 9, 5, 2, 11])[note % 8] / 12)
    decay = np.exp(-6 * (time_s * 8 - note))
    tone = 0.4 * decay * np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    return Audio(np.tile(tone.astype(np.float32), (bundle.channels, 1)), rate)


def overfit(
    bundle: Bundle,
    adapter: Adapter,
    example: Example,
    *,
    lr: float,
    steps: int,
    limit_s: float,
    target: float,
    should_stop: Callable[[], int] = lambda: 0,
) -> tuple[list[float], float]:
    """Train on one example until its loss is below ``target``, steps or time run out.

    Returns:
        The losses, and the seconds it took.
    """
    parameters = list(adapter.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, betas=(0.9, 0.95))
    # A loss that draws noise is one sample a row: many rows of fresh noise a step stand for the clip.
    rows = _NOISY_ROWS if bundle.draws_noise else 1
    was_training = bundle.module.training
    bundle.module.eval()  # dropout would be noise to overfit
    losses, begin = [], time.perf_counter()
    for step in range(steps):
        seed_everything(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10)
            if (
                bundle.draws_noise
            ):  # at a constant rate the last steps' noise would stay in the weights
                past = max(step / steps, (time.perf_counter() - begin) / limit_s)
                group["lr"] *= min(1.0, 2.02 - 2 * past)
        if step == 0 or bundle.draws_noise:
            seeds = [step * rows + row for row in range(rows)]
            batch = bundle.collate([example] * rows, seeds).to(bundle.device)
            counts = {k: v.sum() for k, v in bundle.module.count(batch).items()}
        loss = total_loss(bundle.module(batch), counts, bundle.term_weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if losses[-1] < target or time.perf_counter() - begin > limit_s or should_stop():
            break
    bundle.module.train(was_training)
    return losses, time.perf_counter() - begin


def selftest(
    bundle: Bundle, *, limit_s: float = 75.0, should_stop: Callable[[], int] = lambda: 0
) -> SelfTest:
    """Run the self-test on a loaded base; it leaves the base as it was."""
    with own_randomness():
        return _selftest(bundle, limit_s, should_stop)


def _selftest(bundle: Bundle, limit_s: float, should_stop: Callable[[], int]) -> SelfTest:
    audio = busy_clip(bundle)
    example = Example(
        "selftest", bundle.encode_audio(audio), bundle.encode_text(["a test tone"])[0]
    )
    agreement = bundle.agreement(example)
    before = {name: value.clone() for name, value in bundle.module.state_dict().items()}
    name, adapter, rate = _strongest(bundle)
    losses, seconds = overfit(
        bundle,
        adapter,
        example,
        lr=rate,
        steps=2000,
        limit_s=limit_s,
        target=0.02,
        should_stop=should_stop,
    )
    begin = time.perf_counter()
    greedy = GenerationSettings(guidance=1.0, temperature=0.0)
    duration_s = example.frames / bundle.frame_rate_hz
    codes = bundle.generate_codes(
        ["a test tone"], duration_s, [0], greedy, should_stop=should_stop
    )[0]
    generating = time.perf_counter() - begin
    mismatch = bundle.mismatch(example.codes, codes)
    adapter.detach()
    after = bundle.module.state_dict()
    restored = after.keys() == before.keys() and all(
        torch.equal(after[k], v) for k, v in before.items()
    )
    return SelfTest(
        method=name,
        agreement=agreement,
        first_loss=losses[0],
        last_loss=losses[-1],
        steps=len(losses),
        mismatch=mismatch,
        steps_per_s=len(losses) / seconds,
        frames_per_s=example.frames / generating,
        peak_memory_bytes=peak_memory_bytes(bundle.device),
        restored=restored,
    )


def _strongest(bundle: Bundle) -> tuple[str, Adapter, float]:
    """Full training where memory allows, since it overfits anything; else a high-rank LoRA."""
    full, lora = plugin("methods", "full").load(), plugin("methods", "lora").load()
    count = full.parameter_count(bundle, full.Config())
    if 20 * count < 0.6 * free_memory_bytes(bundle.device):  # gradient, two moments, origin, slack
        return "full", full.attach(bundle, full.Config(), 0), 1e-3 if count < 1e8 else 1e-4
    rank = min(64, min(site.width for site in bundle.sites) // 2)
    config = lora.Config(rank=rank, targets=("q", "k", "v", "o", "up", "down"))
    return "lora", lora.attach(bundle, config, 0), 3e-3
