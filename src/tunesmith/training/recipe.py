"""A recipe's way from a folder of recordings to a data set that a run can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.config import Loaded
from tunesmith.config.recipes import Change, Recipe
from tunesmith.data.audiofolder import SPLIT_NAMES, describe
from tunesmith.data.prepare import Progress, prepare
from tunesmith.families import find_base
from tunesmith.training.consent import consent_of
from tunesmith.training.guards import holds_run
from tunesmith.training.parallel import here

DATA = "data"
"""Where in a run's folder its recordings are prepared."""


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a data set: `prepare` made it, or it has sides of its own."""
    if describe(folder) is not None:
        return True
    return any(
        one.is_dir() and SPLIT_NAMES.get(one.name.lower()) == "train" for one in folder.iterdir()
    )


def with_data(
    loaded: Loaded,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], int] = lambda: 0,
    say: Callable[[str], None] = lambda line: None,
) -> Loaded:
    """The configuration with a data set that a run can read, prepared now if need be.

    Plain recordings are cut as the recipe says, within what the base takes, into ``OUT/data``;
    what is there already is taken as it is. Without a recipe nothing happens, nor where ``OUT``
    holds a run: what that stands on must not change.

    Args:
        loaded: the configuration.
        on_progress: told how far preparing is.
        should_stop: polled; a signal's number ends it.
        say: told one line if recordings are prepared, and each warning.

    Raises:
        UserError: recordings that cannot be prepared.
        Stopped: asked to; the same command goes on.
    """
    if loaded.recipe is None or holds_run(Path(loaded.config.out).expanduser()):
        return loaded
    with here().leader_first():  # of several processes one prepares, and the others find it done
        return _prepared(loaded, loaded.recipe, on_progress, should_stop, say)


def _prepared(
    loaded: Loaded,
    recipe: Recipe,
    on_progress: Callable[[Progress], None] | None,
    should_stop: Callable[[], int],
    say: Callable[[str], None],
) -> Loaded:
    config = loaded.config
    out = Path(config.out).expanduser()
    folder = Path(config.data.path).expanduser()
    if not is_prepared(folder):
        dest = out / DATA
        of_voice = {}
        if recipe.prepare.voice:
            voice = config.voice
            of_voice = {"consent": consent_of(loaded, {}), "asr": voice.asr, "encoder": voice.ear}
        base = find_base(config.base.name, config.base.revision)
        rate_hz, channels, longest_s = base.family.load().limits(base)
        made = prepare(
            folder,
            dest,
            sample_rate_hz=rate_hz,
            channels=channels,
            base_max_s=longest_s,
            seed=config.seed,
            on_progress=on_progress,
            should_stop=should_stop,
            **recipe.prepare.model_dump(),
            **of_voice,
        )
        what = "is there already" if made.unchanged else "prepared"
        left = f", {made.rejected} left out (rejected.jsonl)" if made.rejected else ""
        say(
            f"{folder} {what} as {dest}: {made.train} clips to train, {made.valid} to validate{left}"
        )
        for warning in made.warnings:
            say(f"warning: {warning}")
        data = config.data.model_copy(update={"path": str(dest)})
        config, folder = config.model_copy(update={"data": data}), dest
    recipe = dataclasses.replace(recipe, changes=(*recipe.changes, *_cut(recipe, folder, config)))
    return dataclasses.replace(loaded, config=config, recipe=recipe)


def _cut(recipe: Recipe, folder: Path, config: Any) -> list[Change]:
    """Where a data set was not cut as the recipe says."""
    made = (describe(folder) or {}).get("settings", {})
    ours = folder.resolve() == (Path(config.out).expanduser() / DATA).resolve()
    by = f"the length that {config.base.name} takes" if ours else "the data set, as it was prepared"
    return [
        Change(f"prepare.{key}", wanted, made[key], by)
        for key, wanted in recipe.prepare.model_dump().items()
        if key in ("min_s", "max_s", "normalise_lufs") and key in made and made[key] != wanted
    ]


def told(loaded: Loaded) -> list[str]:
    """The lines about a recipe at the start of a run: its name, then each number that changed."""
    recipe = loaded.recipe
    if recipe is None:
        return []
    usual = f", usually {recipe.steps[0]} to {recipe.steps[1]} steps" if recipe.steps else ""
    lines = [f"recipe {recipe.name}: {recipe.summary}{usual}"]
    for one in recipe.changes:
        said = "left open" if one.recipe is None else _plain(one.recipe)
        lines.append(f"  {one.key}: {said} in the recipe, {_plain(one.used)} by {one.by}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


__all__ = ["DATA", "is_prepared", "told", "with_data"]
