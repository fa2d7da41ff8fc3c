"""The small SpeechT5 of ``pocket-voice``: geometry, letters, one teacher-forced pass, the loss.

The pass runs the library's own layers, in the library's order, but makes the masks itself: those of the
library look at the data from the CPU, which would stall each step and cannot be part of a CUDA graph.
Two things differ while training, and none in what is computed of a clip in evaluation with its dropout:
the prenet's dropout is drawn for each row (the library draws one for all rows of a batch), and frames
of padding do not reach real ones through the postnet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, SpeechT5Config, SpeechT5ForTextToSpeech

BOS, PAD, EOS, UNK = "<s>", "<pad>", "</s>", "<unk>"
_SPECIAL = (BOS, PAD, EOS, UNK)  # ids 0 to 3, as in microsoft/speecht5_tts
_SPACE = "▁"
_USUAL = "abcdefghijklmnopqrstuvwxyz'-.,?!;:àáâãäåæçèéêëìíîïñòóôõöøùúûüýßœ"
SPEAKER = 512
STOP_WEIGHT = 5.0  # the library's
_HIDDEN = -1e9


def letters_of(texts: Iterable[str]) -> str:
    """All letters that texts are written in, and the usual ones of languages in Latin script."""
    return "".join(sorted(set(_USUAL).union(*(text.lower() for text in texts)) - {" "}))


def make_tokenizer(letters: str) -> PreTrainedTokenizerFast:
    """A token a letter, ``▁`` before each word, ``</s>`` at the end; capitals are read as small ones."""
    names = [*_SPECIAL, _SPACE, *letters]
    vocabulary = {name: number for number, name in enumerate(names)}
    made = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    made.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace("’", "'"),
            normalizers.Replace(Regex("\\s+"), " "),
            normalizers.Strip(),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Metaspace(_SPACE, "always", split=False),
            pre_tokenizers.Split("", "isolated"),
        ]
    )
    made.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single=f"$A {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=BOS, pad_token=PAD, eos_token=EOS, unk_token=UNK
    )


def make_config(letters: str, **changes: Any) -> SpeechT5Config:
    """Geometry; ``changes`` are for tests."""
    chosen = {
        "vocab_size": len(_SPECIAL) + 1 + len(letters),
        "hidden_size": 256,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 768,
        "encoder_layerdrop": 0.0,
        "decoder_layers": 4,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 768,
        "decoder_layerdrop": 0.0,
        "positional_dropout": 0.05,
        "hidden_dropout": 0.05,
        "attention_dropout": 0.05,
        "activation_dropout": 0.05,
        # Linear layers begin about where Glorot's rule has them at this width.
        "initializer_range": 0.06,
        # Not for text, but on by default, and drawn from NumPy's global generator.
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "speaker_embedding_dim": SPEAKER,
        "speech_decoder_postnet_units": 192,
        # Half, as in the large model, would be noise on what is hardly trained enough to bear it.
        "speech_decoder_postnet_dropout": 0.1,
        "max_speech_positions": 640,  # 20 s
        "max_text_positions": 450,
        "encoder_max_relative_position": 80,
    }
    return SpeechT5Config(**{**chosen, **changes})


def make_model(config: SpeechT5Config, seed: int = 0, mean: Tensor | None = None) -> Any:
    """A fresh ``SpeechT5ForTextToSpeech``, which says at first what all clips say in the mean, ``[M]``."""
    torch.manual_seed(seed)
    model: Any = SpeechT5ForTextToSpeech(config)
    with torch.no_grad():
        # Beside sines of amplitude 1 for the places, letters have to be heard from the beginning.
        table = model.speecht5.encoder.prenet.embed_tokens.weight
        table.normal_(0, 0.5)
        table[config.pad_token_id] = 0
        heads = model.speech_decoder_postnet
        heads.prob_out.bias.fill_(-3.0)
        # The postnet begins as next to nothing: what it adds is of unit variance otherwise.
        heads.layers[-1].batch_norm.weight.fill_(0.1)
        if mean is not None:
            heads.feat_out.bias.copy_(mean.repeat(config.reduction_factor))
    return model


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips, filled up to common lengths.

    Attributes:
        ids: letters ``[B, S]``.
        letters: how many of them are real, ``[B]``.
        mels: log10 mels ``[B, T, M]``, T a whole number of the decoder's steps.
        frames: how many of them are real, ``[B]``, whole steps too.
        speaker: ``[B, E]``.
        places: the letter that sounds in each of the decoder's steps, ``[B, L]``; negative if not known.
        phones: numbers from 1, ``[B, P]``; zeros behind.
        phone_counts: how many of them are real, ``[B]``.
    """

    ids: Tensor
    letters: Tensor
    mels: Tensor
    frames: Tensor
    speaker: Tensor
    places: Tensor
    phones: Tensor
    phone_counts: Tensor


