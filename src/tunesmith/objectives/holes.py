"""Which frames of an example are missing while a model learns to fill holes.

    span   a stretch somewhere inside, of a tenth to six tenths of the clip
    tail   all from a point between two tenths and eight tenths of the clip on
    band   a band of frequencies, all along: what is given is the sound without it
    plain  everything: the model makes sound from nothing but text, as before

Random-length holes as in AudioLDM's and Stable Audio's inpainting trainers. What is missing comes
from the example's own seed, so that batch, order and restarts change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.objectives.noise import uniforms

KINDS = ("span", "tail", "band")
_SPAN, _TAIL = (0.1, 0.6), (0.2, 0.8)


@dataclass(frozen=True, slots=True)
class Holes:
    """Draws what is missing.

    Attributes:
        kinds: those of :data:`KINDS` that occur, each as often.
        plain: share of examples of which nothing is given.
    """

    kinds: tuple[str, ...] = ("span", "tail")
    plain: float = 0.1

    def given(self, seeds: Sequence[int], frames: Tensor, length: int) -> Tensor:
        """Boolean ``[B, length]``: true where a frame is given, false where it is to be made.

        Silence after the end of a clip is given where anything is. Of a row with a missing band no
        frame is given as it is.

        Args:
            seeds: one per row.
            frames: ``[B]`` real lengths.
            length: of the padded batch.
        """
        rows = []
        draws = [uniforms(seeds, f"hole-{what}").tolist() for what in ("size", "place")]
        for real, kind, size, place in zip(
            frames.tolist(), self._kinds(seeds), *draws, strict=True
        ):
            row = torch.ones(length, dtype=torch.bool)
            begin, end = (
                (0, length) if kind in ("plain", "band") else (_hole(kind, int(real), size, place))
            )
            row[begin:end] = False
            rows.append(row)
        return torch.stack(rows).to(frames.device)

    def banded(self, seeds: Sequence[int]) -> list[bool]:
        """Which rows are given without a band of frequencies."""
        return [kind == "band" for kind in self._kinds(seeds)]

    def _kinds(self, seeds: Sequence[int]) -> list[str]:
        found = []
        for drawn in uniforms(seeds, "hole-kind").tolist():
            which = (drawn - self.plain) / (1 - self.plain)
            place = min(int(which * len(self.kinds)), len(self.kinds) - 1)
            found.append("plain" if drawn < self.plain else self.kinds[place])
        return found


def _hole(kind: str, frames: int, size: float, place: float) -> tuple[int, int]:
    """First frame and the one after the last of a hole; at least one frame."""
    if kind == "tail":
        begin = int(frames * (_TAIL[0] + (_TAIL[1] - _TAIL[0]) * place))
        return min(begin, frames - 1), frames
    width = max(1, round(frames * (_SPAN[0] + (_SPAN[1] - _SPAN[0]) * size)))
    begin = int((frames - width + 1) * place)
    return begin, begin + width
