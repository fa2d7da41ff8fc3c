"""What is done with recordings of a voice once they are cut: who speaks, and what is said.

Clips of other voices, and those whose text is missing or disagrees with what a recogniser wrote down, join
the refused ones. The texts of the others are what is said in them: from the sidecar or table where the
recording is one clip, placed by the recogniser's words where it is several, from the recogniser alone where
there is none.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.analysis import speech_quality, voice_activity
from tunesmith.data import voice_speakers
from tunesmith.data.caption import Caption, Captions
from tunesmith.data.cut import CutRecord, Refused
from tunesmith.data.screen import Kept, Screened
from tunesmith.data.settings import Settings
from tunesmith.data.staging import Staging
from tunesmith.data.tell import Heard as Said
from tunesmith.data.tell import audio_of
from tunesmith.data.voice_faults import OTHER_SPEAKER, TRANSCRIPT
from tunesmith.data.voice_text import MOST_CER, cer, place, wer_edits
from tunesmith.data.voice_verdict import facts_of
from tunesmith.errors import UserError
from tunesmith.types import Audio

if TYPE_CHECKING:
    from tunesmith.captioners import Told
    from tunesmith.data.assemble import Found
    from tunesmith.embeddings import Embedder

SAYING = frozenset({"sidecar", "metadata"})
"""Sources of a recording's text that are taken for what is said in it."""

_ASR_CONFIDENCE = 0.8


class Recogniser:
    """A model that writes down speech, as a :class:`~tunesmith.captioners.Captioner`.

    Args:
        name: a hub id or a folder.
        language: of the speech; empty lets it guess.

    Raises:
        UserError: there is no such model, or it does not recognise speech.
    """

    source = "asr"

    def __init__(self, name: str, language: str) -> None:
        from tunesmith.captioners._recogniser import Transcriber

        try:
            self._model = Transcriber(name, "auto", language or None)
        except UserError:
            if not language:
                raise
            self._model = Transcriber(name)  # it knows one language and cannot be told it
        self.name, self.label = name, self._model.label
        self.fingerprint = hashlib.sha256(f"{self.label}:{language}".encode()).hexdigest()

    def caption(self, clips: Sequence[Audio]) -> list[Told]:
        """What is said in each clip."""
        from tunesmith.captioners import Told

        return [Told(self._model.transcribe(clip), _ASR_CONFIDENCE) for clip in clips]


