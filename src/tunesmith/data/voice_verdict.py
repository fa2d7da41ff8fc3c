"""Whether recordings of a voice are enough: minutes, sounds of the language, cleanness; in figures and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from tunesmith.data.caption import Caption
from tunesmith.data.needs import WORDS, Verdict, need_of, percent
from tunesmith.data.screen import Kept
from tunesmith.data.voice_phones import coverage
from tunesmith.types import Clip

SPOILED = ("noise", "music", "reverberation", "bandwidth", "clipping", "hum", "false_bandwidth")
"""Faults of the sound, which tell of the recordings and not of what is said in them."""

_CLEAN_SHARE, _MIXED_SHARE = 0.1, 0.3
_CLEAN_SNR_DB, _CLEAN_MOS = 22.0, 3.0
_NAMED = 12


def facts_of(
    kept: Sequence[tuple[Kept, Caption]], refused: Mapping[str, int], language: str
) -> dict[str, Any]:
    """What is known of a voice's clips; plain values for ``dataset.json``.

    Args:
        kept: the clips and what is said in them.
        refused: how many stretches were left out for which fault.
        language: of the speech; empty where it was not told.
    """
    seconds = sum(one.clip.duration_s for one, _ in kept)
    spoken = coverage([caption.text for _, caption in kept if caption.text], language or None)
    return {
        "clips": len(kept),
        "minutes": round(seconds / 60, 3),
        "texts": dict(sorted(Counter(caption.source for _, caption in kept).items())),
        "coverage": None if spoken is None else asdict(spoken),
        "snr_db": _middle(kept, "snr_db"),
        "background_mos": _middle(kept, "background_mos"),
        "refused": dict(sorted((name, count) for name, count in refused.items() if name)),
    }


def _middle(kept: Sequence[tuple[Kept, Caption]], name: str) -> float | None:
    values = [one.clip.voice[name] for one, _ in kept if name in one.clip.voice]
    return round(median(values), 2) if values else None


def sentences(facts: Mapping[str, Any], minutes: bool = True) -> list[str]:
    """The verdict in words.

    Args:
        facts: of :func:`facts_of`.
        minutes: whether to begin with how much there is; ``check`` says that itself.
    """
    lines = []
    if minutes:
        need = need_of("voice")
        level = sum(facts["minutes"] >= bound for bound in (need.least, need.good, need.best))
        lines.append(
            f"{WORDS[level]}: {facts['minutes']:.1f} minutes of speech are kept; {need.least:g} are the "
            f"least, {need.good:g} are good, {need.best:g} the best"
        )
    lines += [_cleanness(facts)]
    if spoken := facts.get("coverage"):
        lines.append(_missing(spoken))
    texts = facts.get("texts") or {}
    if unsaid := texts.get("none"):
        lines.append(
            f"{unsaid:,} of {facts['clips']:,} clips have no text: a voice cannot learn from them"
        )
    if written := texts.get("asr"):
        lines.append(
            f"{written:,} of {facts['clips']:,} texts were written by the recogniser: read some of them"
        )
    if (errors := facts.get("word_error_rate")) is not None:
        lines.append(f"texts and recogniser differ in {percent(errors)} of the words that are kept")
    if not facts.get("encoder") and "encoder" in facts:
        lines.append("nobody looked for other voices among the clips")
    return lines


def with_voice(verdict: Verdict, described: Mapping[str, Any], clips: Sequence[Clip]) -> Verdict:
    """A verdict on a voice, with what ``prepare --voice`` found; of other folders what their texts tell.

    Args:
        verdict: on how much there is.
        described: ``dataset.json``; empty for a folder from elsewhere.
        clips: of the set.
    """
    facts = described.get("voice")
    if isinstance(facts, Mapping) and "refused" in facts:
        said = [_sentence(line) for line in sentences(facts, minutes=False)]
        return replace(verdict, sentences=(*verdict.sentences, *said))
    spoken = coverage([clip.caption for clip in clips], None)
    said = [] if spoken is None else [_sentence(_missing(asdict(spoken)))]
    mend = (
        *verdict.mend,
        "`tunesmith prepare --voice` cuts at pauses and looks for noise, music and other speakers",
    )
    return replace(verdict, sentences=(*verdict.sentences, *said), mend=mend)


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}".rstrip(".") + "."


def _cleanness(facts: Mapping[str, Any]) -> str:
    spoiled = {name: count for name in SPOILED if (count := facts["refused"].get(name, 0))}
    lost = sum(spoiled.values())
    share = lost / max(1, lost + facts["clips"])
    snr_db, mos = facts.get("snr_db"), facts.get("background_mos")
    figures = []
    if snr_db is not None:
        figures.append(f"speech {snr_db:.0f} dB above its background")
    if mos is not None:
        figures.append(f"background {mos:.1f} of 5 (DNSMOS)")
    out = ""
    if lost:
        listed = ", ".join(f"{name} {count}" for name, count in spoiled.items())
        out = f"; {percent(share)} was left out ({listed})"
    quiet = (snr_db is None or snr_db >= _CLEAN_SNR_DB) and (mos is None or mos >= _CLEAN_MOS)
    if share > _MIXED_SHARE:
        word = "not clean enough: record it again in a quiet, dry room"
    elif share > _CLEAN_SHARE or not quiet:
        word = "clean in part"
    else:
        word = "clean enough"
    return f"{word}: {', '.join(figures)}{out}" if figures or out else word


def _missing(spoken: Mapping[str, Any]) -> str:
    missing, unit = spoken["missing"], spoken["unit"]
    of = f"{spoken['of']} {unit}" + (f" of {spoken['language']}" if spoken.get("language") else "")
    if not missing:
        return f"all {of} are said"
    named = " ".join(missing[:_NAMED]) + (
        f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    )
    return f"{len(missing)} of {of} are never said: {named}"
