"""A CSM with random weights, small enough that a test may train it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CsmConfig,
    CsmDepthDecoderConfig,
    CsmForConditionalGeneration,
    MimiConfig,
    PreTrainedTokenizerFast,
)

from tunesmith.families._transformers import quiet
from tunesmith.families.csm.bundle import CsmBundle

_CODES, _CODEBOOKS = 32, 4
_HEAD_GAIN = 10.0
_TEXT_GAIN = 10.0


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and those that CSM's turns are written with."""
    names = ["<pad>", "<unk>", "<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>"]
    vocabulary = {name: number for number, name in enumerate([*names, *map(chr, range(32, 257))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")  # type: ignore[assignment]
    begin, end = names[2:4]
    tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single=f"{begin} $A {end}", special_tokens=[(begin, 2), (end, 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=begin,
        eos_token=end,
        additional_special_tokens=names[4:],
    )


def tiny_config(width: int = 32) -> CsmConfig:
    """Geometry of the tiny model: 1,600 Hz, 25 frames a second, 4 codebooks of 32 codes."""
    codec = MimiConfig(
        sampling_rate=1600,
        hidden_size=16,
        num_filters=4,
        upsampling_ratios=[8, 4],
        codebook_size=_CODES,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=_CODEBOOKS,
        upsample_groups=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
    )
    shape: dict[str, Any] = {
        "vocab_size": _CODES + 3,  # as CSM's has three codes beyond the codec's
        "num_codebooks": _CODEBOOKS,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    depth = CsmDepthDecoderConfig(
        **shape,
        num_hidden_layers=1,
        backbone_hidden_size=width,
        max_position_embeddings=_CODEBOOKS + 1,
    )
    words: Any = tiny_tokenizer()
    audio, audio_eos = words.convert_tokens_to_ids(["<|AUDIO|>", "<|audio_eos|>"])
    with quiet():  # it takes ids of text for codes, and warns that they are none
        return CsmConfig(
            **shape,
            num_hidden_layers=2,
            text_vocab_size=len(words) + 1,  # as tables often have a row more than there are tokens
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=words.bos_token_id,
            eos_token_id=None,
            audio_token_id=audio,
            audio_eos_token_id=audio_eos,
            codebook_pad_token_id=_CODES + 2,
            codebook_eos_token_id=0,
            depth_decoder_config=depth,
            codec_config=codec,
        )


def tiny_model(seed: int = 0, width: int = 32) -> CsmForConditionalGeneration:
    """The plain library's model with random weights, drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model: Any = CsmForConditionalGeneration(tiny_config(width))
        _fit_codebooks(model.codec_model)
        with torch.no_grad():
            # Fresh heads are so small that no adapter beneath them could say anything.
            model.lm_head.weight.mul_(_HEAD_GAIN)
            model.depth_decoder.codebooks_head.weight.mul_(_HEAD_GAIN)
            # And fresh attention lets so little through that no word would make a difference.
            for layer in (*model.backbone_model.layers, *model.depth_decoder.model.layers):
                layer.self_attn.v_proj.weight.mul_(_TEXT_GAIN)
                layer.self_attn.o_proj.weight.mul_(_TEXT_GAIN)
    return model.eval()


@torch.no_grad()
def _fit_codebooks(codec: Any) -> None:
    """Take the codes from latents of noise, so that a busy sound has busy codes.

    Codebooks are zeros in a new model, and the latents of a random encoder hardly move around
    their mean: any other codebook would give every sound one code, which a model that is wrong
    regenerates as well as one that is right.
    """
    codec.eval()
    noise = 0.3 * torch.randn(1, 1, 4 * codec.config.sampling_rate)
    heard: list[Tensor] = []
    projections = [
        part.input_proj.register_forward_hook(lambda *passed: heard.append(passed[2]))
        for part in (
            codec.quantizer.semantic_residual_vector_quantizer,
            codec.quantizer.acoustic_residual_vector_quantizer,
        )
    ]
    codec.encode(noise)
    for hook in projections:
        hook.remove()
    for part, latents in zip(
        (
            codec.quantizer.semantic_residual_vector_quantizer,
            codec.quantizer.acoustic_residual_vector_quantizer,
        ),
        heard,
        strict=True,
    ):
        left = latents[0].T
        for layer in part.layers:
            codes = layer.codebook
            codes.embed_sum.copy_(left[torch.randperm(len(left))[:_CODES]])
            codes._embed = None  # what it remembers of the sum
            left = left - codes.decode(codes.encode(left))


def tiny_bundle(seed: int = 0, *, width: int = 32) -> CsmBundle:
    """A :class:`CsmBundle` around :func:`tiny_model`."""
    model = tiny_model(seed, width)
    codec: Any = copy.deepcopy(model.codec_model)
    return CsmBundle(
        model.requires_grad_(False),
        tiny_tokenizer(),
        lambda: codec,
        name="tiny",
        base_hash=f"tiny-{seed}",
        codec_hash=f"tiny-{seed}",
        text_hash="tiny",
        licence="Apache-2.0",
        max_s=2.0,
    )
