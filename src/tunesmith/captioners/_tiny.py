"""Captioners with random weights, saved in the hub's layout: what tests open instead of a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Split, Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

Kind = Literal["qwen2_audio", "audioflamingo3", "musicflamingo", "glmasr"]

TINY_HZ = 16_000
TINY_S = 2  # what one window of the tiny models holds
_MELS = 8
_WIDTH = 16
_GAIN = 6.0  # fresh weights are so small that every text and every sound would be alike

# fmt: off
_WORDS = [
    "slow", "fast", "calm", "dark", "bright", "warm", "deep", "light", "loud", "soft", "piano",
    "guitar", "drums", "bass", "flute", "strings", "jazz", "blues", "rock", "folk", "funk",
    "ambient", "groove", "chords", "melody", "beat", "with", "and", "over", "a", ",", ".",
]
# fmt: on

_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}AUDIO{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def _tokenizer(marks: tuple[str, ...], signs: Sequence[str], split: Any, single: str) -> Any:
    """A token per sign; the end token is ``<|im_end|>``."""
    marks = ("<pad>", "<|im_end|>", "<unk>", "<|im_start|>", *marks)
    vocabulary = {sign: index for index, sign in enumerate([*marks, *signs])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single=single, special_tokens=[("<|im_start|>", 3), ("<|im_end|>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=list(marks[3:]),
    )


def _louder(model: Any, gain: float = _GAIN) -> None:
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() == 2 and "position" not in name:
                weights.mul_(gain)


def save_audio_llm(folder: Path, kind: Kind = "qwen2_audio", seed: int = 0) -> Path:
    """A generative captioner that writes gibberish: 16 kHz, windows of 2 s, 10,000 weights or so."""
    marks = {
        "qwen2_audio": ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        "audioflamingo3": ("<sound>",),
        "musicflamingo": ("<sound>", "<|sound_bos|>", "<|sound_eos|>"),
        "glmasr": ("<|pad|>",),
    }[kind]
    tokenizer = _tokenizer(marks, _WORDS, Whitespace(), "$A")
    extractor = WhisperFeatureExtractor(
        feature_size=_MELS, sampling_rate=TINY_HZ, hop_length=160, chunk_length=TINY_S, n_fft=400
    )
    frames = TINY_S * TINY_HZ // 160
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    sound = {"num_mel_bins": _MELS, "max_source_positions": frames // 2}
    ids = {mark: int(tokenizer.convert_tokens_to_ids(mark)) for mark in marks}
    sizes = {"hidden_size": _WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    chat = _CHAT.replace("AUDIO", marks[0])
    processor: Any
    config: Any
    model: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "qwen2_audio":
            sound |= {"model_type": "qwen2_audio_encoder", "d_model": _WIDTH, "encoder_layers": 1}
            sound |= {"encoder_attention_heads": 2, "encoder_ffn_dim": 32}
            chat = _CHAT.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>")
            config = Qwen2AudioConfig(
                audio_config=sound, text_config=text, audio_token_index=ids[marks[0]]
            )
            model = Qwen2AudioForConditionalGeneration(config)
            processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=chat)
        elif kind == "audioflamingo3":
            sound |= {"model_type": "audioflamingo3_encoder", "intermediate_size": 32, **sizes}
            config = AudioFlamingo3Config(
                audio_config=sound, text_config=text, audio_token_id=ids[marks[0]]
            )
            model = AudioFlamingo3ForConditionalGeneration(config)
            processor = AudioFlamingo3Processor(
                extractor, tokenizer, chat_template=chat, max_audio_len=3 * TINY_S
            )
        elif kind == "glmasr":  # stands for any model that has not been tried
            del sound["max_source_positions"]
            sound |= {"model_type": "glmasr_encoder", "intermediate_size": 4 * _WIDTH, **sizes}
            text |= {"model_type": "llama"}
            config = GlmAsrConfig(
                audio_config=sound, text_config=text, audio_token_id=ids[marks[0]]
            )
            model = GlmAsrForConditionalGeneration(config)
            processor = GlmAsrProcessor(
                extractor, tokenizer, chat_template=chat, max_audio_len=3 * TINY_S
            )
        else:
            sound |= {"model_type": "audioflamingo3_encoder", "intermediate_size": 32, **sizes}
            config = MusicFlamingoConfig(
                audio_config=sound,
                text_config=text,
                audio_token_id=ids[marks[0]],
                audio_bos_token_id=ids[marks[1]],
                audio_eos_token_id=ids[marks[2]],
            )
            model = MusicFlamingoForConditionalGeneration(config)
            processor = MusicFlamingoProcessor(
                extractor, tokenizer, chat_template=chat, max_audio_len=3 * TINY_S
            )
        _louder(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_clap(
    folder: Path, seed: int = 0, *, collapsed: bool = False, fusion: bool = False
) -> Path:
    """A CLAP of random weights: 16 kHz, windows of 2 s.

    Args:
        folder: where to.
        seed: of the weights.
        collapsed: its text side gives every sentence the same embedding.
        fusion: it fuses a short and a long look at a sound, as ``clap-htsat-fused`` does.
    """
    letters = "abcdefghijklmnopqrstuvwxyz ,.-"  # by letters, so that every caption is another
    tokenizer = _tokenizer((), letters, Split("", "isolated"), "<|im_start|> $A <|im_end|>")
    config = ClapConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": _WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 128,
            "pad_token_id": tokenizer.pad_token_id,
        },
        audio_config={
            "spec_size": 32,
            "window_size": 4,
            "num_mel_bins": _MELS,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "num_classes": 4,
            "enable_fusion": fusion,
            "fusion_type": "aff_2d" if fusion else None,
        },
        projection_dim=_WIDTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = ClapModel(config)
        _louder(model)
    if collapsed:
        with torch.no_grad():
            model.text_projection.linear1.weight.zero_()
            model.text_projection.linear1.bias.fill_(1.0)
    model.save_pretrained(folder)
    extractor = ClapFeatureExtractor(
        feature_size=_MELS,
        sampling_rate=TINY_HZ,
        hop_length=320,
        max_length_s=TINY_S,
        fft_window_size=512,
        frequency_max=TINY_HZ // 2,
        truncation="fusion" if fusion else "rand_trunc",
    )
    ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder
