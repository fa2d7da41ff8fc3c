"""What is doubtful about a data set as a whole, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data._caption_stats import CaptionStats
from tunesmith.data._songs import Songs
from tunesmith.data.needs import Tally, percent
from tunesmith.data.sources import Rejection
from tunesmith.types import Clip

_NAMED = 3  # unreadable files in one line; the page and the JSON have more


@dataclass(frozen=True, slots=True)
class Finding:
    """Something doubtful about the whole set, and what to do about it."""

    what: str
    mend: str = ""


def findings(
    clips: Sequence[Clip],
    tally: Tally,
    captions: CaptionStats,
    described: Mapping[str, Any],
    leaks: int,
    unreadable: Sequence[Rejection] = (),
    divided: bool = False,
    songs: Songs | None = None,
) -> list[Finding]:
    """What is doubtful, the gravest first.

    Args:
        clips: of the set, without variants.
        tally: what of them counts.
        captions: their figures.
        described: ``dataset.json``; empty for a folder from elsewhere.
        leaks: repeats that stand on the other side of train and valid than what they repeat.
        unreadable: files that are missing or cannot be decoded.
        divided: the folder has no split of its own, so that nobody put anything on a side.
        songs: its lyrics and languages; None where there are none.
    """
    found = []
    if unreadable:
        named = [f"{one.file}: {one.reason}" for one in unreadable[:_NAMED]]
        if len(unreadable) > _NAMED:
            named.append(f"and {len(unreadable) - _NAMED:,} more")
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
        found.append(
            Finding(
                f"{files} cannot be read: {'; '.join(named)}.",
                "Replace or remove them; they are counted nowhere, and training would stop there.",
            )
        )
    if leaks and not divided:
        found.append(
            Finding(
                "1 clip to validate with has the sound of one to train with."
                if leaks == 1
                else f"{leaks:,} clips stand in train and valid with the same sound.",
                "What was trained on cannot validate: keep copies on one side.",
            )
        )
    if captions.contradicting:
        found.append(
            Finding(
                "Some captions contradict what was measured.",
                "Correct the caption, or the tempo or key that was heard, whichever is wrong.",
            )
        )
    if tally.repeats > 1 and tally.repeats >= 0.02 * tally.clips_all:
        found.append(
            Finding(
                f"{tally.repeats:,} clips repeat the sound of another one.",
                "They weigh double in training and flatter validation: keep one of each.",
            )
        )
    named = captions.sources.get("name", 0)
    if named:
        found.append(
            Finding(
                "1 clip is called by the name of its file."
                if named == 1
                else f"{named:,} clips are called by the names of their files.",
                "Put x.txt beside x.wav, or let `tunesmith prepare` write captions.",
            )
        )
    if captions.clips > 1 and captions.distinct == 1:
        found.append(
            Finding(
                "Every clip has the same caption.",
                "For a trigger word that will do; else say what tells the clips apart.",
            )
        )
    elif captions.same_share > 0.2:
        found.append(
            Finding(
                f"{percent(captions.same_share)} of the clips share their caption with another "
                "recording.",
                "Say what tells them apart.",
            )
        )
    if captions.english and captions.weak_share > 0.3:
        found.append(
            Finding(
                f"{percent(captions.weak_share)} of the captions hardly say anything.",
                "Say what is heard; the emptiest are listed.",
            )
        )
    if not captions.english:
        found.append(
            Finding(
                "The captions do not look English, so what they lack was not judged.",
                "Base models were mostly trained with English captions.",
            )
        )
    if captions.trigger and captions.trigger_share < 1:
        found.append(
            Finding(
                f"The trigger word {captions.trigger} stands in "
                f"{percent(captions.trigger_share)} of the captions.",
                "Put it into all of them, or it is learnt by halves.",
            )
        )
    if captions.low_confidence:
        found.append(
            Finding("Some captions come from a source that was unsure.", "Read those first.")
        )
    found += _of_songs(songs) if songs else []
    if not any(clip.split == "valid" for clip in clips):
        found.append(
            Finding(
                "Nothing is kept aside to validate with.",
                "Without it nobody can tell whether training helped.",
            )
        )
    if leaks and divided:
        found.append(
            Finding(
                "There is no valid folder, so sides were drawn here by recording and by file; "
                f"{'a copy stands' if leaks == 1 else f'{leaks:,} copies stand'} on both.",
                "`tunesmith prepare` hears which recordings share sound and keeps those together.",
            )
        )
    if described and not described.get("rights"):
        found.append(
            Finding(
                "The data set does not say what may be done with the recordings.",
                "`tunesmith prepare --rights` keeps it with the data.",
            )
        )
    return found


def _of_songs(songs: Songs) -> list[Finding]:
    found = []
    if songs.unbalanced:
        said = ", ".join(
            f"{one.name} has {percent(one.clip_share)} of the clips" for one in songs.unbalanced
        )
        found.append(
            Finding(
                f"The {len(songs.languages)} languages are out of balance: {said}.",
                "What is rare is hardly learnt: add recordings in it, or leave it out.",
            )
        )
    lacking = songs.clips - songs.with_lyrics
    if songs.with_lyrics and lacking:
        found.append(
            Finding(
                f"{lacking:,} of {songs.clips:,} clips {'has' if lacking == 1 else 'have'} no lyrics.",
                "Put timed lyrics beside x.wav as x.lrc and run `tunesmith prepare` again; a line such as "
                "[00:00.00] [instrumental] says that nobody sings from there on.",
            )
        )
    if songs.without_language:
        count = songs.without_language
        found.append(
            Finding(
                f"{count:,} {'clip has' if count == 1 else 'clips have'} lyrics and no language.",
                "Give it in a column `language` of metadata.csv: en, de, zh ...",
            )
        )
    return found
