"""A run's checkpoints as adapters, and which of them comes nearest to held-out recordings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.atomic import write_bytes
from tunesmith.errors import UserError
from tunesmith.evaluation.evaluate import Wishes, evaluate
from tunesmith.evaluation.findings import Evaluation
from tunesmith.evaluation.open import base_of, opened, settings_of
from tunesmith.formats.adapter import beside_of, load_adapter, method_of, read_card, save_adapter
from tunesmith.formats.card import model_card
from tunesmith.methods._together import attach_all
from tunesmith.training.checkpoint import Checkpoints, Snapshot
from tunesmith.training.signals import StopFlag

OnEvent = Callable[[str, Mapping[str, Any]], None]
_OF_THE_FORMAT = {"format", "base", "method", "linear", "tokens", "task", "components"}


@dataclass(frozen=True, slots=True)
class Picked:
    """What :func:`pick` did.

    Attributes:
        step: of the weights that the run has now.
        before: of those that it had.
        kad: distance to the held-out recordings, by step.
        loss: validation loss, by step; empty where it was not measured.
        evaluation: all that was measured.
    """

    step: int
    before: int
    kad: Mapping[int, float]
    loss: Mapping[int, float]
    evaluation: Evaluation


def pick(
    run: Path,
    *,
    out: Path,
    wishes: Wishes | None = None,
    reference: str | Path | None = None,
    stop: StopFlag | None = None,
    on_event: OnEvent | None = None,
) -> Picked:
    """Give a run the weights of the checkpoint that sounds nearest to held-out recordings.

    Nearest by KAD; among those whose KAD is within the best one's interval, the lowest validation
    loss. What is picked on these recordings looks a little better on them than it is: to report it,
    evaluate it again on others.

    Args:
        run: a finished run that still has its checkpoints.
        out: folder for candidates, takes and ``evaluation.json``.
        wishes, reference, stop, on_event: as for :func:`tunesmith.evaluation.evaluate.evaluate`.

    Raises:
        UserError: there is nothing to choose from.
    """
    before = int(read_card(run)["step"])
    folders = candidates(run, out / "checkpoints")
    wishes = replace(wishes or Wishes(), general_takes=0)
    evaluation = evaluate(
        [str(folder) for folder in folders.values()],
        out=out,
        reference=reference,
        wishes=wishes,
        stop=stop,
        on_event=on_event,
    )
    key_of = {Path(one.path).resolve(): key for key, one in evaluation.subjects.items()}
    kad: dict[int, float] = {}
    loss: dict[int, float] = {}
    highest: dict[int, float] = {}
    for step, folder in folders.items():
        key = key_of[folder.resolve()]
        found, other = evaluation.of(key, "kad"), evaluation.of(key, "validation_loss")
        if found is not None and found.value is not None:
            kad[step] = found.value
            highest[step] = found.interval[1] if found.interval else found.value
        if other is not None and other.value is not None:
            loss[step] = other.value
    if not kad:
        raise UserError(
            f"no checkpoint of {run} could be measured", "look at its takes in " + str(out)
        )
    nearest = min(kad, key=lambda step: kad[step])
    alike = [step for step in kad if kad[step] <= highest[nearest]]
    step = min(alike, key=lambda one: (loss.get(one, 0.0), kad[one]))
    if step != before:
        take_over(folders[step], run)
    return Picked(step, before, kad, loss, evaluation)


def candidates(run: Path, out: Path) -> dict[int, Path]:
    """Each whole checkpoint of a run as an adapter of its own, by step.

    Raises:
        UserError: there are fewer than two.
    """
    card = read_card(run)
    found = {int(card["step"]): run}
    whole: dict[int, Snapshot | None] = {}
    # The weights of the lowest validation loss lie apart, and may not be the run's own any more.
    for place in (run / "checkpoints", run / "checkpoints" / "best"):
        for path in sorted(place.glob("step-*")):
            step = int(path.name.removeprefix("step-"))
            if step and step not in found and whole.get(step) is None:
                whole[step] = Checkpoints(place).at(step)
    if not any(whole.values()):
        raise UserError(
            f"{run} has no other whole checkpoint than that of step {card['step']}",
            "train with train.keep_checkpoints=10 to have some to choose from",
        )
    bundle, _ = opened(base_of(run).plain(), None)
    method, config = method_of(card, run / "adapter.json")
    beside = beside_of(card, run / "adapter.json")
    seed = int(settings_of(run).get("seed", 0))
    adapter = attach_all(bundle, method, config, beside, seed)
    names = adapter.parameters()
    for step, snapshot in sorted(whole.items()):
        if snapshot is None:
            continue
        with torch.no_grad():
            for name, parameter in names.items():
                parameter.copy_((snapshot.averaged or snapshot.weights)[name])
        folder = out / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        details = {key: value for key, value in card.items() if key not in _OF_THE_FORMAT}
        state = snapshot.state
        losses = {"adapted": state.get("last_loss", state.get("loss"))}
        losses = dict(card["metrics"]["validation_loss"]) | losses
        details |= {
            "step": step,
            "metrics": {**card["metrics"], "validation_loss": losses},
        }
        save_adapter(folder, adapter, bundle, details)
        shutil.copyfile(run / "run.json", folder / "run.json")
        found[step] = folder
    adapter.detach()
    return dict(sorted(found.items()))


def take_over(folder: Path, run: Path) -> None:
    """The adapter of one folder becomes another run's.

    Args:
        folder: of the adapter to take.
        run: whose adapter it replaces.
    """
    bundle, _ = opened(base_of(run).plain(), None)
    adapter = load_adapter(folder, bundle)
    card = read_card(folder)
    details = {key: value for key, value in card.items() if key not in _OF_THE_FORMAT}
    save_adapter(run, adapter, bundle, {**details, "picked": "nearest to held-out recordings"})
    write_bytes(run / "README.md", model_card(run).encode())
