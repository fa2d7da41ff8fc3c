"""Generate, listen, compare: runs, their bases and folders of recordings against held-out ones."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.atomic import write_bytes
from tunesmith.embeddings import open_embedder
from tunesmith.errors import UserError
from tunesmith.evaluation import anchor, crowds, singly, spoken
from tunesmith.evaluation.findings import Evaluation, Finding, Memorisation, Subject, to_json
from tunesmith.evaluation.hearing import embed
from tunesmith.evaluation.losses import compared
from tunesmith.evaluation.memorised import memorised_run
from tunesmith.evaluation.open import opened
from tunesmith.evaluation.subjects import (
    Reference,
    Wanted,
    files_in,
    general_clips,
    general_of,
    reference_of,
    training_clips,
    wanted,
)
from tunesmith.families import EMBEDDED, base_limits, find_base
from tunesmith.formats.adapter import read_card
from tunesmith.training.hardware import best_device
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

TAKES, GENERAL_TAKES = 64, 32
MOST_TAKES = 2_000
"""Of a model: the test of gap closed holds a matrix of all takes of two."""

FILE = "evaluation.json"
_TAKE_SEED = 20_000
"""Added to the seed, so that no take shares its random stream with training or with a demo's."""

_LONGEST_S = 10.0
_PATIENCE = 2.5  # times the longest recording, of a base that says when it has ended
OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to evaluate.

    Attributes:
        embeddings: what hears, by name; the first is the one that counts. By default the embedded
            one where all bases are, else CLAP.
        prompts: of the takes; by default the captions of the held-out recordings.
        takes: of each model.
        general_takes: of each model from general prompts; 0 leaves that out.
        seconds: of each take; by default the held-out clips' median, at most 10.
        seed: of the takes and of everything drawn.
        losses: measure the loss of each clip; needs the data to be of the base's kind.
        mos: predict mean opinion scores (DNSMOS; speech).
        speaker: model that compares voices; empty is none.
        asr: model that reads speech, for word errors against the prompts; empty is none.
        phones: count wrong phones, by the recogniser that ships. Of bases that speak they are counted
            in any case where no ``asr`` is given.
        workers: models at a time; by default one a core on a CPU with embedded bases, else one.
    """

    embeddings: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    takes: int = TAKES
    general_takes: int = GENERAL_TAKES
    seconds: float | None = None
    seed: int = 0
    losses: bool = True
    mos: bool = False
    speaker: str = ""
    asr: str = ""
    phones: bool = False
    workers: int | None = None


def evaluate(
    names: Sequence[str | Path],
    *,
    out: str | Path,
    reference: str | Path | None = None,
    general: str | Path | None = None,
    wishes: Wishes | None = None,
    stop: StopFlag | None = None,
    on_event: OnEvent | None = None,
) -> Evaluation:
    """Measure runs, bases and folders against recordings that no run has heard.

    Every model gets the same prompts and seeds, so that takes can be compared one by one. Takes are
    kept in ``out/takes``; a second call makes only what is missing.

    Args:
        names: runs, adapters, bases or folders of sound; the base of each run comes by itself.
        out: folder for takes and ``evaluation.json``.
        reference: recordings to come near to; by default the held-out side of the runs' data.
        general: other recordings, which show what is forgotten; by default the runs'. Without any,
            what the base makes of general prompts stands for them.
        wishes: how.
        stop: a stop flag.
        on_event: told what happens.

    Raises:
        UserError: nothing to compare with, or what was asked for cannot be opened.
        Stopped: what was made stays.
    """
    wishes, stop = wishes or Wishes(), stop or StopFlag()
    event = on_event or (lambda kind, values: None)
    if wishes.takes < 3:
        raise UserError(f"{wishes.takes} takes prove nothing", "give 3 or more")
    if wishes.takes > MOST_TAKES or wishes.general_takes > MOST_TAKES:
        raise UserError(
            f"more than {MOST_TAKES:,} takes of a model cannot be compared", "make fewer"
        )
    if 0 < wishes.general_takes < 3:
        raise UserError(
            f"{wishes.general_takes} takes of general prompts prove nothing", "give 0, or 3 or more"
        )
    out = Path(out)
    subjects = wanted([str(name) for name in names])
    against = reference_of(reference, subjects)
    told_general = general_of(general, subjects)
    work = _Work(out, subjects, against, told_general, wishes)
    ears = [open_embedder(name, best_device()) for name in work.ears()]  # a mistake shows at once
    out.mkdir(parents=True, exist_ok=True)
    event("phase", {"name": f"generating {wishes.takes} takes of each model"})
    made = run_jobs(work.jobs(), workers=work.workers(), stop=stop, on_event=event)
    event("phase", {"name": "measuring"})
    sounds = {one.key: made[f"takes of {one.key}"] for one in subjects if one.base}
    sounds |= {one.key: files_in(one.path) for one in subjects if one.kind == "folder"}
    findings: list[Finding] = []
    for ear in ears:
        stop.check("stopped while measuring; run the same command again")
        heard = crowds.Heard(
            reference=embed([str(clip.path) for clip in against.clips], ear),
            sounds={key: embed(files, ear) for key, files in sounds.items()},
            ceilings={
                key: embed(made[f"codec of {key}"], ear)
                for key in sounds
                if f"codec of {key}" in made
            },
            files=sounds,
        )
        findings += crowds.findings(heard, subjects, ear.label, wishes.seed, against.warnings)
        findings += anchor.findings(made, subjects, ear, wishes.seed)
        findings += singly.by_text(ear, subjects, sounds, work.prompts, wishes.seed)
    findings += singly.agreement(subjects, sounds, work.prompts)
    findings += spoken.voices(
        subjects,
        sounds,
        work.prompts,
        against,
        with_mos=wishes.mos or (work.speech and spoken.has_mos()),
        ear=wishes.speaker or (spoken.default_ear() if work.speech else ""),
        asr=wishes.asr,
        phones=wishes.phones or (work.speech and not wishes.asr),
        others=[str(clip.path) for clip in work.general_clips],
        ceilings={key: made[f"codec of {key}"] for key in sounds if f"codec of {key}" in made},
        spoken=work.speech,
    )
    findings += _losses(made, work)
    memorisation: dict[str, Memorisation] = {}
    for one in subjects:
        if one.kind == "run" and one.base:
            found, finding = memorised_run(
                one.key,
                sounds[one.key],
                sounds[one.against],
                training_clips(Path(one.path)),
                against.clips,
                work.prompts,
                work.seeds,
                ears[0],
                # Its codec is the same in 4 bits, which only a GPU could open.
                lambda base=one.base: opened({**base.plain(), "quantize": ""}, None, "cpu")[0],
            )
            findings.append(finding)
            if found is not None:
                memorisation[one.key] = found
    evaluation = Evaluation(
        subjects={one.key: _subject(one, sounds[one.key]) for one in subjects},
        reference=against.folder,
        prompts=tuple(work.prompts),
        seeds=tuple(work.seeds),
        seconds=work.seconds,
        findings=tuple(findings),
        memorisation=memorisation,
    )
    text = json.dumps(to_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(out / FILE, (text + "\n").encode())
    return evaluation


class _Work:
    """What is to be made before anything can be measured."""

    def __init__(
        self,
        out: Path,
        subjects: Sequence[Wanted],
        reference: Reference,
        general: str | None,
        wishes: Wishes,
    ) -> None:
        self.out, self.subjects, self.reference, self.wishes = out, subjects, reference, wishes
        self.general, self.general_clips = general, general_clips(general, subjects)
        names = {one.base.name for one in subjects if one.base}
        longest = [base_limits(name)[2] for name in names]
        lengths = [clip.duration_s for clip in reference.clips]
        self.speech = any(_speaks(name) for name in names)
        # What speaks ends by itself: its takes are given the time that they may take.
        usual = _PATIENCE * max(lengths) if self.speech else statistics.median(lengths)
        most = longest if self.speech else [_LONGEST_S, *longest]
        self.seconds = wishes.seconds or min([usual, *most])
        captions = wishes.prompts or tuple(clip.caption for clip in reference.clips)
        self.prompts = [captions[index % len(captions)] for index in range(wishes.takes)]
        first = wishes.seed + _TAKE_SEED
        self.seeds = list(range(first, first + wishes.takes))

    def ears(self) -> tuple[str, ...]:
        if self.wishes.embeddings:
            return self.wishes.embeddings
        own = all(one.base.name in EMBEDDED for one in self.subjects if one.base)
        return ("pocket",) if own else ("clap",)

    def workers(self) -> int:
        if self.wishes.workers is not None:
            return self.wishes.workers
        own = all(one.base.name in EMBEDDED for one in self.subjects if one.base)
        cores = len(os.sched_getaffinity(0))
        return cores if own and best_device().type == "cpu" else 1

    def jobs(self) -> list[Job]:
        found = []
        for one in self.subjects:
            if one.base is None:
                continue
            model = {
                "base": one.base.name,
                "revision": one.base.revision,
                "quantize": one.base.quantize,
                "voice_of": one.base.voice_of,
                "run": one.path or None,
                "worded": True,
            }
            found.append(
                self._takes(f"takes of {one.key}", one.key, model, self.prompts, self.seeds[0])
            )
            if one.kind == "base":
                found.append(self._codec(one))
            found += self._general(one, model)
            if self.wishes.losses:
                found.append(self._losses(one))
        return found

    def _takes(
        self, name: str, folder: str, model: Mapping[str, Any], prompts: Sequence[str], seed: int
    ) -> Job:
        arguments = {
            **model,
            "out": str(self.out / "takes" / folder),
            "prompts": list(prompts),
            "seed": seed,
            "duration_s": self.seconds,
        }
        return Job(name, "tunesmith.evaluation.takes:make_takes", arguments)

    def _codec(self, one: Wanted) -> Job:
        assert one.base
        return Job(
            f"codec of {one.key}",
            "tunesmith.evaluation.takes:through_codec",
            {
                "out": str(self.out / "takes" / f"codec of {one.key}"),
                "base": one.base.name,
                "revision": one.base.revision,
                "files": [str(clip.path) for clip in self.reference.clips],
            },
        )

    def _general(self, one: Wanted, model: Mapping[str, Any]) -> list[Job]:
        if not self.wishes.general_takes or not any(x.kind == "run" for x in self.subjects):
            return []
        known = [clip.caption for clip in self.general_clips]
        prompts = anchor.prompts(known, self.wishes.general_takes)
        # General prompts are put as they are: what is asked is what was known before.
        plain = {**model, "worded": False}
        seed = self.seeds[0] + anchor.SEED
        jobs = [
            self._takes(anchor.job(one.key), f"{one.key} on general prompts", plain, prompts, seed)
        ]
        if one.kind == "base":
            again = seed + anchor.SEED
            name = f"{one.key} on general prompts again"
            jobs.append(self._takes(anchor.job(one.key, True), name, plain, prompts, again))
        return jobs

    def _losses(self, one: Wanted) -> Job:
        assert one.base
        arguments = {"base": one.base.plain(), "run": one.path or None, "sets": self._sets()}
        # The base samples its anchor once, and its runs find it in the cache.
        first = (f"losses of {one.against}",) if one.against else ()
        if self.general is None and self.wishes.general_takes:
            arguments["anchor"] = {
                "prompts": anchor.prompts([], self.wishes.general_takes),
                "clips": self.wishes.general_takes,
                "seconds": self.seconds,
                "seed": self.seeds[0] + 3 * anchor.SEED,
            }
        call = "tunesmith.evaluation.losses:losses_of"
        return Job(f"losses of {one.key}", call, arguments, after=first)

    def _sets(self) -> dict[str, dict[str, Any]]:
        sets = {}
        if any(clip.caption_source != "none" for clip in self.reference.clips):
            sets["validation_loss"] = {
                "path": self.reference.folder,
                "split": self.reference.split,
                "only": [clip.sha256 for clip in self.reference.clips],
                "worded": True,
            }
        if self.general is not None:
            sets["general_loss"] = {
                "path": self.general,
                "split": None,
                "only": [clip.sha256 for clip in self.general_clips],
                "worded": False,
            }
        return sets

    def recordings(self, name: str) -> list[str]:
        """Recording of each clip of a set, in its order."""
        if name == "anchor_loss":
            return [str(index) for index in range(self.wishes.general_takes)]
        clips = self.reference.clips if name == "validation_loss" else self.general_clips
        return [clip.recording for clip in clips]


def _speaks(name: str) -> bool:
    """Whether a base says a text in somebody's voice."""
    return "speaker" in find_base(name, weights=False).family.spec.get("columns", ())


_SAYS = {
    "validation_loss": "How wrong the model is about held-out recordings, in the unit of its family.",
    "general_loss": "The same for other music. If it rises, the model is forgetting what it knew.",
    "anchor_loss": "The same for what the base made of general prompts. If it rises, the model is "
    "forgetting what it knew.",
}


def _losses(made: Mapping[str, Any], work: _Work) -> list[Finding]:
    found = []
    for one in work.subjects:
        own = made.get(f"losses of {one.key}", {})
        for name, clips in own.items():
            base = made[f"losses of {one.against or one.key}"][name]
            finding = compared(name, one.key, clips, base, work.recordings(name), _SAYS[name])
            found.append(finding)
    return found


def _subject(one: Wanted, takes: Sequence[str]) -> Subject:
    step = read_card(Path(one.path)).get("step") if one.kind == "run" else None
    return Subject(one.kind, one.name, tuple(takes), one.path, step, one.against)


__all__ = ["FILE", "GENERAL_TAKES", "TAKES", "Wishes", "evaluate"]
