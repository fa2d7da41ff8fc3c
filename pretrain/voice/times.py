"""When each letter is said: espeak-ng's own events, beside the corpus, for attention to learn from.

``corpus/<split>-NNNN.times.jsonl`` has a row for each of the shard's clips: ``letters`` (places in the
text, fractions included) and ``samples`` (of the clip) at which they begin to sound, both rising. The
library says the text again, as the program did, and tells the places of its phones.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common import log, parser, read_jsonl, set_up, write_jsonl
from pretrain.voice.corpus import stems
from pretrain.voice.speak import LEAD_SAMPLES, TAIL_SAMPLES, warped
from pretrain.voice.speakers import Speaker, speakers

_LIBRARY = "libespeak-ng.so.1"
# Of speak_lib.h: how to play, what to tell, parameters, kinds of events.
_SYNCHRONOUS, _PHONEME_EVENTS = 2, 1
_RATE, _PITCH = 1, 3
_UTF8, _PHONEMES, _END_PAUSE = 1, 0x100, 0x1000
_LAST, _PHONEME = 0, 7
_TOLERANCE = 0.03


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Teller:
    """The library, once a process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_LIBRARY)
        self._sound: list[np.ndarray] = []
        self._events: list[tuple[int, int]] = []
        self._callback = _Callback(self._take)
        self._rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, wave: Any, size: int, events: Any) -> int:
        if wave and size:
            self._sound.append(np.ctypeslib.as_array(wave, (size,)).copy())
        for number in itertools.count():
            event = events[number]
            if event.type == _LAST:
                return 0
            if event.type == _PHONEME:
                self._events.append((event.text_position - 1, event.sample))
        return 0

    def say(self, text: str, speaker: Speaker) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Sound int16 at the library's rate, and of each phone the place of its word in the text and
        its first sample."""
        self._sound, self._events = [], []
        lib, data = self._library, text.encode()
        lib.espeak_SetVoiceByName(f"{speaker.language}+{speaker.variant}".encode())
        lib.espeak_SetParameter(_RATE, round(speaker.speed / speaker.warp), 0)
        lib.espeak_SetParameter(_PITCH, speaker.pitch, 0)
        flags = _UTF8 | _PHONEMES | _END_PAUSE
        lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, flags, None, None)
        lib.espeak_Synchronize()
        return np.concatenate(self._sound), self._events

    def times(self, text: str, speaker: Speaker, length: int) -> dict[str, list[float]]:
        """A row: the phones of a word share its letters evenly.

        Args:
            text: of a clip.
            speaker: who says it.
            length: of the clip, in samples.

        Returns:
            Empty lists if the library says it otherwise than the clip.
        """
        sound, events = self.say(text, speaker)
        wave, first, last = warped(sound, self._rate_hz, speaker.warp)
        # The library's noises differ a little from the program's, and so where the last one ends.
        wanted = length - LEAD_SAMPLES - TAIL_SAMPLES
        if abs(last + 1 - first - wanted) > _TOLERANCE * wanted:
            return {"letters": [], "samples": []}
        factor = len(wave) / len(sound)
        letters, samples = [-1.0, 0.0], [0.0, float(LEAD_SAMPLES)]
        words = [
            (key, [at for _, at in group])
            for key, group in itertools.groupby(events, lambda e: e[0])
        ]
        ends = [key for key, _ in words[1:]] + [len(text)]
        for (key, starts), end in zip(words, ends, strict=True):
            for number, start in enumerate(starts):
                letters.append(key + max(1, end - key - 1) * number / len(starts))
                samples.append(min(start * factor - first + LEAD_SAMPLES, length - TAIL_SAMPLES))
        letters.append(float(len(text)))
        samples.append(float(length))
        return {
            "letters": np.maximum.accumulate(letters).round(2).tolist(),
            "samples": np.maximum.accumulate(samples).round().tolist(),
        }


def path_of(stem: Path) -> Path:
    """The file of a shard."""
    return stem.with_name(stem.name + ".times.jsonl")


def tell(work: Path, split: str) -> int:
    """Write the files of a split that are not there; returns the number of clips."""
    people = {(one.id, one.language): one for one in speakers(split)}
    teller, count = Teller(), 0
    for stem in stems(work, split):
        if path_of(stem).exists():
            continue
        rows = read_jsonl(stem.with_suffix(".jsonl"))
        told = [
            teller.times(row["text"], people[row["speaker"], row["language"]], row["length"])
            for row in rows
        ]
        write_jsonl(path_of(stem), told)
        count += len(rows)
    return count


def load(work: Path, split: str) -> list[dict[str, Any]] | None:
    """Rows of all shards of a split, in order; None unless there are all."""
    paths = [path_of(stem) for stem in stems(work, split)]
    if not all(path.exists() for path in paths):
        return None
    return [row for path in paths for row in read_jsonl(path)]


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    args = p.parse_args()
    set_up(args)
    for split in ("valid", "train"):
        log(f"times: {split}: {tell(args.work, split)} clips")


if __name__ == "__main__":
    main()
