"""The model card of ``pocket-voice``, and a few sentences that it says, written into its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from safetensors import safe_open

from pretrain.common import MEASURED_BEGIN, MEASURED_END, write_text
from pretrain.voice.corpus import LONGEST_S, SHORTEST_S
from pretrain.voice.speakers import ENGLISH, HELD_ACCENT, OTHERS, voices

SAMPLES = (
    "the river runs past the old mill, and into the sea.",
    "do you want a cup of tea or a glass of water?",
    "she walked home slowly because the evening was warm.",
)
_CARD = """---
license: apache-2.0
pipeline_tag: text-to-speech
library_name: transformers
tags: [speecht5, text-to-speech, tiny]
---

# pocket-voice

A very small text-to-speech model of SpeechT5's architecture with its vocoder and its speaker encoder, made from
nothing by the scripts in `pretrain/voice/`, so that adapting a voice can be tried, tested and demonstrated on a
laptop. State of this copy: **{state}**.

```python
import json, torch
from transformers import AutoTokenizer, SpeechT5ForTextToSpeech, SpeechT5HifiGan

folder = "src/tunesmith/pocket/voice"
model, vocoder = SpeechT5ForTextToSpeech.from_pretrained(folder), SpeechT5HifiGan.from_pretrained(folder + "/vocoder")
ids = AutoTokenizer.from_pretrained(folder)("the quick brown fox.", return_tensors="pt").input_ids
voice = torch.tensor([json.load(open(folder + "/tunesmith.json"))["conditioning"]["speaker"]])
wave = model.generate_speech(ids, voice, maxlenratio=12.0, vocoder=vocoder)  # [T] at 16 kHz
```

| | |
|---|---|
| audio | 16 kHz mono, up to 10 s; 80 log10 mels of amplitude every 16 ms |
| text | letters, read as small ones; numbers have to be written out |
| speaker | 512 numbers of length 1, by `listeners/xvector.safetensors` of the voice's recordings |
| parameters | {total:.2f} M: {parts} |
| data | {clips} sentences of {shortest:g} to {longest:g} s by espeak-ng in {voices} voices, {languages} |
| training | {training} |
| speech model, validation | {speech_figures} |
| vocoder, validation | {vocoder_figures} |
| speaker encoder, validation | {ear_figures} |

## Measured

{measured_begin}
Not measured yet: `python -m bench.pocket_voice`.
{measured_end}

## Samples

In the voice that it has where none is said:

{samples}

## Data

Every sentence was made by a template from lists of words and said by espeak-ng, a program that speaks by rule. Its
voices (variants of timbre, pitch, pace, and a warp of all frequencies) belong to nobody. No recording of anyone
was used, and no downloaded weights. One voice and one accent ({held}) were held out of everything that speech model,
vocoder and speaker encoder learnt from; `tunesmith demo --voice` adapts to the former.

## Limits

- It sounds like what it learnt from: a machine that speaks by rule, through a small vocoder. It has never heard a
  person, and adapting it to one brings timbre and pitch nearer, not naturalness.
- It reads letters without a dictionary: rare spellings come out wrong, numerals and abbreviations not at all.
- Sentences of up to about twelve words. It knows no emphasis and no mood.
- Nothing here says how a method fares on a model of useful size.

Do not use it, or any other model, to speak as somebody who has not agreed. Licence of the weights: Apache-2.0.
"""


def say_samples(folder: Path) -> list[tuple[str, str]]:
    """Write each of :data:`SAMPLES` as the tool says it; returns ``(path, text)`` of each."""
    from tunesmith.families import find_base, load

    bundle: Any = load(find_base(str(folder)))
    codes = bundle.generate_codes(list(SAMPLES), 8.0, [0, 1, 2], bundle.sampling)
    (folder / "samples").mkdir(exist_ok=True)
    made = []
    for text, one in zip(SAMPLES, codes, strict=True):
        words = re.sub("[^a-z]+", "-", text).strip("-").split("-")
        path = f"samples/{'-'.join(words[:5])}.ogg"
        audio = bundle.decode_audio(one)
        soundfile.write(folder / path, audio.samples[0], audio.sample_rate_hz, format="OGG")
        made.append((path, text))
    return made


def _figures(values: Mapping[str, Any], told: Mapping[str, str]) -> str:
    """``words 0.123, ...`` of those that are there."""
    found = [f"{words} {values[key]:.3g}" for key, words in told.items() if key in values]
    return ", ".join(found) or "not measured"


def _listener(path: Path) -> tuple[dict[str, Any], int]:
    """Notes and number of parameters of a listener; nothing where it is not there."""
    if not path.is_file():
        return {}, 0
    with safe_open(str(path), framework="pt") as file:
        config = json.loads((file.metadata() or {}).get("config", "{}"))
        size = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    return config, size


def write_card(
    folder: Path,
    speech: Mapping[str, Any],
    vocoder: Mapping[str, Any],
    sizes: tuple[int, int],
    samples: Sequence[tuple[str, str]],
) -> None:
    """``README.md`` of an exported folder.

    Args:
        folder: the exported folder.
        speech, vocoder: notes of both trainings: ``config``, ``counters``, ``figures``, ``clips``.
        sizes: parameters of both.
        samples: paths within the folder and what is said.
    """
    config, counts = speech["config"], (speech["counters"], vocoder["counters"])
    ear, ear_size = _listener(folder / "listeners" / "xvector.safetensors")
    spent = [f"{one.get('trained_s', 0) / 60:.0f} min" for one in counts]
    steps = [f"{one.get('step', 0):.0f}" for one in counts]
    text = _CARD.format(
        state=speech.get("state") or f"speech model after {steps[0]} steps",
        total=(sum(sizes) + ear_size) / 1e6,
        parts=f"speech model {sizes[0] / 1e6:.2f} M ({config.get('encoder_layers', 12)} + "
        f"{config.get('decoder_layers', 6)} layers of {config.get('hidden_size', 768)}), vocoder "
        f"{sizes[1] / 1e6:.2f} M, speaker encoder {ear_size / 1e6:.2f} M",
        clips=f"{speech['clips']:,}",
        shortest=SHORTEST_S,
        longest=LONGEST_S,
        voices=len(voices()),
        languages=f"two thirds in English ({len(ENGLISH)} accents), else "
        + ", ".join(one[:2] for one in OTHERS),
        training=f"speech model {spent[0]} ({steps[0]} steps), vocoder {spent[1]} ({steps[1]} steps), "
        f"speaker encoder {ear.get('training', {}).get('minutes', 0):.0f} min",
        speech_figures=_figures(
            speech["figures"],
            {
                "valid_before": "mean distance of log10 mels before the postnet",
                "valid_after": "after it",
                "valid_text": "more with the text of another clip",
                "length_ratio": "length of what it says over the recording's",
            },
        ),
        vocoder_figures=_figures(
            vocoder["figures"],
            {"valid_mel": "mean distance of ln mels", "valid_stft": "multi-resolution STFT"},
        ),
        ear_figures=_figures(
            ear.get("figures", {}),
            {
                "eer_valid": "equal error rate of pairs of clips",
                "eer_heldvoice": "of the held voice against all",
            },
        ),
        samples="\n".join(f"- [{said}]({path})" for path, said in samples) or "None in this copy.",
        held="Scottish English" if HELD_ACCENT == "en-gb-scotland" else HELD_ACCENT,
        measured_begin=MEASURED_BEGIN,
        measured_end=MEASURED_END,
    )
    write_text(folder / "README.md", text)
