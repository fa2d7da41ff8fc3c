"""A whole sweep: trials, rungs at which the worst stop, and what came of them.

Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization"): at a quarter and at half of the steps the better half goes on. All trials
of a rung are measured before any is judged, so that neither the engine nor the number of workers
decides who goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import dump
from tunesmith.embeddings import open_embedder
from tunesmith.errors import UserError, did_you_mean
from tunesmith.evaluation.losses import chosen
from tunesmith.families import EMBEDDED, base_limits
from tunesmith.sweep.grid import Trial
from tunesmith.sweep.table import Row, Table, tabled
from tunesmith.sweep.trial import best_dtype, total_steps
from tunesmith.training.guards import anywhere
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

OnEvent = Callable[[str, Mapping[str, Any]], None]
Run = Callable[[Sequence[Job]], dict[str, Any]]

ENGINES = ("local", "ray")
AUTO = "auto"  # of base.dtype
RUNGS = 4
"""Parts of a training; there are rungs after the first and the second."""

_FEWEST = 2  # trials that no rung goes below: the best has to be compared with something
_MOST_HELD_OUT = 200
_LONGEST_S = 5.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to sweep.

    Attributes:
        takes: of each trial, at every rung and at the end.
        seconds: of each; by default the held-out clips' median, at most 5.
        embedding: what hears them; by default the embedded one where all bases are, else CLAP.
        seed: of the first take.
        halving: stop the worst at the rungs.
        engine: ``local`` or ``ray``.
        workers: trials at a time; 1 by default, and what the cluster has with Ray.
    """

    takes: int = 16
    seconds: float | None = None
    embedding: str = ""
    seed: int = 1
    halving: bool = True
    engine: str = "local"
    workers: int | None = None


def sweep(
    trials: Sequence[Trial],
    out: Path,
    *,
    wishes: Wishes | None = None,
    stop: StopFlag | None = None,
    on_event: OnEvent | None = None,
) -> Table:
    """Train the trials and tell which comes nearest to the held-out clips, by KAD.

    Each is a run in ``out/trials/HASH``. Called again, what is finished is not done again; a trial that
    was cut off goes on.

    Args:
        trials: of :func:`tunesmith.sweep.grid.trials_of`.
        out: takes the trials, ``sweep.json``, ``sweep.csv`` and ``sweep.html``.
        wishes: how.
        stop: a stop flag.
        on_event: told what happens; of a trial with its name as ``of``.

    Raises:
        UserError: nothing is held out to measure on, or a wish makes no sense.
        Stopped: what is finished stays.
    """
    wishes, stop = wishes or Wishes(), stop or StopFlag()
    event = on_event or (lambda kind, values: None)
    if wishes.engine not in ENGINES:
        raise UserError(
            f"there is no engine called {wishes.engine!r}", did_you_mean(wishes.engine, ENGINES)
        )
    if wishes.takes < 4:
        raise UserError(f"{wishes.takes} takes prove nothing", "give 4 or more")
    measured = _measured(trials, wishes)
    with ExitStack() as held:
        run = _opened(wishes, stop, event, held)
        dtype = _dtype(trials, run, wishes)
        jobs = {trial.key: _Runner(trial, out, measured, wishes, dtype) for trial in trials}
        rows = _halved(trials, jobs, run, wishes, event)
    table = tabled(rows, measured.embedding, measured.reference, measured.facts())
    table.write(out)
    return table


