"""Memorisation: which takes lie nearer to a training clip than sound that cannot be a copy does.

Two comparisons, one number a pair. *Embeddings*: windows in order, at the shift that fits best; the
smallest distance between any two windows would find that both have a snare drum, the distance of
means that both are calypso. *Codec tokens*: the share of equal codes over a passage, at the shift
that fits best, coarse codebooks first.

A typical take lies near to every clip, a copy to one. So what counts is how much nearer the nearest
clip is than the next ones, as in Carlini et al. 2023, "Extracting Training Data from Diffusion
Models" (arXiv 2301.13188), section 5.1, which divides by the mean distance to the 50 nearest; here it
is their median, which a few near-copies among the training clips do not move.

How much is suspicious is told by sounds that cannot be copies (unheard recordings, takes of the
untrained base), after Meehan, Chaudhuri and Dasgupta 2020, "A Non-Parametric Test to Detect
Data-Copying in Generative Models" (arXiv 2004.05675).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tunesmith.errors import UserError
from tunesmith.metrics._result import embeddings

SPEC = {
    "name": "memorisation",
    "summary": "Memorisation: share of takes that are nearer to a training clip than unheard sound is",
    "better": "lower",
    "needs": ["candidate", "train", "unheard"],
}

FEWEST_UNHEARD = 10
"""Unheard recordings below which nothing can be said."""

LEVEL = 0.01
"""Share of innocent takes that may be flagged; and of innocent subjects."""

_NEIGHBOURS = 50
_LEAST_OVERLAP = 0.6  # of the shorter sound, in windows
_LEAST_PASSAGE = 0.75  # of a passage that must lie on the clip
_LEAK = 1e-6  # an unheard clip that is this unlikely is a copy of a training clip
_LEAST_DISSIMILARITY = 1e-6
_CHUNK = 256  # clips at a time


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near some sounds come to the training clips, by one comparison.

    Attributes:
        dissimilarity: ``[N, M]`` to the training clips, 0 is the same sound.
        others: ``[N, U]`` to the unheard clips; NaN for a clip and itself.
    """

    dissimilarity: np.ndarray
    others: np.ndarray

    def nearest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(score ``[N]``, clip ``[N]``, scale ``[N]``).

        The scale is the median dissimilarity of the 50 nearest sounds but the nearest clip, and the
        score ln(scale / dissimilarity): 0 where the nearest is no nearer than they, 0.7 at half.
        """
        rows = np.arange(len(self.dissimilarity))
        clip = self.dissimilarity.argmin(axis=1)
        value = self.dissimilarity[rows, clip]
        rest = np.concatenate([self.dissimilarity, self.others], axis=1)
        rest[rows, clip] = np.nan
        known = np.sort(rest, axis=1)[:, :_NEIGHBOURS]  # NaN comes last
        scale = np.maximum(np.nanmedian(known, axis=1), _LEAST_DISSIMILARITY)
        return np.log(scale / np.maximum(value, _LEAST_DISSIMILARITY)), clip, scale


@dataclass(frozen=True, slots=True)
class Tail:
    """Gumbel's law of the largest of many, fitted to scores of innocent sounds.

    A score is the best of many comparisons, for which extreme-value theory has this law (Fisher and
    Tippett 1928). Fitted by quartiles, so that up to a quarter of leaked copies do not move it.

    Attributes:
        place, width: μ and β of exp(−exp(−(x − μ) / β)).
    """

    place: float
    width: float

    @staticmethod
    def fit(scores: np.ndarray) -> Tail:
        """From scores ``[N]``."""
        low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
        spread = math.log(math.log(4.0)) - math.log(math.log(4.0 / 3.0))
        width = max(float(high - low) / spread, 1e-9)
        return Tail(float(middle) + width * math.log(math.log(2.0)), width)

    def standard(self, scores: np.ndarray) -> np.ndarray:
        """(x − μ) / β."""
        return (scores - self.place) / self.width

    def score(self, standard: float) -> float:
        """x of a standardised one."""
        return self.place + self.width * standard


def reached(probability: float) -> float:
    """What a standard Gumbel variable exceeds with this probability."""
    return -math.log(-math.log1p(-probability))


@dataclass(frozen=True, slots=True)
class Found:
    """What :func:`compare` says, by take.

    Attributes:
        suspicion: ``[N]``, standardised; the larger of the two comparisons.
        clip: ``[N]`` training clip that it is nearest to, in the comparison that counts.
        flagged: ``[N]`` whether it is a copy.
        distance, usual: ``[N]`` to that clip, and below which it is suspicious.
        shared, usual_shared: ``[N]`` the same for equal codes, above which; None without codes.
        expected: the share of flagged innocents is at most about this.
        p_value: of so many copies, if takes were as innocent as the rest.
        unheard: unheard clips that counted.
        leaked: ``[U]`` unheard clips that are copies of training clips, and did not count.
    """

    suspicion: np.ndarray
    clip: np.ndarray
    flagged: np.ndarray
    distance: np.ndarray
    usual: np.ndarray
    shared: np.ndarray | None
    usual_shared: np.ndarray | None
    expected: float
    p_value: float
    unheard: int
    leaked: np.ndarray

    @property
    def copies(self) -> int:
        return int(self.flagged.sum())


def compare(
    takes: Sequence[Nearness], unheard: Sequence[Nearness], base: Sequence[Nearness] = ()
) -> Found:
    """Which takes are copies, and whether there are more than chance gives.

    A take is flagged if by either comparison it is nearer than 99.5 % of unheard clips are (by a
    Gumbel law fitted to them), and nearer than all but 1 % of what cannot be a copy: unheard clips
    and takes of the base. Of all those that is the rank statistic whose law is exact: were takes no
    nearer than they, the number of takes beyond the (j + 1)-th nearest of them would be negative
    hypergeometric.

    Args:
        takes: of embeddings, and of codes if there are any.
        unheard: the same of real recordings that were not trained on.
        base: the same of takes of the untrained base; may be empty.

    Raises:
        UserError: fewer than :data:`FEWEST_UNHEARD` unheard clips that are no copies themselves, or no
            takes.
    """
    scores = [one.nearest() for one in takes]
    innocent = [one.nearest()[0] for one in unheard]
    tails = [Tail.fit(one) for one in innocent]
    leaked = _worst(tails, innocent) > reached(_LEAK)
    counted = int((~leaked).sum())
    if counted < FEWEST_UNHEARD:
        raise UserError(
            f"memorisation: {counted} unheard clips that are no training clips are too few, "
            f"{FEWEST_UNHEARD} are the least",
            "set more recordings aside for validation",
        )
    tails = [Tail.fit(one[~leaked]) for one in innocent]
    pool = _worst(tails, innocent)[~leaked]
    if base:
        pool = np.concatenate([pool, _worst(tails, [one.nearest()[0] for one in base])])
    rank = max(1, int(LEVEL * (len(pool) + 1)))
    cut = max(reached(LEVEL / len(tails)), float(np.sort(pool)[-rank]))

    standard = np.stack([t.standard(s[0]) for t, s in zip(tails, scores, strict=True)])
    which = standard.argmax(axis=0)
    rows = np.arange(standard.shape[1])
    clip = np.stack([s[1] for s in scores])[which, rows]
    flagged = standard.max(axis=0) > cut
    limits = [s[2] * math.exp(-t.score(cut)) for t, s in zip(tails, scores, strict=True)]
    values = [one.dissimilarity[rows, clip] for one in takes]
    return Found(
        suspicion=standard.max(axis=0),
        clip=clip,
        flagged=flagged,
        distance=values[0],
        usual=limits[0],
        shared=1 - values[1] if len(values) > 1 else None,
        usual_shared=1 - limits[1] if len(values) > 1 else None,
        expected=rank / (len(pool) + 1),
        p_value=chance(int(flagged.sum()), len(rows), int((pool > cut).sum()), len(pool)),
        unheard=counted,
        leaked=leaked,
    )


def _worst(tails: Sequence[Tail], scores: Sequence[np.ndarray]) -> np.ndarray:
    return np.max([t.standard(s) for t, s in zip(tails, scores, strict=True)], axis=0)


def chance(copies: int, takes: int, beyond: int, innocent: int) -> float:
    """P(at least ``copies`` of ``takes`` beyond the (``beyond`` + 1)-th largest of ``innocent``).

    Were all drawn from one source, each order would be equally likely; at least c takes are beyond
    that place where of the c + j foremost no more than j are innocent.
    """
    if copies == 0:
        return 1.0
    foremost = copies + beyond
    return float(stats.hypergeom.cdf(beyond, takes + innocent, innocent, foremost))


def distances(takes: Sequence[np.ndarray], clips: Sequence[np.ndarray]) -> np.ndarray:
    """Root mean squared distance of windows in order, at the best shift.

    Args:
        takes: N of ``[W, D]``, one row a window.
        clips: M of ``[V, D]``.

    Returns:
        ``[N, M]`` in units of the embedding. A shift counts that leaves three fifths of the shorter
        one's windows on the other.

    Raises:
        UserError: none of either, NaN, or different widths.
    """
    _some(takes, clips)
    takes = [embeddings(one, "takes", at_least=1) for one in takes]
    clips = [embeddings(one, "clips", at_least=1) for one in clips]
    if len({one.shape[1] for one in (*takes, *clips)}) > 1:
        raise UserError("memorisation: embeddings of several widths", "use one model for all")
    middle = np.concatenate(clips).mean(axis=0)  # far from the origin products cancel badly
    out = np.empty((len(takes), len(clips)))
    for places, part, at, owner, lengths in _chunks(clips, axis=0):
        rows = part - middle
        for index, take in enumerate(takes):
            windows = take - middle
            square = -2.0 * windows @ rows.T
            square += (windows**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1)
            count, longest = len(take), int(lengths.max())
            shifts = count + longest - 1
            shift = at[None] - np.arange(count)[:, None] + count - 1
            keys = (owner * shifts + shift).ravel()
            size = len(lengths) * shifts
            total = np.bincount(keys, square.ravel(), size).reshape(-1, shifts)
            overlap = np.bincount(keys, minlength=size).reshape(-1, shifts)
            least = np.ceil(_LEAST_OVERLAP * np.minimum(count, lengths))[:, None]
            mean = np.where(overlap >= least, total / np.maximum(overlap, 1), np.inf)
            out[index, places] = np.sqrt(np.maximum(mean.min(axis=1), 0.0))
    return out


def shared_codes(
    takes: Sequence[np.ndarray],
    clips: Sequence[np.ndarray],
    *,
    frames_per_s: float,
    passage_s: float = 2.0,
) -> np.ndarray:
    """Share of equal codes over the best passage, at the best shift.

    Codebook k counts 2^−k: each says what the ones before left, and survives less well that a take
    is a sound file whose codes have to be found anew.

    Args:
        takes: N of integers ``[K, T]``.
        clips: M of integers ``[K, S]``.
        frames_per_s: of the codes.
        passage_s: length of a passage; passages begin a second apart.

    Returns:
        ``[N, M]``, 0 to 1.

    Raises:
        UserError: none of either, no integers, or different numbers of codebooks.
    """
    _some(takes, clips)
    if len({one.shape[0] for one in (*takes, *clips)}) > 1:
        raise UserError("memorisation: codes of several codecs", "use one codec for all")
    if not all(np.issubdtype(one.dtype, np.integer) for one in (*takes, *clips)):
        raise UserError("memorisation: latents are no codes", "compare by embedding alone")
    block = max(1, round(frames_per_s))
    books = len(clips[0])
    weights = 0.5 ** np.arange(books)
    weights /= weights.sum()
    out = np.zeros((len(takes), len(clips)))
    for places, part, at, owner, lengths in _chunks(clips, axis=1):
        order = np.argsort(part, axis=1, kind="stable")
        ordered = np.take_along_axis(part, order, axis=1)
        for index, take in enumerate(takes):
            frames, longest = take.shape[1], int(lengths.max())
            shifts, blocks = frames + longest - 1, -(-frames // block)
            keys, worth = [], []
            for book in range(books):
                t, entry = _postings(take[book], ordered[book])
                where = order[book][entry]
                shift = at[where] - t + frames - 1
                keys.append((owner[where] * shifts + shift) * blocks + t // block)
                worth.append(np.full(len(t), weights[book]))
            size = len(lengths) * shifts * blocks
            equal = np.bincount(np.concatenate(keys), np.concatenate(worth), size)
            equal = equal.reshape(len(lengths), shifts, blocks)
            span = min(blocks, max(1, round(passage_s)))
            passages = _sliding(equal, span)
            for length in np.unique(lengths):
                overlap = _sliding(_overlap(frames, int(length), shifts, blocks, block), span)
                least = math.ceil(_LEAST_PASSAGE * min(span * block, frames, int(length)))
                some = lengths == length
                share = np.where(overlap >= least, passages[some] / np.maximum(overlap, 1), 0.0)
                out[index, places[some]] = share.max(axis=(1, 2))
    return np.clip(out, 0.0, 1.0)


def _some(takes: Sequence[np.ndarray], clips: Sequence[np.ndarray]) -> None:
    if not len(takes) or not len(clips):
        raise UserError("memorisation: no takes or no clips", "give at least one of each")


def _chunks(
    clips: Sequence[np.ndarray], axis: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """(places, all frames joined, place in its clip and clip of each frame, lengths), some at a time."""
    lengths = np.array([one.shape[axis] for one in clips])
    # Those of like length together, so that one long clip does not make room for shifts of all.
    by_length = np.argsort(lengths, kind="stable")
    for start in range(0, len(clips), _CHUNK):
        places = by_length[start : start + _CHUNK]
        some = lengths[places]
        joined = np.concatenate([clips[place] for place in places], axis=axis)
        at = np.concatenate([np.arange(length) for length in some])
        yield places, joined, at, np.repeat(np.arange(len(places)), some), some


def _postings(take: np.ndarray, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of equal codes: frame of the take, and place in the sorted codes."""
    first = np.searchsorted(ordered, take, "left")
    count = np.searchsorted(ordered, take, "right") - first
    t = np.repeat(np.arange(len(take)), count)
    within = np.arange(len(t)) - np.repeat(np.cumsum(count) - count, count)
    return t, np.repeat(first, count) + within


def _overlap(frames: int, length: int, shifts: int, blocks: int, block: int) -> np.ndarray:
    """Frames of each block of a take that lie on a clip, by shift: ``[shifts, blocks]``."""
    offset = np.arange(shifts)[:, None] - (frames - 1)
    start = np.arange(blocks)[None] * block
    end = np.minimum(start + block, frames)
    return np.maximum(0, np.minimum(end, length - offset) - np.maximum(start, -offset))


def _sliding(values: np.ndarray, span: int) -> np.ndarray:
    """Sums of ``span`` neighbours along the last axis."""
    parts = [values[..., i : values.shape[-1] - span + 1 + i] for i in range(span)]
    return np.sum(parts, axis=0)
