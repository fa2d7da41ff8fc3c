"""The nouns that every room of the house shares: frozen, typed, units in their names.

Nothing here imports torch at run time, so that listing and ``--help`` stay instant; tensors appear
in annotations only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Role = Literal[
    "self_attention",
    "cross_attention",
    "feed_forward",
    "text_embedding",
    "conditioner",
    "vocoder",
]
"""What a seam of a model is *for*. Methods ask for roles, never for a module's name."""

ROLES: tuple[Role, ...] = get_args(Role)

Split = Literal["train", "valid"]

Details = Mapping[str, Any]
"""What is said of a clip or a prompt beside its caption, by column: ``lyrics``, ``bpm``, ``key`` ..."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Decoded sound.

    Attributes:
        samples: float32 ``[C, T]`` in -1..1.
        sample_rate_hz: samples per second and channel.
    """

    samples: np.ndarray
    sample_rate_hz: int

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def duration_s(self) -> float:
        return self.samples.shape[1] / self.sample_rate_hz


@dataclass(frozen=True, slots=True)
class Source:
    """A recording that a take is made from, and what of it is to be made anew.

    Attributes:
        audio: the recording.
        spans: ``(begin, end)`` in seconds of what is made anew, as if it were missing; empty is
            nothing.
        strength: how far all of it is moved toward noise before it is made anew: 0 leaves it as it is,
            1 keeps nothing of it. Where there are spans or a band is missing it has no meaning.
        banded: a band of its frequencies was taken out, and is to be made anew.
    """

    audio: Audio
    spans: tuple[tuple[float, float], ...] = ()
    strength: float = 1.0
    banded: bool = False


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a prepared data set: a file, what it sounds like, where it came from.

    Attributes:
        path: the clip's audio file.
        caption: the text that it is trained with.
        split: ``train`` or ``valid``.
        recording: name of the recording that it was cut from; clips of one recording never stand
            on both sides of a split unless the data set says so.
        start_s: offset in that recording.
        duration_s: length.
        sha256: hash of the clip's file: the key of every cache.
        caption_source: where the caption came from (``sidecar``, ``metadata``, ``facts`` ...).
        caption_confidence: 0 to 1; 1 for what a person wrote.
        captions: further captions of the same sound, one of which is drawn each epoch.
        variant_of: file name of the clip that this one is a varied version of; empty for most.
        extra: further columns (lyrics, bpm, key ...), as they stand in the metadata.
    """

    path: Path
    caption: str
    split: Split
    recording: str
    start_s: float
    duration_s: float
    sha256: str
    caption_source: str = "sidecar"
    caption_confidence: float = 1.0
    captions: tuple[str, ...] = ()
    variant_of: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded clip, ready to be collated.

    Attributes:
        clip_id: stable name (the clip's hash): with run and epoch it seeds everything random.
        codes: what the family's codec made of the audio; ``[K, T]`` integer codes or ``[D, T]``
            latents, on the CPU.
        text: what the family's text side made of the caption; tensors without a batch axis.
        further: the same of the clip's further captions, if it has any.
        banded: latents of the clip with a band of frequencies taken out, one of several bands each;
            where a base is taught to bring such bands back.
        spectra: log energies of bands ``[F, T]`` at the rate of the latents
            (:func:`tunesmith.analysis.repeats.spectra`), where a base is told of what repeats.
    """

    clip_id: str
    codes: Tensor
    text: Mapping[str, Tensor]
    further: Sequence[Mapping[str, Tensor]] = ()
    banded: Sequence[Tensor] = ()
    spectra: Tensor | None = None

    @property
    def frames(self) -> int:
        return int(self.codes.shape[-1])


@dataclass(frozen=True, slots=True)
class Batch:
    """What a family's ``forward`` takes: padded tensors, and masks that say what is real.

    Attributes:
        codes: ``[B, K, T]`` codes or ``[B, D, T]`` latents, padded at the end.
        frames: ``[B]`` real lengths, in frames.
        text: conditioning, each ``[B, ...]``; unconditional rows are already blanked. Beside it what a
            family draws from the seeds ahead, so that its loss draws nothing.
        seeds: one seed per example; a family draws its noise and timesteps from them.
    """

    codes: Tensor
    frames: Tensor
    text: Mapping[str, Tensor]
    seeds: Sequence[int]

    def to(self, device: Any) -> Batch:
        """The same batch on another device."""
        return Batch(
            codes=self.codes.to(device),
            frames=self.frames.to(device),
            text={name: value.to(device) for name, value in self.text.items()},
            seeds=self.seeds,
        )


Loss = Mapping[str, "tuple[Tensor, Tensor]"]
"""What ``forward`` returns: ``{term: (sum[B], count[B])}``. Sums and counts rather than means, so
that a mean over a whole accumulated, global batch is exact whatever its slices."""


@dataclass(frozen=True, slots=True)
class Site:
    """One seam of a model that a method can take hold of.

    Attributes:
        role: what the seam is for.
        layer: index of the block that it belongs to; -1 for what stands once.
        component: which saved component it belongs to (``decoder``, ``text_encoder`` ...).
        inputs: short name to path (within the component) of each input linear: ``q``, ``k``, ``v``
            of an attention, ``up`` of a feed-forward. Where one linear makes several, they share it.
        output: path of the linear that leads back into the residual stream; empty if none.
        width: width of the residual stream at this seam.
        attention: path of the attention module, which calls a child named ``joined`` if it has one:
            ``keys, values, mask = joined(keys, values, mask, queries)``; empty if nothing can be joined.
        heads: attention heads of keys and values; 0 where there are none.
        head_size: width of one; 0 where the linear behind ``k`` makes these heads and nothing else.
        leading: places of a self-attention that stand before the sound's own (times, memory).
    """

    role: Role
    layer: int
    component: str
    inputs: Mapping[str, str]
    output: str
    width: int
    attention: str = ""
    heads: int = 0
    head_size: int = 0
    leading: int = 0


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How a family samples; what a family has no use for, it ignores by saying so in its SPEC.

    Attributes:
        guidance: classifier-free guidance scale; 1 is off.
        temperature: 0 is greedy.
        top_k: keep the k likeliest; 0 is off.
        top_p: keep the smallest set with this probability mass; 1 is off.
        steps: of a diffusion model's sampler; 0 is the base's own number.
    """

    guidance: float = 3.0
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 1.0
    steps: int = 0
