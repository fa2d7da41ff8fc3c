"""Which clips are learnt from, and which are kept aside.

Neighbouring clips of one recording are nearly the same music, so a split by clip would let the
validation loss fall while the model only memorises. Hence whole recordings are kept aside; order
is by a hash of the content, so neither file names nor the order of a folder matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.errors import UserError
from tunesmith.types import Split

FEWEST = 5  # recordings, from which on whole ones are kept aside


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Where every clip goes.

    Attributes:
        sides: per recording, per clip in order: ``train``, ``valid``, or ``None`` for a gap.
        warnings: one line each.
    """

    sides: Mapping[str, tuple[Split | None, ...]]
    warnings: tuple[str, ...] = ()


def split(
    durations_s: Mapping[str, Sequence[float]], valid_share: float = 0.1, seed: int = 0
) -> SplitPlan:
    """Divides recordings into train and valid.

    Args:
        durations_s: key of each recording's *content* (a hash) to the lengths of its clips, in
            order. Equal content has one key, and so never stands on both sides.
        valid_share: share of the seconds to keep aside; 0 keeps nothing.
        seed: another one keeps other recordings aside.

    Returns:
        The plan. From five recordings on, whole recordings; with fewer, the tail of each, with one
        clip left out between, and a warning.

    Errors: :class:`UserError` unless ``0 <= valid_share <= 0.5``.
    """
    if not 0 <= valid_share <= 0.5:
        raise UserError(f"a valid share of {valid_share:g} makes no sense", "give 0 to 0.5")
    lengths = {key: list(clips) for key, clips in durations_s.items() if len(clips)}
    sides: dict[str, list[Split | None]] = {
        key: ["train" for _ in clips] for key, clips in lengths.items()
    }
    clips = sum(len(part) for part in lengths.values())
    warnings: list[str] = []
    if valid_share == 0 or clips == 0:
        pass
    elif clips == 1:
        warnings.append("one clip only: it is trained on and nothing is left to validate with")
    elif len(lengths) >= FEWEST:
        for key in _whole(lengths, valid_share, seed):
            sides[key] = ["valid" for _ in lengths[key]]
    else:
        warnings.append(_tails(lengths, sides, valid_share, seed))
    plan: dict[str, tuple[Split | None, ...]] = dict.fromkeys(durations_s, ())
    plan.update({key: tuple(part) for key, part in sides.items()})
    return SplitPlan(plan, tuple(warnings))


def split_groups(
    durations_s: Mapping[str, Sequence[float]],
    group: Mapping[str, str],
    valid_share: float = 0.1,
    seed: int = 0,
) -> SplitPlan:
    """Like :func:`split`, with recordings that share sound always on the same side.

    Args:
        durations_s: as for :func:`split`.
        group: per key, the key that stands for its group.
        valid_share, seed: as for :func:`split`.
    """
    members: dict[str, list[str]] = {}
    for key in durations_s:
        members.setdefault(group[key], []).append(key)
    joined = {top: [s for key in keys for s in durations_s[key]] for top, keys in members.items()}
    plan = split(joined, valid_share, seed)
    sides: dict[str, tuple[Split | None, ...]] = {}
    for top, keys in members.items():
        rest = list(plan.sides[top])
        for key in keys:
            count = len(durations_s[key])
            sides[key], rest = tuple(rest[:count]), rest[count:]
    return SplitPlan(sides, plan.warnings)


def _order(keys: Mapping[str, object], seed: int) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).hexdigest())


def _whole(lengths: Mapping[str, Sequence[float]], share: float, seed: int) -> list[str]:
    wanted = share * sum(sum(part) for part in lengths.values())
    taken: list[str] = []
    held = 0.0
    for key in _order(lengths, seed):
        if held >= wanted:
            break
        # One long recording must not take half of the music with it.
        if held + sum(lengths[key]) <= 1.5 * wanted:
            taken.append(key)
            held += sum(lengths[key])
    if not taken:
        taken = [min(_order(lengths, seed), key=lambda key: sum(lengths[key]))]
    return taken


def _tails(
    lengths: Mapping[str, Sequence[float]],
    sides: dict[str, list[Split | None]],
    share: float,
    seed: int,
) -> str:
    few = f"only {len(lengths)} recording{'s' * (len(lengths) > 1)}"
    divisible = [key for key, part in lengths.items() if len(part) >= 3]
    for key in divisible:
        part = lengths[key]
        kept = max(1, min(round(share * len(part)), len(part) - 2))
        tail: list[Split | None] = ["valid"] * kept
        sides[key][-kept:] = tail
        sides[key][-kept - 1] = None
    if divisible:
        return (
            f"{few}: the tail of each that is long enough is kept for validation, with one clip's "
            "gap; validation says less than with five recordings or more"
        )
    if len(lengths) == 1:
        return f"{few} of two clips: both are trained on and nothing is left to validate with"
    kept_key = min(_order(lengths, seed), key=lambda key: sum(lengths[key]))
    sides[kept_key] = ["valid" for _ in lengths[kept_key]]
    return f"{few}, too short to divide: the shortest is kept for validation, which says little"
