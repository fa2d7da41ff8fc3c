"""What QLoRA needs at musicgen-large's geometry (random weights): one step on one 30 s clip.

    python -m bench.qlora_memory [--device cpu|cuda] [--quick]

Built as the tool builds it: full-precision linears one by one into NF4 on the device, adapters of
rank 16 beside them, one optimizer step with activation checkpointing. Against it stand the bytes of
full fine-tuning in half precision: weights, gradients and two moments.
"""

from __future__ import annotations

import copy
import gc
import time
from typing import Any

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

from bench._results import NO_GPU, Row, parser, record
from tunesmith.config import TrainConfig
from tunesmith.families._quantize import quantize
from tunesmith.families.musicgen._tiny import byte_tokenizer
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.methods import lora
from tunesmith.objectives.mixture import total_loss
from tunesmith.training.hardware import choose_dtype, peak_memory_bytes, reset_peak_memory
from tunesmith.training.measure import forward
from tunesmith.training.optimizer import build_optimizer
from tunesmith.types import Example

SECONDS, RATE_HZ, RANK, BAR_GIB, AIM_GIB = 30.0, 50, 16, 8.0, 6.0
WHAT = "musicgen-large geometry (random weights): QLoRA r=16, one 30 s clip, peak"
_BESIDE = "against fp16 weights, gradients and Adam moments"


def musicgen(width: int, layers: int, dtype: torch.dtype = torch.bfloat16) -> MusicgenBundle:
    """A decoder of this width (1024, 1536, 2048: small, medium, large), T5-base; random weights.

    Args:
        width: of the residual stream; heads are 64 wide.
        layers: of the decoder.
        dtype: of the weights; in half precision all of them fit anywhere.
    """
    decoder = MusicgenDecoderConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        ffn_dim=4 * width,
        num_attention_heads=width // 64,
    )
    text = T5Config(vocab_size=32_128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    codec = EncodecConfig(num_filters=2, hidden_size=8, num_lstm_layers=1)
    config = MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
    with torch.device("meta"):
        model: Any = MusicgenForConditionalGeneration(config)
    model.to(dtype).to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(-0.02, 0.02)
        for module in model.decoder.modules():
            if hasattr(module, "weights") and hasattr(module, "make_weights"):  # sinusoids
                module.make_weights(module.weights.shape[0], module.embedding_dim)
    kept = copy.copy(model.audio_encoder)
    return MusicgenBundle(
        model.requires_grad_(False),
        byte_tokenizer(),
        lambda: kept,
        name="random",
        base_hash="",
        codec_hash="",
        text_hash="",
        licence="",
        max_s=30.0,
    )


def pack(bundle: MusicgenBundle, device: torch.device, dtype: torch.dtype) -> None:
    """Linears in NF4 on the device; the rest is computed with in full precision, as the tool loads it."""
    quantize(bundle, device, compute=dtype)
    for name, parameter in bundle.module.named_parameters():
        if parameter.is_floating_point() and "quant" not in name:
            parameter.data = parameter.data.float()
    gc.collect()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = options.parse_args()
    device = torch.device(args.device)
    bundle = musicgen(2048, 2 if args.quick else 48)
    bundle.release_codec()
    parameters = sum(p.numel() for p in bundle.module.parameters())
    dtype = choose_dtype("auto", device)
    pack(bundle, device, dtype)
    reset_peak_memory(device)
    begin_bytes = peak_memory_bytes(device)
    adapter = lora.attach(bundle, lora.Config(rank=RANK), 0)
    bundle.checkpoint_activations(True)
    frames = round(SECONDS * RATE_HZ)
    codes = torch.randint(0, 2048, (4, frames), dtype=torch.int16)
    text = bundle.encode_text(["slow blues, electric guitar, live"])[0]
    batch = bundle.collate([Example("clip", codes, text)], [0])
    names = adapter.parameters()
    train = TrainConfig(lr=1e-4)  # type: ignore[call-arg]
    optimizer = build_optimizer(names, adapter.rates(), train)
    bundle.module.train()
    counts = {name: count.sum().to(device) for name, count in bundle.module.count(batch).items()}
    begin = time.perf_counter()
    for _ in range(2):  # the second has the moments as well
        loss = total_loss(forward(bundle, batch, dtype), counts, bundle.term_weights)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = (time.perf_counter() - begin) / 2
    peak, full = peak_memory_bytes(device) / 2**30, parameters * (2 + 2 + 8) / 2**30
    trained = sum(p.numel() for p in names.values())
    kind = "allocated on CUDA" if device.type == "cuda" else "resident, CPU"
    figure = (
        f"{peak:.2f} GiB {kind} ({begin_bytes / 2**30:.2f} before the first step) {_BESIDE}: "
        f"{full:.1f} GiB ({full / peak:.1f} times); {parameters:,} parameters, {trained:,} trained; "
        f"{seconds:.1f} s a step, {str(dtype).removeprefix('torch.')}; loss {float(loss.detach()):.3f}"
    )
    bar = f"<= {BAR_GIB:g} GB (aim {AIM_GIB:g})"
    on_gpu = device.type == "cuda"
    rows = [
        Row(WHAT + ", GPU", bar, figure if on_gpu else None, peak <= BAR_GIB, missing=NO_GPU),
        Row(WHAT + ", CPU", "", None if on_gpu else figure, missing="not measured"),
    ]
    if args.quick:
        print(*rows, sep="\n")
        return
    record("qlora_memory", "QLoRA at full size", rows, notes=(
        "LoRA on q, k, v of all attentions; activation checkpointing; T5-base, embeddings, norms and "
        "heads in float32 as loaded."
    ), packages=("torch", "transformers", "peft", "bitsandbytes"))  # fmt: skip


if __name__ == "__main__":
    main()
