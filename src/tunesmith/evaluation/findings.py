"""What an evaluation found: plain values, written to JSON and read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tunesmith.errors import UserError
from tunesmith.metrics._result import Result

Better = Literal["lower", "higher", "neither"]

NOT_FINITE = "it is not a finite number"


@dataclass(frozen=True, slots=True)
class Finding:
    """One number, and what it takes to judge it.

    Attributes:
        metric: name of the metric's plug-in, or a loss (``validation_loss``, ``general_loss``).
        subject: whose number: a key of :attr:`Evaluation.subjects`.
        value: None where it could not be measured; ``missing`` says why.
        better: which way is good.
        interval: 95 % interval (low, high), where there is an honest one.
        n: what was counted: takes, clips, listeners' answers.
        n_reference: of the reference, where there is one.
        embedding: model and checkpoint that heard them; empty where none did.
        p_value: of the difference to the base, where it was tested.
        warnings: what a reader must know before trusting the number, one sentence each.
        missing: why there is no value.
        explanation: what the metric says, for someone who never heard of it.
        details: further numbers of the metric, by name; JSON.
    """

    metric: str
    subject: str
    value: float | None
    better: Better
    interval: tuple[float, float] | None = None
    n: int | None = None
    n_reference: int | None = None
    embedding: str = ""
    p_value: float | None = None
    warnings: tuple[str, ...] = ()
    missing: str = ""
    explanation: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON has it: ``value``, ``interval``, ``n``, ``embedding`` and the rest; no NaN."""
        told = {k: v for k, v in asdict(self).items() if k not in ("metric", "subject")}
        if self.value is not None and not math.isfinite(self.value):
            told["missing"] = self.missing or NOT_FINITE
        if self.interval is not None and not all(map(math.isfinite, self.interval)):
            told["interval"] = None
        return _finite(told)


def measured(
    metric: str,
    subject: str,
    better: Better,
    measure: Callable[[], Result],
    label: str,
    explanation: str,
) -> Finding:
    """A metric's result as a finding; what cannot be measured says why.

    Args:
        metric, subject, better, explanation: as the finding has them.
        measure: gives the result, or raises :class:`~tunesmith.errors.UserError`.
        label: of what heard the sounds.
    """
    common: dict[str, Any] = {
        "metric": metric,
        "subject": subject,
        "better": better,
        "embedding": label,
        "explanation": explanation,
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


def _finite(value: Any) -> Any:
    """As strict JSON has it: NaN and infinity are null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Match:
    """A take and the training clip that it is nearest to.

    Attributes:
        take, clip: their files.
        prompt, seed: of the take.
        distance: between their embeddings, in units of the embedding.
        usual: the distance below which it is suspicious.
        shared: share of codec tokens that agree at the best alignment, 0 to 1; None if not compared.
        usual_shared: the share above which it is suspicious.
        flagged: whether it counts as a copy.
    """

    take: str
    clip: str
    prompt: str
    seed: int | None
    distance: float
    usual: float
    shared: float | None
    usual_shared: float | None
    flagged: bool


@dataclass(frozen=True, slots=True)
class Memorisation:
    """Whether a subject copies its training clips.

    Attributes:
        flagged: more of its takes are copies than unheard real clips would seem to be.
        copies: takes that are flagged.
        takes: how many were looked at.
        expected: share of flagged takes that chance alone would give.
        p_value: of ``copies`` under ``expected``.
        embedding: model and checkpoint.
        matches: the nearest pairs, worst first; not all of them.
    """

    flagged: bool
    copies: int
    takes: int
    expected: float
    p_value: float
    embedding: str
    matches: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated.

    Attributes:
        kind: ``base``, ``run`` (a base with an adapter) or ``folder`` (recordings).
        name: as a reader knows it.
        takes: its sound files, in the order of the prompts.
        path: of the run or the folder; empty for a base.
        step: of the run's weights.
        against: key of what its p-values and its verdict are about: a run's own base; empty for none.
    """

    kind: Literal["base", "run", "folder"]
    name: str
    takes: tuple[str, ...] = ()
    path: str = ""
    step: int | None = None
    against: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All of it: bases first, then what is compared with them.

    Attributes:
        subjects: by key; equal places of their takes are the same prompt and seed.
        reference: folder of the recordings that all are measured against.
        prompts, seeds: of the takes.
        seconds: of each.
        findings: all numbers.
        memorisation: by subject, of those that were trained.
    """

    subjects: Mapping[str, Subject]
    reference: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float
    findings: tuple[Finding, ...]
    memorisation: Mapping[str, Memorisation] = field(default_factory=dict)

    def base_of(self, subject: str) -> str:
        """Key of what a subject is compared with: its own base, else the first subject there is."""
        against = self.subjects[subject].against
        return against if against in self.subjects else next(iter(self.subjects))

    def of(self, subject: str, metric: str) -> Finding | None:
        """A subject's number, the first where several embeddings heard it."""
        return next((f for f in self.findings if (f.subject, f.metric) == (subject, metric)), None)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """What :func:`from_json` reads."""
    told = asdict(evaluation)
    told["findings"] = [
        {"metric": one.metric, "subject": one.subject} | one.plain() for one in evaluation.findings
    ]
    return told


def from_json(told: Mapping[str, Any]) -> Evaluation:
    """The evaluation that :func:`to_json` wrote."""
    return Evaluation(
        subjects={
            key: Subject(**{**one, "takes": tuple(one["takes"])})
            for key, one in told["subjects"].items()
        },
        reference=told["reference"],
        prompts=tuple(told["prompts"]),
        seeds=tuple(told["seeds"]),
        seconds=told["seconds"],
        findings=tuple(
            Finding(
                **{
                    **one,
                    # A loss that broke down is a number that was measured, not one that is missing.
                    "value": math.nan if one["missing"] == NOT_FINITE else one["value"],
                    "interval": tuple(one["interval"]) if one["interval"] else None,
                    "warnings": tuple(one["warnings"]),
                }
            )
            for one in told["findings"]
        ),
        memorisation={
            key: Memorisation(**{**one, "matches": tuple(Match(**m) for m in one["matches"])})
            for key, one in told["memorisation"].items()
        },
    )
