"""The training loop. It names no family and no method.

One iteration is: do what is due at this step (validate, preview, checkpoint), then train a step.
What has been done at a step is part of the saved state, so a run that was interrupted anywhere goes
on exactly there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.config import TrainConfig
from tunesmith.errors import Diverged, Stopped
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter
from tunesmith.objectives.mixture import sum_counts, total_loss
from tunesmith.training.checkpoint import (
    Checkpoints,
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
)
from tunesmith.training.log import MetricLog
from tunesmith.training.measure import forward, mean_loss, own_randomness, seed_everything
from tunesmith.training.optimizer import build_optimizer
from tunesmith.training.sampler import stable_seed
from tunesmith.training.schedule import learning_rate
from tunesmith.training.streams import MAIN, Stream, Streams
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
    """The encoded clips of a run; each entry is fetched when it is needed.

    Attributes:
        train: what is trained on, the clips to be learned first.
        valid: clips that say how well they are learned.
        general: clips that say what is forgotten.
    """

    train: Sequence[Stream]
    valid: Sequence[Example]
    general: Sequence[Example]


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
        self.streams = Streams(sets.train, seed, train.bucket)
        self.optimizer = build_optimizer(self.names, adapter.rates(), train)
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
            with self.weights_in_use(), self._base_at_start():
                self.preview(state.step)
            state.previewed_at = state.step
            self.on_event("preview", {"step": state.step})
        if state.saved_at < state.step and (at_end or state.step % every.checkpoint == 0):
            self.save()

    def _step(self) -> None:
        begin = time.perf_counter()
        step, train = self.state.step, self.settings
        rate = learning_rate(train, step, self.intervals.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        self.bundle.module.train()
        losses: dict[str, float] = {}
        part, clips, epoch = 0, 0, 0
        for drawn in self.streams.draw(step, train.accumulate, self.bundle, train.caption_dropout):
            if drawn.stream.name == MAIN:
                clips, epoch = drawn.clips, drawn.epoch
            counts = sum_counts(self.bundle.module.count(batch) for batch in drawn.batches)
            counts = {name: value.to(self.bundle.device) for name, value in counts.items()}
            loss = torch.zeros((), device=self.bundle.device)
            for batch in drawn.batches:
                # Dropout and the like draw from global generators; seeded by position, they need no
                # saving.
                seed_everything(stable_seed(self.seed, "step", step, part))
                share = total_loss(self._forward(batch), counts, self.bundle.term_weights)
                (drawn.stream.weight * share).backward()
                loss += share.detach()
                part += 1
            losses[drawn.stream.name] = float(loss)
        limit = train.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.names.values(), limit, foreach=True)
        value, size = losses.pop(MAIN), float(norm)
        good = all(map(math.isfinite, (value, size, *losses.values())))
        if good:
            self.optimizer.step()
            self.adapter.after_step(rate)
            self._average()
        self.state.step += 1
        seconds = time.perf_counter() - begin
        self.state.train_s += seconds
        values = {
            "loss": value,
            **{f"{name}_loss": other for name, other in losses.items()},
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
        return forward(self.bundle, batch, self.dtype)

    def _average(self) -> None:
        if self.averaged:
            # Early on the average would mostly hold the start; the ramp is that of Tarvainen & Valpola.
            decay = min(self.settings.ema, (1 + self.state.step) / (10 + self.state.step))
            with torch.no_grad():
                for name, parameter in self.names.items():
                    self.averaged[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def _base_at_start(self) -> Iterator[None]:
        """At step 0 the base is what is to be heard, also where a method does not start as it."""
        if self.state.step or self.adapter.starts_as_base:
            yield
            return
        self.adapter.set_strength(0)
        try:
            yield
        finally:
            self.adapter.set_strength(1)

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
        size = self.settings.batch_size
        return mean_loss(self.bundle, examples, size, self._forward, self._check_stop)
