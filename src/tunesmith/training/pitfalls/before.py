"""What can be said of a run before it trains: its data, and the clips that will tell of forgetting."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.config import Loaded, RunConfig
from tunesmith.data._clip_measures import name_of
from tunesmith.families._bundle import Bundle
from tunesmith.training.pitfalls import captions, homogeneous
from tunesmith.training.pitfalls.finding import Finding
from tunesmith.training.rehearsal import sampled
from tunesmith.training.signals import StopFlag
from tunesmith.types import Clip, Example

OnEvent = Callable[[str, Mapping[str, Any]], None]

ANCHORS = 8
"""Clips that the base makes of itself where nothing else tells what is forgotten."""

RESERVE = 24
"""Clips that the base makes of itself to be replayed, should it begin to forget."""

LONGEST_S = 5.0

PROMPTS = tuple(
    f"{style} with {lead}"
    for style, lead in (
        ("slow blues", "electric guitar"), ("waltz", "violin"), ("rock", "distorted guitar"),
        ("bossa nova", "flute"), ("baroque", "harpsichord"), ("jazz swing", "trumpet"),
        ("folk", "accordion"), ("ambient", "synth lead"), ("reggae", "organ"), ("disco", "piano"),
        ("tango", "clarinet"), ("funk", "saxophone"),
    )
)  # fmt: skip
"""What a base for music is asked, for a sample of what it knows."""


def data_findings(loaded: Loaded, clips: Sequence[Clip]) -> list[Finding]:
    """Pitfalls of the recordings and captions that a run is about to train on.

    Args:
        loaded: the run's configuration.
        clips: its training side, with their captions as they stand in the data set.
    """
    root = Path(loaded.config.data.path).expanduser()
    # One voice is to sound like one voice, and captions that tell its clips apart are what is said in them.
    if loaded.config.train.select == "voice":
        return []
    found = [homogeneous.look(clips, [name_of(clip, root) for clip in clips])]
    # A run about one word trains that word; its captions need not tell the clips apart.
    if not _about_a_word(loaded):
        found.append(captions.look(clips, root, _trigger(root)))
    return [one for one in found if one is not None]


def _about_a_word(loaded: Loaded) -> bool:
    configs = (loaded.method_config, loaded.tokens_config)
    return loaded.config.concept.token is not None or any(
        getattr(config, "token", None) for config in configs
    )


def _trigger(root: Path) -> str:
    try:
        told = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        return str(told["settings"].get("trigger") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def anchor_count(config: RunConfig) -> int:
    """How many clips of its own a base is measured with: as set, else some if nobody else would tell."""
    if config.data.anchor is not None:
        return config.data.anchor
    return ANCHORS if config.watch and config.auto_fix and not config.data.general else 0


def anchors(
    config: RunConfig,
    bundle: Bundle,
    lengths_s: Sequence[float],
    stop: StopFlag,
    event: OnEvent,
) -> list[Example]:
    """What the bare base makes of general prompts, to see later what became of that; cached.

    Args:
        config: the run's.
        bundle: the bare base, before a method is attached.
        lengths_s: of the clips to be learned; anchors have their median, 5 s at most.
        stop: polled while sampling.
        event: told of progress.
    """
    count = anchor_count(config)
    if not count:
        return []
    return sampled(bundle, PROMPTS, count, _seconds(bundle, lengths_s), 0, stop, event)


def reserve(
    bundle: Bundle, lengths_s: Sequence[float], stop: StopFlag, event: OnEvent
) -> list[Example]:
    """What the bare base makes of general prompts, with other seeds than :func:`anchors`: to replay."""
    return sampled(bundle, PROMPTS, RESERVE, _seconds(bundle, lengths_s), 1, stop, event)


def _seconds(bundle: Bundle, lengths_s: Sequence[float]) -> float:
    return min(statistics.median(lengths_s), LONGEST_S, bundle.max_s)
