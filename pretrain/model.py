"""The language model's geometry, its tokenizer, and the delay pattern of its codes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

from pretrain import render
from pretrain.codec_model import CODEBOOK_SIZE, N_CODEBOOKS, build_codec, codec_config
from pretrain.common import log

PAD_CODE = CODEBOOK_SIZE  # also the start token, as in MusicGen
TEXT_ROWS = 1024
FULL_FRAMES = 500
# Read once while choosing, the instrument and Vendi at temperature 1.1 (`bench.pocket --guidance N`, `bench.demo`).
# Lower guidance follows the instrument less (68 % of clips with 2, 83 % with 3) and adapts less (the demo closed 45 %
# of the gap with 2.5, 66 % with 5); higher guidance makes the takes of one prompt alike (Vendi 0.67 and 0.59 of real
# clips); lower temperatures make few notes and long ones.
GUIDANCE = 3.0


def train_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the captions: ``<pad>`` 0, ``</s>`` 1, ``<unk>`` 2; appends ``</s>``.

    All 256 bytes are in the vocabulary, so a word that no caption had still becomes tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=128,
    )


def tokenizer_of(work: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in ``work/tokenizer``, trained on the training captions when it is not there yet."""
    folder = work / "tokenizer"
    if not folder.exists():
        _, rows = render.load(work / "clips", "train")
        texts = [caption for row in rows for caption in row["captions"]]
        with tempfile.TemporaryDirectory(dir=work) as temporary:
            inner = Path(temporary) / "tokenizer"
            train_tokenizer(texts).save_pretrained(inner)
            os.rename(inner, folder)
        log(f"tokenizer: trained on {len(texts)} captions")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def build_model(seed: int, codec: EncodecModel | None = None) -> MusicgenForConditionalGeneration:
    """A fresh model of MusicGen's architecture, 5 x 256 (6 M parameters), around ``codec`` or a random one."""
    text = T5Config(
        vocab_size=TEXT_ROWS, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=CODEBOOK_SIZE, max_position_embeddings=2048, num_hidden_layers=5, hidden_size=256, ffn_dim=1024,
        num_attention_heads=4, num_codebooks=N_CODEBOOKS, audio_channels=1, layerdrop=0.0, dropout=0.0,
        pad_token_id=PAD_CODE, bos_token_id=PAD_CODE,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = MusicgenConfig(
        text_encoder=text.to_dict(),
        audio_encoder=codec_config().to_dict(),
        decoder=decoder.to_dict(),
    )
    model: Any = MusicgenForConditionalGeneration(config)
    # Positions have unit amplitude; at the default 0.02 the codes would drown in them.
    for table in model.decoder.model.decoder.embed_tokens:
        torch.nn.init.normal_(table.weight, std=0.3)
    model.audio_encoder.load_state_dict((codec or build_codec(seed)).state_dict())
    model.audio_encoder.requires_grad_(False)
    settings = model.generation_config
    settings.decoder_start_token_id = settings.bos_token_id = settings.pad_token_id = PAD_CODE
    settings.guidance_scale, settings.do_sample = GUIDANCE, True
    settings.temperature, settings.top_k = 1.0, 250
    # The delay of the last codebook comes on top of the frames.
    settings.max_length = FULL_FRAMES + N_CODEBOOKS - 1
    return model


def delayed(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [B, K, T] to decoder inputs and targets [B, K, T + K - 1].

    Codebook k lies k steps later (Copet et al. 2023, figure 1); what is empty holds ``PAD_CODE``, and
    targets are -100 there. Inputs begin with the start token.
    """
    batch, books, frames = codes.shape
    line = torch.full(
        (batch, books, frames + books), PAD_CODE, dtype=torch.long, device=codes.device
    )
    for k in range(books):
        line[:, k, 1 + k : 1 + k + frames] = codes[:, k]
    targets = line[:, :, 1:].clone()
    targets[targets == PAD_CODE] = -100
    return line[:, :, :-1].contiguous(), targets
