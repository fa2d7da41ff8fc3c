"""From ``key=value,value`` words to configurations that passed, every fault reported before any trains."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config import Loaded, dump, load_config
from tunesmith.config_source import Source
from tunesmith.errors import ConfigError, Fault, UserError

MOST = 1000
"""Trials of one sweep: more is a slip of the pen."""

_OPEN, _CLOSE = "[{(", "]})"


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a sweep.

    Attributes:
        key: hash of all that it depends on; the name of its folder.
        words: the settings that set it apart, ``method.rank=16``.
        values: the same as Python values, by key.
        loaded: the whole configuration.
    """

    key: str
    words: tuple[str, ...]
    values: Mapping[str, Any]
    loaded: Loaded

    @property
    def name(self) -> str:
        """The words on one line."""
        return " ".join(self.words) or "as configured"


def split_values(text: str) -> list[str]:
    """The parts between commas that stand in no bracket and no quotes: ``[1,2],[3,4]`` are two."""
    parts, depth, quote, start = [], 0, "", 0
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def combinations(
    words: Sequence[str], draw: int | None = None, seed: int = 0
) -> list[tuple[str, ...]]:
    """Every combination of the values that the words give, in their order.

    Args:
        words: ``key=value`` or ``key=value,value``; those with one value are the same in all.
        draw: take so many at random; all by default.
        seed: of that choice.

    Returns:
        The words of each combination, those with several values only.

    Raises:
        UserError: too many, or nothing to choose from.
    """
    axes: list[list[str]] = []
    for word in words:
        key, equals, text = word.partition("=")
        values = [part.strip() for part in split_values(text)] if equals else []
        if len(values) > 1:
            if "" in values:
                raise UserError(f"{word}: a value is missing", "write e.g. train.lr=1e-4,3e-4")
            axes.append([f"{key}={value}" for value in dict.fromkeys(values)])
    keys = Counter(axis[0].partition("=")[0] for axis in axes)
    if twice := [key for key, count in keys.items() if count > 1]:
        raise UserError(f"{twice[0]} is given twice", "give all of its values in one word")
    if not axes:
        raise UserError(
            "nothing to sweep over", "give several values to a setting: train.lr=1e-4,3e-4"
        )
    if draw is not None and draw < 1:
        raise UserError(f"--random {draw} is no number of trials", "give 1 or more")
    count = 1
    for axis in axes:
        count *= len(axis)
    chosen = list(range(min(count, MOST + 1)))
    if draw is not None and draw < count:
        # Drawn by number: a grid of a million need not be written down for fifty of it.
        chosen = _drawn(count, draw, seed)
    if len(chosen) > MOST:
        raise UserError(
            f"{count:,} combinations are more than {MOST:,}", "give fewer values, or --random 50"
        )
    return [_numbered(axes, number) for number in chosen]


def _drawn(count: int, draw: int, seed: int) -> list[int]:
    """So many different numbers below ``count``, which may be beyond what a range can be long."""
    if count <= 2 * draw:
        return sorted(random.Random(seed).sample(range(count), draw))
    rng, chosen = random.Random(seed), set()
    while len(chosen) < min(draw, MOST + 1):
        chosen.add(rng.randrange(count))
    return sorted(chosen)


def _numbered(axes: Sequence[Sequence[str]], number: int) -> tuple[str, ...]:
    """The combination of that number, the last axis turning fastest."""
    found = []
    for axis in reversed(axes):
        number, place = divmod(number, len(axis))
        found.append(axis[place])
    return tuple(reversed(found))


def trials_of(
    file: Path | None,
    words: Sequence[str],
    settings: Mapping[str, Any],
    out: Path,
    *,
    recipe: str | Path | None = None,
    draw: int | None = None,
    seed: int = 0,
) -> list[Trial]:
    """The trials, each with its own folder under ``out/trials``.

    Args:
        file: a configuration; the same for all.
        words: settings, some with several values.
        settings: dotted keys to values, as for :func:`tunesmith.config.load_config`.
        out: the sweep's folder.
        recipe: as there.
        draw, seed: as of :func:`combinations`.

    Raises:
        ConfigError: naming every fault of every combination.
        UserError: the words are no grid.
    """
    chosen = combinations(words, draw, seed)
    common = [word for word in words if len(split_values(word.partition("=")[2])) < 2]
    swept = {word.partition("=")[0] for word in chosen[0]}
    given = {key: value for key, value in settings.items() if value is not None} | {
        "out": str(out / "trials")
    }
    if clash := swept & (given.keys() | {word.partition("=")[0] for word in common}):
        raise UserError(f"{min(clash)} is given twice", "leave out the single value")
    if "out" in swept:
        raise UserError("out is the sweep's own", "give --out one folder")
    trials: list[Trial] = []
    faults: dict[Fault, list[str]] = {}
    for few in chosen:
        try:
            loaded = load_config(file, given, [*common, *few], recipe)
        except ConfigError as error:
            for fault in error.faults:
                faults.setdefault(fault, []).append(" ".join(few))
            continue
        trials.append(_trial(loaded, few, out))
    if faults:
        raise ConfigError(
            fault if len(where) == len(chosen) else replace(fault, where=_of(where))
            for fault, where in faults.items()
        )
    unique = {trial.key: trial for trial in trials}
    return list(unique.values())


def _of(where: Sequence[str]) -> str:
    more = f" and {len(where) - 1} more" if len(where) > 1 else ""
    return f"with {where[0]}{more}"


def _trial(loaded: Loaded, words: tuple[str, ...], out: Path) -> Trial:
    key = key_of(loaded)
    source = Source()
    for word in words:
        name, _, text = word.partition("=")
        source.put_text(name, text, "")
    values = {word.partition("=")[0]: _at(source.values, word.partition("=")[0]) for word in words}
    config = loaded.config.model_copy(update={"out": str(out / "trials" / key)})
    return Trial(key, words, values, replace(loaded, config=config))


def _at(values: Mapping[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    # `method=lora` stands for `method: {name: lora}`.
    return next(iter(node.values())) if isinstance(node, Mapping) and len(node) == 1 else node


def key_of(loaded: Loaded) -> str:
    """A name for all that a training depends on: its settings and its data, but not where it stands."""
    values = {name: value for name, value in dump(loaded).items() if name != "out"}
    folders = [loaded.config.data.path, loaded.config.data.general, loaded.config.prior.path]
    folders += [loaded.config.replay.path]
    parts = [values, [_content(folder) for folder in folders if folder]]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _content(folder: str) -> str:
    """Changes with a data set: its own fingerprint, else names, lengths and times of its files."""
    place = Path(folder).expanduser()
    try:
        return str(json.loads((place / "dataset.json").read_bytes())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        files = sorted(path for path in place.rglob("*") if path.is_file())
        told = [(str(f.relative_to(place)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return hashlib.sha256(repr(told).encode()).hexdigest()


__all__ = ["MOST", "Trial", "combinations", "key_of", "split_values", "trials_of"]
