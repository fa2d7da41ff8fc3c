"""A run whose weights are chosen by ear: who speaks, and who judges how near the takes come.

Before any text is encoded the base is told whose voice the recordings are of, where it can be told and
the data do not say: what it says at step 0 is then what it can do without any training (zero-shot), and
what every later step is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tunesmith.config import Loaded, RunConfig
from tunesmith.data.encode import details_of
from tunesmith.data.voice_speakers import open_encoder
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.formats.sound import read
from tunesmith.methods._adapter import Adapter
from tunesmith.training.recognise import open_recogniser, unit_of
from tunesmith.training.rehearsal import with_concept
from tunesmith.training.voice import Judge
from tunesmith.types import Clip

OnEvent = Callable[[str, Mapping[str, Any]], None]
_Thing = TypeVar("_Thing")

SPEAKER = "speaker"
HEARD = 200
"""Recordings that a speaker is heard from: more move the mean of their vectors by next to nothing."""

TARGET = 48
"""Recordings that takes are compared with."""


def speaks(spec: Mapping[str, Any]) -> bool:
    """Whether a family says a text in somebody's voice."""
    return SPEAKER in spec.get("columns", ())


def heard_speaker(
    bundle: Bundle, clips: Sequence[Clip], earlier: Mapping[str, Any], event: OnEvent
) -> dict[str, Any]:
    """Conditioning of a base that hears speakers, from recordings that do not say theirs.

    Args:
        bundle: the base.
        clips: what is trained on.
        earlier: facts of the run that is gone on with: the vector stays what it was, to the last bit.
        event: told of the phase.

    Returns:
        ``{"speaker": [...]}``; empty where any clip says its speaker, or the base hears none.

    Raises:
        UserError: a recording that cannot be heard.
    """
    hear = getattr(bundle, "hear_speaker", None)
    if hear is None or any(details_of(clip, bundle).get(SPEAKER) for clip in clips):
        return {}
    if earlier.get("speaker_heard"):
        return dict(earlier["conditioning"])
    event("phase", {"name": "hearing whose voice it is"})
    vector = hear([read(clip.path) for clip in spaced(clips, HEARD)])
    return {} if vector is None else {SPEAKER: vector.tolist()}


def check_speaks(loaded: Loaded, bundle: Bundle) -> None:
    """That a run which is judged by ear has a base that speaks.

    Raises:
        UserError: it makes music.
    """
    if loaded.config.train.select == "voice" and SPEAKER not in bundle.columns:
        raise UserError(
            f"train.select=voice judges speech, and '{bundle.name}' does not speak a text",
            "set train.select=loss, or use a base that speaks: pocket-voice",
        )


def judge_of(
    config: RunConfig,
    bundle: Bundle,
    adapter: Adapter,
    sides: Mapping[str, Sequence[Clip]],
    stop: Callable[[], int],
    event: OnEvent,
) -> tuple[Judge | None, dict[str, Any]]:
    """Who chooses the weights, and what of that belongs beside the numbers.

    Args:
        config: of the run.
        bundle: the base with the method attached.
        adapter: it; knows how to word a text.
        sides: the clips by side; the sentences are those of ``valid``.
        stop: polled while generating.
        event: told of the phase.

    Returns:
        None and nothing where the validation loss chooses.

    Raises:
        UserError: an ear or a recogniser that cannot be opened, or nothing to be spoken.
    """
    if config.train.select != "voice":
        return None, {}
    event("phase", {"name": "opening what hears voices and words"})
    ear = open_encoder(config.voice.ear)
    if ear is None:
        raise UserError(
            "train.select=voice needs an encoder that tells voices apart, and there is none",
            "pip install --no-deps resemblyzer, or name one with voice.ear",
        )
    recogniser = open_recogniser(config.voice.asr)
    known = spaced([*sides["train"], *sides["valid"]], TARGET)
    judge = Judge(
        bundle,
        sides["valid"],
        ear,
        recogniser,
        target=known,
        seed=config.seed,
        wording=lambda text: adapter.caption(with_concept(text, config.concept)),
        takes=config.voice.takes,
        should_stop=stop,
    )
    told = {
        "ear": ear.label,
        "recogniser": recogniser.label,
        "unit": unit_of(recogniser),
        "takes": judge.takes,
    }
    return judge, told


def figures_in_words(state: Any, used: int, unit: str = "phone") -> list[str]:
    """What a run that was judged by ear has come to, a line each; nothing where it was not judged.

    Args:
        state: of the loop: the figures of step 0 and of the weights that were kept.
        used: the step that these are from.
        unit: what the recogniser counts in.
    """
    before, after = state.first_judged, state.best_judged
    if before is None or after is None:
        return []
    wrong = [100 * (1 - one["intelligibility"]) for one in (before, after)]
    return [
        f"similarity {before['similarity']:.2f} -> {after['similarity']:.2f}, {unit} error "
        f"{wrong[0]:.0f} % -> {wrong[1]:.0f} % (step {used})"
    ]


def spaced(things: Sequence[_Thing], most: int) -> list[_Thing]:
    """At most so many of them, evenly spaced."""
    count = min(most, len(things))
    return [things[index * len(things) // count] for index in range(count)]


__all__ = ["check_speaks", "figures_in_words", "heard_speaker", "judge_of", "spaced", "speaks"]
