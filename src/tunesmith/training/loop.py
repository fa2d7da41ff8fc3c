"""The training loop. It names no family and no method.

One iteration is: do what is due at this step (validate, preview, checkpoint), then train a step.
What has been done at a step is part of the saved state, so a run that was interrupted anywhere goes
on exactly there.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.config import TrainConfig
from tunesmith.errors import Diverged, Stopped
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter
from tunesmith.randomness import own_generators
from tunesmith.training.checkpoint import (
    Checkpoints,
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
)
from tunesmith.training.log import MetricLog
from tunesmith.training.sampler import Sampler, stable_seed, with_drawn_caption
from tunesmith.training.schedule import learning_rate
from tunesmith.types import Batch, Example, Loss


@dataclass(slots=True)
class State:
    """What changes while training, beside tensors.

    Attributes:
        step: optimizer steps finished.
        best_loss, best_step: of the lowest validation loss.
        without_progress: validations since then.
        bad_steps, bad_in_a_row: steps skipped for NaN or inf.
        evaluated_at, previewed_at, saved_at: last step at which that was done.
        first_loss, first_general: validation and general loss of the base.
        last_loss, last_general: of the newest validation.
        train_s: seconds spent in training steps.
        log_offset: bytes of the metric log.
        stopped_early: early stopping has ended the run.
    """

    step: int = 0
    best_loss: float = math.inf
    best_step: int = -1
    without_progress: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    evaluated_at: int = -1
    previewed_at: int = -1
    saved_at: int = -1
    first_loss: float | None = None
    first_general: float | None = None
    last_loss: float | None = None
    last_general: float | None = None
    train_s: float = 0.0
    log_offset: int = 0
    stopped_early: bool = False


@dataclass(frozen=True, slots=True)
class Intervals:
    """Total steps, and steps between recurring work; 0 is never."""

    total: int
    evaluate: int
    checkpoint: int
    preview: int


@dataclass(frozen=True, slots=True)
class Sets:
    """The encoded clips of a run; each entry is fetched when it is needed."""

    train: Sequence[Example]
    valid: Sequence[Example]
    general: Sequence[Example]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators: library modules draw from all three."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Put all three generators back afterwards: a caller's own numbers are none of ours."""
    with torch.random.fork_rng(), own_generators():
        yield