def _real(counts: Tensor, length: int) -> Tensor:
    """``[B, length]``: which places come before each row's count."""
    return torch.arange(length, device=counts.device) < counts[:, None]


def _bias(seen: Tensor) -> Tensor:
    """What attention logits ``[B, 1, L, S]`` get so that only what is seen counts."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, _HIDDEN)


def text_states(model: Any, batch: Batch) -> Tensor:
    """The encoder's states ``[B, S, D]``."""
    net = model.speecht5.encoder
    inner, size = net.wrapped_encoder, batch.ids.shape[1]
    seen = _real(batch.letters, size)[:, None, None].expand(-1, 1, size, -1)
    bias = _bias(seen)
    states = inner.dropout(inner.layer_norm(net.prenet(batch.ids)))
    table = inner.embed_positions
    apart = torch.arange(size, device=bias.device)
    apart = (apart[:, None] - apart).clamp(-table.max_length, table.max_length - 1)
    places = table.pe_k(apart + table.max_length)
    for layer in inner.layers:
        states = layer(states, attention_mask=bias, position_bias=places)[0]
    return states


def heard(mels: Tensor, reduction: int, corrupt: bool) -> Tensor:
    """What the decoder hears: of each step before it the last frame, ``[B, L, M]``.

    Args:
        corrupt: as if the model had said it: in half the rows with noise of up to 3 dB or so, and one
            frame in twelve late by a step. A model that has only heard truth drifts when it hears itself.
    """
    last = mels[:, reduction - 1 :: reduction]
    shifted = F.pad(last[:, :-1], (0, 0, 1, 0))
    if corrupt:
        rows = len(mels)
        size = (0.4 * torch.rand(rows, 1, 1, device=mels.device) - 0.2).clamp_min(0)
        late = torch.rand(rows, shifted.shape[1], 1, device=mels.device) < 1 / 12
        shifted = torch.where(late, F.pad(shifted[:, :-1], (0, 0, 1, 0)), shifted)
        shifted = shifted + size * torch.randn_like(shifted)
    return shifted


def _prenet(model: Any, mels: Tensor, speaker: Tensor) -> Tensor:
    net, config = model.speecht5.decoder.prenet, model.config
    states = mels
    for layer in net.layers:
        states = F.dropout(F.relu(layer(states)), config.speech_decoder_prenet_dropout)
    states = net.encode_positions(net.final_layer(states))
    speaker = F.normalize(speaker)[:, None].expand(-1, states.shape[1], -1)
    return F.relu(net.speaker_embeds_layer(torch.cat([states, speaker.to(states.dtype)], -1)))


@dataclass(frozen=True, slots=True)
class Predicted:
    """Of each frame from the true ones before it: mels ``[B, T, M]`` before and after the postnet, stop
    logits ``[B, T]``, how frames look at letters, ``[B, H, L, S]`` of each layer, and letters' states."""

    before: Tensor
    after: Tensor
    stop: Tensor
    attentions: list[Tensor]
    states: Tensor


