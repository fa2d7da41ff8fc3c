"""Adapters exchanged at run time: the base is loaded once and put back bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.errors import UserError, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import attach_saved, check_base, find_adapter, load_adapter
from tunesmith.formats.blend import Part, blended
from tunesmith.methods._adapter import Adapter


@dataclass(slots=True)
class Switch:
    """Named adapters of one base, of which any one, or any blend of low-rank ones, is attached.

    Attributes:
        bundle: the base.
        folders: ``{name: folder}`` of what can be selected.
        selected: ``{name: weight}`` of what is.
        adapter: what is attached: the selected one, or the blend of those; None is the base.
    """

    bundle: Bundle
    folders: dict[str, Path] = field(default_factory=dict)
    selected: dict[str, float] = field(default_factory=dict)
    adapter: Adapter | None = None
    _put_back: Callable[[], None] | None = field(default=None, repr=False)

    def add(self, name: str, folder: str | Path | None = None) -> Path:
        """Make an adapter selectable; nothing is attached yet.

        Args:
            name: what to call it.
            folder: a run's folder, a file in one, or another name of it; ``name`` itself by default.

        Raises:
            UserError: the name is taken, or the adapter is not there or of another base.
        """
        if name in self.folders:
            raise UserError(f"'{name}' is already there", "remove it first, or use another name")
        found = find_adapter(str(folder if folder is not None else name))
        check_base(found, self.bundle)
        self.folders[name] = found
        return found

    def adopt(self, name: str, folder: Path | None, adapter: Adapter) -> None:
        """Take over an adapter that is attached already; without a folder it can only be removed."""
        if folder is not None:
            self.folders[name] = folder
        self.adapter, self.selected = adapter, {name: 1.0}

    def select(self, weights: Mapping[str, float]) -> None:
        """Attach these adapters with these weights, and no other; ``{}`` is the base.

        One alone has its weight as its strength. Several are attached as their exact blend, which
        they have to be low-rank for. If that fails, what was selected before is attached again.

        Raises:
            UserError: an unknown name, or adapters that cannot be blended, with the reason.
        """
        for name in weights:
            if name not in self.folders:
                raise UserError(f"no adapter '{name}' was added", did_you_mean(name, self.folders))
        before = dict(self.selected)
        if self.adapter is not None and len(weights) == 1 and weights.keys() == before.keys():
            (weight,) = weights.values()
            self.adapter.set_strength(weight)
            self.selected = dict(weights)
            return
        # A blend is made before anything is taken off: most of what can go wrong goes wrong here.
        parts = [Part(name, self.folders[name], weight) for name, weight in weights.items()]
        made = blended(parts) if len(parts) > 1 else None
        self._clear()
        self._put_back = self.bundle.conditioning_kept()
        try:
            if made is not None:
                self.adapter = attach_saved(self.bundle, made.card, made.state, Path("the blend"))
            elif parts:
                self.adapter = load_adapter(parts[0].folder, self.bundle)
                if parts[0].weight != 1:
                    self.adapter.set_strength(parts[0].weight)
            self.selected = dict(weights)
        except UserError:
            self._clear()
            if before and before.keys() <= self.folders.keys():
                self.select(before)
            raise

    def remove(self, name: str) -> None:
        """Forget an adapter; if it was selected, the others stay as they were."""
        if name not in self.folders:
            raise UserError(f"no adapter '{name}' was added", did_you_mean(name, self.folders))
        if name in self.selected:
            self.select({other: w for other, w in self.selected.items() if other != name})
        del self.folders[name]

    def _clear(self) -> None:
        if self.adapter is not None:
            self.adapter.detach()
        if self._put_back is not None:
            self._put_back()  # an adapter of a voice brings its speaker with it
        self.adapter, self.selected, self._put_back = None, {}, None


__all__ = ["Switch"]
