"""A base whose frozen linears are in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

NF4 holds 64 weights as 4-bit indices into the 16 quantiles of a normal distribution, times one
constant; double quantisation holds 256 of these constants in 8 bits each. Only linears at the base's
seams are quantised: they are nearly all of a large model. Embeddings, norms and heads stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle

NF4 = "nf4"
BLOCK = 64
"""Weights that share a constant."""


def quantize(
    bundle: Bundle,
    device: torch.device,
    *,
    double: bool = True,
    compute: torch.dtype = torch.float32,
) -> None:
    """Put the linears of all seams into NF4, one at a time, then the rest onto ``device``.

    The base is on the CPU in full precision; at no time is more than one linear of it in full
    precision on the device.

    Args:
        bundle: a base on the CPU, frozen.
        device: where it goes.
        double: quantise the quantisation constants too.
        compute: precision of the products with dequantised weights.

    Raises:
        UserError: bitsandbytes is not installed, or knows no such device.
    """
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            "base.quantize=nf4 needs bitsandbytes", "pip install 'tunesmith[quantize]'"
        ) from None
    library: Any = bitsandbytes.nn
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"nf4 works on CPU and CUDA, not on {device.type}", "base.quantize=none")
    places = packable(bundle)
    for component, path in places:
        parent, _, last = path.rpartition(".")
        holder = bundle.components[component].get_submodule(parent)
        linear: Any = getattr(holder, last)
        packed = library.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=compute,
            compress_statistics=double,
            quant_type=NF4,
            device="meta",
        )
        # Where the processor has AVX512-BF16 the library repacks weights at the first evaluation, for
        # kernels without a backward pass; training then goes on with wrong gradients (0.50.2).
        packed.support_avx512bf16_for_cpu = False
        packed.weight = library.Params4bit(  # quantised by the move to the device
            linear.weight.detach().contiguous(),
            requires_grad=False,
            compress_statistics=double,
            quant_type=NF4,
            module=packed,
        ).to(device)
        packed.bias = None if linear.bias is None else _frozen(linear.bias.detach().to(device))
        setattr(holder, last, packed)
    for component in {component for component, _ in places}:
        module: Any = bundle.components[component]
        module.is_loaded_in_4bit = True  # PEFT asks for this before it takes such linears on
    bundle.module.to(device)
    bundle.quantized = NF4


def packable(bundle: Bundle) -> list[tuple[str, str]]:
    """``(component, path)`` of the linears that are put into 4 bits.

    Their rows are whole blocks: on the CPU the library reads others back wrongly (0.50.2), and no
    model of a size that needs this has any.
    """
    return [
        (component, path)
        for component, path in bundle.linears()
        if bundle.components[component].get_submodule(path).in_features % BLOCK == 0  # type: ignore[operator]
    ]


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