def predict(
    model: Any, batch: Batch, history: Tensor | None = None, refine: bool = True
) -> Predicted:
    """All frames of a batch at once.

    Args:
        model: speaks.
        batch: clips.
        history: what the decoder hears, ``[B, L, M]``; without, the truth.
        refine: run the postnet; else what comes after it is what comes before.
    """
    config, size = model.config, batch.ids.shape[1]
    states = text_states(model, batch)
    if history is None:
        history = heard(batch.mels, config.reduction_factor, corrupt=False)
    hidden = _prenet(model, history, batch.speaker)
    rows, steps = hidden.shape[:2]
    earlier = torch.ones(steps, steps, dtype=torch.bool, device=hidden.device).tril()
    causal = _bias(earlier[None, None].expand(rows, -1, -1, -1))
    across = _bias(_real(batch.letters, size)[:, None, None].expand(-1, 1, steps, -1))
    attentions = []
    for layer in model.speecht5.decoder.wrapped_decoder.layers:
        found = layer(
            hidden,
            attention_mask=causal,
            encoder_hidden_states=states,
            encoder_attention_mask=across,
            output_attentions=True,
            use_cache=False,
        )
        hidden = found[0]
        attentions.append(found[2])
    heads = model.speech_decoder_postnet
    before = heads.feat_out(hidden).view(rows, -1, config.num_mel_bins)
    real = _real(batch.frames, before.shape[1])[:, None]
    refined = before.transpose(1, 2)
    for layer in heads.layers if refine else ():
        refined = layer(refined * real)
    after = before + refined.transpose(1, 2) if refine else before
    stop = heads.prob_out(hidden).view(rows, -1)
    return Predicted(before.float(), after.float(), stop.float(), attentions, states)


def losses(model: Any, found: Predicted, batch: Batch) -> Tensor:
    """``[4]``: mels before and after the postnet, stop, guided attention; their plain sum is the loss."""
    config = model.config
    real = _real(batch.frames, batch.mels.shape[1])
    count = real.sum()
    terms = [
        ((mels - batch.mels).abs() * real[..., None]).sum() / (count * config.num_mel_bins)
        for mels in (found.before, found.after)
    ]
    last = torch.arange(real.shape[1], device=real.device) == batch.frames[:, None] - 1
    weight = torch.full((), STOP_WEIGHT, device=real.device)
    stop = F.binary_cross_entropy_with_logits(
        found.stop, last.float(), reduction="none", pos_weight=weight
    )
    terms.append((stop * real).sum() / count)
    heads = config.guided_attention_loss_num_heads
    maps = torch.cat([looks[:, :heads] for looks in found.attentions], 1).float()
    steps = batch.frames // config.reduction_factor
    t = torch.arange(maps.shape[2], device=maps.device) / steps[:, None]
    n = torch.arange(maps.shape[3], device=maps.device) / batch.letters[:, None]
    apart = (n[:, None, :] - t[:, :, None]) / config.guided_attention_loss_sigma
    both = _real(steps, maps.shape[2])[:, :, None] & _real(batch.letters, maps.shape[3])[:, None]
    off = (1 - torch.exp(-apart.square() / 2)) * both
    mean = (maps * off[:, None]).sum() / (maps.shape[1] * both.sum())
    terms.append(config.guided_attention_loss_scale * mean)
    return torch.stack(terms)


class Average:
    """Running averages of weights and of the postnet's statistics, as one CUDA graph can keep them.

    Args:
        model: what is averaged.
        most: of what there was, the share that a step keeps at most.
    """

    def __init__(self, model: nn.Module, most: float = 0.999) -> None:
        self.live = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        self.kept = {k: v.detach().clone() for k, v in self.live.items()}
        device = next(iter(self.live.values())).device
        self.steps, self._most = torch.zeros((), device=device), most

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        self.steps += 1
        keep = ((1 + self.steps) / (10 + self.steps)).clamp_max(self._most)
        kept, live = list(self.kept.values()), list(self.live.values())
        torch._foreach_mul_(kept, keep)
        torch._foreach_add_(kept, torch._foreach_mul(live, 1 - keep))

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what was kept."""
        for name, kept in self.kept.items():
            kept.copy_(tensors[name])


def diagonality(attention: Tensor) -> float:
    """Share of a map's weight ``[L, S]`` within a sixth of the text from the diagonal: about 0.31 of none."""
    steps, size = attention.shape
    t = torch.arange(steps, device=attention.device)[:, None] / max(1, steps - 1)
    n = torch.arange(size, device=attention.device)[None] / max(1, size - 1)
    near = ((t - n).abs() < 1 / 6).float()
    return float((attention * near).sum() / attention.sum().clamp_min(math.ulp(0.0)))
