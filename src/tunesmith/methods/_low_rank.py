"""Arithmetic on low-rank changes: ΔW = BA, with A ``[r, k]`` and B ``[d, r]``, scales folded into B.

A sum of changes is a concatenation of ranks, Σ wᵢ BᵢAᵢ = [w₁B₁ w₂B₂ ...]·[A₁; A₂; ...], and that is
exact. Averages of A and of B apart are not: A → RA, B → BR⁻¹ changes no ΔW but moves them. The best
approximation of rank r cuts the singular value decomposition (Eckart & Young 1936): its squared
error is the sum of the squared singular values that it discards.

Everything is computed in float64 and handed out in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.errors import UserError

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""``{"component/path": (A [r, k], B [d, r])}``: the change of each linear; ranks may differ."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What an approximation leaves out.

    Attributes:
        whole: ``{"component/path": ‖ΔW‖²}`` (Frobenius).
        lost: the same of the difference to the approximation.
    """

    whole: Mapping[str, float]
    lost: Mapping[str, float]

    @property
    def error(self) -> float:
        """Relative Frobenius error over all linears: √(Σ lost / Σ whole); 0 if nothing changed."""
        whole = sum(self.whole.values())
        return (sum(self.lost.values()) / whole) ** 0.5 if whole else 0.0

    def errors(self) -> dict[str, float]:
        """Relative Frobenius error of each linear."""
        return {
            path: (self.lost[path] / whole) ** 0.5 if whole else 0.0
            for path, whole in self.whole.items()
        }

    @property
    def worst(self) -> tuple[str, float]:
        """The linear with the largest relative error, and that error."""
        return max(self.errors().items(), key=lambda pair: pair[1])


def summed(parts: Sequence[tuple[Factors, float]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Σ wᵢ ΔWᵢ, exactly. A linear that some parts lack has nothing of them.

    Args:
        parts: factors, each with its weight.
    """
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for factors, weight in parts:
        for path, (down, up) in factors.items():
            downs, ups = found.setdefault(path, ([], []))
            if downs and (downs[0].shape[1] != down.shape[1] or ups[0].shape[0] != up.shape[0]):
                raise UserError(
                    f"{path} is of different sizes in these adapters",
                    "they were not made for one base",
                )
            downs.append(down.double())
            ups.append(weight * up.double())
    return {
        path: (torch.cat(downs).float(), torch.cat(ups, dim=1).float())
        for path, (downs, ups) in found.items()
    }


def padded(factors: Factors, rank: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """The same changes at one rank: the largest, or ``rank`` if that is larger. Zeros fill up."""
    rank = max([rank, *(down.shape[0] for down, _ in factors.values())])
    found = {}
    for path, (down, up) in factors.items():
        short = rank - down.shape[0]
        found[path] = (
            torch.nn.functional.pad(down, (0, 0, 0, short)),
            torch.nn.functional.pad(up, (0, short)),
        )
    return found


def _cut(left: Tensor, values: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    root = values[:rank].sqrt()  # shared between both, so that neither dwarfs the other
    down = root[:, None] * right[:rank]
    up = left[:, :rank] * root
    return down.float().contiguous(), up.float().contiguous()


def truncated(factors: Factors, rank: int) -> tuple[dict[str, tuple[Tensor, Tensor]], Loss]:
    """The best approximation of rank ``rank`` of each change, and its error.

    With B = Q_B R_B and Aᵀ = Q_A R_A only the small core R_B R_Aᵀ is decomposed, never ``[d, k]``.
    """
    found, whole, lost = {}, {}, {}
    for path, (down, up) in factors.items():
        left, core_left = torch.linalg.qr(up.double())
        right, core_right = torch.linalg.qr(down.double().T)
        inner_left, values, inner_right = torch.linalg.svd(
            core_left @ core_right.T, full_matrices=False
        )
        found[path] = _cut(left @ inner_left, values, inner_right @ right.T, rank)
        whole[path] = float(values.square().sum())
        lost[path] = float(values[rank:].square().sum())
    return found, Loss(whole, lost)


def approximated(
    deltas: Mapping[str, Tensor], rank: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], Loss]:
    """The best approximation of rank ``rank`` of whole changes ``{"component/path": [d, k]}``."""
    found, whole, lost = {}, {}, {}
    for path, delta in deltas.items():
        left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
        found[path] = _cut(left, values, right, rank)
        whole[path] = float(values.square().sum())
        lost[path] = float(values[rank:].square().sum())
    return found, Loss(whole, lost)
