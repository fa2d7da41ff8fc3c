"""Does a take have the tempo and the key that its prompt asks for? Does it follow a recording's chroma?

Tempo counts within 4 %, as in :mod:`tunesmith.analysis.rhythm`; a second figure also takes its double
and its half, since listeners do not agree on these either. Key is scored as in MIREX's audio key
detection task: 1 for the key, 0.5 for a key a fifth away, 0.3 for the relative, 0.2 for the parallel one.

Known limits: the tempo that is measured is an octave off in about 15 % of real recordings, and none is
measured where there is no pulse. Such takes count as wrong, since they cannot be said to have the
tempo. So real recordings of these prompts do not reach 1 either: compare with them, or the base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tunesmith.analysis import rhythm, tonality
from tunesmith.analysis.spectrum import magnitudes, to_mono
from tunesmith.errors import UserError
from tunesmith.metrics._intervals import binomial
from tunesmith.metrics._result import Result
from tunesmith.types import Audio

SPEC = {
    "name": "agreement",
    "summary": "Agreement: whether takes have the tempo and key that their prompts ask for; chroma",
    "better": "higher",
    "needs": ["candidate", "prompts"],
}

SAME_TEMPO = 0.04
"""Tempos that are closer are the same."""

FEW = 20
"""Takes below which a share says little."""

FIFTH, RELATIVE, PARALLEL = 0.5, 0.3, 0.2
"""What MIREX gives for keys that are nearly right."""

EXPLANATIONS: Mapping[str, str] = {
    "tempo": "Share of takes with the tempo that their prompt asks for, within 4 %.",
    "tempo_octave": "The same where double and half the tempo count as well.",
    "key": "How near takes come to the key that their prompt asks for (MIREX score: 1 for the key, less "
    "for a fifth, the relative and the parallel key).",
    "key_exact": "Share of takes in the very key that their prompt asks for.",
}

_TEMPO = re.compile(
    r"(?<![\w.,/-])(?<!\d[-–])(\d{2,3}(?:\.\d+)?)[\s-]*(?:bpm|beats\s+(?:per|a)\s+minute)(?!\w)"
    r"|(?<!\d)(?<!\d[\s-])(?:\bbpm|\btempo(?:\s+of)?)[\s:=]+(\d{2,3}(?:\.\d+)?)(?![\d/-])",
    re.IGNORECASE,
)
# No small a before a mode, unless "in" or "key of" leads: "a minor label" is in no key.
_KEY = re.compile(
    r"(?<![\w#♯♭'’-])(?P<before>in\s+|key\s*(?:of|:|=|is)\s*)?"
    r"(?P<letter>[A-Ga-g])(?:\s*(?P<sign>[#♯♭]|b(?=[\s-]*m))|[\s-]+(?P<word>sharp|flat))?"
    r"[\s-]*(?P<mode>major|minor|maj|min)(?!\w)",
    re.IGNORECASE,
)
_PITCHES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_SIGNS = {"#": 1, "♯": 1, "sharp": 1, "♭": -1, "b": -1, "flat": -1}


def tempo_asked(prompt: str) -> float | None:
    """Beats a minute that a prompt names; None where it names none, several, or an impossible one."""
    values = {float(one or other) for one, other in _TEMPO.findall(prompt)}
    values = {one for one in values if rhythm.SLOWEST_BPM <= one <= rhythm.FASTEST_BPM}
    return values.pop() if len(values) == 1 else None


def key_asked(prompt: str) -> str | None:
    """The key of :data:`tunesmith.analysis.tonality.KEYS` that a prompt names; None for none or several.

    ``in A minor``, ``key: Bb major``, ``F-sharp minor``, ``C# min``.
    """
    found = {key for match in _KEY.finditer(prompt) if (key := _key(match)) is not None}
    return found.pop() if len(found) == 1 else None


def _key(match: re.Match[str]) -> str | None:
    letter, sign = match["letter"], (match["sign"] or match["word"] or "").lower()
    if letter == "a" and not sign and not match["before"]:
        return None
    if match["mode"].lower() in ("maj", "min") and letter.islower() and not match["before"]:
        return None
    pitch = (_PITCHES[letter.lower()] + _SIGNS.get(sign, 0)) % 12
    return tonality.KEYS[pitch + 12 * match["mode"].lower().startswith("min")]


def key_score(wanted: str, heard: str | None) -> float:
    """MIREX's score of a key: 1, 0.5, 0.3, 0.2 or 0.

    Args:
        wanted, heard: of :data:`tunesmith.analysis.tonality.KEYS`; None is silence.
    """
    if heard is None:
        return 0.0
    (mode, tonic), (other_mode, other) = (
        divmod(tonality.KEYS.index(one), 12) for one in (wanted, heard)
    )
    steps = (other - tonic) % 12
    if mode == other_mode:
        return 1.0 if steps == 0 else FIFTH if steps in (5, 7) else 0.0
    if steps == 0:
        return PARALLEL
    return RELATIVE if steps == (9 if mode == 0 else 3) else 0.0


def of_prompts(takes: Sequence[Audio], prompts: Sequence[str]) -> dict[str, Result]:
    """All that prompts ask for, by the names of :data:`EXPLANATIONS`.

    Args:
        takes: N sounds.
        prompts: one of each. Those that name no tempo (or key) do not count for it.

    Returns:
        ``tempo``, ``tempo_octave``: shares, with exact binomial 95 % intervals. ``key_exact`` likewise,
        ``key``: mean MIREX score, without. What no prompt asks for is left out. ``n_candidate`` is the
        number of prompts that ask; ``details`` hold ``unclear``: takes without a clear pulse or key.

    Raises:
        UserError: different counts.
    """
    if len(takes) != len(prompts):
        raise UserError(f"agreement: {len(takes)} takes, {len(prompts)} prompts", "give as many")
    found: dict[str, Result] = {}
    asked = [
        (take, bpm)
        for take, prompt in zip(takes, prompts, strict=True)
        if (bpm := tempo_asked(prompt)) is not None
    ]
    if asked:
        found |= _tempos(asked)
    in_key = [
        (take, key)
        for take, prompt in zip(takes, prompts, strict=True)
        if (key := key_asked(prompt)) is not None
    ]
    return found | _keys(in_key) if in_key else found


def _tempos(asked: Sequence[tuple[Audio, float]]) -> dict[str, Result]:
    beats = [rhythm.find_beats(take.samples.T, take.sample_rate_hz) for take, _ in asked]
    pairs = [
        (one.tempo_bpm if one is not None else np.nan) / bpm
        for one, (_, bpm) in zip(beats, asked, strict=True)
    ]
    unclear = sum(one is None for one in beats)
    return {
        "tempo": _share([same_tempo(ratio) for ratio in pairs], unclear),
        "tempo_octave": _share([same_tempo(ratio, octaves=True) for ratio in pairs], unclear),
    }


def same_tempo(ratio: float, *, octaves: bool = False) -> bool:
    """Whether a tempo that is ``ratio`` times the wanted one is that tempo; NaN is none."""
    allowed = (1.0, 2.0, 0.5) if octaves else (1.0,)
    return any(abs(ratio / one - 1) <= SAME_TEMPO for one in allowed)


def _keys(asked: Sequence[tuple[Audio, str]]) -> dict[str, Result]:
    heard = [tonality.find_key(take.samples.T, take.sample_rate_hz) for take, _ in asked]
    names = [one[0] if one is not None else None for one in heard]
    scores = [key_score(key, name) for (_, key), name in zip(asked, names, strict=True)]
    unclear = sum(name is None for name in names)
    exact = _share([score == 1.0 for score in scores], unclear)
    mean = Result(
        float(np.mean(scores)), None, None, 0, len(scores), 1, exact.warnings, exact.details
    )
    return {"key": mean, "key_exact": exact}


def _share(right: Sequence[bool], unclear: int) -> Result:
    count, n = sum(right), len(right)
    few = (f"only {n} prompts ask for it",) if n < FEW else ()
    details = {"right": float(count), "unclear": float(unclear)}
    return Result(count / n, binomial(count, n), None, 0, n, 1, few, details)


def chroma(audio: Audio) -> np.ndarray:
    """How much each pitch class sounds: ``[F, 12]`` in 0..1, C first, a frame each 0.186 s."""
    mono = to_mono(audio.samples.T, audio.sample_rate_hz)
    spectra = np.concatenate(list(magnitudes(mono, tonality.SIZE, tonality.HOP)))
    return tonality.chroma_in(spectra)


def chroma_likeness(takes: Sequence[Audio], recordings: Sequence[Audio]) -> Result:
    """Mean cosine between the chroma of takes and of the recordings that they were to follow.

    Frame by frame over the length of the shorter, as for melody conditioning in Copet et al. 2023,
    "Simple and Controllable Music Generation" (arXiv 2306.05284), section 4, with all pitch classes
    in place of the loudest alone. Frames in which either is silent do not count.

    Args:
        takes: N sounds.
        recordings: of each, what it was to follow.

    Returns:
        The mean, 0 to 1. ``details``: ``shuffled``, the same of each take with the next one's recording,
        which is what two sounds of this kind have in common anyhow; and ``loudest``, the share of
        frames with the same loudest pitch class, as that paper has it.

    Raises:
        UserError: different counts, nothing, or nothing but silence.
    """
    if not takes or len(takes) != len(recordings):
        raise UserError(
            f"chroma: {len(takes)} takes, {len(recordings)} recordings", "give as many, one or more"
        )
    own, wanted = [chroma(one) for one in takes], [chroma(one) for one in recordings]
    pairs = [_alike(one, other) for one, other in zip(own, wanted, strict=True)]
    known = [pair for pair in pairs if pair is not None]
    if not known:
        raise UserError("chroma: nothing but silence to compare", "look at the takes")
    shuffled = [_alike(one, other) for one, other in zip(own, wanted[1:] + wanted[:1], strict=True)]
    cosines = np.array([cosine for cosine, _ in known])
    details = {"loudest": float(np.mean([same for _, same in known]))}
    if len(takes) > 1 and (others := [pair[0] for pair in shuffled if pair is not None]):
        details["shuffled"] = float(np.mean(others))
    silent = len(pairs) - len(known)
    warnings = (f"{silent} pairs are silent and do not count",) if silent else ()
    return Result(
        float(cosines.mean()), None, None, len(recordings), len(known), 12, warnings, details
    )


def _alike(one: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    """(mean cosine, share of frames with the same loudest class); None in silence."""
    frames = min(len(one), len(other))
    a, b = one[:frames], other[:frames]
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    sounding = lengths > 1e-9
    if not sounding.any():
        return None
    cosine = (a * b).sum(axis=1)[sounding] / lengths[sounding]
    same = a[sounding].argmax(axis=1) == b[sounding].argmax(axis=1)
    return float(cosine.mean()), float(same.mean())
