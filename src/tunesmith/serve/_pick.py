"""Sampling where every slot has settings of its own, all of which are tensors: nothing of it asks the host."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64
from typing import Any

import torch
from torch import Tensor

from tunesmith.serve._native import LANES, library
from tunesmith.types import GenerationSettings


class Choice:
    """Guidance, then :func:`tunesmith.families._sampling.pick`, for slots that are sampled differently.

    Args:
        slots: S.
        codes: V.
        device: where.
    """

    def __init__(self, slots: int, codes: int, device: torch.device) -> None:
        self._codes = codes
        shape = (slots, 1, 1)
        self._guidance = torch.ones(shape, device=device)
        self._unguided = torch.ones(shape, dtype=torch.bool, device=device)
        self._temperature = torch.ones(shape, device=device)
        self._greedy = torch.zeros(shape, dtype=torch.bool, device=device)
        self._keep = torch.full(shape, codes, device=device)
        self._mass = torch.full(shape, torch.inf, device=device)
        self._ranks = torch.arange(codes, device=device)

    def set(self, slot: int, settings: GenerationSettings) -> None:
        """How a slot is sampled from now on."""
        self._guidance[slot] = settings.guidance
        self._unguided[slot] = settings.guidance == 1
        self._greedy[slot] = settings.temperature == 0
        self._temperature[slot] = settings.temperature or 1.0
        self._keep[slot] = min(settings.top_k or self._codes, self._codes)
        self._mass[slot] = settings.top_p if settings.top_p < 1 else torch.inf

    def __call__(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[S, K]`` and whether each slot's logits are numbers, ``[S]``.

        Args:
            logits: ``[2S, K, V]`` float32, with the text and without.
            uniform: ``[S, K]`` in [0, 1).
        """
        given, without = logits.chunk(2)
        guided = without + self._guidance * (given - without)
        mixed = torch.where(self._unguided, given, guided)
        # All are sorted, so that a slot's numbers are the same whatever the others keep.
        values, ids = mixed.sort(dim=-1, descending=True)
        values = (values / self._temperature).masked_fill(self._ranks >= self._keep, -torch.inf)
        probabilities = values.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        cumulative = (probabilities * (before < self._mass)).cumsum(dim=-1)
        threshold = uniform[..., None] * cumulative[..., -1:]
        chosen = (cumulative <= threshold).sum(-1, keepdim=True).minimum(self._keep - 1)
        chosen = chosen.masked_fill(self._greedy, 0)
        return ids.gather(-1, chosen)[..., 0], mixed.sum((1, 2)).isfinite()


class _ChoiceStruct(ctypes.Structure):
    """``Choice`` of :file:`_pick.h`."""

    _fields_ = [
        *((name, c_float) for name in ("guidance", "temperature", "mass")),
        *((name, c_int64) for name in ("keep", "greedy")),
    ]


class NativeChoice:
    """The same on a CPU, with our own kernels; see :mod:`tunesmith.serve._native`.

    Args:
        slots: S.
        codes: V.
        kernels: the compiled ones.
    """

    def __init__(self, slots: int, codes: int, kernels: Any) -> None:
        self._codes, self._kernels = codes, kernels
        self._how = (_ChoiceStruct * slots)()
        self._room = 3 * codes + LANES
        self._scratch = torch.empty(0, dtype=torch.int64)

    def set(self, slot: int, settings: GenerationSettings) -> None:
        """How a slot is sampled from now on."""
        keep = min(settings.top_k or self._codes, self._codes)
        mass = settings.top_p if settings.top_p < 1 else 2.0
        greedy = settings.temperature == 0
        temperature = settings.temperature or 1.0
        self._how[slot] = _ChoiceStruct(settings.guidance, temperature, mass, keep, greedy)

    def __call__(self, logits: Tensor, uniform: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[n, K]`` and whether the logits are numbers, ``[n]``.

        Args:
            logits: ``[2S, K, V]`` float32, with the text and without.
            uniform: ``[S, K]`` in [0, 1).
            slots: ``[n]`` int64, whose.
        """
        logits, uniform, threads = (
            logits.contiguous(),
            uniform.contiguous(),
            torch.get_num_threads(),
        )
        size = threads * self._room
        if len(self._scratch) < size:
            self._scratch = torch.empty(size, dtype=torch.int64)
        books = logits.shape[1]
        chosen = slots.new_empty(len(slots), books)
        sums = logits.new_empty(len(slots), books)
        self._kernels.tunesmith_choose(
            ctypes.addressof(self._how), slots.data_ptr(), len(slots), len(self._how), books,
            self._codes, logits.data_ptr(), uniform.data_ptr(), chosen.data_ptr(), sums.data_ptr(),
            self._scratch.data_ptr(), self._room, threads,
        )  # fmt: skip
        return chosen, sums.isfinite().all(1)


def native_choice(slots: int, codes: int, device: torch.device) -> NativeChoice | None:
    """It, where there are kernels for this device."""
    kernels = library() if device.type == "cpu" else None
    return None if kernels is None else NativeChoice(slots, codes, kernels)


__all__ = ["Choice", "NativeChoice", "native_choice"]
