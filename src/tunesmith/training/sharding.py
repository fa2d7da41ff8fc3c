"""A base whose weights are split over the processes: FSDP2, torch's ``fully_shard``.

Each layer is gathered when it is called and let go of after it; what stands outside of layers is gathered
for the whole of a forward and backward pass. What a method added is small and stays whole in every
process, its gradients are averaged here. So is a prefix's reparametrisation, which all layers share and
which ``fully_shard`` could not give to one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle

_FULL = 0.6
"""Share of a device's memory that weights, gradients and moments may take whole: the rest is for
activations."""

_BUCKET = 2**25


def fits_whole(bundle: Bundle, names: Mapping[str, nn.Parameter]) -> bool:
    """Whether the base and all that training keeps of it fit into every device; always so on a CPU.

    A parameter takes its own bytes; one that trains 12 more: a gradient and AdamW's two moments.
    """
    if bundle.device.type != "cuda":
        return True
    held = sum(p.numel() * p.element_size() for p in bundle.module.parameters())
    held += 12 * sum(p.numel() for p in names.values())
    return held < _FULL * torch.cuda.get_device_properties(bundle.device).total_memory


class Sharded:
    """A module whose parameters are split.

    Args:
        bundle: the base with the method attached; its parameters become others.
        added: parameters that stay whole.
        world: processes.
        optimizer: its name.

    Raises:
        UserError: an optimizer that knows no split parameters.
    """

    def __init__(
        self, bundle: Bundle, added: set[nn.Parameter], world: int, optimizer: str
    ) -> None:
        self.added = [p for p in bundle.module.parameters() if p in added]
        self._module: Any = bundle.module
        self._world = world
        if optimizer != "adamw" and any(
            p.requires_grad and p not in added for p in bundle.module.parameters()
        ):
            raise UserError(
                f"train.optimizer={optimizer} knows no split weights",
                "set train.optimizer=adamw (its moments are split too), or parallel=ddp",
            )
        self._hooks: list[tuple[dict[int, Any], set[int]]] = []
        mesh = init_device_mesh(bundle.device.type, (world,))
        for component, roots in bundle.layer_roots().items():
            for root in roots.values():
                path = root.rstrip(".")
                # An entry of a list of layers is what is called; anything else may only be a place.
                if path.rpartition(".")[2].isdigit():
                    layer = bundle.components[component].get_submodule(path)
                    self._shard(layer, mesh)
        self._shard(self._module, mesh)
        self._parts = [m for m in self._module.modules() if isinstance(m, FSDPModule)]
        # The first module that is called becomes the root, for good: it must not be a layer that
        # generation calls by itself.
        self._module.wake = _nothing
        register_fsdp_forward_method(self._module, "wake")
        self._module.wake()
        self._module.reshard()

    def _shard(self, module: nn.Module, mesh: DeviceMesh) -> None:
        hooks: Any = (module._forward_pre_hooks, module._forward_hooks)
        before = [set(one) for one in hooks]
        fully_shard(module, mesh=mesh, ignored_params=set(self.added))
        self._hooks += [(one, set(one) - own) for one, own in zip(hooks, before, strict=True)]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All parameters whole, in every process; what is written to them is lost.

        FSDP's hooks are off meanwhile. They would note each layer that is called, to fetch weights
        ahead in the next backward pass; where one process alone generates, that one would then fetch
        what no other does, and wait for ever.
        """
        for part in self._parts:
            part.unshard()
        kept = [(hooks, dict(hooks)) for hooks, _ in self._hooks]
        for hooks, theirs in self._hooks:
            for key in theirs:
                del hooks[key]
        try:
            yield
        finally:
            for hooks, before in kept:
                hooks.clear()
                hooks.update(before)
            for part in self._parts:
                part.reshard()

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients of parameters that are whole, as ``fully_shard`` does those of the others.

        Which ones have any is the same everywhere: layer drop draws alike in all processes.
        """
        grads = [p.grad for p in parameters if p.grad is not None]
        while grads:
            some, size = [], 0
            while grads and (not some or size + grads[-1].numel() <= _BUCKET):
                some.append(grads.pop())
                size += some[-1].numel()
            flat = torch.cat([one.flatten() for one in some])
            dist.all_reduce(flat)
            flat /= self._world
            for one, part in zip(some, flat.split([g.numel() for g in some]), strict=True):
                one.copy_(part.view_as(one))

    def clip(self, names: Mapping[str, nn.Parameter], limit: float) -> float:
        """Scale gradients down to a norm over all of them, and return what that was."""
        grads = [p.grad for p in names.values() if p.grad is not None]
        split = [g.to_local() for g in grads if isinstance(g, DTensor)]
        kept = [g for g in grads if not isinstance(g, DTensor)]
        squares = torch.zeros((), dtype=torch.float64)
        if split:
            own = nn.utils.get_total_norm(split, foreach=True)
            squares = own.double().square().cpu()
            dist.all_reduce(squares)
        if kept:
            squares = squares + nn.utils.get_total_norm(kept, foreach=True).double().cpu().square()
        norm = float(squares.sqrt())
        if limit and math.isfinite(norm):
            share = min(1.0, limit / (norm + 1e-6))
            torch._foreach_mul_([*split, *kept], share)
        return norm

    @staticmethod
    def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
        """Whole tensors, one at a time, to the CPU; empty where they are not kept."""
        found = {}
        for name, tensor in tensors.items():
            whole = tensor.detach()
            if isinstance(whole, DTensor):
                whole = whole.full_tensor()
            found[name] = whole.to("cpu") if keep else whole.new_empty(0, device="cpu")
        return found


def _nothing(*_: Any) -> None:
    return None


__all__ = ["Sharded", "fits_whole"]
