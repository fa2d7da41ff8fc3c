"""Models that say what a recording sounds like, opened by name.

``open_captioner("owner/model")`` takes a hub id or a folder in the hub's layout that holds a
generative audio model (:mod:`.audio_llm`); ``clap`` or ``clap:owner/model`` picks tags from a fixed
vocabulary (:mod:`.clap`). Listing and importing this package need neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tunesmith.errors import UserError
from tunesmith.types import Audio

DEFAULT_CLAP = "laion/clap-htsat-unfused"


@dataclass(frozen=True, slots=True)
class Told:
    """What a captioner says of one clip.

    Attributes:
        text: one line; empty where it has nothing sure to say.
        confidence: 0..1; each captioner documents what it means.
    """

    text: str
    confidence: float


class Captioner(Protocol):
    """An opened captioning model.

    Attributes:
        name: what the user called it.
        fingerprint: changes whenever its captions could: weights, prompt, vocabulary, precision.
        source: ``model`` or ``clap``: what a clip's ``caption_source`` says.
    """

    name: str
    fingerprint: str
    source: str

    def caption(self, clips: Sequence[Audio]) -> list[Told]:
        """One answer per clip, in order; the same clips give the same answers."""
        ...


def open_captioner(
    name: str, *, device: str = "auto", dtype: str = "auto", prompt: str | None = None
) -> Captioner:
    """Find and load a captioner.

    Args:
        name: a hub id (``owner/model``, ``owner/model@revision``), a folder in the hub's layout,
            ``clap``, or ``clap:`` and an id or folder.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1`` ...
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``. A model that writes runs in half
            precision on CUDA and in float32 elsewhere; CLAP is small and stays float32.
        prompt: what a generative model is asked; ``None`` is the built-in question.

    Errors: :class:`UserError`: nothing of that name here or on the hub, no safetensors weights, a
        model that cannot caption, a CLAP whose text side is broken.
    """
    from tunesmith.captioners._model import find

    kind, _, rest = name.partition(":")
    if name == "clap" or (kind == "clap" and rest):
        found = find(rest or DEFAULT_CLAP)
        if found.model_type != "clap":
            raise UserError(
                f"'{rest}' is a '{found.model_type}' model, not a CLAP",
                f"leave 'clap:' out to let it write captions, or try clap:{DEFAULT_CLAP}",
            )
    else:
        found = find(name)
    if found.model_type == "clap":
        from tunesmith.captioners.clap import ClapTagger

        return ClapTagger(found, name=name, device=device, dtype=dtype)
    from tunesmith.captioners.audio_llm import PROMPT, AudioLlm

    return AudioLlm(found, name=name, device=device, dtype=dtype, prompt=prompt or PROMPT)
