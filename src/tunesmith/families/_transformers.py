"""What families that stand on transformers share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import EncodecFeatureExtractor
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """The library reports each load at length; what matters of it is checked here instead."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def checkpoint_activations(model: Any, enabled: bool) -> None:
    """Recompute a model's activations in the backward pass, or keep them again.

    The library then makes the outputs of frozen embedding tables ask for gradients, which only the reentrant
    form of checkpointing needs. Here it would cost a backward pass through the lowest layer for nothing,
    and CSM's depth decoder, which writes into that output, could not train at all.

    Args:
        model: of the library.
        enabled: whether to.
    """
    # transformers 5.23 renamed these; before, only the old names are there.
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if not enabled:
        getattr(model, f"{word}_checkpointing_disable")()
        return
    getattr(model, f"{word}_checkpointing_enable")({"use_reentrant": False})
    model.disable_input_require_grads()


def save_with_codec(model: Any, attribute: str, codec: Any, folder: Path) -> None:
    """Save a model in the hub's layout whose codec is held apart from it while it trains.

    Args:
        model: of the library; ``attribute`` is None before and after.
        attribute: where the library has the codec.
        codec: it.
        folder: to make.
    """
    setattr(model, attribute, codec)
    try:
        with quiet():
            model.save_pretrained(folder)
    finally:
        setattr(model, attribute, None)


def encodec_sound(
    model: Any, channels: int, sample_rate_hz: int, **settings: Any
) -> EncodecFeatureExtractor:
    """The feature extractor of the folder that a model came from; a plain one where it has none."""
    source = Path(model.name_or_path)
    names = ("preprocessor_config.json", "processor_config.json")
    if model.name_or_path and any((source / name).is_file() for name in names):
        return EncodecFeatureExtractor.from_pretrained(source)
    return EncodecFeatureExtractor(channels, sample_rate_hz, **settings)
