"""What a report says: frozen descriptions, from which page and JSON are both made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from tunesmith.evaluation.findings import Finding, Memorisation
from tunesmith.report.figures import Curve
from tunesmith.report.gap import GapClosed
from tunesmith.report.verdict import Verdict, plain
from tunesmith.types import Audio

Interval = tuple[float, float]
Change = Literal["better", "worse", "same", "chance", "moved", "alone", "unknown"]


@dataclass(frozen=True, slots=True)
class Track:
    """One thing to listen to.

    Attributes:
        label: what it is ("Before", "After", a file's name).
        audio: sound, or a file that soundfile reads; one that cannot be read is said so.
        caption: its text, shown as it stands.
    """

    label: str
    audio: Audio | Path
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The same prompt and seed through different models, to be heard side by side."""

    prompt: str
    seed: int | None
    tracks: Sequence[Track]


@dataclass(frozen=True, slots=True)
class Section:
    """Further tracks under one heading, such as every clip of the data set."""

    title: str
    tracks: Sequence[Track]
    intro: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the table of measurements.

    Attributes:
        name: of the metric, as a reader knows it.
        base: before; None or NaN shows as not measured.
        adapted: after.
        better: which way is good.
        explanation: for someone who never heard of it.
        n: how many clips stand behind ``adapted``.
        embedding: model and checkpoint that heard them.
        p_value: of the difference of the two; above 0.05 the change is called chance.
        key: its name in the JSON; made of ``name`` if empty.
        interval, base_interval: 95 %, (low, high).
        base_n: clips behind ``base``, if other than ``n``.
        n_reference: recordings that it was measured against.
        warnings, base_warnings: what to know before trusting the number.
        missing, base_missing: why there is no number.
    """

    name: str
    base: float | None
    adapted: float | None
    better: Literal["lower", "higher", "neither"]
    explanation: str
    n: int | None = None
    embedding: str = ""
    p_value: float | None = None
    key: str = ""
    interval: Interval | None = None
    base_interval: Interval | None = None
    base_n: int | None = None
    n_reference: int | None = None
    warnings: Sequence[str] = ()
    base_warnings: Sequence[str] = ()
    missing: str = ""
    base_missing: str = ""

    @property
    def change(self) -> Change:
        """Which way it went; ``chance`` where a test could not tell it from none, or where there was
        no test and the intervals overlap; ``alone`` where the base has no such number."""
        if self.base is None and not self.base_missing and self.adapted is not None:
            return "alone" if isfinite(self.adapted) else "unknown"
        if self.base is None or self.adapted is None:
            return "unknown"
        if not (isfinite(self.base) and isfinite(self.adapted)):
            return "unknown"
        if plain(self.base) == plain(self.adapted):  # what reads alike is called alike
            return "same"
        if self.p_value is not None and self.p_value > 0.05:
            return "chance"
        if self.p_value is None and self.interval and self.base_interval:
            # Not tested: only intervals that lie apart are a clear difference.
            (low, high), (base_low, base_high) = self.interval, self.base_interval
            if low <= base_high and base_low <= high:
                return "chance"
        if self.better == "neither":
            return "moved"
        return "better" if (self.adapted < self.base) == (self.better == "lower") else "worse"

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before trusting the two numbers, each once."""
        told = [*self.warnings, *self.base_warnings]
        if self.change == "unknown":
            told += [f"Not measured: {why}." for why in (self.missing, self.base_missing) if why]
        return tuple(dict.fromkeys(told))


@dataclass(frozen=True, slots=True)
class Pitfall:
    """Something found wrong or doubtful, and what to do about it.

    Attributes:
        what: the symptom, in words.
        mend: what to do.
        name: of the watcher that saw it.
        action: what was done about it already; empty where nothing was.
        step: when.
        values: what was measured, by name.
    """

    what: str
    mend: str = ""
    name: str = ""
    action: str = ""
    step: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Column:
    """One subject of a comparison.

    Attributes:
        key: in the JSON.
        name: for a reader.
        about: a word or two about it.
        against: key of the column that it is compared with; empty for none.
    """

    key: str
    name: str
    about: str = ""
    against: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric over all subjects.

    Attributes:
        key, name, better, explanation: as of :class:`Measure`.
        cells: a finding for each column, None where there is none.
    """

    key: str
    name: str
    better: Literal["lower", "higher", "neither"]
    explanation: str
    cells: Sequence[Finding | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table of metrics by subjects.

    Attributes:
        columns: a base stands before what is compared with it.
        rows: the metrics.
        lead: key of the column that the verdict is about.
    """

    columns: Sequence[Column]
    rows: Sequence[Compared]
    lead: str


@dataclass(frozen=True, slots=True)
class Rights:
    """Who may do what: licence of the base model, rights in the recordings, what follows."""

    base_licence: str
    data_rights: str
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All that a page says. Text is shown as it stands and never as HTML.

    Attributes:
        title: name of the run.
        verdict: the answer, on top.
        subtitle: one line below the title: base, method, date.
        gap: how far it went from the base to real recordings.
        before_after: rows to listen to.
        sections: further tracks.
        curves: diagrams.
        metrics: measurements.
        pitfalls: warnings.
        data: summary of the data set, name to value.
        settings: the resolved configuration, nested as it is.
        recipe: the recipe's ``name``, ``summary``, usual ``steps`` and ``changes``: settings that are
            not what it says.
        rights: licence and rights.
        versions: package to version.
        memorisation: whether training clips are copied, by key of the subject; a run's own is "".
            Its files are paths that can be read.
        memorisation_missing: why there is none, and what measures it.
        comparison: of several subjects, in the place of ``metrics``.
        run, base: what the JSON says of them.
    """

    title: str
    verdict: Verdict
    subtitle: str = ""
    gap: GapClosed | None = None
    before_after: Sequence[Row] = ()
    sections: Sequence[Section] = ()
    curves: Sequence[Curve] = ()
    metrics: Sequence[Measure] = ()
    pitfalls: Sequence[Pitfall] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    rights: Rights | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    memorisation: Mapping[str, Memorisation] = field(default_factory=dict)
    memorisation_missing: str = ""
    comparison: Comparison | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)

    @property
    def memorised(self) -> Memorisation | None:
        """Of the run, or of the subject that the verdict is about."""
        return self.memorisation.get(self.comparison.lead if self.comparison else "")
