"""Settings under which a run fits into a given memory, at the least loss of quality."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.config import Loaded
from tunesmith.errors import ConfigError, UserError
from tunesmith.registry import plugin
from tunesmith.training.plan import Plan

_UNITS = {"": 1e9, "m": 1e6, "g": 1e9, "t": 1e12, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True, slots=True)
class Fit:
    """Settings that fit.

    Attributes:
        settings: those to be changed, dotted keys to values; empty if it fits as it is.
        plan: the plan with them.
        costs: what each change costs, in words.
    """

    settings: Mapping[str, Any]
    plan: Plan
    costs: tuple[str, ...]

    @property
    def words(self) -> str:
        """The settings as they are given on the command line."""
        return " ".join(f"{key}={_text(value)}" for key, value in self.settings.items())


def parse_size(text: str) -> int:
    """Bytes of ``8GB``, ``7.5 GiB``, ``800MB`` or ``8`` (GB).

    Raises:
        UserError: it is no size above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([mgt]i?)b?)?\s*", text.lower())
    if not found or float(found[1]) <= 0:
        raise UserError(f"--fit {text!r} is no size", "write e.g. 8GB, 7.5GiB or 800MB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def fit(
    loaded: Loaded,
    limit_bytes: int,
    plan_with: Callable[[Mapping[str, Any]], Plan],
) -> Fit:
    """The cheapest change that makes a run fit, judged by the same plan.

    In the order of what they cost in quality: smaller batches with as many clips to a step (nothing),
    activations computed anew (a third more time), 4-bit frozen weights (little), a lower rank.

    Args:
        loaded: the configuration as it is.
        limit_bytes: memory of the device that may be taken.
        plan_with: the plan with further settings; raises UserError where they are refused.

    Raises:
        UserError: nothing fits; it says what the smallest would take.
    """
    plan = plan_with({})
    if plan.memory.peak <= limit_bytes:
        return Fit({}, plan, ())
    config = loaded.config
    sizes = _batches(config.train.batch_size, config.train.accumulate)
    whole: dict[str, Any] = {}
    costs: list[str] = []
    smallest = plan
    for change, cost in ({}, ""), *_changes(loaded):
        if change:
            if "method.rank" in change:
                whole, costs = {**whole}, [one for one in costs if not one.startswith("rank")]
            try:
                least = plan_with({**whole, **change, **sizes[-1]})
            except (ConfigError, UserError):
                continue  # this method or machine cannot: the next may help
            whole, costs = {**whole, **change}, [*costs, cost]
        else:
            least = plan_with(sizes[-1]) if sizes[-1] else plan
        if least.memory.peak < smallest.memory.peak:
            smallest = least
        if least.memory.peak > limit_bytes:
            continue
        return _largest(sizes, whole, costs, least, limit_bytes, plan_with)
    raise UserError(
        f"nothing fits into {limit_bytes / 1e9:.3g} GB: the least is "
        f"{smallest.memory.peak / 1e9:.2f} GB during {smallest.memory.worst}",
        "use a smaller base or shorter clips",
    )


def _largest(
    sizes: list[dict[str, int]],
    whole: Mapping[str, Any],
    costs: list[str],
    least: Plan,
    limit_bytes: int,
    plan_with: Callable[[Mapping[str, Any]], Plan],
) -> Fit:
    """With the changes that it takes, the largest batch that still fits: it is the fastest."""
    chosen, found = sizes[-1], least
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        tried = plan_with({**whole, **sizes[middle]})
        if tried.memory.peak <= limit_bytes:
            chosen, found, high = sizes[middle], tried, middle
        else:
            low = middle + 1
    words = [*costs]
    if chosen:
        words.insert(
            0, "smaller batches, as many clips to a step: the same result, a little slower"
        )
    return Fit({**chosen, **whole}, found, tuple(words))


def _batches(size: int, accumulate: int) -> list[dict[str, int]]:
    """Batches from the present one down, each with as many clips to a step as there are now."""
    clips = size * accumulate
    smaller = [one for one in range(size - 1, 0, -1) if clips % one == 0]
    return [
        {},
        *({"train.batch_size": one, "train.accumulate": clips // one} for one in smaller),
    ]


def _changes(loaded: Loaded) -> list[tuple[dict[str, Any], str]]:
    """Further changes, the cheapest first; each comes on top of those before."""
    config = loaded.config
    found: list[tuple[dict[str, Any], str]] = []
    if not config.train.activation_checkpointing:
        found.append(
            (
                {"train.activation_checkpointing": True},
                "activations computed anew: the same result, a third more time",
            )
        )
    trains_base = plugin("methods", config.method["name"]).spec.get("trains_base")
    if config.base.quantize == "none" and not trains_base:
        found.append(({"base.quantize": "nf4"}, "frozen weights in 4 bits: a little quality"))
    rank = getattr(loaded.method_config, "rank", None)
    while isinstance(rank, int) and rank > 4:
        rank = max(4, rank // 2)
        found.append(({"method.rank": rank}, f"rank {rank}: less room to learn"))
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


__all__ = ["Fit", "fit", "parse_size"]
