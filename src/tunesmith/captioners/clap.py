"""Zero-shot tags: which words of a fixed vocabulary lie nearest to the sound in CLAP's space.

CLAP (Wu et al. 2023, arXiv:2211.06687) puts sounds and sentences into one space. The default
weights, ``laion/clap-htsat-unfused``, are Apache-2.0 according to their model card.

The score says little: it correlates weakly with what listeners hear. So a group of words is left
out of the caption rather than guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tunesmith.captioners import Told
from tunesmith.captioners._clap import ClapSpace
from tunesmith.captioners._model import Found, fingerprint, is_silent, mono_at, place
from tunesmith.captioners.vocabulary import CAPTION_WORDS, GROUPS, Group
from tunesmith.types import Audio

# How many times chance a word's probability must be, and how many times that of the best word left
# out. Ratios, because groups differ in size and checkpoints in temperature.
LIFT = 4.0
MARGIN = 1.3
_HIGHEST = 0.6  # in a group of three, four times chance cannot be reached

_WINDOWS = 8  # at most, spread over the clip


class ClapTagger:
    """Captions made of tags.

    Each group of :data:`~tunesmith.captioners.vocabulary.GROUPS` gets a softmax of its own over
    scale * cosine, with the model's trained scale. Words are kept that pass :func:`chosen`;
    confidence is the mean probability of those kept. Long clips are heard in up to eight windows
    of the model's length, whose embeddings are averaged.

    Args:
        found: the model's folder.
        name: what the user called it.
        device, dtype: as in :func:`tunesmith.captioners.open_captioner`.

    Errors: :class:`UserError` for weights that do not load, or a collapsed text tower
        (:class:`tunesmith.captioners._clap.ClapSpace`).
    """

    source = "clap"

    def __init__(
        self, found: Found, *, name: str, device: str = "auto", dtype: str = "auto"
    ) -> None:
        self.name = name
        where, precision = place(device, dtype, small=True)
        self._space = ClapSpace(found, name=name, device=where, dtype=precision)
        self._scale = self._space.scale
        self._texts = [
            self._space.embed_texts([group.template.format(word) for word in group.words])
            for group in GROUPS
        ]
        self.sample_rate_hz = self._space.sample_rate_hz
        self.fingerprint = fingerprint(found, GROUPS, LIFT, MARGIN, _WINDOWS, precision)

    def caption(self, clips: Sequence[Audio]) -> list[Told]:
        """Tags in the order genre, instruments, mood, texture, voice; empty where none is sure."""
        return [self._tell(clip) for clip in clips]

    def probabilities(self, clip: Audio) -> dict[str, np.ndarray]:
        """Per group, one probability per word: float64 ``[words]`` that sums to 1."""
        sound = self._embed_sound(mono_at(clip, self.sample_rate_hz))
        return {
            group.name: _softmax(self._scale * (texts @ sound))
            for group, texts in zip(GROUPS, self._texts, strict=True)
        }

    def _tell(self, clip: Audio) -> Told:
        if is_silent(clip):
            return Told("", 0.0)
        words: list[str] = []
        kept: list[float] = []
        probabilities = self.probabilities(clip)
        for group in GROUPS:
            for index in chosen(group, probabilities[group.name]):
                words.append(CAPTION_WORDS.get(group.words[index], group.words[index]))
                kept.append(float(probabilities[group.name][index]))
        return Told(", ".join(words), float(np.mean(kept)) if kept else 0.0)

    def _embed_sound(self, mono: np.ndarray) -> np.ndarray:
        """float64 ``[D]`` of length 1 from float32 ``[T]``."""
        mean = self._space.embed_windows(list(_windows(mono, self._space.window))).mean(axis=0)
        return mean / max(float(np.linalg.norm(mean)), 1e-12)


def chosen(group: Group, probabilities: np.ndarray) -> list[int]:
    """Which words of a group a caption names, likeliest first.

    The most words, up to ``group.most``, such that each is at least ``LIFT`` times as likely as
    chance (0.6 at most), and the least of them ``MARGIN`` times as likely as the best one left out.

    Args:
        group: the words.
        probabilities: ``[words]``.
    """
    order = np.argsort(-probabilities, kind="stable")
    threshold = min(_HIGHEST, LIFT / len(group.words))
    for count in range(min(group.most, len(order) - 1), 0, -1):
        least, rest = probabilities[order[count - 1]], probabilities[order[count]]
        if least >= threshold and least >= MARGIN * rest:
            return [int(index) for index in order[:count]]
    return []


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _windows(mono: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Stretches of ``size`` samples spread over all of it; it itself where it is no longer."""
    count = min(_WINDOWS, math.ceil(len(mono) / size))
    for index in range(count):
        start = round(index * (len(mono) - size) / (count - 1)) if count > 1 else 0
        yield mono[start : start + size]
