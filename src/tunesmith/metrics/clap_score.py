"""CLAP score: how near takes are to their prompts in a space of sounds and sentences.

The mean cosine of each take's embedding and its own prompt's, as MusicGen's evaluation has it
(Copet et al. 2023, arXiv:2306.05284, "CLAP score"): from −1 to 1, neither scaled by 100 nor cut off
at 0 as CLIPScore is. What a cosine is worth differs from checkpoint to checkpoint, so the score of
prompts dealt to other takes stands beside it: only the difference says that prompts are followed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._intervals import of_ratio
from tunesmith.metrics._result import Result, embeddings

SPEC = {
    "name": "clap_score",
    "summary": "CLAP score: cosine of takes and their own prompts, beside that of shuffled prompts",
    "better": "higher",
    "needs": ["candidate", "text"],
}

WEAK = (
    "CLAP scores correlate only weakly with what listeners say of single takes (about 0.28): trust "
    "differences between models, not the number"
)
_SAME = 1 - 1e-6


def compute(
    candidate: Sequence[np.ndarray],
    text: np.ndarray,
    *,
    seed: int = 0,
    permutations: int = 1000,
) -> Result:
    """Mean cosine of each take and its own prompt.

    A take's embedding is the mean of its windows' (each of length 1). The interval is that of the
    mean over takes, by t; where several takes share a prompt, their cosines are alike, and whole
    prompts are counted instead (a ratio of sums, :func:`tunesmith.metrics._intervals.of_ratio`).

    Args:
        candidate: N takes, each ``[W, D]`` or ``[D]``.
        text: ``[N, D]``, the embedding of each take's prompt, in the same space.
        seed: of the permutations.
        permutations: dealings of the prompts for the p-value; 0 leaves it out.

    Returns:
        The score, −1 to 1. ``details["shuffled"]`` is the mean over all pairs of a take and a prompt
        that was not its own: what shuffled prompts score on average, exactly. ``p_value`` is one-sided,
        of a score this high if prompts were dealt to takes by chance. ``details`` is empty and
        ``p_value`` None where all prompts are the same.

    Raises:
        UserError: different counts or widths, no takes, NaN, or a row of zeros.
    """
    if len(candidate) != len(text) or not len(candidate):
        raise UserError(
            f"clap_score: {len(candidate)} takes and {len(text)} prompts",
            "give every take its own prompt",
        )
    takes = unit(np.stack([mean_row(take) for take in candidate]))
    prompts = unit(embeddings(text, "prompts", at_least=1))
    if takes.shape[1] != prompts.shape[1]:
        raise UserError(
            f"takes' embeddings are {takes.shape[1]} wide, prompts' {prompts.shape[1]}",
            "embed both with the same model",
        )
    cosines = takes @ prompts.T
    own = np.diag(cosines)
    same = _alike(prompts)
    groups = _prompt_groups(prompts)
    warnings = [WEAK]
    details: dict[str, float] = {}
    p_value = None
    if same.all():
        if len(own) > 1:
            warnings.append("all takes are of one prompt: there is none to compare with")
    else:
        details["shuffled"] = float(cosines[~same].mean())
        if permutations:
            p_value = _p_value(cosines, seed, permutations)
    sums, counts = np.bincount(groups, own), np.bincount(groups)
    return Result(
        value=float(own.mean()),
        interval=of_ratio(sums, counts, (-1.0, 1.0)),
        p_value=p_value,
        n_reference=len(counts),
        n_candidate=len(own),
        dimension=takes.shape[1],
        warnings=tuple(warnings),
        details=details,
    )


def compare(
    base: Sequence[np.ndarray],
    adapted: Sequence[np.ndarray],
    text: np.ndarray,
    *,
    seed: int = 0,
    permutations: int = 1000,
) -> float:
    """Two-sided p-value of the difference in score between twins of the same prompts and seeds.

    If adapting did nothing, which of two twins is the base's is anyone's guess: the signs of their
    differences are shuffled, those of takes of one prompt together. Exact at any size (Pesarin &
    Salmaso 2010, ch. 1.9; Phipson & Smyth 2010 for the +1).

    Args:
        base, adapted: N takes each, ``[W, D]`` or ``[D]``; take i of both is of one prompt and seed.
        text: ``[N, D]``, the embedding of each prompt.
        seed: of the signs.
        permutations: shufflings.

    Raises:
        UserError: as :func:`compute`, or unequal numbers.
    """
    if not len(base) == len(adapted) == len(text) or not len(text):
        raise UserError(
            f"clap_score: {len(base)} and {len(adapted)} takes of {len(text)} prompts",
            "give twins of every prompt",
        )
    prompts = unit(embeddings(text, "prompts", at_least=1))
    scores = [
        (unit(np.stack([mean_row(take) for take in takes])) * prompts).sum(axis=1)
        for takes in (base, adapted)
    ]
    groups = _prompt_groups(prompts)
    apart = np.bincount(groups, scores[1] - scores[0])
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (permutations, len(apart)))
    drawn = np.abs(signs @ apart)
    return (1 + int((drawn >= abs(apart.sum()) - 1e-9).sum())) / (1 + permutations)


def _prompt_groups(prompts: np.ndarray) -> np.ndarray:
    """Group ``[N]`` of each prompt; takes are counted singly where all have the same."""
    same = _alike(prompts)
    if same.all():
        return np.arange(len(prompts))
    # A group of equal prompts is known by the first of them.
    return np.unique(same.argmax(axis=1), return_inverse=True)[1]


def _alike(prompts: np.ndarray) -> np.ndarray:
    """Which prompts are the same, ``[N, N]``."""
    same = prompts @ prompts.T > _SAME
    np.fill_diagonal(same, True)
    return same


def _p_value(cosines: np.ndarray, seed: int, permutations: int) -> float:
    """Exact at any size (Phipson & Smyth 2010 for the +1)."""
    count = len(cosines)
    rng = np.random.default_rng(seed)
    observed = float(np.trace(cosines))
    rows, exceeded, done = np.arange(count), 0, 0
    while done < permutations:
        batch = min(256, permutations - done)
        order = rng.permuted(np.tile(rows, (batch, 1)), axis=1)
        # A dealing that repeats the actual one must count in spite of rounding.
        exceeded += int((cosines[rows, order].sum(axis=1) >= observed - 1e-9).sum())
        done += batch
    return (1 + exceeded) / (1 + permutations)


def mean_row(take: np.ndarray) -> np.ndarray:
    """Mean ``[D]`` of a take's rows ``[W, D]``, each brought to length 1 first."""
    rows = np.asarray(take)
    return unit(embeddings(rows[None] if rows.ndim == 1 else rows, "take", at_least=1)).mean(axis=0)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows ``[N, D]`` of length 1.

    Raises:
        UserError: a row is zero.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise UserError(
            f"{int((lengths == 0).sum())} embeddings are zero and point nowhere",
            "look for silent clips and leave them out",
        )
    return rows / lengths
