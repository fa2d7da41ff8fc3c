"""When somebody speaks: silero-vad's network, run by onnxruntime, a window of 32 ms at a time.

The package ``silero-vad`` (MIT) carries the network. It is found, and never imported: the import
would bring its torch code in and set torch to one thread for the whole program. Network and windowing:
https://github.com/snakers4/silero-vad (512 samples at 16 kHz after 64 of context, a state of [2, 1, 128]).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from tunesmith.errors import UserError

SAMPLE_RATE_HZ = 16_000
WINDOW = 512
WINDOW_S = WINDOW / SAMPLE_RATE_HZ
INSTALL = "pip install 'tunesmith[voice]'"

# Where the network says speech, where no more, and what is too short to be either.
_ON, _OFF = 0.5, 0.35
_SHORTEST_SPEECH_S, _SHORTEST_PAUSE_S = 0.1, 0.1
# A single word that begins and ends with its recording leaves the network little time to make up its mind.
_ONE_WORD_S, _ON_WORD, _OFF_WORD = 1.5, 0.4, 0.15
_CONTEXT = 64
_QUIETEST = 0.05
_SILENCE = 1e-9  # -90 dBFS: what dithered digital silence stays below


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of speech, in seconds."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Activity:
    """When there is speech in a sound.

    Attributes:
        probability: of speech in each window of 32 ms, ``[W]``.
        power: mean square of each window, up to 8 kHz, ``[W]``.
        duration_s: of the sound.
        stretches: of speech, in order.
    """

    probability: np.ndarray
    power: np.ndarray
    duration_s: float
    stretches: tuple[Stretch, ...]

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return sum(one.duration_s for one in self.stretches)

    def levels_db(
        self, start_s: float, end_s: float, room_s: float
    ) -> tuple[float | None, float | None]:
        """How loud the speech is from ``start_s`` to ``end_s``, and the background there and around.

        The background is the quietest twentieth of the windows from ``room_s`` before to ``room_s`` after:
        between words, and within them, speech falls that low now and then, a steady background never does.
        Digital silence tells of none, and is passed over.

        Returns:
            Powers in dB below full scale up to 8 kHz; None where there is nothing to take them of.
        """
        inside, near, said = (np.zeros(len(self.power), bool) for _ in range(3))
        inside[max(0, int(start_s / WINDOW_S)) : math.ceil(end_s / WINDOW_S)] = True
        near[
            max(0, int((start_s - room_s) / WINDOW_S)) : math.ceil((end_s + room_s) / WINDOW_S)
        ] = True
        for one in self.stretches:
            said[int(one.start_s / WINDOW_S) : math.ceil(one.end_s / WINDOW_S)] = True
        speech = self.power[inside & said]
        around = self.power[near & (self.power > _SILENCE)]
        return (
            _db(float(speech.mean())) if len(speech) else None,
            _db(float(np.quantile(around, _QUIETEST))) if len(around) else None,
        )


class Listener:
    """Hears a sound block by block; what it finds does not depend on how the blocks are cut.

    Args:
        sample_rate_hz: of the blocks.

    Raises:
        UserError: silero-vad or onnxruntime is not installed.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._session = _session()
        self._stream = soxr.ResampleStream(sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)
        self._found: list[float] = []
        self._power: list[float] = []
        self._seconds = 0.0
        self._rate_hz = sample_rate_hz

    def push(self, block: np.ndarray) -> None:
        """Adds float32 ``[T, C]``."""
        self._seconds += len(block) / self._rate_hz
        self._hear(self._stream.resample_chunk(block.mean(axis=1, dtype=np.float32)))

    def finish(self) -> Activity:
        """What was heard; nothing can be added after."""
        self._hear(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        if len(self._rest):
            self._hear(np.zeros(WINDOW - len(self._rest), np.float32))
        probability = np.array(self._found, np.float32)
        stretches = tuple(_stretches(probability, self._seconds, _ON, _OFF))
        if not stretches and self._seconds <= _ONE_WORD_S:
            stretches = tuple(_stretches(probability, self._seconds, _ON_WORD, _OFF_WORD))
        return Activity(probability, np.array(self._power), self._seconds, stretches)

    def _hear(self, mono: np.ndarray) -> None:
        samples = np.concatenate([self._rest, mono])
        count = len(samples) // WINDOW
        for index in range(count):
            window = samples[index * WINDOW : (index + 1) * WINDOW]
            heard = np.concatenate([self._context, window])[None]
            chance, self._state = self._session.run(
                None, {"input": heard, "state": self._state, "sr": np.array(SAMPLE_RATE_HZ)}
            )
            self._context = window[-_CONTEXT:]
            self._found.append(float(np.ravel(chance)[0]))
            self._power.append(float(np.mean(np.square(window), dtype=np.float64)))
        self._rest = samples[count * WINDOW :]


def activity(samples: np.ndarray, sample_rate_hz: int) -> Activity:
    """When there is speech in a sound that is there as a whole.

    Args:
        samples: float32 ``[T, C]``, finite.
        sample_rate_hz: of the samples.

    Raises:
        UserError: silero-vad or onnxruntime is not installed.
    """
    listener = Listener(sample_rate_hz)
    listener.push(samples)
    return listener.finish()


def require() -> None:
    """Refuses now rather than after an hour.

    Raises:
        UserError: silero-vad or onnxruntime is not installed, with the command that installs them.
    """
    _weights()


def _stretches(
    probability: np.ndarray, duration_s: float, on: float, off: float
) -> Iterator[Stretch]:
    """Speech from where the chance reaches ``on`` to where it falls below ``off``; no crumbs, no slits."""
    found: list[list[float]] = []
    speaking = False
    for index, chance in enumerate(probability):
        if not speaking and chance >= on:
            found.append([index * WINDOW_S, duration_s])
            speaking = True
        elif speaking and chance < off:
            found[-1][1] = index * WINDOW_S
            speaking = False
    for start_s, end_s in _joined(found):
        if min(end_s, duration_s) - start_s >= _SHORTEST_SPEECH_S:
            yield Stretch(round(start_s, 3), round(min(end_s, duration_s), 3))


def _joined(found: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for start_s, end_s in found:
        if joined and start_s - joined[-1][1] < _SHORTEST_PAUSE_S:
            joined[-1] = (joined[-1][0], end_s)
        else:
            joined.append((start_s, end_s))
    return joined


def _db(power: float) -> float:
    return 10 * math.log10(max(power, 1e-12))


def _weights() -> Path:
    missing = [
        package
        for module, package in (("silero_vad", "silero-vad"), ("onnxruntime", "onnxruntime"))
        if find_spec(module) is None
    ]
    spec = find_spec("silero_vad")
    if missing or spec is None or spec.origin is None:
        raise UserError(
            f"voices need {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "not installed",
            INSTALL,
        )
    path = Path(spec.origin).parent / "data" / "silero_vad.onnx"
    if not path.is_file():
        raise UserError("the installed silero-vad carries no silero_vad.onnx", INSTALL)
    return path


@cache
def _session() -> Any:
    path = _weights()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )


__all__ = ["SAMPLE_RATE_HZ", "Activity", "Listener", "Stretch", "activity", "require"]
