"""What a family hands out: modules to train, and the frozen ways in and out of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.objectives.holes import Holes
from tunesmith.types import Audio, Batch, Details, Example, GenerationSettings, Loss, Site, Source

if TYPE_CHECKING:
    import torch


class LossModule(nn.Module, ABC):
    """Every component that can be trained, in one module whose call *is* the loss.

    A loss computed beside ``__call__`` would silently skip the gradient synchronisation of DDP and
    FSDP, which hooks into ``forward``.

    Attributes:
        joined_states: a child that is called with what cross-attention is about to read, ``states, mask
            = joined_states(states, mask)``, in the loss and in generation alike, after the
            unconditional rows of guidance were added. States are ``[B, S, D]``; the mask is ``[B, S]``
            (1 where a state is seen), and may come back as ``[B, 1, 1, S']``, to be added to the
            attention's logits. None while nothing is joined. A family that has no such seam lacks
            the attribute.
        holes: draws what is missing of the examples (:class:`tunesmith.objectives.holes.Holes`) in families
            that can be shown a sound with holes; None shows them whole.
        repeats: whether a model whose input was widened is told, of what is missing, the stretch of the
            same sound that most likely says it again (:mod:`tunesmith.analysis.repeats`).
    """

    joined_states: nn.Module | None
    holes: Holes | None = None
    repeats: bool = False

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """Loss sums and counts per term: ``{name: (sum[B], count[B])}``."""

    @abstractmethod
    def count(self, batch: Batch) -> Mapping[str, Tensor]:
        """The counts that ``forward`` will return, ``{name: [B]}``, without computing the loss.

        Known ahead, they let every slice of an accumulated, global batch be normalised by the whole.
        """

    def norms(self) -> Sequence[nn.Module]:
        """Layer norms whose results nothing but linears reads."""
        return ()

    def static(self, batch: Batch) -> Batch | None:
        """The batch padded to one of few shapes, so that a step can be recorded for each and replayed.

        Only a loss that asks its device for nothing, and does the same whatever the tensors hold, can
        be; None, the default, says that this one cannot.
        """
        return None


class Bundle(ABC):
    """A loaded base.

    Attributes:
        module: the loss module.
        components: the parts an adapter can be saved for, by name, as the plain library's modules.
        sites: every seam a method can take hold of.
        term_weights: weight of each loss term in the total.
        name: what the user called the base.
        base_hash: its fingerprint; empty for random weights.
        licence: licence of the weights.
        family: name of the family.
        sample_rate_hz, channels, max_s, frame_rate_hz: of the audio that it takes and gives.
        sampling: how the base is best sampled, where nobody says otherwise.
        settings: which of :class:`GenerationSettings` mean something to it.
        quantized: format of the frozen linears (``nf4``); empty in full precision.
        columns: columns of a data set, beside the caption, that it is conditioned on; empty for most.
        draws_noise: its loss draws noise and times from ``Batch.seeds``, so that one value of it is a
            sample: what measures or overfits a clip has to take several.
        free_length: the text decides how long a take is; the length that is asked for is the most.
        codec_s: seconds of sound that its codec takes at once; a longer one goes through it in parts.
        fixed: parameters, as ``component/path``, that ``full`` leaves alone: constants that a library keeps
            as parameters, and what the loss never reaches.
        inpainting: how a sound with holes is shown to the model: ``own`` input, or ``widened``, where the
            linear at ``input_place`` is to be widened; empty if it cannot be, ``no_inpainting`` says why.
        input_place: ``(component, path)`` of the linear that takes noisy latents.
        input_sizes: ``(C, D)``: channels of the latents, width of what that linear gives.
        untrainable: why this checkpoint serves but does not train (distilled ones); empty if it does.
    """

    module: LossModule
    components: Mapping[str, nn.Module]
    sites: tuple[Site, ...]
    term_weights: Mapping[str, float]
    name: str
    base_hash: str
    licence: str
    family: str
    sample_rate_hz: int
    channels: int
    max_s: float
    frame_rate_hz: float
    sampling: GenerationSettings = GenerationSettings()
    settings: tuple[str, ...] = ("guidance", "temperature", "top_k", "top_p")
    quantized: str = ""
    columns: tuple[str, ...] = ()
    draws_noise: bool = False
    free_length: bool = False
    codec_s: float = float("inf")
    fixed: frozenset[str] = frozenset()
    inpainting: Literal["", "own", "widened"] = ""
    no_inpainting: str = "it does not make sound from noise"
    input_place: tuple[str, str] = ("", "")
    input_sizes: tuple[int, int] = (0, 0)
    untrainable: str = ""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the module lives."""

    @property
    @abstractmethod
    def codec_hash(self) -> str:
        """Hash of what ``encode_audio`` depends on: part of the key of cached codes."""

    @property
    @abstractmethod
    def text_hash(self) -> str:
        """Hash of what ``encode_text`` depends on: part of the key of cached text states."""

    @abstractmethod
    def encode_audio(self, audio: Audio) -> Tensor:
        """Codes ``[K, T]`` (or latents ``[D, T]``) of one clip, on the CPU. Frozen, cacheable."""

    @abstractmethod
    def decode_audio(self, codes: Tensor) -> Audio:
        """Sound from codes ``[K, T]`` (or latents ``[D, T]``)."""

    @abstractmethod
    def release_codec(self) -> None:
        """Let the codec leave memory; it comes back by itself when next needed."""

    @abstractmethod
    def encode_text(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        """Frozen text states of each caption, on the CPU, without a batch axis.

        Args:
            captions: texts.
            details: of each caption, what is said in ``columns``, and ``duration_s`` of its clip. Given
                only to families that have columns.
        """

    @abstractmethod
    def collate(
        self, examples: Sequence[Example], seeds: Sequence[int], drop: float = 0.0
    ) -> Batch:
        """One padded batch; each row loses its conditioning with probability ``drop`` (guidance)."""

    @abstractmethod
    def generate_codes(
        self,
        prompts: Sequence[str],
        duration_s: float,
        seeds: Sequence[int],
        settings: GenerationSettings,
        audio_prompts: Sequence[Audio] | None = None,
        should_stop: Callable[[], int] = lambda: 0,
        details: Sequence[Details] | None = None,
    ) -> list[Tensor]:
        """Codes or latents of one new clip per prompt; row i depends on ``seeds[i]`` alone.

        Args:
            prompts: texts; an empty one is unconditional.
            duration_s: length of each result, an audio prompt's length included.
            seeds: one per prompt.
            settings: sampling settings.
            audio_prompts: one per prompt, to be continued.
            should_stop: polled often; non-zero (a signal's number) raises ``errors.Stopped``.
            details: of each prompt, what is said in ``columns``.
        """

    @abstractmethod
    def agreement(self, example: Example) -> float:
        """Largest difference between what generation computes step by step and the loss in one pass.

        For a language model: logits with a cache against teacher forcing. A loss that looks
        healthy while the model generates noise shows here.
        """

    @abstractmethod
    def mismatch(self, wanted: Tensor, given: Tensor) -> float:
        """How far codes or latents are from others: 0 is the same, 1 nothing in common."""

    @abstractmethod
    def checkpoint_activations(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""

    def text_pieces(self, text: str) -> list[str]:
        """The tokens that the family's tokenizer makes of a text, without special ones."""
        raise self._cannot("tell how it splits a text")

    def text_ids(self, text: str) -> list[int]:
        """Rows of the text embedding that stand for a text, without special and unknown ones."""
        raise self._cannot("tell which rows a text stands for")

    def use_tokens(self, tokens: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
        """Let prompts and captions hold new tokens, instead of those of an earlier call.

        ``text_hash`` then depends on them, so that no cached text state is taken for another's. Texts
        without any of them are tokenised as ever; ``{}`` puts back the base's own vocabulary.

        Args:
            tokens: ``{token: number of vectors}``.

        Returns:
            The ids that stand for each token: beyond the embedding table, one a vector.

        Raises:
            UserError: a token that the base already has, or a family without tokens.
        """
        raise self._cannot("learn new tokens")

    def conditioning(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        """What an adapter of these clips keeps on its card, so that it is asked without them as it was
        trained: a speaker's vector, say. Plain values; nothing in most families."""
        return {}

    def use_conditioning(self, values: Mapping[str, Any]) -> None:
        """Take what :meth:`conditioning` gave for what prompts do not say; ``{}`` changes nothing."""
        return

    def conditioning_kept(self) -> Callable[[], None]:
        """What to call later to have again what is used now, whatever :meth:`use_conditioning` is given."""
        return lambda: None

    def set_dropout(self, share: float) -> None:
        """Dropout of the trainable components while they train."""
        raise self._cannot("set its dropout")

    def export(self, folder: Path) -> None:
        """Write the base as it now is as a standard checkpoint, which the plain library opens."""
        raise self._cannot("be written as a checkpoint of its own")

    def _cannot(self, what: str) -> UserError:
        return UserError(f"family {self.family} cannot {what}", "use another method or base")

    def generate(
        self,
        prompts: Sequence[str],
        duration_s: float,
        seeds: Sequence[int],
        settings: GenerationSettings | None = None,
        audio_prompts: Sequence[Audio] | None = None,
        should_stop: Callable[[], int] = lambda: 0,
        details: Sequence[Details] | None = None,
    ) -> list[Audio]:
        """New sound for each prompt: ``generate_codes``, decoded."""
        more = {} if details is None else {"details": details}
        codes = self.generate_codes(
            prompts,
            duration_s,
            seeds,
            settings or self.sampling,
            audio_prompts,
            should_stop,
            **more,
        )
        return [self.decode_audio(one) for one in codes]

    def remake_codes(
        self,
        prompts: Sequence[str],
        sources: Sequence[Source],
        seeds: Sequence[int],
        settings: GenerationSettings,
        should_stop: Callable[[], int] = lambda: 0,
        details: Sequence[Details] | None = None,
    ) -> list[Tensor]:
        """Codes or latents of recordings made anew, in part or by degrees; as long as each is.

        Args:
            prompts: what each is to sound like.
            sources: the recordings, all of one length, and what of them is to change.
            seeds, settings, should_stop, details: as of :meth:`generate_codes`.

        Raises:
            UserError: a family that cannot, with its reason.
        """
        raise self._cannot("change a recording")

    def linears(self) -> list[tuple[str, str]]:
        """``(component, path)`` of every linear at a seam, sorted."""
        found = {
            (site.component, path)
            for site in self.sites
            for path in (*site.inputs.values(), site.output)
            if path
        }
        return sorted(
            (component, path)
            for component, path in found
            if isinstance(self.components[component].get_submodule(path), nn.Linear)
        )

    def layer_roots(self) -> dict[str, dict[int, str]]:
        """``{component: {layer: path.}}``: what the seams of each layer have in common.

        Everything below that path belongs to the layer.
        """
        found: dict[str, dict[int, str]] = {}
        for site in self.sites:
            paths = [path for path in (*site.inputs.values(), site.output) if path]
            if site.layer < 0 or not paths:
                continue
            known = found.setdefault(site.component, {})
            parts = [path.split(".")[:-1] for path in paths]
            parts.append(known.get(site.layer, "").split(".")[:-1])
            alike = takewhile(
                lambda names: len(set(names)) == 1, zip(*filter(None, parts), strict=False)
            )
            known[site.layer] = "".join(f"{names[0]}." for names in alike)
        return found

    def sites_of(self, roles: Sequence[str]) -> list[Site]:
        """The sites whose role is among ``roles``."""
        return [site for site in self.sites if site.role in roles]
