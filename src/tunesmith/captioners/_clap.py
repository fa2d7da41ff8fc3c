"""CLAP's one space of sounds and sentences, for tags and for embeddings.

Wu et al. 2023, "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and
Keyword-to-Caption Augmentation" (arXiv:2211.06687).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, ClapModel

from tunesmith.captioners import DEFAULT_CLAP
from tunesmith.captioners._model import Found, broken, load_weights
from tunesmith.errors import UserError
from tunesmith.randomness import own_generators

_COLLAPSED = 0.98
_UNRELATED = (
    "a dog barks in the rain",
    "fast heavy metal with screamed vocals",
    "someone typing on a keyboard",
    "a calm solo harp lullaby",
    "a jet engine starts",
    "a crowd laughing",
)
_BATCH = 8
_RESERVED = 2  # positions below RoBERTa's padding index + 1 are never used


class ClapSpace:
    """A CLAP that has been opened and can tell texts apart.

    Args:
        found: the model's folder.
        name: what the user called it.
        device: where it runs.
        dtype: of its weights.

    Attributes:
        sample_rate_hz: what it hears.
        window: samples that it hears at once; it repeats shorter sounds until they fill that.
        scale: the trained factor of its cosines.
        dimension: of its space.

    Errors: :class:`UserError` for weights that do not load, or a collapsed text tower:
        ``laion/larger_clap_music`` as converted gives unrelated sentences a cosine of 0.999.
    """

    def __init__(
        self, found: Found, *, name: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        try:
            self._processor: Any = AutoProcessor.from_pretrained(found.path, local_files_only=True)
        except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
            raise broken(name, error, found.what) from error
        self._device, self._dtype = device, dtype
        self._model = load_weights(ClapModel, found, name, dtype).to(device)
        config = self._model.config
        self._longest = int(config.text_config.max_position_embeddings) - _RESERVED
        alike = self._likeness(_UNRELATED)
        if not alike <= _COLLAPSED:  # NaN is no better
            raise UserError(
                f"{found.what} '{name}' cannot tell texts apart (cosine of unrelated ones: {alike:.3f})",
                f"its text side is broken; use clap:{DEFAULT_CLAP}",
            )
        extractor = self._processor.feature_extractor
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.window = int(extractor.nb_max_samples)
        self.scale = float(self._model.logit_scale_a.detach().exp())
        self.dimension = int(config.projection_dim)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float64 ``[texts, D]`` of length 1; the end of a text beyond the model's length is lost."""
        tokens = self._processor.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        found = self._model.get_text_features(**tokens.to(self._device)).pooler_output
        return found.double().cpu().numpy()

    @torch.inference_mode()
    def embed_windows(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """float64 ``[W, D]`` of length 1 from float32 ``[T]``, each at most ``window`` long."""
        rows = []
        for start in range(0, len(windows), _BATCH):
            # The feature extractor may draw from the global generator.
            with own_generators(0):
                # One at a time: with feature fusion the extractor picks one of a batch at random.
                features = [
                    self._processor.feature_extractor(
                        window, sampling_rate=self.sample_rate_hz, return_tensors="pt"
                    )
                    for window in windows[start : start + _BATCH]
                ]
            mels = torch.cat([one["input_features"] for one in features])
            longer = [torch.as_tensor(one["is_longer"]).reshape(1, 1) for one in features]
            found = self._model.get_audio_features(
                input_features=mels.to(self._device, self._dtype),
                is_longer=torch.cat(longer).to(self._device),
            ).pooler_output
            rows.append(found.double().cpu().numpy())
        return np.concatenate(rows)

    def _likeness(self, texts: Sequence[str]) -> float:
        vectors = self.embed_texts(texts)
        cosines = vectors @ vectors.T
        return float(cosines[~np.eye(len(texts), dtype=bool)].mean())
