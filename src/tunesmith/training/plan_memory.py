"""How much memory a run takes at its worst, by what it is for.

A step, the codec and a preview's decoding are acted out without values (``training.memory``); what
happens around them (loading, moments, copies while saving) is added by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.families import Base, skeleton
from tunesmith.families._bundle import Bundle
from tunesmith.families._half import halve
from tunesmith.families._quantize import NF4, packable
from tunesmith.methods._adapter import Adapter
from tunesmith.training.memory import (
    Device,
    Meter,
    Nf4Linear,
    RealNumbers,
    acted_out,
    backward,
    nf4_bytes,
)
from tunesmith.types import Audio, Example

_MIB = 2**20
# Measured on Linux with glibc (`bench/plan.py`): the interpreter and its libraries, and how much more
# the heap holds than is alive in it, because what a step frees leaves holes that do not all fit.
_RUNTIME_CPU = 550 * _MIB
_HEAP, _HEAP_LARGE = 2.0, 1.2
# What is computed anew in the backward pass is freed at once, yet most of the heap grows all the same.
_HEAP_RECOMPUTED = 0.65
_RUNTIME_CUDA = (
    96 * _MIB
)  # workspaces of the matrix products, measured; the context itself is not allocated
_HEARD = (2.0, 3.0)  # seconds that the codec is tried with
_CUDA_BLOCK = 512  # the caching allocator's unit


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward and backward pass: clips in the batch, and the longest of them in seconds."""

    clips: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Request:
    """What memory depends on.

    Attributes:
        base: found, weights or not.
        attach: puts the method on a bundle.
        passes: those of one optimizer step, one after the other.
        caption: the longest.
        device: ``cpu`` or ``cuda``.
        dtype: of autocast.
        quantize, double_quant: 4-bit weights of the seams' linears.
        accumulated: there are several such passes to a step.
        checkpointing: activations are computed anew in the backward pass.
        optimizer: ``adamw``, ``adamw_8bit``, ``paged_adamw_8bit``.
        averaged: a moving average of the weights is kept.
        preview_s: length of a preview; 0 without.
        preview_rows: prompts, twice with guidance.
    """

    base: Base
    attach: Callable[[Bundle], Adapter]
    passes: tuple[Pass, ...]
    caption: str
    device: str
    dtype: torch.dtype
    quantize: bool = False
    double_quant: bool = True
    accumulated: bool = False
    checkpointing: bool = False
    optimizer: str = "adamw"
    averaged: bool = False
    preview_s: float = 0.0
    preview_rows: int = 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory in bytes: allocated on CUDA, resident on the CPU.

    Attributes:
        device: whose.
        parts: what is held at the peak.
        phases: peak of each phase of the run; the largest is the peak.
        trainable: parameters that train.
        host: bytes in main memory beside, on CUDA.
    """

    device: str
    parts: Mapping[str, int]
    phases: Mapping[str, int]
    trainable: int
    host: int = 0

    @property
    def peak(self) -> int:
        return max(self.phases.values())

    @property
    def worst(self) -> str:
        """The phase with the peak."""
        return max(self.phases, key=lambda name: self.phases[name])


def empty_bundle(base: Base) -> Bundle:
    """The base's modules without weights, ready to be acted with."""
    with RealNumbers():
        return skeleton(base)


def _tensors(module: nn.Module) -> list[Tensor]:
    found = (*module.parameters(), *module.buffers())
    return [tensor for tensor in found if tensor.device.type == "meta"]


def _pack(bundle: Bundle, dtype: torch.dtype) -> list[Tensor]:
    packed = []
    for component, path in packable(bundle):
        parent, _, last = path.rpartition(".")
        holder = bundle.components[component].get_submodule(parent)
        setattr(holder, last, Nf4Linear(getattr(holder, last), dtype))
        packed.append(getattr(holder, last).weight)
    bundle.quantized = NF4
    return packed


class Rehearsal:
    """Acts a run out on one base and one device.

    Args:
        request: the run.

    Raises:
        UserError: the base or the method does something that depends on values.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.meter = Meter(_CUDA_BLOCK if request.device == "cuda" else 1)
        self.device = Device(request.device, torch.float32)  # autocast is on in steps alone
        self.bundle = empty_bundle(request.base)
        try:
            with torch.random.fork_rng(), acted_out(self.meter, self.device):
                self._act()
        except (NotImplementedError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise UserError(
                f"the memory of this run cannot be told beforehand ({type(error).__name__}: {first})",
                "start it with few steps, and see the peak that it reports",
            ) from error

    def _act(self) -> None:
        request, meter, bundle = self.request, self.meter, self.bundle
        packed = _pack(bundle, request.dtype) if request.quantize else []
        meter.know(_tensors(bundle.module), "weights")
        meter.know(packed, "packed")
        self.packed = sum(nf4_bytes(t.numel(), request.double_quant) for t in packed)
        self.whole_weights = meter.live.get("weights", 0)
        self.full_weights = self.whole_weights + meter.live.get("packed", 0)
        meter.label, meter.copies = "adapter", "copies of the start"
        adapter = request.attach(bundle)
        meter.label = meter.copies = "activations"
        self.names = adapter.parameters()
        self.attached = {k: meter.live.get(k, 0) for k in ("adapter", "copies of the start")}
        # The codec works in proportion to the length: two short clips tell of any. The first calls
        # are for its weights, to be known before anything is measured.
        with torch.no_grad():
            self.encode_at = [self._encode(seconds) for seconds in (0.5, *_HEARD)][1:]
            self.decode_bytes = [self._decode(seconds) for seconds in (0.5, 2.0)][1] / 2.0
        self.codec_bytes = meter.live.get("codec", 0)
        text = bundle.encode_text([adapter.caption(request.caption)])[0]
        text = {name: torch.zeros(one.shape, dtype=one.dtype) for name, one in text.items()}
        self.text_bytes = sum(one.nbytes for one in text.values())
        bundle.release_codec()
        if request.device == "cuda" and request.dtype != torch.float32:
            meter.label = "weights"
            halve(bundle, request.dtype)  # as the loop does
            meter.label = "activations"
        self.weights = meter.live.get("weights", 0)
        self.step = self.unchecked = self._steps(text)
        if request.checkpointing:
            for parameter in self.names.values():
                parameter.grad = None
            bundle.checkpoint_activations(True)
            self.step = self._steps(text)

    def _encode(self, seconds: float) -> int:
        """Bytes that encoding a clip takes."""
        rate, channels = self.bundle.sample_rate_hz, self.bundle.channels
        silence = np.zeros((channels, int(seconds * rate)), np.float32)
        begin = self._start()
        codes = self.bundle.encode_audio(Audio(silence, rate))
        self.code_shape, self.code_dtype = codes.shape[:-1], codes.dtype
        return self._grown(begin)

    def _start(self) -> int:
        self.meter.start()
        return sum(self.meter.live.values()) - self.meter.live.get("codec", 0)

    def _grown(self, begin: int) -> int:
        return sum(self.meter.peak.values()) - self.meter.peak.get("codec", 0) - begin

    def _codes(self, seconds: float) -> Tensor:
        frames = max(1, round(seconds * self.bundle.frame_rate_hz))
        return torch.zeros((*self.code_shape, frames), dtype=self.code_dtype)

    def _decode(self, seconds: float) -> int:
        """Bytes that decoding takes."""
        begin = self._start()
        self.bundle.decode_audio(self._codes(seconds).to("meta"))
        return self._grown(begin)

    def _steps(self, text: Mapping[str, Tensor]) -> dict[str, int]:
        """What is held when a step holds most."""
        request, meter, bundle = self.request, self.meter, self.bundle
        held: list[Any] = []
        for parameter in self.names.values():
            held.append(
                parameter.register_post_accumulate_grad_hook(
                    lambda p: meter.know([p.grad], "gradients")  # type: ignore[list-item]
                )
            )
        self.device.dtype = request.dtype
        bundle.module.train()
        meter.start()
        peak: dict[str, int] = {}
        for one in request.passes:
            example = Example("", self._codes(min(one.seconds, bundle.max_s)), text)
            meter.start()
            seeds = list(range(one.clips))
            batch = bundle.collate([example] * one.clips, seeds).to(bundle.device)
            terms = bundle.module(batch)
            loss = torch.stack([sums.sum() for sums, _ in terms.values()]).sum()
            self.device.leave_autocast()
            backward(loss)
            del terms, loss, batch
            if sum(meter.peak.values()) >= sum(peak.values()):
                peak = dict(meter.peak)
        if len(request.passes) == 1 and request.accumulated:
            # The second slice finds the gradients of the first.
            peak["gradients"] = max(peak.get("gradients", 0), meter.live.get("gradients", 0))
        self.device.dtype = torch.float32
        for handle in held:
            handle.remove()
        return peak


def _moments(numbers: int, optimizer: str) -> int:
    """Bytes of AdamW's two moments; 8-bit ones have a constant for 256 numbers (Dettmers et al. 2022,
    arXiv:2110.02861), paged ones live in memory that CUDA moves as it likes."""
    if optimizer == "paged_adamw_8bit":
        return 0
    return 8 * numbers if optimizer == "adamw" else 2 * (numbers + 4 * -(-numbers // 256))


def memory(request: Request) -> Memory:
    """The peak of a run.

    Raises:
        UserError: what happens depends on values, so it cannot be told beforehand.
    """
    seen = Rehearsal(request)
    cpu = request.device == "cpu"
    trainable = sum(p.numel() for p in seen.names.values())
    bytes_trained = 4 * trainable
    heap = _HEAP if cpu else 1.0

    def resident(held: Mapping[str, int]) -> int:
        small, large = held.get("activations", 0), held.get("large activations", 0)
        return int(_HEAP * small + _HEAP_LARGE * large) if cpu else small + large

    stored_half = request.base.config.get("dtype", request.base.config.get("torch_dtype")) in (
        "float16",
        "bfloat16",
    )
    whole = seen.full_weights + seen.codec_bytes
    # Files are mapped into memory, not read: their pages count as long as a tensor of them is in use.
    mapped = (seen.codec_bytes if not stored_half else 0) if cpu else 0
    if cpu and request.quantize and not stored_half:
        mapped = whole - seen.whole_weights
    held = {
        "runtime": _RUNTIME_CPU if cpu else _RUNTIME_CUDA,
        "weights": seen.weights + seen.packed + mapped,
        "adapter": seen.attached["adapter"],
        "copies of the start": seen.attached["copies of the start"] if cpu else 0,
        "moments": _moments(trainable, request.optimizer),
        "average": bytes_trained if request.averaged else 0,
    }
    # The first step has no moments yet, but any later one: the second is the largest.
    step = {
        "gradients": seen.step.get("gradients", 0),
        "activations": max(
            resident(seen.step), int(_HEAP_RECOMPUTED * resident(seen.unchecked)) if cpu else 0
        ),
    }
    update = {
        "gradients": bytes_trained,
        "optimizer's own": bytes_trained if request.optimizer == "adamw" else 0,
    }
    longest = min(max(one.seconds for one in request.passes), seen.bundle.codec_s)
    first, second = seen.encode_at
    encoding = max(0, int(first + (second - first) * (longest - _HEARD[0])))
    codec = 0 if mapped else seen.codec_bytes
    # The best weights are read back, and the adapter copied, on the way to its file.
    saving = {"gradients": bytes_trained, "copies to save": 2 * bytes_trained if cpu else 0}
    if request.averaged:
        saving["copies to save"] += bytes_trained
    listening = 0
    if request.preview_s:
        listening = max(
            _cache_bytes(seen.bundle, request),
            int(heap * seen.decode_bytes * min(request.preview_s, seen.bundle.codec_s)),
        )
    phases: dict[str, dict[str, int]] = {
        "training": held | step,
        "updating": held | update,
        "saving": held | saving,
        "encoding": held
        | {"weights": held["weights"] + seen.whole_weights - seen.weights}
        | {"moments": 0, "average": 0, "codec": codec, "activations": int(heap * encoding)},
        "loading": {
            "runtime": held["runtime"],
            "weights": whole * (3 if stored_half and cpu else 2) // 2 if stored_half else whole,
        },
    }
    if request.quantize and not cpu:
        phases["loading"]["weights"] = seen.whole_weights + seen.packed + seen.codec_bytes
    if request.preview_s:
        phases["previews"] = held | {
            "gradients": bytes_trained,
            "codec": seen.codec_bytes,
            "activations": listening,
        }
    totals = {name: sum(parts.values()) for name, parts in phases.items()}
    worst = max(totals, key=lambda name: totals[name])
    parts = {name: size for name, size in phases[worst].items() if size}
    host = 0 if cpu else _RUNTIME_CPU + whole + seen.attached["copies of the start"]
    return Memory(request.device, parts, totals, trainable, host)


def _cache_bytes(bundle: Bundle, request: Request) -> int:
    """Keys and values of self-attention, fp32 or autocast's precision, for a preview's rows."""
    width = sum(site.width for site in bundle.sites if site.role == "self_attention")
    frames = request.preview_s * bundle.frame_rate_hz
    return int(2 * width * 4 * frames * request.preview_rows)


__all__ = ["Memory", "Pass", "Request", "empty_bundle", "memory"]
