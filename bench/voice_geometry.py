"""Voice families at full size with random weights: loaded, one LoRA step, a moment of speech.

python -m bench.voice_geometry [--only speecht5|csm|csm_qlora] [--device cpu|cuda] [--seconds 5] [--quick]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench._geometry import Case, run
from bench._results import record

CAPTION = "The rain had stopped before anyone thought of closing the window."
SHARDED = "transformers.safetensors.index.json"


def save_speecht5(folder: Path, quick: bool) -> None:
    """``speecht5_tts`` like Microsoft's, and ``speecht5_hifigan`` beside it."""
    from transformers import (
        SpeechT5Config,
        SpeechT5FeatureExtractor,
        SpeechT5ForTextToSpeech,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
    )

    from tunesmith.families._transformers import quiet

    # The library's defaults are the checkpoints'.
    config = SpeechT5Config(**({"encoder_layers": 2, "decoder_layers": 2} if quick else {}))
    shape = (config.hidden_size, config.encoder_ffn_dim, config.vocab_size)
    assert shape == (768, 3072, 81), shape
    base = folder / "speecht5_tts"
    with quiet():
        SpeechT5ForTextToSpeech(config).save_pretrained(base)
        SpeechT5HifiGan(SpeechT5HifiGanConfig()).save_pretrained(folder / "speecht5_hifigan")
    SpeechT5FeatureExtractor().save_pretrained(base)
    (base / "spm_char.model").write_bytes(letters())
    (base / "added_tokens.json").write_text(json.dumps({"<mask>": 79, "<ctc_blank>": 80}))
    (base / "tokenizer_config.json").write_text(json.dumps({"normalize": False}))


def letters() -> bytes:
    """A SentencePiece model of 79 single characters, as the checkpoint's ``spm_char.model`` is one.

    Written field by field (``ModelProto``: pieces in 1, the trainer's settings in 2; sizes below 128
    are one byte), so that no package has to train it.
    """

    def block(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    special = [("<s>", 3), ("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("\u2581", 1)]
    common = "etaoinshrdlucmfwygpbvkxjqz.,;:'\"!?-()&ETAOINSHRDLUCMFWYGPBVKXJQZ0123456789"
    pieces = special + [(character, 1) for character in common[: 79 - len(special)]]
    assert len(pieces) == 79
    model = b"".join(
        block(1, block(1, piece.encode()) + bytes([3 << 3, kind])) for piece, kind in pieces
    )
    return model + block(2, bytes([3 << 3, 4]))  # its type: characters


def save_csm(folder: Path, quick: bool) -> None:
    """A folder like ``sesame/csm-1b``: shards that the configuration names, beside another layout's file."""
    import torch
    from safetensors.torch import save_file
    from transformers import CsmConfig, CsmForConditionalGeneration, CsmProcessor
    from transformers import EncodecFeatureExtractor as Sound

    from tunesmith.families._transformers import quiet
    from tunesmith.families.csm.bundle import TEMPLATE

    with quiet():  # it takes ids of text for codes, and warns that they are none
        config: Any = CsmConfig(**({"num_hidden_layers": 2} if quick else {}))  # the checkpoint's
        shape = (config.hidden_size, config.num_codebooks, config.codec_config.num_hidden_layers)
        assert shape == (2048, 32, 8), shape
        model: Any = CsmForConditionalGeneration(config)
        quantizer = model.codec_model.quantizer
        for part in (
            quantizer.semantic_residual_vector_quantizer,
            quantizer.acoustic_residual_vector_quantizer,
        ):
            for layer in part.layers:  # zeros otherwise, and every sound is code 0
                layer.codebook.embed_sum.normal_()
        model.save_pretrained(folder, max_shard_size="2GB" if not quick else "500MB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1, shards
    index = (folder / "model.safetensors.index.json").read_text(encoding="utf-8")
    for file in shards:
        file.rename(file.with_name(file.name.replace("model-", "transformers-")))
    (folder / "model.safetensors.index.json").unlink()
    (folder / SHARDED).write_text(index.replace('"model-', '"transformers-'), encoding="utf-8")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said["transformers_weights"] = SHARDED
    (folder / "config.json").write_text(json.dumps(said, indent=2), encoding="utf-8")
    save_file({"backbone.norm.scale": torch.ones(8)}, folder / "model.safetensors")
    CsmProcessor(Sound(1, 24_000), words(config), TEMPLATE).save_pretrained(folder)


def words(config: Any) -> Any:
    """A byte-pair tokenizer without merges, with Llama 3's ids of the tokens that turns are written with."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as FromBytes
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    vocabulary = {piece: number for number, piece in enumerate(sorted(ByteLevel.alphabet()))}
    # What has no bytes of its own holds the places up to the special ones.
    vocabulary |= {f"<piece {number}>": number for number in range(len(vocabulary), 128_000)}
    special = {
        begin: 128_000,
        end: 128_001,
        "<|AUDIO|>": config.audio_token_id,
        "<|audio_eos|>": config.audio_eos_token_id,
    }
    tokenizer: Any = Tokenizer(BPE(vocabulary | special, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = FromBytes()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 128_000), (end, 128_001)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token="<|AUDIO|>",
        additional_special_tokens=["<|AUDIO|>", "<|audio_eos|>"],
    )


CSM = "CSM-1B's geometry (random weights)"
CASES = {
    "speecht5": Case(
        "SpeechT5's geometry with its HiFi-GAN (random weights)",
        save_speecht5,
        CAPTION,
        base="speecht5_tts",
        details={"speaker": json.dumps([0.1, -0.1] * 256)},
        lengths_s=(5.0, 20.0),
        generate_s=0.5,
    ),
    "csm": Case(CSM, save_csm, CAPTION, lengths_s=(5.0, 30.0), generate_s=0.5),
    "csm_qlora": Case(
        CSM, save_csm, CAPTION, bar_gib=8.0, quantize="nf4", lengths_s=(5.0, 30.0), generate_s=0.5
    ),
}


def main() -> None:
    if rows := run("voice_geometry", __doc__, CASES, seconds=5.0):
        record(
            "voice_geometry",
            "Voice families at full size",
            rows,
            notes="Batch 1, activation checkpointing, weights in float32 as the tool loads them (QLoRA: the "
            "linears of all seams in NF4), saved in bfloat16. Peaks are of the process on the CPU, of what is "
            "allocated on a GPU; sound encoded before the step, decoded after the sampling. CSM's folder is "
            "laid out as Sesame's: shards that `transformers_weights` names, beside a `model.safetensors` of "
            "another layout.",
            packages=("torch", "transformers", "peft", "bitsandbytes"),
        )


if __name__ == "__main__":
    main()
