"""A trained LoRA's component folder, opened by plain PEFT on the plain transformers decoder.

    python -m bench.peft_opens [--quick]

Nothing of Tunesmith takes part on the other side: ``MusicgenForConditionalGeneration`` and
``peft.PeftModel.from_pretrained``. Logits of the decoder are compared on random codes.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from bench._results import Row, parser, record
from bench._turns import build, small_model
from tunesmith.families.musicgen._tiny import byte_tokenizer
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.formats.adapter import save_adapter
from tunesmith.methods import lora

BAR = 1e-4
VARIANTS: Mapping[str, dict[str, Any]] = {
    "lora": {},
    "rsLoRA, alpha 24, all linears": {
        "rslora": True,
        "alpha": 24.0,
        "targets": ("q", "k", "v", "o", "up", "down"),
    },
    "DoRA": {"dora": True},
}


def model_of(geometry: str, layers: int) -> MusicgenForConditionalGeneration:
    """The plain model; the same weights at every call."""
    return small_model(layers) if geometry == "musicgen-small" else build(geometry)[0]


def random_inputs(model: MusicgenForConditionalGeneration) -> dict[str, Tensor]:
    """Random codes and text states."""
    decoder = model.config.decoder
    generator = torch.Generator().manual_seed(3)
    return {
        "input_ids": torch.randint(decoder.vocab_size, (8, 60), generator=generator),
        "encoder_hidden_states": torch.randn(2, 12, decoder.hidden_size, generator=generator),
    }


@torch.no_grad()
def compare(geometry: str, layers: int, settings: Mapping[str, Any]) -> tuple[float, float, int]:
    """``(largest difference, largest change that the adapter makes, adapted linears)``."""
    model = model_of(geometry, layers).eval()
    inputs = random_inputs(model)
    before = model.decoder(**inputs).logits
    bundle = MusicgenBundle(
        model.requires_grad_(False),
        byte_tokenizer(),
        lambda: None,  # type: ignore[arg-type, return-value]
        name=geometry,
        base_hash="",
        codec_hash="",
        text_hash="",
        licence="",
        max_s=30.0,
    )
    adapter = lora.attach(bundle, lora.Config(rank=16, **settings), 0)
    generator = torch.Generator().manual_seed(4)
    for parameter in adapter.parameters().values():  # as if trained: B is no longer zero
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    bundle.module.eval()
    ours = bundle.components["decoder"](**inputs).logits
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder), adapter, bundle, {})
        del model, bundle, adapter
        gc.collect()
        plain = model_of(geometry, layers).decoder
        theirs = PeftModel.from_pretrained(plain, Path(folder) / "adapter" / "decoder").eval()
        count = sum(".lora_A." in name for name, _ in theirs.named_parameters())
        logits = theirs(**inputs).logits
    return float((ours - logits).abs().max()), float((ours - before).abs().max()), count


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = []
    for geometry, layers in (("pocket", 0), ("musicgen-small", 2 if args.quick else 24)):
        for name, settings in VARIANTS.items():
            worst, change, count = compare(geometry, layers, settings)
            rows.append(
                Row(
                    f"{geometry}, {name}: largest difference of logits",
                    f"<= {BAR:g}",
                    f"{worst:.1e} ({count} linears adapted, which moved logits by up to {change:.2g})",
                    worst <= BAR < change,
                )
            )
            print(rows[-1], flush=True)
    if not args.quick:
        record(
            "peft_opens",
            "The LoRA's folder in plain PEFT",
            rows,
            notes="Random adapter weights; musicgen-small's full geometry with random weights.",
        )


if __name__ == "__main__":
    main()
