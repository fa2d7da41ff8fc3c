"""The base that is kept loaded to hear blends on: one at a time, and one take at a time."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import UserError
from tunesmith.studio.work import OnEvent
from tunesmith.training.signals import StopFlag

# The page is there at once; torch comes with the first sound.
if TYPE_CHECKING:
    from tunesmith.api import Model


class Band:
    """Plays prompts on a base with any blend of its adapters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name: tuple[str, str] | None = None
        self._model: Model | None = None
        self._known: dict[str, str] = {}  # label to the hash of what was added under it

    def play(
        self,
        base: str,
        parts: Mapping[str, tuple[Path, float]],
        prompt: str,
        *,
        seconds: float,
        seed: int,
        out: Path,
        stop: StopFlag,
        on_event: OnEvent,
    ) -> Path:
        """One take as a flac file that says what it is made of.

        Args:
            base: its name, where there are no parts; else theirs is taken.
            parts: ``{label: (folder, weight)}``; what weighs nothing is left out.
            prompt: the text.
            seconds: of the take.
            seed: of the take.
            out: the file.
            stop: polled while generating.
            on_event: told the phases.

        Raises:
            UserError: adapters of different bases or that cannot be blended, or a length that the
                base cannot give.
            Stopped: nothing is written.
        """
        if not prompt.strip():
            raise UserError("no prompt", "say what is to be heard")
        if "torch" not in sys.modules:
            on_event("phase", {"name": "loading PyTorch, which takes a while the first time"})
        from tunesmith.formats.sound import write_sound
        from tunesmith.tasks.generate import generate

        weights = {name: weight for name, (_, weight) in parts.items() if weight}
        with self._lock:
            model = self._opened(base, parts, on_event)
            for name in weights:
                self._add(model, name, parts[name][0])
            model.select(weights)
            on_event("phase", {"name": "generating"})
            (take,) = generate(
                model.bundle, [prompt], duration_s=seconds, seed=seed, should_stop=stop
            )
            stop.check("stopped")
            made_of: dict[str, Any] = {"prompt": prompt, "seed": seed, "seconds": seconds}
            write_sound(out, take.audio, made_of | model.origin | {"weights": weights})
        return out

    def _opened(
        self, base: str, parts: Mapping[str, tuple[Path, float]], on_event: OnEvent
    ) -> Model:
        from tunesmith.api import open as open_model
        from tunesmith.evaluation.open import base_of

        bases = {base_of(folder) for folder, _ in parts.values()}
        names = {(one.name, one.quantize) for one in bases} or {(base, "")}
        if len(names) > 1:
            listed = ", ".join(sorted(name for name, _ in names))
            raise UserError(
                f"these adapters are of different bases: {listed}", "blend those of one base"
            )
        (name,) = names
        if self._model is None or self._name != name:
            on_event("phase", {"name": f"loading {name[0]}"})
            self._model, self._known = None, {}  # two bases need not fit
            self._model = open_model(name[0], quantize=name[1])
            self._name = name
        return self._model

    def _add(self, model: Model, name: str, folder: Path) -> None:
        """Make an adapter selectable, anew where its tensors have changed since."""
        from tunesmith.formats.adapter import card_hash

        now = card_hash(folder)
        if self._known.get(name) == now:
            return
        if name in self._known:
            # What is attached is off before its files are forgotten.
            model.select(None)
            model.remove(name)
        model.add(name, folder)
        self._known[name] = now


def triggers(folder: Path) -> list[str]:
    """Words that call for what an adapter was taught."""
    # As plain JSON: that an adapter can be read is checked when it is played.
    try:
        card = json.loads((folder / "adapter.json").read_bytes())
        return [str(word) for word in card.get("trigger_tokens") or ()]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


__all__ = ["Band", "triggers"]
