"""What writes down what takes say: the phone recogniser that ships, or a speech recogniser, letter by letter."""

from __future__ import annotations

from tunesmith.analysis.phones import PhoneRecogniser
from tunesmith.captioners._recogniser import Transcriber
from tunesmith.metrics.wer import normalise
from tunesmith.training.voice import Recogniser
from tunesmith.types import Audio


class Letters:
    """A speech recogniser's text, a letter a sign: what takes the place of phones where it is named.

    Args:
        transcriber: opened.

    Attributes:
        label: checkpoint and version.
    """

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber, self.label = transcriber, transcriber.label

    def phones(self, audio: Audio) -> list[str]:
        """The letters of what is said, without spaces; empty for silence."""
        return list(normalise(self._transcriber.transcribe(audio)).replace(" ", ""))


def open_recogniser(asr: str | None = None, device: object = "auto") -> Recogniser:
    """What writes down what is said.

    Args:
        asr: a model that reads speech, as a folder or hub id; by default the phone recogniser that ships.
        device: of that model.

    Raises:
        UserError: there is no such model.
    """
    return Letters(Transcriber(asr, device)) if asr else PhoneRecogniser.load()


def unit_of(recogniser: Recogniser) -> str:
    """What it counts in: ``phone`` or ``letter``."""
    return "letter" if isinstance(recogniser, Letters) else "phone"


__all__ = ["Letters", "open_recogniser", "unit_of"]
