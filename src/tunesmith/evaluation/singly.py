"""Take by take: does each follow its prompt, and, of speech, whose voice is it and can it be understood?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.embeddings import Embedder, TextEmbedder, open_embedder
from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Better, Finding
from tunesmith.evaluation.hearing import embed, read
from tunesmith.evaluation.subjects import Reference, Wanted
from tunesmith.evaluation.transcribe import Transcriber, transcripts
from tunesmith.metrics import agreement as agreeing
from tunesmith.metrics import clap_score, mos, speaker, wer
from tunesmith.metrics._result import Result
from tunesmith.training.hardware import best_device

Sounds = Mapping[str, Sequence[str]]
"""Files of each subject."""

_SAYS = {
    "clap_score": "How well takes fit their own prompts (mean cosine of CLAP). Look at the difference "
    "to shuffled prompts and to the base.",
    "mos": "How clean a listener would find it as speech, 1 to 5, predicted by DNSMOS.",
    "speaker": "How like the target's voice it is (mean cosine).",
    "wer": "Errors per word that a recogniser makes on the takes.",
    "cer": "Errors per character that a recogniser makes on the takes.",
}


def by_text(
    ear: Embedder, subjects: Sequence[Wanted], sounds: Sounds, prompts: Sequence[str], seed: int
) -> list[Finding]:
    """CLAP score of every model's takes, where the embedding knows sentences; a run's is tested."""
    if not isinstance(ear, TextEmbedder):
        return []
    text = ear.embed_text(prompts)
    found = []
    for one in subjects:
        if one.kind == "folder":
            continue
        rows = embed(sounds[one.key], ear)
        measure = lambda rows=rows: clap_score.compute(rows, text, seed=seed)  # noqa: E731
        finding = _finding("clap_score", one.key, "higher", measure, ear.label)
        if one.kind == "run" and finding.value is not None:
            try:
                p = clap_score.compare(embed(sounds[one.against], ear), rows, text, seed=seed)
                finding = replace(finding, p_value=p)
            except UserError:  # the base's takes have no score: there is nothing to test against
                pass
        found.append(finding)
    return found


def agreement(subjects: Sequence[Wanted], sounds: Sounds, prompts: Sequence[str]) -> list[Finding]:
    """Tempo and key that were asked for, where prompts ask for any."""
    found = []
    for one in subjects:
        if one.kind == "folder":
            continue
        for name, result in agreeing.of_prompts(
            [read(file) for file in sounds[one.key]], prompts
        ).items():
            found.append(_finding(name, one.key, "higher", lambda result=result: result, ""))
    return found


def voices(
    subjects: Sequence[Wanted],
    sounds: Sounds,
    prompts: Sequence[str],
    reference: Reference,
    with_mos: bool,
    speaker_model: str,
    asr_model: str,
) -> list[Finding]:
    """What is measured of speech, as far as it is asked for."""
    found = []
    if with_mos:
        for one in subjects:
            # One sound in memory at a time: a folder may hold a thousand songs.
            measure = lambda key=one.key: mos.compute(read(file) for file in sounds[key])  # noqa: E731
            found.append(_finding("mos", one.key, "higher", measure, mos.LABEL))
    if speaker_model:
        ear = open_embedder(speaker_model, best_device())
        target = embed([str(clip.path) for clip in reference.clips], ear)
        for one in subjects:
            seconds = [speaker.sounding_s(read(file)) for file in sounds[one.key]]
            rows = embed(sounds[one.key], ear)
            found.append(
                _finding(
                    "speaker",
                    one.key,
                    "higher",
                    lambda rows=rows, seconds=seconds: speaker.compute(
                        target, rows, speech_s=seconds
                    ),
                    ear.label,
                )
            )
    if asr_model:
        recogniser = Transcriber(asr_model, best_device())
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


def _finding(
    metric: str, subject: str, better: Better, measure: Callable[[], Result], label: str
) -> Finding:
    """A result as a finding; what cannot be measured says why."""
    common: dict[str, Any] = {
        "metric": metric,
        "subject": subject,
        "better": better,
        "embedding": label,
        "explanation": _SAYS.get(metric) or agreeing.EXPLANATIONS.get(metric, ""),
    }
    try:
        result = measure()
    except UserError as error:
        return Finding(value=None, missing=str(error), **common)
    return Finding(
        value=result.value,
        interval=result.interval,
        n=result.n_candidate,
        n_reference=result.n_reference or None,
        warnings=result.warnings,
        details=result.details,
        **common,
    )
