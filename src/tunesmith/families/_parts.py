"""What bundles share that hold a codec which comes and goes, and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.types import Audio, Details, GenerationSettings, Source


class PartsBundle(Bundle):
    """A base of parts: ``codec`` comes and goes, ``module`` stays, words go through a vocabulary.

    A subclass sets ``_load_codec``, ``_codec_hash``, ``_text_hash`` and ``_words``.
    """

    _codec: Any = None
    _load_codec: Callable[[], Any]
    _codec_hash: str
    _text_hash: str
    _words: Any

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def codec_hash(self) -> str:
        return self._codec_hash

    @property
    def text_hash(self) -> str:
        (site,) = self.sites_of(["text_embedding"])
        table = self.components[site.component].get_submodule(site.inputs["table"])
        return self._words.fingerprint(self._text_hash, table)

    @property
    def codec(self) -> Any:
        """The codec, loaded if it is not there; it follows the module to another device."""
        if self._codec is None:
            self._codec = self._load_codec()
        if next(self._codec.parameters()).device != self.device:
            self._codec.to(self.device)
        return self._codec.eval()

    def release_codec(self) -> None:
        self._codec = None

    def text_pieces(self, text: str) -> list[str]:
        return self._words.pieces(text)

    def text_ids(self, text: str) -> list[int]:
        return self._words.known_ids(text)

    def use_tokens(self, tokens: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
        return self._words.use(tokens)

    def _check_sound(self, audio: Audio) -> None:
        """Raise :class:`UserError` for sound of another rate, or in other channels."""
        if audio.sample_rate_hz != self.sample_rate_hz or audio.channels not in (1, self.channels):
            raise UserError(
                f"audio is {audio.sample_rate_hz} Hz, {audio.channels} channels; "
                f"base '{self.name}' takes {self.sample_rate_hz} Hz, {self.channels}",
                "run `tunesmith prepare` for this base",
            )

    @contextmanager
    def _evaluating(self, part: Any = None) -> Iterator[None]:
        """The module, or a part of it, in evaluation mode, and back as it was."""
        part = self.module if part is None else part
        was_training = part.training
        part.eval()
        try:
            yield
        finally:
            part.train(was_training)


def ends(codes: Sequence[Tensor]) -> Tensor:
    """``[N, C, T]`` of prompts ``[C, T_i]``, as long as the shortest.

    The end of a prompt is what has to be continued, so the front is what is cut.
    """
    shortest = min(one.shape[1] for one in codes)
    return torch.stack([one[:, -shortest:] for one in codes])


class SequentialBundle(PartsBundle):
    """A model that writes a sound from its beginning to its end."""

    no_inpainting = "it writes from left to right, and cannot hear what stands behind a hole"

    def remake_codes(
        self,
        prompts: Sequence[str],
        sources: Sequence[Source],
        seeds: Sequence[int],
        settings: GenerationSettings,
        should_stop: Callable[[], int] = lambda: 0,
        details: Sequence[Details] | None = None,
    ) -> list[Tensor]:
        """A hole that reaches the end is a continuation; no other can be filled.

        Raises:
            UserError: with the reason.
        """
        begins = []
        for source in sources:
            audio = source.audio
            if len(source.spans) != 1 or source.spans[0][1] < audio.duration_s - 0.01:
                raise UserError(
                    f"'{self.name}' writes from left to right: it cannot hear what stands behind a hole, "
                    "nor begin from a recording",
                    "use a diffusion base, or make an ending anew with --continue",
                )
            stop = round(source.spans[0][0] * audio.sample_rate_hz)
            begins.append(Audio(audio.samples[:, :stop], audio.sample_rate_hz))
        given = begins if all(one.samples.shape[1] for one in begins) else None
        seconds = sources[0].audio.duration_s
        return self.generate_codes(prompts, seconds, seeds, settings, given, should_stop, details)
