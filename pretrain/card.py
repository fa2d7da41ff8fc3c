"""The model card, written from the figures that the logs hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from pretrain.common import read_jsonl, write_text
from pretrain.render import whole_shards

_CARD = """---
license: apache-2.0
pipeline_tag: text-to-audio
library_name: transformers
tags: [musicgen, text-to-audio, tiny]
---

# pocket

A very small text-to-music model of the MusicGen architecture, made from nothing by the scripts in `pretrain/`,
so that fine-tuning can be tried, tested and demonstrated on a laptop. State of this copy: **{state}**.

| | |
|---|---|
| audio | 16 kHz mono, clips up to 10 s, 50 codes a second in 4 codebooks of 512 (1.8 kbit/s) |
| parameters | {total:.2f} M: decoder {decoder:.2f} M (5 layers x 256), text encoder {text:.2f} M, codec {codec:.2f} M |
| data | {clips} composed clips of 10 s ({hours:.1f} h), {valid} more for validation |
| styles | blues, jazz swing, rock, bossa nova, baroque, folk, funk, reggae, waltz, ambient, disco, tango |
| leads | 18 General MIDI instruments, from acoustic piano to synth lead |
{figures}

## Data

A rule-based composer writes progressions, bass lines, grooves and melodies; fluidsynth renders them with the
sound font FluidR3 GM (MIT licence). Captions come from templates. No recording of anyone was used, and no
downloaded weights. One style and one lead instrument of the demo's clips were held out of everything: codec,
tokenizer and language model.

## Limits

- It plays General MIDI sketches, not recordings. No voices. It knows the words of its captions and little else.
- The codec is small and was trained for under an hour on two CPU cores: treble is dull and attacks are soft.
- Guidance 3 follows the caption better than guidance 1; instruments with like spectra are confused.
- Nothing here says how a method fares on a model of useful size.

Licence of the weights: Apache-2.0.
"""


def _last(path: Path, key: str) -> dict[str, Any] | None:
    rows = [row for row in read_jsonl(path) if key in row] if path.exists() else []
    return rows[-1] if rows else None


def write_card(folder: Path, work: Path, model: nn.Module, state: str) -> None:
    """Write ``README.md`` into ``folder``: sizes, data, figures so far."""
    size = {n: sum(p.numel() for p in m.parameters()) / 1e6 for n, m in model.named_children()}
    counts = {s: sum(len(read_jsonl(p.with_suffix(".jsonl"))) for p in whole_shards(work / "clips", s))
              for s in ("train", "valid")}  # fmt: skip
    lines = []
    codec = _last(work / "logs" / "decoder.jsonl", "valid_mel_distance")
    passes = "decoder pass" if codec else "codec"
    codec = codec or _last(work / "logs" / "codec.jsonl", "valid_mel_distance")
    if codec:
        lines.append(
            f"| codec, validation | mel distance {codec['valid_mel_distance']:.3f} (log10, 80 bands, floor -80 dB), "
            f"SI-SDR {codec['valid_si_sdr_db']:.1f} dB with four codebooks ({codec['step']} steps of the {passes}) |"
        )
    lm = _last(work / "logs" / "lm.jsonl", "valid_ce")
    if lm:
        lines.append(
            f"| language model, validation | cross-entropy {lm['valid_ce']:.3f} nats a code "
            f"({lm['valid_ce_wrong_caption']:.3f} under another clip's caption) after {lm['step']} steps, "
            f"{lm['trained_s'] / 60:.0f} min |"
        )
    card = _CARD.format(
        state=state, total=sum(size.values()), decoder=size["decoder"], text=size["text_encoder"],
        codec=size["audio_encoder"], clips=counts["train"], hours=counts["train"] * 10 / 3600,
        valid=counts["valid"], figures="\n".join(lines),
    )  # fmt: skip
    write_text(folder / "README.md", card)
