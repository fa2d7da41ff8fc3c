"""Take by take: does each follow its prompt?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tunesmith.embeddings import Embedder, TextEmbedder
from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Better, Finding, measured
from tunesmith.evaluation.hearing import embed, read
from tunesmith.evaluation.subjects import Wanted
from tunesmith.metrics import agreement as agreeing
from tunesmith.metrics import clap_score
from tunesmith.metrics._result import Result

Sounds = Mapping[str, Sequence[str]]
"""Files of each subject."""

_SAYS = {
    "clap_score": "How well takes fit their own prompts (mean cosine of CLAP). Look at the difference "
    "to shuffled prompts and to the base.",
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


def _finding(
    metric: str, subject: str, better: Better, measure: Callable[[], Result], label: str
) -> Finding:
    """With the words of this page's metrics."""
    explanation = _SAYS.get(metric) or agreeing.EXPLANATIONS.get(metric, "")
    return measured(metric, subject, better, measure, label, explanation)
