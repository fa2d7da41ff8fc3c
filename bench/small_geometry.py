"""The public verbs, end to end, on real recordings: musicgen-small's full geometry, and ``pocket``.

    python -m bench.small_geometry [--audio DIR] [--only musicgen-small|pocket] [--quick]

musicgen-small comes from no hub: its geometry (24 x 1024 decoder, T5-base, EnCodec 32 kHz) is built
with random weights and saved to a folder in the hub's layout, and the command line is given that
folder. Time and peak memory of each verb are those of its process, children included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._results import Row, parser, record

AUDIO = Path(__file__).parents[2] / "shared" / "audio" / "music"
TITLE = "musicgen-small's full geometry (random weights)"


def musicgen_config(layers: int = 24, width: int = 1024, heads: int = 16) -> Any:
    """The geometry of a hub's MusicGen: ``small`` by default, ``large`` with 48, 2048 and 32."""
    from transformers import EncodecConfig, MusicgenConfig, MusicgenDecoderConfig, T5Config

    codec = EncodecConfig(  # facebook/encodec_32khz
        sampling_rate=32_000,
        audio_channels=1,
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        hidden_size=128,
        codebook_size=2048,
        num_lstm_layers=2,
        target_bandwidths=[2.2],
        use_causal_conv=False,
        use_conv_shortcut=False,
        norm_type="weight_norm",
        pad_mode="reflect",
    )
    assert (codec.num_quantizers, codec.frame_rate) == (4, 50), codec.num_quantizers
    text = T5Config(vocab_size=32_128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    decoder = MusicgenDecoderConfig(
        num_hidden_layers=layers, hidden_size=width, ffn_dim=4 * width, num_attention_heads=heads
    )
    return MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)


def random_musicgen(config: Any) -> Any:
    """A model with random weights, on the device and of the type that are the default."""
    import torch
    from transformers import MusicgenForConditionalGeneration

    torch.manual_seed(0)
    model = MusicgenForConditionalGeneration(config)
    for name, buffer in model.audio_encoder.named_buffers():
        if name.endswith("codebook.embed"):  # zeros otherwise, and every sound is code 0
            torch.nn.init.normal_(buffer, std=0.3)
    return model


def letters_tokenizer() -> Any:
    """A tokenizer of T5's kind whose pieces are letters."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.normalizers import Replace
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(chr(code), -3.0) for code in range(33, 127)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = Replace(Regex(" {2,}"), " ")  # type: ignore[assignment]
    tokenizer.pre_tokenizer = Metaspace()  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def save_musicgen_small(folder: Path, layers: int = 24) -> None:
    """A folder like ``facebook/musicgen-small``'s, with random weights in fp32 safetensors."""
    random_musicgen(musicgen_config(layers)).save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)


def run(verb: str, words: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """``(seconds, peak GiB)`` of one verb.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", verb, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"tunesmith {verb} {' '.join(words)} failed:\n{output}")
    print(f"{verb}: {seconds:.1f} s, {usage.ru_maxrss / 2**20:.2f} GiB\n{output}", flush=True)
    return seconds, usage.ru_maxrss / 2**20


def verbs(base: str, audio: Path, top: Path, *, steps: int, batch: int) -> str:
    """Prepare, train, generate; what each took."""
    environment = os.environ | {"TUNESMITH_CACHE": str(top / "cache")}
    data, out = str(top / "data"), str(top / "run")
    settings = [f"train.steps={steps}", f"train.batch_size={batch}", "preview.every=0"]
    settings += [f"train.eval_every={steps}", f"train.checkpoint_every={steps}"]
    plan = {
        "prepare": [str(audio), data, "--base", base],
        "train": ["--base", base, "--method", "lora", "--data", data, "--out", out, *settings],
        "generate": [
            "a slow solo",
            "--base",
            base,
            "--adapter",
            out,
            "--seconds",
            "2",
            "-o",
            str(top / "sounds"),
        ],
    }
    if base == "pocket":  # its longest clip is below the default shortest
        plan["prepare"] += ["--min-seconds", "3", "--max-seconds", "10"]
    found = []
    for verb, words in plan.items():
        seconds, peak_gib = run(verb, words, environment)
        found.append(f"{verb} {seconds:.0f} s, {peak_gib:.2f} GiB")
    if not list((top / "sounds").glob("*.wav")):
        raise SystemExit("generate wrote nothing")
    return "; ".join(found)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--audio", type=Path, default=AUDIO)
    options.add_argument("--only", choices=["musicgen-small", "pocket"])
    options.add_argument("--steps", type=int, default=4, help="training steps")
    options.add_argument("--build", type=Path, help="only save musicgen-small's geometry there")
    args = options.parse_args()
    if args.build:
        save_musicgen_small(args.build)
        return
    there = args.audio.is_dir() and any(args.audio.iterdir())
    if not there:
        print(f"no recordings in {args.audio}: give --audio DIR; the last figures stay")
    rows = []
    for name in ("musicgen-small", "pocket"):
        title = TITLE if name == "musicgen-small" else "pocket"
        figure = None
        skipped = args.only not in (None, name) or (args.quick and name != "pocket")
        if there and not skipped:
            with tempfile.TemporaryDirectory() as folder:
                top = Path(folder)
                base = "pocket"
                if name == "musicgen-small":
                    base = str(top / "base")
                    # In a process of its own: a child's peak counts from its parent's size.
                    command = [sys.executable, "-m", "bench.small_geometry", "--build", base]
                    subprocess.run(command, check=True)
                batch = 1 if name == "musicgen-small" else 4
                figure = verbs(base, args.audio, top, steps=args.steps, batch=batch)
        rows.append(
            Row(
                f"{title}: prepare, train (LoRA, {args.steps} steps), generate 2 s, real recordings",
                "runs end to end",
                figure,
                True if figure else None,
                missing="not measured: no recordings",
            )
        )
    if not args.quick:
        record(
            "small_geometry",
            "The same verbs on real recordings",
            rows,
            notes="Seconds of wall time and peak memory of each verb's process. musicgen-small: clips of "
            "10-30 s, batch 1, fp32 weights; pocket: clips of 3-10 s, batch 4. Encoding, one validation "
            "before and one after are part of `train`.",
        )


if __name__ == "__main__":
    main()
