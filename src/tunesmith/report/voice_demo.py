"""What the demo of a voice has measured, and the page that says it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.analysis import pitch
from tunesmith.data.load import load_dataset
from tunesmith.embeddings import Embedder, open_embedder
from tunesmith.evaluation.hearing import read
from tunesmith.evaluation.spoken import OTHERS, default_ear
from tunesmith.formats.adapter import read_card
from tunesmith.metrics import phone_error, speaker
from tunesmith.report.contents import Measure, Report, Row, Section, Track
from tunesmith.report.run import run_report
from tunesmith.report.voices import Voiced
from tunesmith.training.judging import spaced
from tunesmith.training.log import read_metrics
from tunesmith.training.recognise import open_recogniser
from tunesmith.training.voice import joined
from tunesmith.types import Audio

_SHOWN, _MORE = 8, 24


@dataclass(frozen=True, slots=True)
class Heard:
    """What one ear made of it: mean cosines to the held-out recordings.

    Attributes:
        label: of the encoder.
        zero_shot, adapted: of the takes; one adapted a training.
        same: of the recordings to train with, which are the same voice.
        codec: of the held-out recordings through the base's mels and vocoder.
        others: of other voices.
        intervals: 95 %, of zero-shot and of each training.
    """

    label: str
    zero_shot: float
    adapted: Sequence[float]
    same: float
    codec: float
    others: float
    intervals: Sequence[tuple[float, float] | None]

    @property
    def closed(self) -> list[float]:
        """Share of the way from zero-shot to the same voice, a training each."""
        return [(one - self.zero_shot) / (self.same - self.zero_shot) for one in self.adapted]


class Measured:
    """Everything that was heard in takes and recordings.

    Args:
        out: folder of the demo.
        runs: the trainings.
        files: the held-out recordings.
        prompts: what is said in them.
        made: files of ``zero-shot``, ``codec``, and ``takes of RUN`` for each run.
    """

    def __init__(
        self,
        out: Path,
        runs: Sequence[Path],
        files: Sequence[Path],
        prompts: Sequence[str],
        made: Mapping[str, Any],
    ) -> None:
        self.out, self.runs, self.files, self.prompts = out, runs, files, prompts
        self.zero_shot: list[str] = made["zero-shot"]
        self.adapted: list[list[str]] = [made[f"takes of {run.name}"] for run in runs]
        held_out, base = _read(files), _read(self.zero_shot)
        adapted = [_read(one) for one in self.adapted]
        clips = [clip for clip in load_dataset(out / "data") if clip.split == "train"]
        own = _read([clip.path for clip in spaced(clips, 2 * len(files))])
        others, codec = _read(sorted(OTHERS.glob("*.ogg"))), _read(made["codec"])
        names = dict.fromkeys((default_ear(), "voiceprint"))
        self.heard = [
            _likeness(open_embedder(name, "cpu"), held_out, base, adapted, own, codec, others)
            for name in names
        ]
        recogniser = open_recogniser()
        self.recogniser = recogniser.label
        wanted = [recogniser.phones(one) for one in held_out]
        self.wrong = [
            phone_error.compute(wanted, [recogniser.phones(take) for take in takes])
            for takes in (base, *adapted)
        ]
        self.pitches = [pitch.of_sounds(sounds) for sounds in (held_out, base, *adapted)]

    @property
    def middle(self) -> int:
        """Index of the training in the middle, by similarity: the one that stands for all."""
        adapted = self.heard[0].adapted
        order = sorted(range(len(adapted)), key=lambda index: adapted[index])
        return order[(len(order) - 1) // 2]

    def voiced(self) -> Voiced:
        """The training in the middle, for the verdict."""
        ear, shown = self.heard[0], self.middle
        return Voiced(
            ear.zero_shot,
            ear.adapted[shown],
            float(self.wrong[0].value),
            float(self.wrong[1 + shown].value),
            same=ear.same,
            others=ear.others,
            interval=ear.intervals[1 + shown],
            step=int(read_card(self.runs[shown])["step"]),
        )

    def numbers(self) -> dict[str, Any]:
        """For ``report.json``."""
        ear = self.heard[0]
        facts = [_facts(run) for run in self.runs]
        return {
            "similarity": {
                "embedding": ear.label,
                "zero_shot": ear.zero_shot,
                "adapted": list(ear.adapted),
                "same_speaker": ear.same,
                "same_speaker_through_vocoder": ear.codec,
                "different_speakers": ear.others,
                "closed": ear.closed,
                "closed_median": statistics.median(ear.closed),
            },
            "similarity_by_others": {
                one.label: {
                    "zero_shot": one.zero_shot,
                    "adapted": list(one.adapted),
                    "same_speaker": one.same,
                    "same_speaker_through_vocoder": one.codec,
                    "different_speakers": one.others,
                    "closed": one.closed,
                }
                for one in self.heard[1:]
            },
            "phone_error": {
                "recogniser": self.recogniser,
                "zero_shot": self.wrong[0].value,
                "adapted": [one.value for one in self.wrong[1:]],
            },
            "pitch_hz": {
                "recordings": _median(self.pitches[0]),
                "zero_shot": _median(self.pitches[1]),
                "adapted": [_median(one) for one in self.pitches[2:]],
            },
            "n": {"held_out": len(self.files), "takes": len(self.zero_shot)},
            "train_s": round(sum(one["train_s"] for one in facts), 2),
            "runs": facts,
        }


def _read(files: Sequence[str | Path]) -> list[Audio]:
    return [read(file) for file in files]


def _median(found: pitch.Pitch | None) -> float | None:
    return found.median_hz if found else None


def _likeness(
    ear: Embedder,
    held_out: Sequence[Audio],
    base: Sequence[Audio],
    adapted: Sequence[Sequence[Audio]],
    own: Sequence[Audio],
    codec: Sequence[Audio],
    others: Sequence[Audio],
) -> Heard:
    target = [ear.embed(one) for one in joined(held_out)]  # once: that takes longest
    takes, bounds = (
        [speaker.compute(target, [ear.embed(one) for one in joined(some)]) for some in sets]
        for sets in ((base, *adapted), (own, codec, others))
    )
    return Heard(
        ear.label,
        float(takes[0].value),
        [float(one.value) for one in takes[1:]],
        *(float(one.value) for one in bounds),
        intervals=[one.interval for one in takes],
    )


def _facts(run: Path) -> dict[str, Any]:
    card, lines = read_card(run), read_metrics(run / "metrics.jsonl")
    return {
        "run": run.name,
        "steps": card["steps"],
        "kept_step": card["step"],
        "judged": card["metrics"]["judged"],
        "validation_loss": card["metrics"]["validation_loss"],
        "trainable_parameters": card["trainable_parameters"],
        "train_s": round(sum(x.get("seconds", 0.0) for x in lines if x["kind"] == "train"), 2),
    }


def demo_report(measured: Measured, first_seed: int) -> Report:
    """The page.

    Args:
        measured: all of it.
        first_seed: of the takes.
    """
    shown = measured.middle
    rows = [
        Row(
            prompt,
            first_seed + index,
            [
                Track("zero-shot", Path(before)),
                Track("adapted", Path(after)),
                Track("recording", Path(file), "the voice itself, which no training has heard"),
            ],
        )
        for index, (prompt, before, after, file) in enumerate(
            zip(
                measured.prompts,
                measured.zero_shot,
                measured.adapted[shown],
                measured.files,
                strict=True,
            )
        )
    ]
    clips = [clip for clip in load_dataset(measured.out / "data") if clip.split == "train"]
    others = sorted(OTHERS.glob("*.ogg"))
    sections = [
        Section(
            "Training clips",
            [Track(clip.path.name, clip.path, clip.caption) for clip in clips[:_MORE]],
            f"The first {min(_MORE, len(clips))} of the {len(clips)} that the adapter was trained on.",
        ),
        Section(
            "Other voices",
            [Track(file.name, file) for file in others[:: max(1, len(others) // 8)]],
            "How alike two voices are that are not one: the lower bound.",
        ),
    ]
    report = run_report(
        measured.runs[shown],
        title="Tunesmith demo: a voice on the pocket-voice base",
        rows=rows[:: max(1, len(rows) // _SHOWN)][:_SHOWN],
        sections=sections,
        measures=_measures(measured, shown),
        voice=measured.voiced(),
    )
    if len(measured.runs) > 1:
        subtitle = f"{report.subtitle}; the middle one of {len(measured.runs)} trainings"
        report = replace(report, subtitle=subtitle)
    return report


def _measures(measured: Measured, shown: int) -> list[Measure]:
    found = [
        Measure(
            "voice similarity",
            ear.zero_shot,
            ear.adapted[shown],
            "higher",
            f"Mean cosine to the held-out recordings. The voice's other recordings have {ear.same:.2f}, "
            f"these through mels and vocoder {ear.codec:.2f}, other voices {ear.others:.2f}.",
            n=len(measured.files),
            embedding=ear.label,
            interval=ear.intervals[1 + shown],
            base_interval=ear.intervals[0],
        )
        for ear in measured.heard
    ]
    before, after = measured.wrong[0], measured.wrong[1 + shown]
    found.append(
        Measure(
            "phone error",
            before.value,
            after.value,
            "lower",
            "Share of the phones heard in recordings of the same sentences that takes have wrongly.",
            n=len(measured.files),
            embedding=measured.recogniser,
            interval=after.interval,
            base_interval=before.interval,
        )
    )
    target, *made = measured.pitches
    if target and made[0] and (own := made[1 + shown]):
        off = [abs(pitch.semitones(target.median_hz, one.median_hz)) for one in (made[0], own)]
        found.append(
            Measure(
                "pitch, away from the voice's",
                off[0],
                off[1],
                "lower",
                f"Median pitch, in semitones from the recordings' {target.median_hz:.0f} Hz.",
                n=len(measured.files),
            )
        )
    return found


__all__ = ["Heard", "Measured", "demo_report"]
