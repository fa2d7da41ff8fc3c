"""One training of a sweep, up to a rung or to its end, and how far its takes are from held-out clips.

A trial is a run as `tunesmith train` makes it, in a folder of its own. It pauses at a rung as if it had
been asked to stop and goes on exactly from there, so that a trial that is not stopped ends as if it had
never paused. What is measured at a rung are the previews of that step; at the end, takes of the saved
adapter. Prompts and seeds are the same in every trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.atomic import write_json
from tunesmith.config import Loaded, load_config
from tunesmith.data.load import load_dataset
from tunesmith.data.quality import best
from tunesmith.embeddings import open_embedder
from tunesmith.errors import Diverged, Stopped, UserError
from tunesmith.evaluation.crowds import crowd_kad
from tunesmith.evaluation.hearing import embed
from tunesmith.evaluation.takes import make_takes
from tunesmith.formats.adapter import read_card
from tunesmith.training.hardware import best_device, choose_dtype
from tunesmith.training.run import intervals, train
from tunesmith.training.signals import StopFlag

OnEvent = Callable[[str, Mapping[str, Any]], None]

FILE = "trial.json"
TAKES = "takes"
_PAUSE = 1_000
"""What a trial's own flag is set to at a rung: no signal has that number."""


def total_steps(loaded: Loaded) -> int:
    """Steps of a whole training."""
    if loaded.config.train.steps is not None:
        return loaded.config.train.steps
    place = Path(loaded.config.data.path).expanduser()
    clips = load_dataset(place)
    if loaded.config.data.keep_best < 1:
        clips, _ = best(clips, place, loaded.config.data.keep_best)
    return intervals(loaded.config, sum(clip.split == "train" for clip in clips)).total


def best_dtype(stop: Callable[[], int] | None, on_event: OnEvent) -> dict[str, str]:
    """``{"dtype"}``: the precision that suits the machine this runs on; a job, as :func:`run_trial` is."""
    return {"dtype": str(choose_dtype("auto", best_device())).removeprefix("torch.")}


class _Pausing(StopFlag):
    """A stop flag that a caller's own stop sets too."""

    def __init__(self, outer: Callable[[], int]) -> None:
        super().__init__()
        self._outer = outer

    def __call__(self) -> int:
        return int(self._outer() or 0) or self.number

    def check(self, message: str) -> None:
        if number := self():
            raise Stopped(number, message)


def run_trial(
    *,
    config: Mapping[str, Any],
    steps: int | None,
    prompts: Sequence[str],
    seconds: float,
    seed: int,
    embedding: str,
    reference: Sequence[str],
    stop: Callable[[], int],
    on_event: OnEvent,
) -> dict[str, Any]:
    """Trains until ``steps`` or to the end, and measures.

    What is known already is returned as it stands; a training that was cut off goes on.

    Args:
        config: dotted settings of the run, its ``out`` among them.
        steps: of the rung; None is the end.
        prompts: of the takes.
        seconds: of each.
        seed: of the first.
        embedding: what hears them.
        reference: files of the held-out clips.
        stop: polled; a number ends it, and running it again goes on.
        on_event: told what happens.

    Returns:
        ``{"rungs": {step: KAD}, "kad", "interval", "takes", "loss", "train_s", "failed"}``, as far as
        it has come; ``failed`` says why a training came to nothing.
    """
    folder = Path(config["out"])
    folder.mkdir(parents=True, exist_ok=True)
    told = _told(folder)
    if "failed" in told or "kad" in told or (steps is not None and str(steps) in told["rungs"]):
        return told
    try:
        at_rung = _previews(folder, steps)
        if len(at_rung) < len(prompts):  # else it was cut off while it was measured
            _go_on(dict(config), folder, told, steps, stop, on_event)
            at_rung = _previews(folder, steps)
        if "train_s" in told:
            _measure_end(folder, told, prompts, seconds, seed, embedding, reference, stop, on_event)
        else:
            told["rungs"][str(steps)] = _kad(at_rung, reference, embedding)["kad"]
    except UserError as error:
        # A rate that is too high, a batch that is too large: that is what a sweep is there to find.
        if not isinstance(error, Diverged):  # which would diverge again
            return told | {"failed": str(error)}
        told["failed"] = str(error)
    write_json(folder / FILE, told)
    return told


def _told(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / FILE).read_bytes())
        return told if isinstance(told.get("rungs"), dict) else {"rungs": {}}
    except (OSError, ValueError, AttributeError):
        return {"rungs": {}}


def _previews(folder: Path, steps: int | None) -> list[Path]:
    if steps is None:
        return []
    return sorted((folder / "previews" / f"step-{steps:08d}").glob("[0-9]*.flac"))


def _go_on(
    config: dict[str, Any],
    folder: Path,
    told: dict[str, Any],
    steps: int | None,
    stop: Callable[[], int],
    on_event: OnEvent,
) -> None:
    """Trains on until the rung; ``told`` has a ``train_s`` if that was the end."""
    flag = _Pausing(stop)

    def watch(kind: str, values: Mapping[str, Any]) -> None:
        on_event(kind, values)
        if kind == "preview" and steps is not None and values["step"] >= steps:
            flag.set(_PAUSE)

    if (folder / "adapter.json").is_file():  # it ended, and was cut off while it was measured
        card = read_card(folder)
        told |= {"train_s": card.get("train_s", 0.0), "step": card.get("step")}
        told["loss"] = ((card.get("metrics") or {}).get("validation_loss") or {}).get("adapted")
        return
    # Its own file has what a family's defaults and the base's notes made of the settings.
    begun = (folder / "run.json").is_file()
    file = folder / "config.yaml" if begun else None
    loaded = load_config(file, {"out": str(folder)} if begun else config)
    try:
        result = train(loaded, resume=begun, stop=flag, on_event=watch)
    except Stopped as stopped:
        if stopped.signal_number != _PAUSE:
            raise
        return
    state = result.state
    told["train_s"] = round(state.train_s, 3)
    told["step"] = result.used_step
    told["loss"] = state.best_loss if math.isfinite(state.best_loss) else None


def _measure_end(
    folder: Path,
    told: dict[str, Any],
    prompts: Sequence[str],
    seconds: float,
    seed: int,
    embedding: str,
    reference: Sequence[str],
    stop: Callable[[], int],
    on_event: OnEvent,
) -> None:
    from tunesmith.evaluation.open import base_of

    base = base_of(folder)
    files = make_takes(
        out=folder / TAKES,
        base=base.name,
        revision=base.revision,
        quantize=base.quantize,
        voice_of=base.voice_of,
        run=folder,
        prompts=prompts,
        seed=seed,
        duration_s=seconds,
        worded=True,
        stop=_Pausing(stop),
        on_event=on_event,
    )
    told |= _kad(files, reference, embedding)
    told["takes"] = [str(Path(file).relative_to(folder)) for file in files]


def _kad(files: Sequence[str | Path], reference: Sequence[str], embedding: str) -> dict[str, Any]:
    ear = open_embedder(embedding)
    found = crowd_kad(embed(reference, ear), embed(files, ear))
    return {
        "kad": round(found.value, 6),
        "interval": None if found.interval is None else [round(x, 6) for x in found.interval],
    }


__all__ = ["FILE", "TAKES", "best_dtype", "run_trial", "total_steps"]
