"""Forgetting, told by what the base itself makes of prompts that have nothing to do with the data.

No recordings are needed: what the base generates is the anchor, and an adapter that is asked the same
should still give it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.embeddings import Embedder
from tunesmith.errors import UserError
from tunesmith.evaluation.crowds import crowd_kad
from tunesmith.evaluation.findings import Finding
from tunesmith.evaluation.hearing import embed
from tunesmith.evaluation.subjects import Wanted
from tunesmith.metrics import gap
from tunesmith.training.pitfalls.before import PROMPTS

SEED = 50_000
"""Between the seeds of one kind of takes and those of the next."""

EXPLANATION = (
    "How far what it makes of other prompts lies from what the base makes of them (KAD; 0 is no "
    "difference). If it is clearly above 0, the adapter changes music that it was not asked to change."
)


def prompts(known: Sequence[str], count: int) -> list[str]:
    """``count`` general prompts: captions of general recordings, far apart, else :data:`PROMPTS`."""
    found = list(dict.fromkeys(known)) or list(PROMPTS)
    if len(found) > count:
        found = [found[index * len(found) // count] for index in range(count)]
    return [found[index % len(found)] for index in range(count)]


def job(key: str, again: bool = False) -> str:
    """Name of the job that makes a subject's takes of general prompts."""
    return f"general takes of {key}" + (", again" if again else "")


def findings(
    made: Mapping[str, Any], subjects: Sequence[Wanted], ear: Embedder, seed: int
) -> list[Finding]:
    """Distance of each run's general takes to its base's, which were made with other seeds.

    The base's own second set says what no difference looks like; which of the two sets of takes is
    the run's is what the p-value shuffles (:mod:`tunesmith.metrics.gap`, its test).
    """
    found = []
    for one in subjects:
        if one.kind != "run" or job(one.key) not in made:
            continue
        reference = embed(made[job(one.against, True)], ear)
        own, twin = (embed(made[job(key)], ear) for key in (one.key, one.against))
        common: dict[str, Any] = {
            "metric": "general_kad",
            "subject": one.key,
            "better": "lower",
            "n": len(own),
            "n_reference": len(reference),
            "embedding": ear.label,
            "explanation": EXPLANATION,
        }
        try:
            distance = crowd_kad(reference, own)
            measured = gap.compute(reference, twin, twin, [own], seed=seed)
        except UserError as error:
            found.append(Finding(value=None, missing=error.message, **common))
            continue
        found.append(
            Finding(
                value=distance.value,
                interval=distance.interval,
                p_value=measured.p_value,
                warnings=(f"{len(own)} takes are few: only large differences show",)
                if len(own) < 50
                else (),
                details={"base against itself": measured.base},
                **common,
            )
        )
    return found
