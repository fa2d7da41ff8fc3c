"""Measured facts in words: a caption made of them, and captions that follow a changed variant.

Only what was measured is said: no genre, no instrument, no mood.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from tunesmith.analysis.facts import SURE_KEY, SURE_TEMPO, Facts
from tunesmith.analysis.tonality import KEYS

# Where a word begins to be true; in between nothing is said. Each is true of about one recording in
# twenty: what is said of every other one tells nothing.
_DARK_HZ, _BRIGHT_HZ = 450.0, 2700.0
_SPARSE_PER_S, _DENSE_PER_S = 0.6, 5.0
_WIDE_LU, _STEADY_LU = 8.0, 3.0
_STEADY_S = 20.0  # any few seconds are steady
_SHORTEST_S = 3.0  # of a clip that can be dark or sparse rather than one sound that is
_SURE_TEXTURE = 0.6  # such words are a matter of taste
_FEWEST_TEXTURES = 2  # a lone "dark" is no caption

_ON_A_SEMITONE = 0.15  # a key that lies further beside the keys is none of them


@dataclass(frozen=True, slots=True)
class Words:
    """A caption.

    Attributes:
        text: one line.
        confidence: of the least sure thing that it says, 0..1.
    """

    text: str
    confidence: float


def describe(facts: Facts, name: str = "") -> Words | None:
    """``117 bpm, F# minor, bright, dense``: what is sure, in the words that prompts use.

    Args:
        facts: of the clip.
        name: what the recording is called, if that should lead the line.

    Returns:
        None when nothing sure remains: no tempo, no key and less than two textures.
    """
    parts, sure = [], []
    if facts.tempo_bpm is not None and facts.tempo_confidence >= SURE_TEMPO:
        parts.append(f"{facts.tempo_bpm:.0f} bpm")
        sure.append(facts.tempo_confidence)
    if facts.key is not None and facts.key_confidence >= SURE_KEY:
        parts.append(facts.key)
        sure.append(facts.key_confidence)
    if facts.loudness_lufs is not None and facts.duration_s >= _SHORTEST_S:
        textures = _textures(facts)
        if textures and (parts or len(textures) >= _FEWEST_TEXTURES):
            parts += textures
            sure.append(_SURE_TEXTURE)
    if not parts:
        return None
    named = " ".join(name.split())
    return Words(", ".join(([named] if named else []) + parts), min(sure))


def _textures(facts: Facts) -> list[str]:
    words = []
    if facts.brightness_hz <= _DARK_HZ:
        words.append("dark")
    elif facts.brightness_hz >= _BRIGHT_HZ:
        words.append("bright")
    if facts.density_per_s <= _SPARSE_PER_S:
        words.append("sparse")
    elif facts.density_per_s >= _DENSE_PER_S:
        words.append("dense")
    if facts.loudness_range_lu is not None:
        if facts.loudness_range_lu >= _WIDE_LU:
            words.append("wide dynamics")
        elif facts.loudness_range_lu <= _STEADY_LU and facts.duration_s >= _STEADY_S:
            words.append("steady loudness")
    return words


def facts_follow(facts: Facts, *, pitch_semitones: float = 0.0, stretch: float = 1.0) -> Facts:
    """The facts of a variant, without measuring it.

    Args:
        facts: of the clip.
        pitch_semitones: how far all notes go up; fractions leave no key.
        stretch: new tempo over old tempo, above 0.
    """
    if not (stretch > 0 and math.isfinite(stretch) and math.isfinite(pitch_semitones)):
        raise ValueError(f"no variant: {pitch_semitones} semitones, stretch {stretch}")
    key = facts.key
    if key is not None:
        steps = round(pitch_semitones)
        on_key = abs(pitch_semitones - steps) <= _ON_A_SEMITONE
        key = _transposed(key, steps) if on_key else None
    return replace(
        facts,
        duration_s=facts.duration_s / stretch,
        tempo_bpm=None if facts.tempo_bpm is None else facts.tempo_bpm * stretch,
        key=key,
        brightness_hz=facts.brightness_hz * 2 ** (pitch_semitones / 12),
        density_per_s=facts.density_per_s * stretch,
    )


def _transposed(key: str, steps: int) -> str:
    index = KEYS.index(key)
    return KEYS[index // 12 * 12 + (index + steps) % 12]


_NUMBER = r"(?<![\d.,/])\d{2,3}(?:\.\d+)?(?![\d/]|[.,]\d)"
_PER_MINUTE = r"(?:bpm\b|beats\s+(?:per|a)\s+minute\b)"
_TEMPO = re.compile(
    rf"{_NUMBER}(?:\s*[-–]\s*{_NUMBER})?(?=[\s-]*{_PER_MINUTE})"
    # "bpm 120", but not the bars of "120 bpm 16 bars"
    rf"|(?:(?<=\bbpm)(?<!\dbpm)(?<!\d[ -]bpm)|(?<=\btempo)|(?<=\btempo of))[\s:=]+{_NUMBER}",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"""
    (?<![\w#♯♭'’-])
    (?P<before> (?:\bin\s+ | \bkey\s*(?:of|:|=|is)\s* | \bkey\s+(?=[A-G](?:[#♯♭b])?m(?:in|aj|\b)) )? )
    (?P<letter> [A-Ga-g])
    (?P<accidental> [#♯♭] | b(?=[\s-]*m|\b) | (?:\s+|-)(?:sharp|flat)\b )?
    (?: (?P<gap> [\s-]*) (?P<mode> major|minor|maj|min) \b | (?P<short> m\b) | (?P<bare> (?!\w)) )
    (?P<after> \s*(?: $ | [,;.:!?()/|\n] ) )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PITCHES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def retold(
    caption: str,
    before: Facts,
    after: Facts,
    *,
    pitch_semitones: float | None = None,
    stretch: float | None = None,
) -> str:
    """A caption, with the tempo and the key that it mentions changed as the sound was.

    Numbers next to ``bpm``, ``beats per minute`` or ``tempo`` are scaled, names of keys transposed
    (by the nearest semitone). What may be no key (``a minor change``, ``Am``) stays as it is, and
    so does all else.

    Args:
        caption: written for ``before``.
        before: facts of the clip.
        after: facts of its variant, from :func:`facts_follow`.
        pitch_semitones, stretch: what was done, if known; otherwise told from the facts.
    """
    if stretch is None:
        stretch = _stretch(before, after)
    if pitch_semitones is None:
        pitch_semitones = _semitones(before, after)
    steps, ratio = round(pitch_semitones), stretch
    if ratio != 1:
        caption = _TEMPO.sub(lambda found: re.sub(_NUMBER, _scaled(ratio), found[0]), caption)
    if steps % 12:
        text = caption  # what the matches point into
        caption = _KEY.sub(lambda found: _moved(found, text, steps), text)
    return caption


def _stretch(before: Facts, after: Facts) -> float:
    if before.tempo_bpm and after.tempo_bpm:
        return after.tempo_bpm / before.tempo_bpm
    return before.duration_s / after.duration_s if after.duration_s > 0 else 1.0


def _semitones(before: Facts, after: Facts) -> float:
    if before.key is not None and after.key is not None:
        return (KEYS.index(after.key) - KEYS.index(before.key)) % 12
    # facts_follow moves the brightness by just the interval, even where no key is stated.
    if before.brightness_hz > 0 and after.brightness_hz > 0:
        return 12 * math.log2(after.brightness_hz / before.brightness_hz)
    return 0.0


def _scaled(ratio: float) -> Callable[[re.Match[str]], str]:
    def scaled(number: re.Match[str]) -> str:
        digits = len(number[0].partition(".")[2])
        return f"{float(number[0]) * ratio:.{digits}f}"

    return scaled


def _is_key(found: re.Match[str], text: str) -> bool:
    """Whether a match is a key beyond doubt; what is most in doubt is the English word *a*."""
    is_named = found["before"].lower().startswith("key")
    if found["short"]:  # "Am" may be a word, but not after the word key
        return (is_named or bool(found["accidental"])) and found["letter"].isupper()
    if found["bare"] is not None:  # "key of E flat"
        is_whole = found["letter"] != "A" or found["accidental"] or found["after"] is not None
        return is_named and found["letter"].isupper() and bool(is_whole)
    if not found["gap"] and found["letter"].islower():
        return False
    if found["letter"] not in "aA" or found["accidental"]:
        return True
    if found["after"] is not None or found.end() == len(text):
        # "in A minor." and "A minor, slow"; but "make it a minor, ..." has a plain article.
        return found["letter"] == "A" or bool(found["before"])
    if is_named:
        return True
    # "a slow tune in A minor with strings": a capital inside a sentence is no article.
    opens = not found["before"] and re.search(r"(?:^|[.!?:;\n\"(])\s*$", text[: found.start()])
    follows = re.match(r"\s+(?:key|scale|mode|chord)\b", text[found.end() :], re.IGNORECASE)
    titled = found["mode"][:1].isupper()  # "A Minor Change": a title has capitals everywhere
    return found["letter"] == "A" and not opens and not follows and not titled


def _moved(found: re.Match[str], text: str, steps: int) -> str:
    if not _is_key(found, text):
        return found[0]
    accidental = (found["accidental"] or "").strip(" -\t")
    is_sharp = accidental.lower() in ("#", "♯", "sharp")
    is_flat = accidental.lower() in ("b", "♭", "flat")
    pitch = _PITCHES[found["letter"].upper()] + is_sharp - is_flat
    is_minor = bool(found["short"]) or (found["mode"] or "").lower().startswith("min")
    name = KEYS[12 * is_minor + (pitch + steps) % 12].split()[0]
    letter = name[0] if found["letter"].isupper() else name[0].lower()
    end = found.end("accidental") if found["accidental"] else found.end("letter")
    rest = found[0][end - found.start() :]
    return found["before"] + letter + _spelled(name[1:], found["accidental"] or "") + rest


def _spelled(accidental: str, like: str) -> str:
    """``#`` or ``b`` in the manner of another accidental: a sign or a word."""
    if not accidental:
        return ""
    if like.lower().endswith(("sharp", "flat")):
        return like[0] + ("sharp" if accidental == "#" else "flat")
    if like in ("♯", "♭"):
        return "♯" if accidental == "#" else "♭"
    return accidental
