"""What is measured of speech: whose voice, how clean, which words, and whether pitch and pace are the voice's.

Every figure of a run stands beside the same of its base, which speaks with the run's own speaker vector
(zero-shot), and similarity beside that of the voice's recordings to each other and of other voices to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from tunesmith.analysis import pitch
from tunesmith.embeddings import Embedder, open_embedder
from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Better, Finding, measured
from tunesmith.evaluation.hearing import read
from tunesmith.evaluation.subjects import Reference, Wanted
from tunesmith.evaluation.transcribe import Transcriber, transcripts
from tunesmith.families import EMBEDDED
from tunesmith.metrics import mos, phone_error, speaker, wer
from tunesmith.metrics._result import Result
from tunesmith.training.hardware import best_device
from tunesmith.training.judging import spaced
from tunesmith.training.recognise import open_recogniser
from tunesmith.training.voice import Recogniser, likeness
from tunesmith.types import Audio

Sounds = Mapping[str, Sequence[str]]
"""Files of each subject."""

OTHERS = EMBEDDED["pocket-voice"].parent / "demo-voice" / "others"
"""Voices that ship, for the lower bound where there are no other recordings."""

_MOST = 200  # sounds of a subject that are listened to for pitch: more change nothing

_SAYS = {
    "mos": "How clean a listener would find it as speech, 1 to 5, predicted by DNSMOS.",
    "speaker": "How like the target's voice it is (mean cosine, on three seconds and more of speech).",
    "wer": "Errors per word that a recogniser makes on the takes.",
    "cer": "Errors per character that a recogniser makes on the takes.",
    "phone_error": "Share of the phones heard in recordings of the same sentences that takes have wrongly.",
    "pitch": "Median pitch, in semitones from that of the voice's recordings.",
    "pitch_range": "How much wider or narrower the range of pitch is, in semitones (a tenth to nine tenths).",
    "rate": "Phones a second of speech, in per cent away from the voice's recordings.",
}


def voices(
    subjects: Sequence[Wanted],
    sounds: Sounds,
    prompts: Sequence[str],
    reference: Reference,
    *,
    with_mos: bool = False,
    ear: str = "",
    asr: str = "",
    phones: bool = False,
    others: Sequence[str] = (),
    ceilings: Sounds | None = None,
    spoken: bool = False,
) -> list[Finding]:
    """What is measured of speech, as far as it is asked for.

    Args:
        subjects: whose takes.
        sounds: their files.
        prompts: of the takes.
        reference: recordings of the voice.
        with_mos: predict mean opinion scores.
        ear: embedding that tells voices apart; empty for none.
        asr: model that reads speech; empty for none.
        phones: count phones that are wrong, by the recogniser that ships.
        others: recordings of other voices; those that ship by default.
        ceilings: the reference through the codec of each base.
        spoken: measure pitch and pace.
    """
    found: list[Finding] = []
    if with_mos:
        for one in subjects:
            # One sound in memory at a time: a folder may hold a thousand songs.
            measure = lambda key=one.key: mos.compute(read(file) for file in sounds[key])  # noqa: E731
            found.append(_finding("mos", one.key, "higher", measure, mos.LABEL))
    if ear:
        opened = open_embedder(ear, best_device())
        found += _similarities(subjects, sounds, reference, opened, others, ceilings or {})
    if asr:
        found += _words(subjects, sounds, prompts, Transcriber(asr, best_device()))
    recogniser = open_recogniser() if phones or spoken else None
    if phones and recogniser is not None:
        found += _phones(subjects, sounds, prompts, reference, recogniser)
    if spoken and recogniser is not None:
        found += _manner(subjects, sounds, reference, recogniser)
    return found


def default_ear() -> str:
    """What tells voices apart where nobody says: Resemblyzer where it is installed, else what ships."""
    return "resemblyzer" if find_spec("resemblyzer") is not None else "voiceprint"


def has_mos() -> bool:
    """Whether opinion scores can be predicted without installing anything."""
    return find_spec("speechmos") is not None


def _similarities(
    subjects: Sequence[Wanted],
    sounds: Sounds,
    reference: Reference,
    ear: Embedder,
    others: Sequence[str],
    ceilings: Sounds,
) -> list[Finding]:
    target = [read(clip.path) for clip in spaced(reference.clips, _MOST)]
    files = spaced(list(others) or [str(file) for file in sorted(OTHERS.glob("*.ogg"))], _MOST)
    bounds = _details(lambda: likeness(ear, target, target, [read(file) for file in files]))
    through: dict[str, float] = {}
    found: dict[str, Finding] = {}
    for one in subjects:

        def measure(one: Wanted = one) -> Result:
            return likeness(ear, target, [read(file) for file in sounds[one.key]])

        finding = _finding("speaker", one.key, "higher", measure, ear.label)
        base = one.against or one.key
        if base not in through and (rendered := ceilings.get(base)):
            made = [read(file) for file in spaced(rendered, _MOST)]
            told = _details(lambda made=made: likeness(ear, made, target))
            through |= {base: told["value"]} if told else {}
        kept = {name: bounds[name] for name in _BOUNDS if name in bounds}
        details = {**finding.details, **kept}
        if base in through:
            details["through_codec"] = through[base]
        before = found.get(one.against)
        if before is not None and before.value is not None:
            details["zero_shot"] = before.value
        found[one.key] = replace(finding, details=details)
    return list(found.values())


_BOUNDS = ("same_speaker", "different_speakers")


def _details(measure: Callable[[], Result]) -> dict[str, Any]:
    """``value`` and details of a bound; empty where it cannot be measured, which spoils nothing else."""
    try:
        result = measure()
    except UserError:
        return {}
    return {"value": float(result.value), **result.details}


def _words(
    subjects: Sequence[Wanted], sounds: Sounds, prompts: Sequence[str], recogniser: Transcriber
) -> list[Finding]:
    found = []
    for one in subjects:
        if one.kind == "folder":
            continue
        heard = transcripts(sounds[one.key], recogniser)
        errors = _finding(
            "wer",
            one.key,
            "lower",
            lambda heard=heard: wer.compute(prompts, heard),
            recogniser.label,
        )
        found.append(errors)
        if "cer" in errors.details:
            low, high = errors.details.get("cer_low"), errors.details.get("cer_high")
            found.append(
                Finding(
                    "cer",
                    one.key,
                    errors.details["cer"],
                    "lower",
                    interval=(low, high) if low is not None and high is not None else None,
                    n=errors.n,
                    embedding=recogniser.label,
                    explanation=_SAYS["cer"],
                )
            )
    return found


def _phones(
    subjects: Sequence[Wanted],
    sounds: Sounds,
    prompts: Sequence[str],
    reference: Reference,
    recogniser: Recogniser,
) -> list[Finding]:
    recordings = {clip.caption: clip.path for clip in reversed(reference.clips)}
    # What the recogniser hears in a recording of the sentence, so that its own faults count for none.
    wanted = {
        text: recogniser.phones(read(recordings[text])) for text in set(prompts) & set(recordings)
    }
    places = [index for index, text in enumerate(prompts) if wanted.get(text)]
    found = []
    for one in subjects:
        if one.kind == "folder":
            continue

        def measure(one: Wanted = one) -> Result:
            if not places:
                raise UserError("no prompt is a sentence that is among the recordings")
            heard = [recogniser.phones(read(sounds[one.key][index])) for index in places]
            return phone_error.compute([wanted[prompts[index]] for index in places], heard)

        found.append(_finding("phone_error", one.key, "lower", measure, recogniser.label))
    return found


def _manner(
    subjects: Sequence[Wanted], sounds: Sounds, reference: Reference, recogniser: Recogniser
) -> list[Finding]:
    """How far pitch, its range and the pace are from the voice's."""
    target = [read(clip.path) for clip in reference.clips[:_MOST]]
    wanted, pace = pitch.of_sounds(target), _pace(target, recogniser)
    found = []
    for one in subjects:
        takes = [read(file) for file in sounds[one.key][:_MOST]]
        own, own_pace = pitch.of_sounds(takes), _pace(takes, recogniser)
        if wanted is None or own is None:
            why = "no voiced sound in the takes" if wanted else "no voiced sound in the recordings"
            found += [_away(name, one.key, None, len(takes), {}, why) for name in _PITCHES]
        else:
            hertz = {"hz": own.median_hz, "target_hz": wanted.median_hz}
            off = abs(pitch.semitones(wanted.median_hz, own.median_hz))
            found.append(_away("pitch", one.key, off, len(takes), hertz))
            both = {
                "semitones": own.range_semitones,
                "target_semitones": wanted.range_semitones,
            }
            off = abs(own.range_semitones - wanted.range_semitones)
            found.append(_away("pitch_range", one.key, off, len(takes), both))
        both = {"phones_per_s": own_pace, "target_phones_per_s": pace}
        off = abs(own_pace / pace - 1) * 100 if pace else None
        why = "" if pace else "no speech in the recordings"
        found.append(_away("rate", one.key, off, len(takes), both, why, recogniser.label))
    return found


_PITCHES = ("pitch", "pitch_range")


def _pace(sounds: Sequence[Audio], recogniser: Recogniser) -> float:
    """Phones a second, pauses left out."""
    seconds = sum(speaker.sounding_s(one) for one in sounds)
    return sum(len(recogniser.phones(one)) for one in sounds) / seconds if seconds else 0.0


def _away(
    name: str,
    subject: str,
    value: float | None,
    count: int,
    details: Mapping[str, float],
    missing: str = "",
    label: str = "",
) -> Finding:
    return Finding(
        name,
        subject,
        value,
        "lower",
        n=count,
        embedding=label,
        missing=missing,
        explanation=_SAYS[name],
        details=details,
    )


def _finding(
    metric: str, subject: str, better: Better, measure: Callable[[], Result], label: str
) -> Finding:
    """With the words of this page's metrics."""
    explanation = _SAYS[metric]
    return measured(metric, subject, better, measure, label, explanation)


__all__ = ["OTHERS", "default_ear", "has_mos", "voices"]
