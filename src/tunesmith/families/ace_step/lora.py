"""LoRAs in the form that ``AceStepPipeline.load_lora_weights`` opens."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AceStepPipeline
from safetensors.torch import load_file

from tunesmith.errors import UserError

_COMPONENT = "transformer"
_PREFIX = "base_model.model."  # what PEFT puts before a name when a whole model is saved


def save_lora(adapter: Path, out: Path) -> None:
    """Write the LoRA of a saved adapter as diffusers' own file.

    PEFT's names have another beginning, and its file says nothing of rank and scale: diffusers would
    find no LoRA in it, and pass over that with a warning.

    Args:
        adapter: folder of the adapter, with ``adapter/transformer`` in it.
        out: folder for ``pytorch_lora_weights.safetensors``.

    Raises:
        UserError: the adapter changes other parts, which the pipeline's loader does not know, or is no
            LoRA.
    """
    parts = sorted(path.name for path in (adapter / "adapter").iterdir())
    config = adapter / "adapter" / _COMPONENT / "adapter_config.json"
    if parts != [_COMPONENT] or not config.is_file():
        raise UserError(
            f"{adapter}: diffusers' loader for ACE-Step takes a LoRA of its transformer and nothing else",
            "use another form, or merge it",
        )
    tensors = load_file(config.parent / "adapter_model.safetensors")
    AceStepPipeline.save_lora_weights(
        out,
        transformer_lora_layers={
            name.removeprefix(_PREFIX): value for name, value in tensors.items()
        },
        transformer_lora_adapter_metadata=json.loads(config.read_text(encoding="utf-8")),
    )
