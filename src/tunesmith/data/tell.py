"""The caption of every clip: its recording's own, else a model's, else what was measured.

A model hears one clip at a time and takes long, so what it said is kept in the recording's staging
folder: a run that was stopped does not ask again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.analysis.facts import Facts
from tunesmith.atomic import json_line, write_bytes
from tunesmith.data.caption import Caption, Captions
from tunesmith.data.cut import CutClip
from tunesmith.data.recording import Recording
from tunesmith.data.screen import Kept
from tunesmith.data.words import describe, retold
from tunesmith.types import Audio

if TYPE_CHECKING:
    from tunesmith.captioners import Captioner

FALLBACK = "name"
"""Source of a caption that is nothing but the file's name: anything else is better."""

HEARD = "heard.json"
"""What a model said of a recording's clips, in its staging folder."""

_TOGETHER = 4  # clips that a model hears at once


def tell(
    caption: Caption,
    kept: Sequence[Kept],
    folder: Path,
    captions: Captions,
    captioner: Captioner | None,
    between: Callable[[], None],
) -> dict[str, Caption]:
    """Captions of a recording's clips and their variants, by the name of the staged file.

    Args:
        caption: the recording's.
        kept: its clips.
        folder: where they are staged.
        captions: puts the trigger before new texts.
        captioner: asked where the recording has no caption of its own; ``None`` asks none.
        between: called now and then; what it raises ends the work, and what is told is kept.
    """
    told: dict[str, Caption] = {}
    heard: Heard | None = None
    if captioner and caption.source == FALLBACK:
        heard = Heard(folder, captioner)
        heard.listen([item.clip.file for item in kept], between)
    tempo_bpm = common_tempo(kept)
    for item in kept:
        own = caption
        if caption.source == FALLBACK:
            own = (heard and heard.caption(item.clip.file, captions, caption)) or _measured(
                item.clip.facts, tempo_bpm, captions, caption
            )
        told[item.clip.file] = own
        for variant in item.variants:
            if own.source == "facts":
                stretch = variant.operations.get("tempo_factor", 1.0)
                common_bpm = None if tempo_bpm is None else tempo_bpm * stretch
                told[variant.file] = _measured(variant.facts, common_bpm, captions, caption)
            else:
                first, *further = (
                    _follow(text, item.clip, variant) for text in (own.text, *own.variants)
                )
                told[variant.file] = replace(own, text=first, variants=tuple(further))
    return told


def _follow(text: str, original: CutClip, variant: CutClip) -> str:
    return retold(
        text,
        original.facts,
        variant.facts,
        pitch_semitones=variant.operations.get("pitch_semitones", 0.0),
        stretch=variant.operations.get("tempo_factor", 1.0),
    )


def common_tempo(kept: Sequence[Kept]) -> float | None:
    """The tempo that most of a recording's clips agree on, an octave apart or not.

    A steady piece must not be called 108 bpm here, 111 there, and 220 in between.
    """
    found = [
        (item.clip.facts.tempo_bpm, item.clip.facts.tempo_confidence)
        for item in kept
        if item.clip.facts.tempo_bpm is not None
    ]
    if len(found) < 2:
        return None
    near = {bpm: [one for one, _ in found if _same_level(one, bpm)] for bpm, _ in found}
    bpm = max(found, key=lambda one: (len(near[one[0]]), one[1]))[0]
    agreeing = sum(any(_same_level(one * k, bpm) for k in (0.5, 1, 2)) for one, _ in found)
    return median(near[bpm]) if 2 * agreeing > len(found) else None


def steady(facts: Facts, tempo_bpm: float | None) -> Facts:
    """A clip's facts with its recording's tempo, where the clip's is the same or an octave off."""
    if tempo_bpm is None or facts.tempo_bpm is None:
        return facts
    if any(_same_level(facts.tempo_bpm * k, tempo_bpm) for k in (0.5, 1, 2)):
        return replace(facts, tempo_bpm=tempo_bpm)
    return facts


def _same_level(one_bpm: float, other_bpm: float) -> bool:
    return abs(one_bpm / other_bpm - 1) <= 0.04


def _measured(
    facts: Facts, tempo_bpm: float | None, captions: Captions, caption: Caption
) -> Caption:
    words = describe(steady(facts, tempo_bpm))
    if words is None:
        return caption
    text = captions.triggered(words.text)
    return replace(caption, text=text, source="facts", confidence=round(words.confidence, 3))


class Heard:
    """What a model said of one recording's clips, kept in their staging folder."""

    def __init__(self, folder: Path, captioner: Captioner) -> None:
        self._folder, self._captioner = folder, captioner
        self._path = folder / HEARD
        self._said: dict[str, Sequence] = {}
        try:
            before = json.loads(self._path.read_bytes())
            if before["captioner"] == captioner.fingerprint:
                self._said = dict(before["said"])
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def listen(self, files: Sequence[str], between: Callable[[], None]) -> None:
        """Asks for what is not known yet, always in the same groups.

        In half precision an answer can depend on what else is in the batch, and a run that goes on
        must end with the same bytes.
        """
        for start in range(0, len(files), _TOGETHER):
            group = files[start : start + _TOGETHER]
            if all(file in self._said for file in group):
                continue
            between()
            answers = self._captioner.caption([audio_of(self._folder / file) for file in group])
            for file, answer in zip(group, answers, strict=True):
                self._said[file] = [answer.text, answer.confidence]
            whole = {"captioner": self._captioner.fingerprint, "said": self._said}
            write_bytes(self._path, json_line(whole).encode())

    def text(self, file: str) -> str:
        """What was said of a clip, or in it; empty if that was nothing."""
        return str(self._said[file][0])

    def caption(self, file: str, captions: Captions, caption: Caption) -> Caption | None:
        """What was said of a clip; ``None`` if that was nothing."""
        text, confidence = self._said[file]
        if not text:
            return None
        return replace(
            caption,
            text=captions.triggered(text),
            source=self._captioner.source,
            confidence=round(float(confidence), 3),
        )


def audio_of(path: Path) -> Audio:
    """The sound of a staged clip."""
    with Recording(path) as recording:
        samples = np.concatenate(list(recording.blocks()))
        return Audio(np.ascontiguousarray(samples.T), recording.sample_rate_hz)