def total_loss(terms: Loss, counts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ over terms of weight · sum / count, the counts being those of the whole global batch."""
    parts = [
        weights.get(name, 1.0) * sums.sum() / counts[name].clamp(min=1)
        for name, (sums, _) in terms.items()
    ]
    return torch.stack(parts).sum()


class Loop:
    """One run.

    Args:
        bundle: the base with the method attached.
        adapter: the attached method.
        sets: the data.
        train: settings.
        intervals: how long, and what recurs when.
        seed: the run's seed.
        dtype: precision of the computation.
        checkpoints, best: where states and best weights go.
        log: the metric log.
        stop: polled often; non-zero asks for a clean stop.
        preview: called with the step; None if there are no previews.
        on_event: told what happens, for a progress display: ``(kind, values)``.
    """

    def __init__(
        self,
        bundle: Bundle,
        adapter: Adapter,
        sets: Sets,
        lengths: Sequence[int],
        train: TrainConfig,
        intervals: Intervals,
        *,
        seed: int,
        dtype: torch.dtype,
        checkpoints: Checkpoints,
        best: Checkpoints,
        log: MetricLog,
        stop: Callable[[], int] = lambda: 0,
        preview: Callable[[int], None] | None = None,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda kind, values: None,
    ) -> None:
        self.bundle, self.adapter, self.sets, self.settings = bundle, adapter, sets, train
        self.intervals, self.seed, self.dtype = intervals, seed, dtype
        self.checkpoints, self.best, self.log = checkpoints, best, log
        self.stop, self.preview, self.on_event = stop, preview, on_event
        self.names = adapter.parameters()
        self.state = State()
        self.sampler = Sampler(lengths, train.batch_size, seed, train.bucket)
        self.optimizer = torch.optim.AdamW(
            _groups(self.names, train.weight_decay), lr=train.lr, betas=train.betas, foreach=True
        )
        self.averaged = (
            {name: p.detach().clone() for name, p in self.names.items()} if train.ema else {}
        )

    # --- state ---

    def snapshot(self) -> Snapshot:
        """All that the rest of the run depends on."""
        self.state.log_offset = self.log.offset()
        tensors = optimizer_tensors(self.optimizer, self.names)
        return Snapshot(self.names, tensors, self.averaged, asdict(self.state))

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot."""
        with torch.no_grad():
            for name, parameter in self.names.items():
                parameter.copy_(snapshot.weights[name])
            for name, tensor in self.averaged.items():
                tensor.copy_(snapshot.averaged[name])
        restore_optimizer(self.optimizer, self.names, snapshot.optimizer)
        self.state = State(**snapshot.state)

    def save(self) -> None:
        """Write a checkpoint of now."""
        self.state.saved_at = self.state.step
        path = self.checkpoints.save(self.snapshot())
        self.on_event("checkpoint", {"step": self.state.step, "path": str(path)})

    # --- the run ---

    def run(self) -> State:
        """Train to the end, or until early stopping.

        Raises:
            Stopped: a stop was asked for; everything is saved.
            Diverged: too many NaN or inf steps in a row; everything is saved.
        """
        with own_randomness():
            try:
                while not self._done():
                    self._check_stop()
                    self._step()
            except Stopped:
                self.save()
                raise
        return self.state

    def _done(self) -> bool:
        """Do what is due at this step; true if it was the last one."""
        self._due()
        return self.state.stopped_early or self.state.step >= self.intervals.total

    def _check_stop(self) -> None:
        if number := self.stop():
            raise Stopped(number, f"stopped at step {self.state.step}")

    def _due(self) -> None:
        state, every = self.state, self.intervals
        at_end = state.step >= every.total or state.stopped_early
        if state.evaluated_at < state.step and (at_end or state.step % every.evaluate == 0):
            self._validate()
            at_end = at_end or state.stopped_early
        wanted = self.preview is not None and (
            at_end or (every.preview and state.step % every.preview == 0)
        )
        if wanted and state.previewed_at < state.step:
            assert self.preview is not None
            with self.weights_in_use():
                self.preview(state.step)
            state.previewed_at = state.step
            self.on_event("preview", {"step": state.step})
        if state.saved_at < state.step and (at_end or state.step % every.checkpoint == 0):
            self.save()

    def _step(self) -> None:
        begin = time.perf_counter()
        step, accumulate = self.state.step, self.settings.accumulate
        batches, clips = [], 0
        for part in range(accumulate):
            epoch, indices = self.sampler.batch(step * accumulate + part)
            examples = [self.sets.train[index] for index in indices]
            seeds = [stable_seed(self.seed, example.clip_id, epoch) for example in examples]
            told = list(map(with_drawn_caption, examples, seeds))
            batches.append(self.bundle.collate(told, seeds, self.settings.caption_dropout))
            clips += len(examples)
        counts = _sum_counts(self.bundle.module.count(batch) for batch in batches)
        counts = {name: value.to(self.bundle.device) for name, value in counts.items()}

        rate = learning_rate(self.settings, step, self.intervals.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.bundle.module.train()
        loss = torch.zeros((), device=self.bundle.device)
        for part, batch in enumerate(batches):
            # Dropout and the like draw from global generators; seeded by position, they need no saving.
            seed_everything(stable_seed(self.seed, "step", step, part))
            share = total_loss(self._forward(batch), counts, self.bundle.term_weights)
            share.backward()
            loss += share.detach()
        limit = self.settings.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.names.values(), limit, foreach=True)
        value, size = float(loss), float(norm)
        good = math.isfinite(value) and math.isfinite(size)
        if good:
            self.optimizer.step()
            self._average()
        self.state.step += 1
        seconds = time.perf_counter() - begin
        self.state.train_s += seconds
        values = {
            "loss": value,
            "lr": rate,
            "grad_norm": size,
            "epoch": epoch,
            "clips_per_s": clips / seconds,
            "seconds": round(seconds, 4),
        }
        self.log.write("train", self.state.step, **(values if good else values | {"skipped": True}))
        self.on_event("train", values | {"step": self.state.step, "skipped": not good})
        self._count_bad(good, value, size)

    def _count_bad(self, good: bool, loss: float, norm: float) -> None:
        self.state.bad_steps += not good
        self.state.bad_in_a_row = 0 if good else self.state.bad_in_a_row + 1
        if self.state.bad_in_a_row >= self.settings.max_bad_steps:
            self.save()
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            raise Diverged(
                f"the {what} was NaN or inf for {self.state.bad_in_a_row} steps in a row "
                f"(until step {self.state.step}); these steps were skipped, the weights before them are saved",
                f"lower train.lr (now {self.settings.lr:g}) or set base.dtype=float32",
            )

    def _forward(self, batch: Batch) -> Loss:
        device = self.bundle.device
        batch = batch.to(device)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.bundle.module(batch)

    def _average(self) -> None:
        if self.averaged:
            # Early on the average would mostly hold the start; the ramp is that of Tarvainen & Valpola.
            decay = min(self.settings.ema, (1 + self.state.step) / (10 + self.state.step))
            with torch.no_grad():
                for name, parameter in self.names.items():
                    self.averaged[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def weights_in_use(self) -> Iterator[None]:
        """The weights that count: the moving average if there is one, else those that train."""
        if not self.averaged:
            yield
            return
        kept = {name: parameter.detach().clone() for name, parameter in self.names.items()}
        with torch.no_grad():
            for name, parameter in self.names.items():
                parameter.copy_(self.averaged[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.names.items():
                    parameter.copy_(kept[name])

    # --- validation ---

    def _validate(self) -> None:
        state = self.state
        with self.weights_in_use():
            values = {}
            if self.sets.valid:
                values |= self.evaluate(self.sets.valid)
            if self.sets.general:
                values |= {
                    f"general_{key}": value
                    for key, value in self.evaluate(self.sets.general).items()
                }
            loss = values.get("loss")
            if loss is not None:
                state.first_loss = loss if state.first_loss is None else state.first_loss
                state.last_loss = loss
                if loss < state.best_loss:
                    state.best_loss, state.best_step, state.without_progress = loss, state.step, 0
                    self.best.save(Snapshot(self.names, {}, {}, {"step": state.step, "loss": loss}))
                else:
                    state.without_progress += 1
            if "general_loss" in values:
                first = state.first_general
                state.first_general = values["general_loss"] if first is None else first
                state.last_general = values["general_loss"]
        state.evaluated_at = state.step
        patience = self.settings.patience
        state.stopped_early = bool(patience and state.without_progress >= patience)
        if values:
            self.log.write("valid", state.step, **values)
            self.on_event("valid", values | {"step": state.step})

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean loss, and each term's: the same number for the same weights and clips."""
        batch_size = self.settings.batch_size
        order = sorted(range(len(examples)), key=lambda index: examples[index].frames)
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        was_training = self.bundle.module.training
        self.bundle.module.eval()
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                self._check_stop()
                some = [examples[index] for index in order[start : start + batch_size]]
                seeds = [stable_seed("valid", example.clip_id) for example in some]
                seed_everything(stable_seed("valid", start))
                for name, (total, count) in self._forward(self.bundle.collate(some, seeds)).items():
                    sums[name] = sums.get(name, 0.0) + float(total.double().sum())
                    counts[name] = counts.get(name, 0.0) + float(count.double().sum())
        self.bundle.module.train(was_training)
        terms = {name: sums[name] / counts[name] for name in sums}
        weights = self.bundle.term_weights
        return {
            "loss": sum(weights.get(name, 1.0) * value for name, value in terms.items())
        } | terms


def _groups(names: Mapping[str, nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: pulling norms and biases to zero helps nothing."""
    matrices = [parameter for parameter in names.values() if parameter.ndim >= 2]
    rest = [parameter for parameter in names.values() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _sum_counts(counts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, torch.zeros(())) + count.sum()
    return total