def _halved(
    trials: Sequence[Trial],
    jobs: Mapping[str, _Runner],
    run: Run,
    wishes: Wishes,
    event: OnEvent,
) -> list[Row]:
    """Trains rung by rung; a row for every trial, however far it came."""
    rungs = RUNGS // 2 if wishes.halving and len(trials) > _FEWEST else 0
    found: dict[str, dict[str, Any]] = {}
    stopped: dict[str, int] = {}
    alive = list(trials)
    for rung in (*range(1, rungs + 1), None):
        event(
            "phase",
            {"name": f"{len(alive)} trials to {'the end' if rung is None else f'rung {rung}'}"},
        )
        work = [job for trial in alive if (job := jobs[trial.key].job(rung)) is not None]
        told = run(work)
        found |= {trial.key: told[trial.key] for trial in alive if trial.key in told}
        alive = [trial for trial in alive if "failed" not in found.get(trial.key, {})]
        if rung is not None and len(alive) > _FEWEST:
            scores = {one.key: jobs[one.key].score(found, rung) for one in alive}
            ranked = sorted(alive, key=lambda one: (scores[one.key], one.key))
            kept = {one.key for one in ranked[: max(_FEWEST, -(-len(alive) // 2))]}
            stopped |= {one.key: rung for one in alive if one.key not in kept}
            alive = [one for one in alive if one.key in kept]
    return [
        jobs[trial.key].row(found.get(trial.key, {}), stopped.get(trial.key)) for trial in trials
    ]


@dataclass(frozen=True, slots=True)
class _Measured:
    """With what, by what and on what all trials are measured."""

    embedding: str
    reference: list[str]
    prompts: list[str]
    seconds: float
    seed: int
    hashes: list[str]

    def facts(self) -> dict[str, Any]:
        return {"takes": len(self.prompts), "seconds": self.seconds, "seed": self.seed}


def _measured(trials: Sequence[Trial], wishes: Wishes) -> _Measured:
    paths = {str(Path(t.loaded.config.data.path).expanduser().resolve()): t for t in trials}
    if len(paths) > 1:
        raise UserError(
            "these trials have different data, and what each would be measured on differs",
            "sweep over one data set",
        )
    path = next(iter(paths))
    clips = chosen(path, "valid")
    if len(clips) < 4:
        raise UserError(
            f"{path} has {len(clips)} held-out clips, and KAD needs 4 or more",
            "prepare it with --valid-share 0.2, or from more recordings",
        )
    step = max(1, -(-len(clips) // _MOST_HELD_OUT))
    clips = clips[::step]
    bases = {trial.loaded.config.base.name for trial in trials}
    embedding = wishes.embedding or ("pocket" if bases <= EMBEDDED.keys() else "clap")
    open_embedder(embedding)  # now: to find it missing after an hour would be late
    longest = min(base_limits(base)[2] for base in bases)
    usual = sorted(clip.duration_s for clip in clips)[len(clips) // 2]
    seconds = wishes.seconds or round(min(usual, _LONGEST_S, longest), 3)
    if seconds > longest:
        raise UserError(
            f"takes of {seconds:g} s are longer than the base's {longest:g} s", f"give {longest:g}"
        )
    captions = [clip.caption for clip in clips]
    return _Measured(
        embedding,
        [str(clip.path.resolve()) for clip in clips],
        [captions[index % len(captions)] for index in range(wishes.takes)],
        seconds,
        wishes.seed,
        [clip.sha256 for clip in clips],
    )


class _Runner:
    """The jobs of one trial."""

    def __init__(
        self, trial: Trial, out: Path, measured: _Measured, wishes: Wishes, dtype: str
    ) -> None:
        self.trial, self.measured = trial, measured
        self.total = total_steps(trial.loaded)
        self.every = max(1, -(-self.total // RUNGS))
        values = anywhere(dump(trial.loaded))
        # What is heard at the rungs are previews of the held-out captions.
        values["preview"] |= {
            "prompts": measured.prompts,
            "seconds": measured.seconds,
            "seed": measured.seed,
            "every": self.every if wishes.halving else 0,
        }
        told = [trial.key, values["preview"], measured.embedding, measured.hashes]
        name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = (out / "trials" / name).resolve()
        if values["base"]["dtype"] == AUTO:
            values["base"]["dtype"] = dtype
        self.values = values | {"out": str(self.folder)}

    def steps(self, rung: int) -> int:
        return rung * self.every

    def job(self, rung: int | None) -> Job | None:
        """To a rung, or to the end; None where a training is too short to have that rung."""
        if rung is not None and self.steps(rung) >= self.total:
            return None
        arguments = {
            "config": self.values,
            "steps": None if rung is None else self.steps(rung),
            "prompts": self.measured.prompts,
            "seconds": self.measured.seconds,
            "seed": self.measured.seed,
            "embedding": self.measured.embedding,
            "reference": self.measured.reference,
        }
        return Job(self.trial.key, "tunesmith.sweep.trial:run_trial", arguments)

    def score(self, found: Mapping[str, Mapping[str, Any]], rung: int) -> float:
        """KAD at a rung, or at the end of what ended before; the best there is where none is known."""
        told = found.get(self.trial.key, {"rungs": {}})
        # Of the rung first: a sweep that is run again has to judge by what it judged by before.
        at_rung = told["rungs"].get(str(self.steps(rung)), told.get("kad", float("-inf")))
        return float(at_rung)

    def row(self, told: Mapping[str, Any], rung: int | None) -> Row:
        state = "finished" if rung is None else f"stopped at step {self.steps(rung)}"
        state = "failed" if "failed" in told else state
        return Row(
            words=self.trial.words,
            values=dict(self.trial.values),
            folder=self.folder,
            state=state,
            steps=self.total if rung is None else self.steps(rung),
            rungs={int(step): float(kad) for step, kad in told.get("rungs", {}).items()},
            kad=told.get("kad") if rung is None else None,
            interval=told.get("interval") if rung is None else None,
            loss=told.get("loss"),
            train_s=told.get("train_s"),
            takes=tuple(told.get("takes", ())),
            failed=told.get("failed", ""),
        )


def _opened(wishes: Wishes, stop: StopFlag, event: OnEvent, held: ExitStack) -> Run:
    """What runs jobs; ``held`` closes it."""
    if wishes.engine == "ray":
        from tunesmith.sweep.on_ray import Cluster

        cluster = held.enter_context(Cluster(wishes.workers, stop, event))
        return lambda jobs: cluster.run(jobs, lost=_lost) if jobs else {}
    workers = wishes.workers or 1
    return lambda jobs: (
        run_jobs(jobs, workers=workers, stop=stop, on_event=event, apart=True, lost=_lost)
        if jobs
        else {}
    )


def _lost(reason: str) -> dict[str, Any]:
    """What a trial gave whose process was killed; not written down, so that it is tried again."""
    return {"rungs": {}, "failed": f"it was killed, as for want of memory: {reason}"}


def _dtype(trials: Sequence[Trial], run: Run, wishes: Wishes) -> str:
    """What ``base.dtype: auto`` means in all trials: by chance or machine they would differ in it.

    Told by a machine that trials run on, which may have a GPU where this one has none.
    """
    if all(trial.loaded.config.base.dtype != AUTO for trial in trials):
        return AUTO
    if wishes.engine == "local":
        return best_dtype(None, lambda kind, values: None)["dtype"]
    told = run([Job("precision", "tunesmith.sweep.trial:best_dtype")])["precision"]
    return told.get("dtype", AUTO)


__all__ = ["ENGINES", "Wishes", "sweep"]
