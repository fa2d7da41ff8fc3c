"""What one listener is asked now, in terms that say nothing of the sides."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.listen.design import SCALE, SOUNDS, Test, needed_s
from tunesmith.listen.plan import Trial, plan
from tunesmith.listen.store import Answer, Listener, Outcome, Store

LETTERS = "ABX"
LEVEL = "level"
_TOLERANCE_S = 0.25
"""Browsers tell what was played in steps."""


class Refused(Exception):
    """An answer that cannot be one; the text says why."""


class Sessions:
    """The test as its listeners meet it.

    Args:
        folder: of the test.
        test: what is tested.
        store: who has answered what.
    """

    def __init__(self, folder: Path, test: Test, store: Store) -> None:
        self.folder, self.test, self.store = folder, test, store
        self._plans: dict[int, tuple[Trial, ...]] = {}

    def state(self, listener: Listener) -> dict[str, Any]:
        """What the page shows: nothing in it depends on which side is behind which letter.

        Sounds have names of their own for every listener, trial and letter: X cannot be told by its
        name, nor can two listeners find out together what is what.
        """
        trials, done = self._trials(listener), self.store.done(listener.number)
        told: dict[str, Any] = {
            "kind": self.test.kind,
            "title": self.test.title,
            "question": self.test.question,
            "choices": list(self.test.choices),
            "scale": list(SCALE),
            "total": len(trials),
            "practice": sum(trial.role == "training" for trial in trials),
            "done": done,
            "level": LEVEL,
            "trial": None,
        }
        if done < len(trials):
            self.store.open_trial(listener.number, done)
            trial = trials[done]
            item = self.test.items[trial.item]
            told["trial"] = {
                "place": done,
                "practice": trial.role == "training",
                "prompt": item.prompt if self.test.show_prompt else "",
                "needed_s": round(needed_s(item.seconds), 3),
                "sounds": [
                    {"letter": LETTERS[slot], "id": self._id(listener, done, slot)}
                    for slot in range(len(trial.slots))
                ],
            }
        return told

    def answer(
        self,
        listener: Listener,
        place: int,
        answer_id: str,
        choice: str,
        heard: Mapping[str, float],
    ) -> Outcome:
        """Keep an answer.

        Raises:
            Refused: no such trial or choice, or a sound was not heard.
        """
        trials = self._trials(listener)
        if not 0 <= place < len(trials):
            raise Refused("there is no such question")
        if choice not in self.test.choices:
            raise Refused("this cannot be answered here")
        trial = trials[place]
        letters = LETTERS[: len(trial.slots)]
        needed = needed_s(self.test.items[trial.item].seconds) - _TOLERANCE_S
        if set(heard) != set(letters) or any(heard[letter] < needed for letter in letters):
            raise Refused("not every sound was heard")
        return self.store.answer(Answer(listener.number, place, answer_id, choice, heard))

    def sound(self, listener: Listener, name: str) -> Path | None:
        """The file of a sound that belongs to the listener's present question, or the level noise.

        Names are compared with the few that there are; no path is ever made of what was asked for.
        """
        if hmac.compare_digest(name.encode(), LEVEL.encode()):
            return self.folder / SOUNDS / self.test.level
        trials, done = self._trials(listener), self.store.done(listener.number)
        if done >= len(trials):
            return None
        trial, found = trials[done], None
        for slot, side in enumerate(trial.slots):
            if hmac.compare_digest(name.encode(), self._id(listener, done, slot).encode()):
                found = self.folder / SOUNDS / self.test.items[trial.item].sounds[side]
        return found

    def _trials(self, listener: Listener) -> tuple[Trial, ...]:
        if listener.number not in self._plans:
            self._plans[listener.number] = plan(self.test, listener.number)
        return self._plans[listener.number]

    def _id(self, listener: Listener, place: int, slot: int) -> str:
        text = f"{listener.number}/{place}/{slot}".encode()
        return hmac.new(self.store.key, text, hashlib.sha256).hexdigest()[:32]
