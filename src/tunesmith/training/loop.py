"""The training loop. It names no family and no method.

One iteration is: do what is due at this step (validate, preview, checkpoint), then train a step.
What has been done at a step is part of the saved state, so a run that was interrupted anywhere goes
on exactly there. Watchers are told what was seen; what they ask for (go back, stop, replay) is done here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, astuple
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunesmith.config import TrainConfig
from tunesmith.errors import Diverged, Stopped
from tunesmith.families._bundle import Bundle
from tunesmith.families._half import halve
from tunesmith.methods._adapter import Adapter, placed
from tunesmith.training.ahead import Ahead
from tunesmith.training.average import Average
from tunesmith.training.checkpoint import (
    Checkpoints,
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
)
from tunesmith.training.gradients import gradients_of
from tunesmith.training.log import MetricLog
from tunesmith.training.measure import (
    clip_losses,
    forward,
    mean_of,
    own_randomness,
    scatter_of,
    seed_everything,
)
from tunesmith.training.optimizer import build_optimizer
from tunesmith.training.parallel import ALONE, Mode, Parallel
from tunesmith.training.pitfalls import Finding, Watch
from tunesmith.training.pitfalls.finding import Sound, Step, Validation
from tunesmith.training.pitfalls.sounds import listen
from tunesmith.training.rollback import CUT, GoodStates, carry
from tunesmith.training.sampler import stable_seed
from tunesmith.training.schedule import learning_rate
from tunesmith.training.state import Intervals, Sets, State
from tunesmith.training.streams import MAIN, Streams
from tunesmith.types import Audio, Example


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
        preview: makes the previews of a step, and returns their sound; None if there are none.
        judge: hears what the model makes, at each validation; its ``score`` (higher is better) then
            chooses the weights and stops the run early, in the place of the validation loss.
        watch: who watches for pitfalls.
        good: where states to go back to are kept; None if the run never goes back.
        on_event: told what happens, for a progress display: ``(kind, values)``.
        parallel: the processes that do this run together. All of them go through the same steps and
            decide alike; ``preview`` and ``judge`` are called in the leader alone.
        mode: how they split the work.
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
        preview: Callable[[int], Sequence[Audio]] | None = None,
        judge: Callable[[], Mapping[str, float]] | None = None,
        watch: Watch | None = None,
        good: GoodStates | None = None,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda kind, values: None,
        parallel: Parallel = ALONE,
        mode: Mode = "auto",
    ) -> None:
        self.bundle, self.adapter, self.sets, self.settings = bundle, adapter, sets, train
        self.intervals, self.seed, self.dtype = intervals, seed, dtype
        self.checkpoints, self.best, self.log = checkpoints, best, log
        self.stop, self.preview, self.on_event = stop, preview, on_event
        self.judge, self.parallel, rates = judge, parallel, adapter.rates()
        module = parallel.wrap(bundle, adapter, mode, train.optimizer)
        if bundle.device.type == "cuda" and dtype != torch.float32 and not parallel.split:
            halve(bundle, dtype)
        self.names = adapter.parameters()
        self.gradients = gradients_of(bundle, self.names, dtype, module, record=train.record)
        self.watch, self.good = watch or Watch(), good
        self.state = State()
        how = (train.accumulate, bundle, train.caption_dropout, parallel)
        self._ahead = Ahead(lambda step: list(self.streams.draw(step, *how)), bundle.device)
        self._stream()
        self.optimizer = build_optimizer(self.names, rates, train)
        self.average = Average(self.names, train.ema)

    def _stream(self) -> None:
        """Draw from what is trained on, as far as the state says."""
        self._ahead.close()
        more = [self.sets.reserve] if self.state.replaying and self.sets.reserve else []
        self.streams = Streams([*self.sets.train, *more], self.seed, self.settings.bucket)

    # --- state ---

    def snapshot(self) -> Snapshot:
        """All that the rest of the run depends on."""
        self.state.log_offset = self.log.offset()
        self.state.watch = self.watch.memory()
        tensors = optimizer_tensors(self.optimizer, self.names)
        parts = map(self.parallel.gathered, (self.names, tensors, self.average.weights))
        return Snapshot(*parts, state=asdict(self.state))

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot."""
        with torch.no_grad():
            for name, parameter in self.names.items():
                parameter.copy_(placed(snapshot.weights[name], parameter))
            for name, tensor in self.average.weights.items():
                tensor.copy_(placed(snapshot.averaged[name], tensor))
        self.optimizer.state.clear()
        restore_optimizer(self.optimizer, self.names, snapshot.optimizer)
        self.state = State(**snapshot.state)
        self.watch.restore(self.state.watch)
        self._stream()

    def save(self) -> None:
        """Write a checkpoint of now."""
        self.state.saved_at = self.state.step
        path = self.checkpoints.save(self.snapshot(), last=True)
        self.on_event("checkpoint", {"step": self.state.step, "path": str(path)})

    # --- the run ---

    def run(self) -> State:
        """Train to the end, or until early stopping.

        Raises:
            Stopped: a stop was asked for; everything is saved.
            Diverged: too many NaN or inf steps in a row; everything is saved.
        """
        with own_randomness(), self.gradients.running():
            try:
                while not self._done():
                    self._check_stop(self.parallel.agreed(self.stop()))
                    self._step()
            except Stopped:
                self.save()
                raise
        return self.state

    def _done(self) -> bool:
        """Do what is due at this step; true if it was the last one."""
        self._due()
        return self.state.stopped_early or self.state.step >= self.intervals.total

    def _check_stop(self, number: int | None = None) -> None:
        if number := self.stop() if number is None else number:
            raise Stopped(number, f"stopped at step {self.state.step}")

    def _due(self) -> None:
        state, every = self.state, self.intervals
        at_end = state.step >= every.total or state.stopped_early
        if state.evaluated_at < state.step and (at_end or state.step % every.evaluate == 0):
            if self._validate():
                return
            at_end = at_end or state.stopped_early
        wanted = self.preview is not None and (
            at_end or (every.preview and state.step % every.preview == 0)
        )
        if wanted and state.previewed_at < state.step:
            with self.weights_in_use(), self.parallel.whole(), self._base_at_start():
                heard = self.parallel.lead(self._preview)
            state.previewed_at = state.step
            self.on_event("preview", {"step": state.step})
            sounds = [Sound(level, moves, tuple(place)) for level, moves, place in heard]
            if self._react(self.watch.after_preview(state.step, sounds)):
                return
        if self.good is not None and self.watch.calm and self.good.is_due(state):
            self.good.keep(self.snapshot, state)
        if state.saved_at < state.step and (at_end or state.step % every.checkpoint == 0):
            self.save()

    def _preview(self) -> list[tuple[float, float, tuple[float, ...]]]:
        """What the previews of this step sound like, if anybody watches."""
        assert self.preview is not None
        takes = self.preview(self.state.step)
        return [astuple(listen(take)) for take in takes] if self.watch.watchers else []

    def _step(self) -> None:
        begin = time.perf_counter()
        step, train = self.state.step, self.settings
        rate = learning_rate(train, step, self.intervals.total) * self.state.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.gradients.clear()
        self.bundle.module.train()
        shares: dict[str, Tensor] = {}
        part, clips, epoch = 0, 0, 0
        for drawn in self._ahead.step(step):
            if drawn.stream.name == MAIN:
                clips, epoch = drawn.clips, drawn.epoch
            counts = self.parallel.summed(drawn.counts(self.bundle.module))
            # Gradients are averaged over the processes, and are to be their sum.
            factor = drawn.stream.weight * self.parallel.world
            for batch, weight in zip(drawn.batches, drawn.weights, strict=True):
                # Dropout and the like draw from global generators; seeded by position, they need no
                # saving.
                seed_everything(stable_seed(self.seed, "step", step, part))
                share = self.gradients.add(batch, counts, weight, factor)
                shares[drawn.stream.name] = shares.get(drawn.stream.name, 0) + share
                part += 1
        self.parallel.after_backward(self.names)
        # The one place in a step that waits for the device: all of it is under way by now.
        size = self.parallel.clip(self.names, train.clip_norm)
        losses = dict(self.parallel.summed({name: float(one) for name, one in shares.items()}))
        value = losses.pop(MAIN)
        if good := all(map(math.isfinite, (value, size, *losses.values()))):
            self.optimizer.step()
            self.adapter.after_step(rate)
            self.average.update(self.names, self.state.step)
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
        self.state.bad_steps += not good
        self.state.bad_in_a_row = 0 if good else self.state.bad_in_a_row + 1
        peak = train.lr * self.state.rate_factor
        if not self._react(self.watch.after_step(Step(step + 1, value, size, peak, good, clips))):
            self._check_bad(value, size)

    def _check_bad(self, loss: float, norm: float) -> None:
        if self.state.bad_in_a_row >= self.settings.max_bad_steps:
            self.save()
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            raise Diverged(
                f"the {what} was NaN or inf for {self.state.bad_in_a_row} steps in a row "
                f"(until step {self.state.step}); these steps were skipped, the weights before them are saved",
                f"lower train.lr (now {self.settings.lr:g}) or set base.dtype=float32",
            )

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

    def weights_in_use(self) -> AbstractContextManager[None]:
        """The weights that count: the moving average if there is one, else those that train."""
        return self.average.in_use(self.names)

    # --- validation ---

    def _validate(self) -> bool:
        """Measure; true if the run went back for what that showed."""
        state = self.state
        values: dict[str, float] = {}
        scatter = None
        with self.weights_in_use(), self.parallel.whole():
            for prefix, clips in (
                ("", self.sets.valid),
                ("general_", self.sets.general),
                ("anchor_", self.sets.anchor),
            ):
                each = self._clip_losses(clips)
                found = mean_of(each, self.bundle) if each else {}
                values |= {prefix + key: value for key, value in found.items()}
                scatter = scatter_of(each, self.bundle) if not prefix else scatter
            for prefix in ("", "general_", "anchor_"):
                if (loss := values.get(f"{prefix}loss")) is None:
                    continue
                name = prefix.removesuffix("_") or "loss"
                if getattr(state, f"first_{name}") is None:
                    setattr(state, f"first_{name}", loss)
                setattr(state, f"last_{name}", loss)
            loss, judged = values.get("loss"), {}
            aim = loss
            if self.judge is not None:
                with self._base_at_start():
                    judged = dict(self.parallel.lead(self.judge))
                state.first_judged = state.first_judged or judged
                aim = -judged["score"]
            if aim is not None and aim < state.best_aim:
                state.best_aim, state.best_step, state.without_progress = aim, state.step, 0
                state.best_loss = math.inf if loss is None else loss
                state.best_judged = judged or None
                weights = self.parallel.gathered(self.names)
                told = {"step": state.step, "loss": loss}
                self.best.save(Snapshot(weights, {}, {}, told), last=True)
            elif aim is not None:
                state.without_progress += 1
        state.evaluated_at = state.step
        patience = self.settings.patience
        state.stopped_early |= bool(patience and state.without_progress >= patience)
        if judged:
            self.log.write("judged", state.step, **judged)
            self.on_event("judged", judged | {"step": state.step})
        if values:
            self.log.write("valid", state.step, **values)
            self.on_event("valid", values | {"step": state.step})
        return self._react(self.watch.after_validation(Validation(state.step, values, scatter)))

    def _clip_losses(self, examples: Sequence[Example]) -> list[dict[str, tuple[float, float]]]:
        """Each clip's: the same numbers for the same weights and clips."""
        size, stop = self.settings.batch_size, self._check_stop
        compute = partial(forward, self.bundle, dtype=self.dtype)
        return clip_losses(self.bundle, examples, size, compute, stop, self.parallel)

    # --- pitfalls ---

    def note(self, found: Finding, done: str = "") -> None:
        """Tell of a finding, and of what was done about it, wherever a reader may look."""
        told = {
            "name": found.name,
            "message": found.message,
            "mend": found.mend,
            "action": done,
            # NaN and infinity are no JSON.
            "values": {
                key: value
                for key, value in found.values.items()
                if not isinstance(value, float) or math.isfinite(value)
            },
        }
        self.state.pitfalls.append({"step": self.state.step, **told})
        self.log.write("pitfall", self.state.step, **told)
        self.on_event("pitfall", {"step": self.state.step, **told})

    def _react(self, findings: Sequence[Finding]) -> bool:
        """Do what findings ask for; true if the run went back, so that this step is no more."""
        state, reserve = self.state, self.sets.reserve
        for found in findings:
            wanted, done = "" if state.stopped_early else found.action, ""
            if wanted == "roll_back" and self.good is not None:
                back = partial(self.good.before, found.since, state)
                snapshot = self.parallel.from_leader(back)
                if snapshot is not None:
                    self._roll_back(found, snapshot)
                    return True
            if wanted in ("roll_back", "stop"):
                state.stopped_early = True
                chosen = "best score" if self.judge else "lowest validation loss"
                done = f"stopped early; the weights with the {chosen} are kept"
            elif wanted == "replay" and reserve is not None and not state.replaying:
                state.replaying = True
                self._stream()
                done = f"{len(reserve.examples)} other clips are trained on besides from now on"
            self.note(found, done)
        return False

    def _roll_back(self, found: Finding, snapshot: Snapshot) -> None:
        before = self.state
        rate, step = self.settings.lr * before.rate_factor / CUT, snapshot.state["step"]
        self.note(found, f"went back to step {step} and on with the learning rate {rate:g}")
        self.log.write("rollback", before.step, to=step, lr=rate)
        self.restore(snapshot)
        carry(before, self.state)
        self._stream()
        self.save()
