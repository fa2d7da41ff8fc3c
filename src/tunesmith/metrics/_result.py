"""What every metric returns, and the checks that they share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunesmith.errors import UserError


@dataclass(frozen=True, slots=True)
class Result:
    """One measured number and what it takes to judge it.

    Attributes:
        value: the metric, in its own units.
        interval: (low, high) where the metric can give an honest one, else None.
        p_value: chance of a value at least this large if both sets came from one source; None
            where it was not asked for.
        n_reference: embeddings in the reference set.
        n_candidate: embeddings in the candidate set.
        dimension: width of the embedding.
        warnings: what a reader must know before trusting the number, one sentence each.
        details: further numbers of the metric, by name.
    """

    value: float
    interval: tuple[float, float] | None
    p_value: float | None
    n_reference: int
    n_candidate: int
    dimension: int
    warnings: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)


def embeddings(values: np.ndarray, name: str, *, at_least: int = 2) -> np.ndarray:
    """A set of embeddings as float64 ``[N, D]``, checked.

    Args:
        values: ``[N, D]``, any real dtype.
        name: what to call the set in an error.
        at_least: the fewest rows that the metric is defined for.

    Raises:
        UserError: not two-dimensional, too few rows, no columns, or not finite.
    """
    out = np.asarray(values, dtype=np.float64)
    if out.ndim != 2 or out.shape[1] == 0:
        raise UserError(
            f"{name}: embeddings have the shape {list(out.shape)}, not [N, D]",
            "pass one row per clip or window",
        )
    if len(out) < at_least:
        raise UserError(
            f"{name}: {len(out)} embedding(s) are too few, {at_least} are the least",
            "measure more clips",
        )
    if not np.isfinite(out).all():
        bad = int((~np.isfinite(out)).any(axis=1).sum())
        raise UserError(
            f"{name}: {bad} of {len(out)} embeddings hold NaN or infinity",
            "look for silent or broken clips and leave them out",
        )
    return out


def pair(
    reference: np.ndarray, candidate: np.ndarray, *, at_least: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Reference ``[M, D]`` and candidate ``[N, D]`` as float64, checked to be of one width.

    Raises:
        UserError: as :func:`embeddings`, or two widths.
    """
    x = embeddings(reference, "reference", at_least=at_least)
    y = embeddings(candidate, "candidate", at_least=at_least)
    if x.shape[1] != y.shape[1]:
        raise UserError(
            f"reference embeddings are {x.shape[1]} wide, candidate embeddings {y.shape[1]}",
            "embed both sets with the same model",
        )
    return x, y


def file_codes(ids: Sequence[Hashable], rows: int, name: str) -> np.ndarray:
    """File of every row ``[N]`` as a number from 0, in order of first appearance.

    Args:
        ids: one file id a row.
        rows: how many rows there are.
        name: metric and set, for an error.

    Raises:
        UserError: another number of ids than rows.
    """
    if len(ids) != rows:
        raise UserError(f"{name}: {len(ids)} ids for {rows} rows", "give one id per row")
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(one, len(known)) for one in ids], dtype=np.intp)
