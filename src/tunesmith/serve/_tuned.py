"""Which kernels a step takes, measured: each product in every way that may be the fastest on this device.

A product is timed in a CUDA graph that walks over the layers, so that each weight comes from the memory and
not from a cache. What is not right, or does not compile, is not chosen.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from tunesmith.serve import _kernels as kernels
from tunesmith.serve._fused import Fused
from tunesmith.serve._kernels import LIBRARY, Span, Way

_LOG = logging.getLogger(__name__)
_SECONDS = 12.0
"""After so many, what was not tried is left; the library's products always are."""
_OFF = 0.01
"""Of a product in half precision against float32: several times what rounding its result costs."""
_LENGTH = 256
"""Places at which attention is measured: a sequence of five seconds, half written."""
_ORDER = ("up", "down", "qkv", "out", "text_q", "text_out")


@dataclass(slots=True)
class _Choice:
    """What was found for a device and shapes; see :class:`Fused`."""

    ways: dict[str, Way]
    span: Span
    early: bool
    measured: dict[str, str] = field(default_factory=dict)


_FOUND: dict[Hashable, _Choice] = {}


def tune(fused: Fused) -> None:
    """Choose how a step is made, once for a device and shapes; writes over the caches of the layers.

    Raises:
        RuntimeError: even attention does not run.
    """
    site, layers = fused.sites["up"], fused.layers
    shapes = tuple((*one.weights[0].shape, one.activation) for one in fused.sites.values())
    device = site.x.device
    key = (
        torch.cuda.get_device_name(device), site.x.dtype, len(site.x), fused.size, len(layers),
        layers[0].own.shape[1], shapes,
    )  # fmt: skip
    found = _FOUND.get(key)
    if found is None:
        begin = time.monotonic()
        with torch.cuda.device(device):
            found = _FOUND[key] = _measured(fused, begin + _SECONDS)
        parts = ", ".join(f"{name} {what}" for name, what in found.measured.items())
        _LOG.info("kernels chosen in %.1f s: %s", time.monotonic() - begin, parts)
    fused.ways, fused.span, fused.early = dict(found.ways), found.span, found.early
    fused.measured = dict(found.measured)


