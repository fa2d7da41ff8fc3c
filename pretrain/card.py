"""The model card, written from the figures that the logs hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pretrain.common import MEASURED_BEGIN, MEASURED_END, read_jsonl, write_text
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

## Measured

{measured_begin}
Not measured yet: `python -m bench.pocket`.
{measured_end}

The codec over its training, on validation clips (mel distance: log10, 80 bands, floor -80 dB):

| steps | mel distance | SI-SDR | |
|---|---|---|---|
{curve}

## Samples

{samples}

## Data

A rule-based composer writes progressions, bass lines, grooves and melodies; fluidsynth renders them with the
sound font FluidR3 GM (MIT licence). Captions come from templates. No recording of anyone was used, and no
downloaded weights. One style and one lead instrument of the demo's clips were held out of everything: codec,
tokenizer, language model and taggers.

## Limits

- It plays General MIDI sketches, not recordings. No voices. It knows the words of its captions and little else.
- The codec is small: it leaves noise where the music is quiet, treble is dull and attacks are soft.
- It follows the instrument of a caption, the better the higher the guidance, and then repeats itself more. It does
  not keep a beat: tempo, groove and with them the style are hardly those asked for; two cores had no time for more.
- Nothing here says how a method fares on a model of useful size.

Licence of the weights: Apache-2.0.
"""
# Between these two comments stands what was measured of these very weights; an export empties it.


def write_measured(card: Path, text: str) -> None:
    """Put what was measured of a folder's weights into its card."""
    before, _, rest = card.read_text(encoding="utf-8").partition(MEASURED_BEGIN)
    _, _, after = rest.partition(MEASURED_END)
    write_text(card, f"{before}{MEASURED_BEGIN}\n{text.strip()}\n{MEASURED_END}{after}")


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.exists() else []


def _last(path: Path, key: str) -> dict[str, Any] | None:
    rows = [row for row in _rows(path) if key in row]
    return rows[-1] if rows else None


def _curve(logs: Path) -> list[str]:
    """Rows of the codec's curve: at most nine of its own, and the end of the decoder's pass."""
    rows = [row for row in _rows(logs / "codec.jsonl") if "valid_mel_distance" in row]
    # A run that was killed wrote some steps twice: the later line is of the weights that went on.
    rows = list({row["step"]: row for row in rows}.values())
    step = max(1, -(-len(rows) // 8))
    shown = rows[step - 1 :: step]
    if rows and shown[-1] is not rows[-1]:
        shown.append(rows[-1])
    told = [(row, "quantised" if row["quantised"] else "not quantised yet") for row in shown]
    last = _last(logs / "decoder.jsonl", "valid_mel_distance")
    told += [(last, "of the decoder alone, after those")] if last else []
    return [
        f"| {row['step']} | {row['valid_mel_distance']:.3f} | {row['valid_si_sdr_db']:.1f} dB | {words} |"
        for row, words in told
    ]


def _hours(logs: Path) -> str:
    """Training time of each stage in the logs."""
    parts = []
    for name, words in (("codec", "codec"), ("decoder", "its decoder"), ("lm", "language model")):
        last = _last(logs / f"{name}.jsonl", "trained_s")
        if last:
            parts.append(f"{words} {last['trained_s'] / 3600:.1f} h")
    return ", ".join(parts)


def write_card(
    folder: Path, work: Path, model: nn.Module, state: str, samples: Sequence[tuple[str, str]] = ()
) -> None:
    """Write ``README.md`` into ``folder``: sizes, data, curves, samples ``(path, prompt)``."""
    size = {n: sum(p.numel() for p in m.parameters()) / 1e6 for n, m in model.named_children()}
    counts = {s: sum(len(read_jsonl(p.with_suffix(".jsonl"))) for p in whole_shards(work / "clips", s))
              for s in ("train", "valid")}  # fmt: skip
    logs, lines = work / "logs", []
    if _hours(logs):
        lines.append(f"| training | {_hours(logs)} |")
    lm = _last(logs / "lm.jsonl", "valid_ce")
    if lm:
        lines.append(
            f"| language model, validation | cross-entropy {lm['valid_ce']:.3f} nats a code "
            f"({lm['valid_ce_wrong_caption']:.3f} under another clip's caption) after {lm['step']} steps |"
        )
    card = _CARD.format(
        state=state, total=sum(size.values()), decoder=size["decoder"], text=size["text_encoder"],
        codec=size["audio_encoder"], clips=counts["train"], hours=counts["train"] * 10 / 3600,
        valid=counts["valid"], figures="\n".join(lines), curve="\n".join(_curve(logs)),
        samples="\n".join(f"- [{prompt}]({path})" for path, prompt in samples) or "None in this copy.",
        measured_begin=MEASURED_BEGIN, measured_end=MEASURED_END,
    )  # fmt: skip
    write_text(folder / "README.md", card)
