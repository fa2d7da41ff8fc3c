"""A voice, judged by what is heard: takes of held-out sentences, whose voice they are and what they say.

The loss of a text-to-speech model goes on falling while the voice drifts away from the target, so weights
are chosen by ear: similarity × intelligibility of the same few sentences at every validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from tunesmith.data.encode import details_of
from tunesmith.embeddings import Embedder
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.formats.sound import read
from tunesmith.metrics import phone_error, speaker
from tunesmith.metrics._result import Result
from tunesmith.types import Audio, Clip, GenerationSettings

TAKES = 8
"""Sentences that a judge has spoken at each validation."""

_GAP_S = 0.1  # of silence between sounds that are heard as one
_LONGEST = 2.5  # times the recording's length, and two seconds: a take that does not end ends there
_UNHEARD = 0.1
"""Least intelligibility in the score. Where hardly a phone is understood, not even of the base, as in half-second
takes of a telephone's band, one phone by chance, or none, would choose the weights; likeness decides there."""


class Recogniser(Protocol):
    """What writes down the phones of a sound.

    Attributes:
        label: its name and version, to stand beside the numbers.
    """

    label: str

    def phones(self, audio: Audio) -> list[str]:
        """What is said; empty for silence."""
        ...


def joined(sounds: Sequence[Audio], least_s: float = speaker.LEAST_S) -> list[Audio]:
    """Sounds one after the other, so that each holds ``least_s`` of speech where there is as much.

    Less than three seconds do not tell a voice reliably. All sounds must have one rate; channels are
    averaged. What is left over at the end goes to the last one.

    Raises:
        UserError: sounds of different rates.
    """
    if len({one.sample_rate_hz for one in sounds}) > 1:
        raise UserError("sounds of different sample rates are not heard as one", "convert them")
    out: list[list[Audio]] = []
    have_s = least_s
    for one in sounds:
        if have_s >= least_s:
            out.append([])
            have_s = 0.0
        out[-1].append(one)
        have_s += speaker.sounding_s(one)
    if len(out) > 1 and have_s < least_s:
        rest = out.pop()
        out[-1] += rest
    return [_one(some) for some in out]


def _one(sounds: Sequence[Audio]) -> Audio:
    rate = sounds[0].sample_rate_hz
    gap = np.zeros(round(_GAP_S * rate), np.float32)
    parts: list[np.ndarray] = []
    for sound in sounds:
        parts += [sound.samples.mean(axis=0, dtype=np.float32), gap]
    return Audio(np.concatenate(parts[:-1])[None], rate)


def likeness(
    ear: Embedder,
    target: Sequence[Audio],
    takes: Sequence[Audio],
    others: Sequence[Audio] = (),
) -> Result:
    """Speaker similarity (:func:`tunesmith.metrics.speaker.compute`) on three seconds and more of speech.

    Args:
        ear: tells voices apart; not the encoder that the model is conditioned with.
        target: recordings of the voice.
        takes: what was made.
        others: recordings of other voices, for the lower bound.
    """
    takes = joined(takes)
    return speaker.compute(
        [ear.embed(one) for one in joined(target)],
        [ear.embed(one) for one in takes],
        others=[ear.embed(one) for one in joined(others)] if others else (),
        speech_s=[speaker.sounding_s(one) for one in takes],
    )


class Judge:
    """Speaks held-out sentences with the model as it is, and says how well.

    Args:
        bundle: the base with the method attached.
        clips: recordings of the voice with what is said in them, never trained on; some are chosen,
            far apart.
        target: recordings of the voice, to compare with; by default the same clips.
        ear: tells voices apart.
        recogniser: writes down phones. What it hears in the recordings is what takes should say.
        seed: of the first take; the next has the next.
        settings: sampling.
        wording: a text as the adapted model is asked, with the word that it was taught.
        takes: most sentences.
        should_stop: polled while generating.

    Attributes:
        takes: sentences that are spoken each time.

    Raises:
        UserError: no recording in which the recogniser hears anything.
    """

    def __init__(
        self,
        bundle: Bundle,
        clips: Sequence[Clip],
        ear: Embedder,
        recogniser: Recogniser,
        *,
        target: Sequence[Clip] = (),
        seed: int = 0,
        settings: GenerationSettings | None = None,
        wording: Callable[[str], str] = lambda text: text,
        takes: int = TAKES,
        should_stop: Callable[[], int] = lambda: 0,
    ) -> None:
        self.bundle, self.ear, self.recogniser = bundle, ear, recogniser
        self.settings = settings or bundle.sampling
        self.should_stop, self.seed = should_stop, seed
        # A file's name is no sentence.
        said = [c for c in clips if c.caption.strip() and c.caption_source not in ("name", "none")]
        count = min(takes, len(said))
        chosen = [said[index * len(said) // count] for index in range(count)]
        heard = [(clip, recogniser.phones(read(clip.path))) for clip in chosen]
        self._heard = [(clip, phones) for clip, phones in heard if phones]
        if not self._heard:
            raise UserError(
                "no held-out recording with speech in it: a voice cannot be judged",
                "keep some aside (prepare --valid-share), or set train.select=loss",
            )
        self.takes = len(self._heard)
        self._asked = [wording(clip.caption) for clip, _ in self._heard]
        self._details = [details_of(clip, bundle) for clip, _ in self._heard]
        sounds = joined([read(clip.path) for clip in (target or clips)])
        self._target = [ear.embed(one) for one in sounds]

    def __call__(self) -> Mapping[str, float]:
        """``score``, ``similarity`` (cosine), ``intelligibility`` (1 − phone error), all of the same takes."""
        longest = max(clip.duration_s for clip, _ in self._heard)
        takes = self.bundle.generate(
            self._asked,
            min(self.bundle.max_s, _LONGEST * longest + 2.0),
            [self.seed + index for index in range(len(self._asked))],
            self.settings,
            details=self._details if self.bundle.columns else None,
            should_stop=self.should_stop,
        )
        wrong = phone_error.compute(
            [phones for _, phones in self._heard],
            [self.recogniser.phones(take) for take in takes],
        )
        alike = speaker.compute(self._target, [self.ear.embed(one) for one in joined(takes)])
        similarity = float(alike.value)
        intelligibility = max(0.0, 1.0 - float(wrong.value))
        return {
            "score": max(0.0, similarity) * max(intelligibility, _UNHEARD),
            "similarity": similarity,
            "intelligibility": intelligibility,
        }