@dataclass(frozen=True, slots=True)
class Ears:
    """What listens to a voice.

    Attributes:
        encoder: tells voices apart; None where nothing can.
        recogniser: writes down what is said; None where none was named.
    """

    encoder: Embedder | None
    recogniser: Recogniser | None

    @property
    def fingerprint(self) -> str:
        """Changes whenever what is heard could."""
        parts = [
            self.encoder.key if self.encoder else "",
            self.recogniser and self.recogniser.fingerprint,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in all clips.

    Attributes:
        screened: without the clips of other voices and those without a text.
        told: what is said, by recording and staged file.
        facts: for ``dataset.json``.
        warnings: one line each.
    """

    screened: Screened
    told: Mapping[str, Mapping[str, Caption]]
    facts: Mapping[str, Any]
    warnings: Sequence[str]


def open_ears(settings: Settings, found: Sequence[Found]) -> Ears:
    """Opens what is needed, before the first recording is cut.

    Raises:
        UserError: a package or a model is missing, or no recording has a text and nothing can write one.
    """
    voice = settings.voice
    assert voice is not None
    voice_activity.require()
    speech_quality.require()
    if (
        not voice.asr
        and TRANSCRIPT not in settings.cut.keep
        and not any(item.caption.source in SAYING for item in found)
    ):
        raise UserError(
            f"none of {len(found)} recordings says what is spoken in it",
            "put the words beside x.wav as x.txt, name a recogniser with --asr, or cut and screen without "
            f"texts by --keep {TRANSCRIPT}",
        )
    encoder = None
    if OTHER_SPEAKER not in settings.cut.keep:
        encoder = voice_speakers.open_encoder(voice.encoder or None)
    return Ears(encoder, Recogniser(voice.asr, voice.language) if voice.asr else None)


def hear(
    ears: Ears,
    found: Sequence[Found],
    records: Mapping[str, CutRecord],
    screened: Screened,
    staging: Staging,
    settings: Settings,
    captions: Captions,
    progress: Callable[[str, int, int, str], None],
) -> Heard:
    """Listens to every clip that was let in so far.

    Args:
        ears: what listens.
        found: the recordings.
        records: what cutting made of each.
        screened: the clips.
        staging: where they are.
        settings: what was asked for.
        captions: puts the trigger before texts.
        progress: told ``(stage, done, total, recording)``; what it raises ends the work, and what the
            recogniser wrote is kept.
    """
    kept = {item.sha256: list(screened.kept[item.sha256]) for item in found}
    refused = {item.sha256: list(screened.refused[item.sha256]) for item in found}
    warnings = []
    if ears.encoder is not None:
        if ears.encoder.label.startswith("voiceprint"):
            warnings.append(
                "voices were told apart by the embedded voiceprint, which misses half of the strange ones: "
                "pip install --no-deps resemblyzer"
            )
        _without_others(ears.encoder, found, kept, refused, staging, settings, progress)
    elif OTHER_SPEAKER not in settings.cut.keep:
        warnings.append(
            "clips of other voices were not looked for, since nothing here tells voices apart: "
            "pip install --no-deps resemblyzer"
        )
    told: dict[str, dict[str, Caption]] = {}
    errors = np.zeros(2, int)
    for number, item in enumerate(found):
        progress("writing down", number, len(found), item.source.name)
        said = None
        if ears.recogniser is not None:
            said = Said(staging.path / settings.cut.key(item.sha256), ears.recogniser)
            said.listen(
                [one.clip.file for one in kept[item.sha256]],
                lambda: progress("writing down", number, len(found), item.source.name),  # noqa: B023
            )
        texts = _texts(item, records[item.sha256], kept[item.sha256], said, settings)
        kept[item.sha256], told[item.sha256] = [], {}
        for one, text in texts:
            if isinstance(text, Refused):
                refused[item.sha256].append(text)
                continue
            kept[item.sha256].append(one)
            if said is not None and text.source in SAYING:
                errors += wer_edits(text.text, said.text(one.clip.file))
            if text.text:
                text = replace(text, text=captions.triggered(text.text))
            told[item.sha256] |= dict.fromkeys(
                [one.clip.file, *(variant.file for variant in one.variants)], text
            )
    screened = Screened(
        {sha256: tuple(ones) for sha256, ones in kept.items()},
        {sha256: tuple(ones) for sha256, ones in refused.items()},
        screened.group,
    )
    facts = facts_of(
        [(one, told[sha256][one.clip.file]) for sha256, ones in kept.items() for one in ones],
        Counter(
            one.fault
            for item in found
            for one in (*records[item.sha256].refused, *refused[item.sha256])
        ),
        settings.voice.language if settings.voice else "",
    )
    facts |= {
        "encoder": ears.encoder.label if ears.encoder else "",
        "asr": ears.recogniser.label if ears.recogniser else "",
        "word_error_rate": round(errors[0] / errors[1], 4) if errors[1] else None,
        "versions": {name: _version(name) for name in ("silero-vad", "speechmos", "onnxruntime")},
    }
    return Heard(screened, told, facts, warnings)


def _without_others(
    encoder: Embedder,
    found: Sequence[Found],
    kept: dict[str, list[Kept]],
    refused: dict[str, list[Refused]],
    staging: Staging,
    settings: Settings,
    progress: Callable[[str, int, int, str], None],
) -> None:
    """Moves the clips that sound like somebody else from ``kept`` to ``refused``."""
    clips = [(item, one) for item in found for one in kept[item.sha256]]
    voices = []
    for number, (item, one) in enumerate(clips):
        progress("telling voices apart", number, len(clips), item.source.name)
        sound = audio_of(staging.path / settings.cut.key(item.sha256) / one.clip.file)
        voices.append(voice_speakers.voice_of(encoder.embed(sound)))
    for (item, one), figure in zip(clips, voice_speakers.odd_ones(voices), strict=True):
        if figure is None:
            continue
        reason = (
            f"another voice: {figure:.1f} times as far from the others as they are from each other"
        )
        kept[item.sha256].remove(one)
        refused[item.sha256].append(
            Refused(one.clip.start_s, reason, OTHER_SPEAKER, figure, "times the median distance")
        )


def _texts(
    item: Found,
    record: CutRecord,
    kept: Sequence[Kept],
    said: Said | None,
    settings: Settings,
) -> list[tuple[Kept, Caption | Refused]]:
    """What each clip of a recording says, or why it has no text."""
    own = item.caption if item.caption.source in SAYING else None
    # Every stretch of speech that was cut, kept or not: a text is of all of them.
    starts = sorted(
        {one.start_s for one in record.clips if not one.variant_of}
        | {one.start_s for one in record.refused}
    )
    placed: dict[float, str] = {}
    if own is not None and len(starts) == 1:
        placed = {starts[0]: own.text}
    elif own is not None and said is not None:
        heard = {one.clip.start_s: said.text(one.clip.file) for one in kept}
        parts = place(own.text, [heard.get(start_s) for start_s in starts])
        placed = dict(zip(starts, parts, strict=True))
    found: list[tuple[Kept, Caption | Refused]] = []
    for one in kept:
        at_s = one.clip.start_s
        heard_text = said.text(one.clip.file) if said is not None else None
        text, source, confidence = placed.get(at_s, ""), "", 1.0
        figure = None
        if text and own is not None:
            source, confidence = own.source, own.confidence
            if heard_text is not None:
                figure = round(cer(text, heard_text), 3)
                one = replace(one, clip=replace(one.clip, voice={**one.clip.voice, "cer": figure}))
        elif heard_text:
            text, source, confidence = heard_text, Recogniser.source, _ASR_CONFIDENCE
        against = _against(text, figure, heard_text, own, len(starts), at_s)
        if against is not None and TRANSCRIPT not in settings.cut.keep:
            found.append((one, against))
            continue
        extra = dict(item.caption.extra)
        if settings.voice and settings.voice.language:
            extra.setdefault("language", settings.voice.language)
        found.append((one, Caption(text, source or "none", extra, confidence if text else 0.0)))
    return found


def _against(
    text: str,
    figure: float | None,
    heard: str | None,
    own: Caption | None,
    clips: int,
    start_s: float,
) -> Refused | None:
    """Why a clip's text is none, or none that can be trusted."""
    if figure is not None and figure > MOST_CER:
        shown = heard if heard and len(heard) <= 60 else f"{(heard or '')[:59]}…"
        reason = (
            f"its text and what was recognised differ in {100 * figure:.0f} % of the characters "
            f"({shown!r})"
        )
        return Refused(start_s, reason, TRANSCRIPT, round(min(100 * figure, 999.0), 1), "% CER")
    if text:
        return None
    if own is not None and heard is None:
        reason = (
            f"no transcript: its recording was cut into {clips} clips, and nobody knows which part of the "
            "text is whose (--asr places it)"
        )
    elif heard is not None:
        reason = "no transcript: the recogniser understood nothing"
    else:
        reason = "no transcript: put the words beside it as .txt, or name a recogniser with --asr"
    return Refused(start_s, reason, TRANSCRIPT)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # onnxruntime-gpu, for one
        return "unknown"
