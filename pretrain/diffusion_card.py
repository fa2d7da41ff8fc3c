"""The model card of ``pocket-diffusion``, written from the figures that the logs hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderOobleck

from pretrain.card import MEASURED_BEGIN, MEASURED_END
from pretrain.common import read_jsonl, write_text
from pretrain.render import COUNTS

_CARD = """---
license: apache-2.0
pipeline_tag: text-to-audio
library_name: diffusers
tags: [stable-audio, text-to-audio, tiny]
---

# pocket-diffusion

A very small text-to-music model of Stable Audio Open's architecture, made from nothing by the scripts in
`pretrain/`, so that fine-tuning can be tried, tested and demonstrated on a laptop.
State of this copy: **{state}**.

```python
from diffusers import StableAudioPipeline

pipe = StableAudioPipeline.from_pretrained("src/tunesmith/pocket/diffusion")
audio = pipe(
    "bossa nova with flute, calm", audio_end_in_s=5.0, num_inference_steps={steps}, guidance_scale={guidance:g}
).audios  # [1, 1, 80000]
```

| | |
|---|---|
| audio | 16 kHz mono, a window of 5.12 s: {window} frames of {latent} latents (50 a second), of unit variance |
| parameters | {total:.2f} M: {parts} |
| objective | v-prediction, `CosineDPMSolverMultistepScheduler` as in Stable Audio Open 1.0 |
| data | {clips} composed clips of 10 s ({hours:.1f} h), {valid} more for validation |
| styles | blues, jazz swing, rock, bossa nova, baroque, folk, funk, reggae, waltz, ambient, disco, tango |
| leads | 18 General MIDI instruments, from acoustic piano to synth lead |
{figures}

## Measured

{measured_begin}
Not measured yet: `python -m bench.pocket_diffusion`.
{measured_end}

The autoencoder over its training, on validation clips (mel distance: log10, 80 bands, floor -80 dB):

| steps | mel distance | SI-SDR |
|---|---|---|
{autoencoder}

The transformer over its training, on validation clips (squared error of the velocity at evenly spread noise
levels, under the clip's caption and under another clip's):

| steps | loss | other caption |
|---|---|---|
{transformer_curve}

## Samples

{samples}

## Data

A rule-based composer writes progressions, bass lines, grooves and melodies; fluidsynth renders them with the
sound font FluidR3 GM (MIT licence). Captions come from templates. No recording of anyone was used, and no
downloaded weights; text encoder and tokenizer began as those of `pocket`, which was made the same way. One style
and one lead instrument of the demo's clips were held out of everything.

## Limits

- It plays General MIDI sketches, not recordings. No voices. It knows the words of its captions and little else.
- The autoencoder is small: treble is dull, attacks are soft.
- {limits}
- Nothing here says how a method fares on a model of useful size.

Licence of the weights: Apache-2.0.
"""
_PARTIAL = """---
license: apache-2.0
library_name: diffusers
tags: [stable-audio, tiny]
---

# pocket-diffusion: not a whole base yet

The parts of a very small text-to-music model of Stable Audio Open's architecture that are done: autoencoder,
scheduler and tokenizer. The transformer is not trained yet, so there is no `model_index.json`.
State of this copy: **{state}**.

| | |
|---|---|
| audio | 16 kHz mono, {latent} latents of unit variance 50 times a second (hop 320) |
| parameters | autoencoder {vae:.2f} M |
| data | {clips} composed clips of 10 s ({hours:.1f} h), {valid} more for validation |
{figures}

## Measured

{measured_begin}
Not measured yet: `python -m bench.pocket_diffusion`.
{measured_end}

The autoencoder over its training, on validation clips (mel distance: log10, 80 bands, floor -80 dB):

| steps | mel distance | SI-SDR |
|---|---|---|
{autoencoder}

No recording of anyone was used, and no downloaded weights: clips are composed by rules and rendered by fluidsynth
with the sound font FluidR3 GM (MIT licence). Licence of the weights: Apache-2.0.
"""
_LIMITS = "It follows the instrument of a caption better than the style: minutes of training, hours of music."
_WHERE = "one NVIDIA H100 beside other work, after 45 min of the autoencoder on two CPU cores"


def _rows(path: Path, key: str) -> list[dict[str, Any]]:
    """Rows of a curve that hold ``key``; of a step that was done twice, the later."""
    rows = read_jsonl(path) if path.exists() else []
    return list({row["step"]: row for row in rows if key in row}.values())


def _few(rows: list[dict[str, Any]], most: int = 8) -> list[dict[str, Any]]:
    """At most so many of the rows, evenly spread, the last among them."""
    step = max(1, -(-len(rows) // most))
    return rows[::-1][::step][::-1]


def _facts(work: Path) -> dict[str, Any]:
    """What both cards say of clips, autoencoder and training time."""
    counts = json.loads((work / COUNTS).read_text(encoding="utf-8"))
    logs = work / "logs"
    curves = (
        ("autoencoder", _rows(logs / "diffusion_autoencoder.jsonl", "valid_mel_distance")),
        ("transformer", _rows(logs / "diffusion.jsonl", "valid_right")),
        ("its decoder once more", _rows(logs / "diffusion_decoder.jsonl", "valid_mel_distance")),
    )
    spent = [f"{words} {rows[-1]['trained_s'] / 60:.0f} min" for words, rows in curves if rows]
    return {
        "clips": counts["train"],
        "hours": counts["train"] * 10 / 3600,
        "valid": counts["valid"],
        "figures": f"| training, last run | {', '.join(spent)}; {_WHERE} |" if spent else "",
        "autoencoder": "\n".join(
            f"| {r['step']} | {r['valid_mel_distance']:.3f} | {r['valid_si_sdr_db']:.1f} dB |"
            for r in _few(curves[0][1])
        ),
        "measured_begin": MEASURED_BEGIN,
        "measured_end": MEASURED_END,
    }


def _millions(module: Any) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def write_partial_card(folder: Path, work: Path, vae: AutoencoderOobleck, state: str) -> None:
    """Write ``README.md`` of a folder that holds no transformer yet."""
    config: Any = vae.config
    card = _PARTIAL.format(
        state=state, latent=config.decoder_input_channels, vae=_millions(vae), **_facts(work)
    )
    write_text(folder / "README.md", card)


def write_card(
    folder: Path,
    work: Path,
    pipe: Any,
    state: str,
    samples: Sequence[tuple[str, str]],
    *,
    steps: int,
    guidance: float,
) -> None:
    """Write ``README.md`` into ``folder``: sizes, data, curves, samples ``(path, prompt)``, how to sample."""
    config = pipe.transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    sizes = {
        f"transformer ({config.num_layers} layers x {width})": _millions(pipe.transformer),
        "text encoder": _millions(pipe.text_encoder),
        "conditioning": _millions(pipe.projection_model),
        "autoencoder": _millions(pipe.vae),
    }
    losses = _rows(work / "logs" / "diffusion.jsonl", "valid_right")
    card = _CARD.format(
        state=state,
        total=sum(sizes.values()),
        parts=", ".join(f"{name} {size:.2f} M" for name, size in sizes.items()),
        latent=config.in_channels,
        window=config.sample_size,
        transformer_curve="\n".join(
            f"| {r['step']} | {r['valid_right']:.4f} | {r['valid_wrong']:.4f} |"
            for r in _few(losses)
        ),
        samples="\n".join(f"- [{prompt}]({path})" for path, prompt in samples)
        or "None in this copy.",
        limits=_LIMITS,
        steps=steps,
        guidance=guidance,
        **_facts(work),
    )
    write_text(folder / "README.md", card)
