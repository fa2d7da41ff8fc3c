"""An account of the memory that a run would hold, taken by acting it out on tensors without values.

Torch's meta device computes shapes and dtypes and nothing else. What is executed on it here is the
run's own code, so whatever a family or a method keeps for the backward pass is counted as it stands,
and no formula has to be kept in step with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

_aten: Any = torch.ops.aten

LARGE = 16 * 2**20
"""Bytes from which on an activation is counted as ``large activations``."""


class Meter(TorchDispatchMode):
    """Counts the bytes of live meta tensors, by what they are for.

    Args:
        block: bytes that an allocator rounds up to; 512 on CUDA.

    Attributes:
        live: bytes held now, by label.
        peak: by label, what was held when most was held since :meth:`start`.
        label: what new tensors are counted as.
        copies: label of copies that the code wants to have in main memory.
        found: label of what was there before and nobody has told of: a codec's weights.
    """

    def __init__(self, block: int = 1) -> None:
        super().__init__()
        self.live: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self.label, self.copies, self.found = "activations", "activations", "codec"
        self._block = block
        self._total = self._most = 0
        self._known: dict[int, tuple[str, int]] = {}

    def know(self, tensors: Iterable[Tensor], label: str) -> None:
        """Count tensors that are there already; those that are known change their label."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key in self._known:
                old, size = self._known[key]
                self._known[key] = (label, size)
                self.live[old] -= size
                self.live[label] = self.live.get(label, 0) + size
            else:
                self._count(tensor, label)

    def start(self) -> None:
        """Forget the peak so far."""
        self._most, self.peak = self._total, dict(self.live)

    def _count(self, tensor: Tensor, label: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // self._block) * self._block
        if label == "activations" and size >= LARGE:
            label = "large activations"
        self._known[key] = (label, size)
        weakref.finalize(storage, self._free, key)
        self._total += size
        self.live[label] = self.live.get(label, 0) + size
        if self._total > self._most:
            self._most, self.peak = self._total, dict(self.live)

    def _free(self, key: int) -> None:
        label, size = self._known.pop(key)
        self._total -= size
        self.live[label] -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, label = kwargs or {}, self.label
        if func is _aten._local_scalar_dense.default and args[0].device.type == "meta":
            return False if args[0].dtype is torch.bool else 0
        if func.overloadpacket is _aten.to:  # in inference mode it comes undivided
            with self:
                return func.decompose(*args, **kwargs)
        if func is _aten.equal.default:
            return True
        away = func is _aten._to_copy.default and args[0].device.type == "meta"
        if away and torch.device(kwargs.get("device") or "meta").type == "cpu":
            # There is nothing to copy: what would be in main memory stays here, under its label.
            kwargs, label = {**kwargs, "device": torch.device("meta")}, self.copies
        self._count_all((args, kwargs), self.found)
        out = func(*args, **kwargs)
        self._count_all(out, label)
        return out

    def _count_all(self, tree: Any, label: str) -> None:
        for leaf in tree_iter(tree):
            if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                self._count(leaf, label)


# The parts of autocast's lists that models use (PyTorch, "Automatic Mixed Precision", op reference).
_LOWER = {
    "linear",
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "bmm",
    "mm",
    "addmm",
    "baddbmm",
    "einsum",
}
_LOWER |= {
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "scaled_dot_product_attention",
}
_FULL = {"layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy", "nll_loss", "exp"}
_FULL |= {"pow", "logsumexp", "norm", "mse_loss", "sum", "cumsum", "rsqrt"}


class Device(TorchFunctionMode):
    """What autocast and the fused attention of a device do, of which the meta device knows nothing.

    Args:
        kind: ``cpu`` or ``cuda``.
        dtype: of autocast; float32 is none.
    """

    def __init__(self, kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.kind, self.dtype = kind, dtype
        self._casts: dict[int, tuple[Tensor, Tensor]] = {}

    def leave_autocast(self) -> None:
        """Let go of the casts of trainable weights that autocast keeps while it is on."""
        self._casts.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.dtype is not torch.float32:
            if name in _LOWER:
                args, kwargs = tree_map(self._lower, (args, kwargs))
            elif name in _FULL:
                args, kwargs = tree_map(self._raise, (args, kwargs))
        if name == "scaled_dot_product_attention":
            query = args[0] if args else kwargs["query"]  # diffusers names it
            if query.device.type == "meta":
                return self._attend(*args, **kwargs)
        if name in ("numpy", "tolist") and args[0].device.type == "meta":
            return getattr(torch.zeros(args[0].shape, dtype=args[0].dtype), name)()
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype is not torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self.dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = (value, value.to(self.dtype))
        return self._casts[id(value)][1]

    def _raise(self, value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype is self.dtype else value

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The kernel that the device would choose: on CUDA the memory-efficient one, which takes
        masks; on the CPU the flash one, unless there is dropout or the mask trains."""
        if enable_gqa:
            times = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
        mask = attn_mask
        if mask is not None and mask.dtype is torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
        rest = {"scale": scale}
        if self.kind == "cuda":
            if mask is not None:
                mask = mask.expand(*query.shape[:-1], key.shape[-2])
            keep = query.requires_grad or key.requires_grad or value.requires_grad
            kernel = _aten._scaled_dot_product_efficient_attention
            return kernel(query, key, value, mask, keep, dropout_p, is_causal, **rest)[0]
        if dropout_p == 0 and (mask is None or not mask.requires_grad):
            kernel = _aten._scaled_dot_product_flash_attention_for_cpu
            return kernel(query, key, value, 0.0, is_causal, attn_mask=mask, **rest)[0]
        kernel = _aten._scaled_dot_product_attention_math
        return kernel(query, key, value, mask, dropout_p, is_causal, **rest)[0]


class RealNumbers(TorchFunctionMode):
    """While modules are built on the meta device: numbers that they keep as tensors stay real, because
    shapes depend on them (strides and paddings of a codec)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and args and isinstance(args[0], int | float):
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def acted_out(meter: Meter, device: Device) -> Iterator[None]:
    """Run code on the meta device as if on ``device``, under the eyes of ``meter``."""
    # Torch refuses the question whether autocast is on for the meta device; libraries ask it.
    asked, told = torch.is_autocast_enabled, torch.get_autocast_dtype

    def is_enabled(kind: str | None = None) -> bool:
        if kind == "meta":
            return device.dtype is not torch.float32
        return asked() if kind is None else asked(kind)

    torch.is_autocast_enabled = is_enabled
    torch.get_autocast_dtype = lambda kind: device.dtype if kind == "meta" else told(kind)
    try:
        with meter, device:
            yield
    finally:
        torch.is_autocast_enabled, torch.get_autocast_dtype = asked, told


def backward(loss: Tensor) -> None:
    """``loss.backward()``, with the function modes on: activation checkpointing computes anew in it."""
    engine: Any = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (),
        allow_unreachable=True, accumulate_grad=True,
    )  # fmt: skip


class Nf4Linear(nn.Linear):
    """A frozen linear in 4 bits, as far as memory goes: dequantised for each use, never kept so.

    The bytes of the weight itself are :func:`nf4_bytes`.

    Args:
        like: the linear that it replaces; its meta weight is taken over.
        dtype: of the products.
    """

    def __init__(self, like: nn.Linear, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias, self.dtype = like.weight, like.bias, dtype

    def forward(self, input: Tensor) -> Tensor:
        product = _Nf4Product.apply(input.to(self.dtype), self.weight, self.bias, self.dtype)
        return product.to(input.dtype)  # type: ignore[union-attr]


class _Nf4Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: Any) -> Tensor:
        ctx.weight, ctx.dtype = weight, dtype
        return nn.functional.linear(x, torch.empty_like(weight, dtype=dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0] @ torch.empty_like(ctx.weight, dtype=ctx.dtype), None, None, None


def nf4_bytes(numbers: int, double_quant: bool = True) -> int:
    """Bytes of NF4 weights (Dettmers et al. 2023, arXiv:2305.14314, section 3): half a byte each, and
    one constant for 64 of them; doubly quantised, 8 bits, and 32 more for 256 constants."""
    constants = -(-numbers // 64)
    return numbers // 2 + (constants + 4 * -(-constants // 256) if double_quant else 4 * constants)


__all__ = [
    "Device",
    "Meter",
    "Nf4Linear",
    "RealNumbers",
    "acted_out",
    "backward",
    "nf4_bytes",
]
