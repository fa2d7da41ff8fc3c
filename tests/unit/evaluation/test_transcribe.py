"""Recognisers of random weights through the code path of a hub id: gibberish, but the same each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.evaluation.transcribe import Transcriber, pieces
from tunesmith.types import Audio

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec 2.0 that spells."""
    import torch
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("asr")
    vocabulary = {
        sign: i for i, sign in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])
    }
    (folder / "letters.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "letters.json"))
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "conv_dim": [8] * 7}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
    sizes |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(vocabulary), **sizes))
    model.lm_head.weight.data.mul_(50)
    model.save_pretrained(folder / "speller")
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder / "speller")
    return folder / "speller"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper that writes up to twelve letters."""
    import torch
    from tokenizers.pre_tokenizers import Split
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    from tunesmith.captioners._tiny import _tokenizer

    tokenizer = _tokenizer((), LETTERS + " ", Split("", "isolated"), "$A")
    sizes: dict[str, Any] = {"d_model": 16, "num_mel_bins": 8, "max_source_positions": 100}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 32}
    marks = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 3}
    torch.manual_seed(0)
    model: Any = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=len(tokenizer), max_target_positions=32, **sizes, **marks)
    )
    for weights in model.parameters():
        weights.data.mul_(6)
    model.generation_config.max_new_tokens = 12
    model.generation_config.suppress_tokens = None
    model.generation_config.begin_suppress_tokens = None
    folder = tmp_path_factory.mktemp("asr") / "writer"
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(
        feature_size=8, sampling_rate=16_000, hop_length=160, chunk_length=2, n_fft=400
    )
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["speller", "writer"])
def test_text_the_same_each_time(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    recogniser = Transcriber(str(folder), "cpu")
    assert recogniser.label.startswith(f"asr {kind}@")
    rng = np.random.default_rng(0)
    for rate_hz, channels, seconds in ((44_100, 2, 1.5), (8000, 1, 0.01)):
        sound = 0.1 * rng.standard_normal((channels, round(seconds * rate_hz)))
        audio = Audio(sound.astype(np.float32), rate_hz)
        said = recogniser.transcribe(audio)
        assert said and set(said) <= set(LETTERS + " ")
        assert said == Transcriber(str(folder), "cpu").transcribe(audio)
    assert recogniser.transcribe(Audio(np.zeros((1, 9000), np.float32), 16_000)) == ""
    with pytest.raises(UserError, match="no samples, or NaN"):
        recogniser.transcribe(Audio(np.full((1, 9000), np.nan, np.float32), 16_000))
    with pytest.raises(UserError, match="cannot be told a language"):
        Transcriber(str(folder), "cpu", language="en")


def test_long_sounds_are_cut_where_it_is_quiet() -> None:
    sound = np.ones(100, np.float32)
    sound[33:36] = 0
    parts = pieces(sound, 40, 10)
    assert np.array_equal(np.concatenate(parts), sound)
    assert all(0 < len(part) <= 40 for part in parts) and 33 <= len(parts[0]) <= 36
    assert len(pieces(sound, 100, 10)) == 1


def test_what_is_no_recogniser(tmp_path: Path) -> None:
    from tunesmith.embeddings._tiny import save_dac

    with pytest.raises(UserError, match="neither a folder nor in the cache"):
        Transcriber("openai/whisper-small")
    with pytest.raises(UserError, match="no recogniser 'whisper': neither a folder nor a hub id"):
        Transcriber("whisper")
    with pytest.raises(UserError, match="'dac' model, which does not write down speech"):
        Transcriber(str(save_dac(tmp_path / "dac")))