def _measured(fused: Fused, deadline: float) -> _Choice:
    rows, device = len(fused.sites["up"].x), fused.sites["up"].x.device
    numbers = range(len(fused.layers))
    tried = {
        name: kernels.ways(rows, site.weights[0].shape[1]) for name, site in fused.sites.items()
    }
    fused.early = torch.cuda.get_device_capability(device) >= (9, 0)
    # Of sites that are alike, one is enough: `text_q` has the kernels of `qkv`, `text_out` those of `out`.
    _compile(fused, [(name, way) for name in ("up", "down", "qkv", "out") for way in tried[name]])
    fused.early = fused.early and any(_right(fused, "out", way) for way in tried["out"])
    measured: dict[str, str] = {}
    for name in _ORDER:
        times = {LIBRARY: _ms(lambda n=name: _walk(fused, n, LIBRARY))}
        for way in tried[name]:
            if time.monotonic() < deadline and _right(fused, name, way):
                times[way] = _ms(lambda n=name, w=way: _walk(fused, n, w))
        best = sorted(times, key=times.__getitem__)
        fused.ways[name] = best[0]
        said = "; ".join(f"{_name(way)} {times[way]:.3f}" for way in best[:3])
        measured[name] = f"{said} (library {times[LIBRARY]:.3f}) ms"
    # Its kernels are its own, and it is one of many: the way of the like of it is good enough.
    fused.ways["heads"] = (
        fused.ways["qkv"] if _right(fused, "heads", fused.ways["qkv"]) else LIBRARY
    )
    measured["heads"] = _name(fused.ways["heads"])
    lengths = torch.full((rows // 2,), 0, device=device)
    lengths += min(_LENGTH, fused.layers[0].own.shape[1] // 2)
    spans: dict[Span, float] = {}
    for span in kernels.spans(rows):
        if time.monotonic() < deadline or not spans:
            try:
                spans[span] = _ms(
                    lambda s=span: _all(lambda n: fused.attend(n, lengths, s), numbers)
                )
            except Exception as error:  # Triton and its compilers have errors of all kinds
                _LOG.debug("attention as %s: %s", span, error)
    if not spans:
        raise RuntimeError("attention does not run")
    fused.span = min(spans, key=spans.__getitem__)
    measured["attention"] = f"{fused.span.places}/{fused.span.warps} {spans[fused.span]:.3f} ms"
    fused.early, measured["step"] = _whole(fused, lengths)
    return _Choice(dict(fused.ways), fused.span, fused.early, measured)


def _compile(fused: Fused, wanted: Iterable[tuple[str, Way]]) -> None:
    """Compile kernels on all cores; those that cannot be are found out when they are tried."""
    try:
        count = max(1, min(12, os.cpu_count() or 1))
        with ThreadPoolExecutor(count) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
            for name, way in wanted:
                fused.make(name, 0, way, compiling=True)
    except Exception as error:
        _LOG.debug("kernels are compiled one by one: %s", error)


def _right(fused: Fused, name: str, way: Way) -> bool:
    """Whether a product that is made so is as near to float32 as rounding allows."""
    site = fused.sites[name]
    weight, norm = site.weights[0], site.norms[0]
    try:
        site.x.normal_()
        site.out.normal_()
        want = site.x.float()
        if norm is not None:
            gain, bias = norm.gain.float(), norm.bias.float()
            want = F.layer_norm(want, gain.shape, gain, bias, norm.eps)
        want = F.linear(want, weight.float())
        if site.activation:
            want = (F.gelu if site.activation == "gelu" else F.relu)(want)
        if site.add:
            want += site.out.float()
        fused.make(name, 0, way)
        off = float((site.out.float() - want).norm() / want.norm())
    except Exception as error:
        _LOG.debug("%s as %s: %s", name, way, error)
        return False
    return off < _OFF


def _whole(fused: Fused, lengths: Tensor) -> tuple[bool, str]:
    """Whether a step with early launches is the same, and faster; and what was measured."""
    rows, texts = len(fused.sites["up"].x), fused.layers[0].text.shape[1]
    x = torch.randn(rows // 2, fused.sites["up"].x.shape[1], device=lengths.device)
    x = x.to(fused.sites["up"].x.dtype)
    mask = torch.zeros(rows, texts, device=lengths.device)
    heard = torch.full_like(lengths, min(16, texts))

    def measured() -> tuple[float, list[Tensor]]:
        took = _ms(lambda: fused(x, lengths, mask, heard))
        fused(x, lengths, mask, heard)
        return took, [fused.sites["heads"].out.clone(), fused.layers[-1].own.clone()]

    if not fused.early:
        return False, f"{measured()[0]:.3f} ms"
    took, found = measured()
    fused.early = False
    _compile(fused, fused.ways.items())
    plain, wanted = measured()
    same = all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    said = f"{took:.3f} ms with early launches, {plain:.3f} without"
    return same and took < plain, said if same else f"{said}; not the same"


def _walk(fused: Fused, name: str, way: Way) -> None:
    _all(lambda number: fused.make(name, number, way), range(len(fused.layers)))


def _all(make: Callable[[int], None], numbers: Iterable[int]) -> None:
    for number in numbers:
        make(number)


def _ms(run: Callable[[], object]) -> float:
    """Milliseconds of a graph of this, the least of some."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    graph.replay()
    found = []
    for _ in range(4):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end))
    return min(found)


def _name(way: Way) -> str:
    return way.kind if way == LIBRARY else f"{way.kind} {way.outs}x{way.part}/{way.warps}"


__all__ = ["tune"]
