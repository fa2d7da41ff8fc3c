"""Many adapters on one base: any blend of them for each row of a batch, exactly, without reloading.

    mixer = Mixer(bundle)
    mixer.add("jazz", Path("runs/jazz")); mixer.add("lofi", Path("runs/lofi"))
    with mixer.use(mixer.weights([{"jazz": 1}, {"jazz": 0.3, "lofi": 0.7}, {}])):
        bundle.generate_codes(prompts, ...)

The layers that adapters can change are wrapped once, with room for the factors of all adapters. To add,
remove or replace one copies numbers; what rows ask for is a small tensor of weights. Nothing of that
changes a shape, so that a compiled step goes on as it was compiled.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from tunesmith.errors import UserError, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.methods import lora
from tunesmith.serve._bank import Bank
from tunesmith.serve._opened import Opened, open_adapter
from tunesmith.serve._plan import Plan
from tunesmith.serve._rows import Current, Rows, times
from tunesmith.serve._whole import Whole
from tunesmith.types import Details


class Mixer:
    """Adapters of one base, any of which each row of a batch can have.

    One thread calls the model, and ``use``, ``set_rows`` and ``weights`` with it; ``add`` and ``remove``
    may be called from others meanwhile. Low-rank adapters blend with anything. A row can have one
    bottleneck and one prefix beside them. A slot that was let go of is given away when no row asks for
    it any more, so what runs ends as it began.

    Args:
        bundle: the base; its layers are wrapped in place, and nothing else may be attached to it.
        slots: adapters at a time.
        rank: the largest of one adapter.
        ranks: of all adapters together. By default as many as there can be, of which a step computes
            those in use. A number makes that many the cost of each step, used or not, and every step
            the same: what a CUDA graph needs.
        targets: which linears of the sites are wrapped; an adapter of others is refused.

    Raises:
        UserError: something is attached to the base already.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        slots: int = 16,
        rank: int = 64,
        ranks: int = 0,
        targets: Sequence[str] = lora.TARGETS,
    ) -> None:
        if slots < 1 or rank < 1 or ranks < 0:
            raise UserError(f"{slots} slots of rank {rank} are none", "give at least 1 of each")
        self.bundle, self.slots, self.rank = bundle, slots, rank
        self._lock = threading.RLock()
        self._current = Current()
        self._plan = Plan(slots, rank, ranks)
        self._names: dict[str, int] = {}
        self._opened: dict[int, Opened] = {}
        self._retired: set[int] = set()
        self._asked: frozenset[int] = frozenset()
        self._static: Rows | None = None
        self._version = 0
        self._whole = Whole()
        self._bank = Bank(bundle, slots, self._plan.ranks, self._current, targets)
        self._encode_text = bundle.encode_text
        bundle.encode_text = self._encoded  # type: ignore[method-assign]

    # --- adapters ---

    @property
    def names(self) -> Mapping[str, Path]:
        """``{name: folder}`` of what rows can ask for."""
        with self._lock:
            return MappingProxyType(
                {name: self._opened[slot].folder for name, slot in self._names.items()}
            )

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter, or replace the one of that name.

        Rows that run with the one before keep it if there is a free slot for the new one.

        Args:
            name: what rows ask for.
            folder: with ``adapter.json``.

        Raises:
            UserError: the adapter is of another base, torn, of a kind or size that cannot be mixed, or
                there is no free slot; nothing has changed then.
        """
        folder = Path(folder)
        # Hashes take half of the time, and another core can have it: the slot is nobody's until they agree.
        with ThreadPoolExecutor(1) as pool:
            hashes = pool.submit(self._whole.check, folder)
            opened = open_adapter(name, folder, self.bundle, self._bank.table)
            self._check(name, opened)
            with self._lock:
                self._reclaim()
                slot = self._free_slot(name, opened, hashes.result)
                try:
                    self._bank.write(slot, opened, self._plan.take(slot, opened.rank))
                    hashes.result()
                except BaseException:
                    self._empty(slot)
                    raise
                old = self._names.get(name)
                if old is not None and old != slot:
                    self._retired.add(old)
                self._opened[slot] = opened
                self._version += 1
                self._names[name] = slot
        opened.release()

    def remove(self, name: str) -> None:
        """Forget an adapter; rows that run with it keep it to their end.

        Raises:
            UserError: no such adapter.
        """
        with self._lock:
            self._retired.add(self._slot(name))
            del self._names[name]
            self._reclaim()

    def _slot(self, name: str) -> int:
        if name not in self._names:
            known = did_you_mean(name, self._names) if self._names else "none is loaded"
            raise UserError(f"no adapter '{name}'", known)
        return self._names[name]

    def _check(self, name: str, opened: Opened) -> None:
        if opened.rank > self.rank:
            raise UserError(
                f"{name} has rank {opened.rank}, and there is room for {self.rank}",
                f"start with rank={opened.rank}, or cut it down: tunesmith blend {name}=1 --rank "
                f"{self.rank}",
            )
        self._bank.check(name, opened)

    def _reclaim(self) -> None:
        """Give up the slots that nobody names and no row asks for."""
        for slot in sorted(self._retired - self._asked):
            self._empty(slot)

    def _free_slot(self, name: str, opened: Opened, sure: Callable[[], None]) -> int:
        """A slot and its ranks. If all are taken, the one of the adapter that is replaced, emptied.

        ``sure`` raises if the new one is not whole; asked before the old one goes.

        Raises:
            UserError: there is none, or too few ranks or tokens are left.
        """
        taken = self._opened.keys()
        free = next((slot for slot in range(self.slots) if slot not in taken), None)
        old = self._names.get(name)
        usable = old if old is not None and old not in self._asked else None
        if free is not None and self._plan.room(opened.rank):
            slot = free
        elif usable is not None and self._plan.room(opened.rank, usable):
            slot = usable
        else:
            what = f"{self.slots} slots are" if free is None else f"{self._plan.ranks} ranks are"
            raise UserError(
                f"no room for {name}: all {what} taken", "remove an adapter, or start with more"
            )
        self._bank.room_for_words(opened)
        if slot == usable:
            sure()
            self._empty(slot)
        return slot

    def _empty(self, slot: int) -> None:
        self._plan.free(slot)
        self._bank.empty(slot)
        self._opened.pop(slot, None)
        self._retired.discard(slot)
        self._version += 1

    # --- rows ---

    def weights(self, rows: Sequence[Mapping[str, float]]) -> Tensor:
        """``[rows, slots]`` on the CPU, from ``{name: weight}`` of each row; an empty one is the base.

        They stay right while the rows run. Those of rows that wait are to be asked for when they begin.

        Raises:
            UserError: an unknown name, a weight that is no number, or adapters that no row can have at
                once.
        """
        with self._lock:
            found = torch.zeros(len(rows), self.slots)
            for number, wanted in enumerate(rows):
                for name, weight in wanted.items():
                    slot = self._slot(name)
                    if not math.isfinite(weight):
                        raise UserError(f"the weight of {name} is {weight}", "give a plain number")
                    if weight < 0 and self._opened[slot].method == "prefix":
                        raise UserError(f"a prefix has no strength {weight:g}", "give 0 or more")
                    found[number, slot] = weight
                self._compatible({name: weight for name, weight in wanted.items() if weight})
        return found

    def _compatible(self, wanted: Mapping[str, float]) -> None:
        reasons = {
            "bottleneck": "each is a function of what the other would change",
            "prefix": "each was trained to be all that is attended to beside the sound",
        }
        for kind, reason in reasons.items():
            names = [name for name in wanted if self._opened[self._names[name]].method == kind]
            if len(names) > 1:
                raise UserError(
                    f"{' and '.join(names)} cannot be mixed: both are of method {kind}, and {reason}",
                    "ask for one of them; low-rank adapters can stand beside it",
                )

    @contextmanager
    def use(self, weights: Tensor) -> Iterator[None]:
        """The rows of the batches inside; a batch of ``k·n`` rows has them k times, as guidance does.

        Captions that are encoded inside have a row each.

        Args:
            weights: ``[n, slots]``, of :meth:`weights`.
        """
        with self._lock:
            before, asked = self._current.rows, self._asked
            self._current.rows = self._rows(weights)
            if before is not None:  # those rows go on afterwards
                self._asked |= asked
        try:
            yield
        finally:
            with self._lock:
                self._current.rows = before
                if before is not None:
                    self._asked = asked

    def set_rows(self, weights: Tensor) -> None:
        """The rows of all batches that follow, for a compiled or captured step.

        Weights are copied into tensors that stay where they are as long as the number of rows does, and
        the number of ranks in use (in powers of two; fixed with ``ranks``).

        Args:
            weights: ``[n, slots]``, of :meth:`weights`.
        """
        weights = weights.cpu()
        # Tensors that were made in inference mode could not be written to outside of it.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            used = self._ask(weights)
            new = self._plan.static(weights, used)
            self._kinds(new, weights, used)
            kept = self._static
            if kept is not None and _fits(kept, new):
                for name in ("weights", "tokens", "ranks"):
                    tensor = getattr(kept, name)
                    if tensor is not None:
                        tensor.copy_(getattr(new, name))
                kept.bottlenecks, kept.prefixes = new.bottlenecks, new.prefixes
            else:
                self._static = kept = _moved(new, self.bundle.device)
            self._current.rows = kept

    def _ask(self, weights: Tensor) -> frozenset[int]:
        """Note which slots rows ask for; those of adapters that were let go of may now be free."""
        if weights.dim() != 2 or weights.shape[1] != self.slots:
            raise ValueError(
                f"weights {list(weights.shape)}, where [rows, {self.slots}] are wanted"
            )
        self._asked = frozenset(weights.any(dim=0).nonzero().flatten().tolist())
        return self._asked

    def _rows(self, weights: Tensor) -> Rows | None:
        weights = weights.cpu()
        used = self._ask(weights)
        if not used:
            return None if not self._opened else _moved(_base(weights), self.bundle.device)
        # On a GPU a product for each row costs a launch each.
        rows = self._plan.rows(weights, used, self._version, self.bundle.device.type == "cpu")
        self._kinds(rows, weights, used)
        return _moved(rows, self.bundle.device)

    def _kinds(self, rows: Rows, weights: Tensor, used: frozenset[int]) -> None:
        """Fill in what is not low-rank, of the slots that any row asks for."""
        kinds: dict[str, list[int]] = {}
        for slot, opened in self._opened.items():
            if slot in used:
                kinds.setdefault(opened.method, []).append(slot)
        rows.bottlenecks = tuple(sorted(kinds.get("bottleneck", ())))
        if prefixes := kinds.get("prefix"):
            strengths = weights[:, prefixes].tolist()
            rows.prefixes = tuple(
                next(((s, w) for s, w in zip(prefixes, row, strict=True) if w), (-1, 0.0))
                for row in strengths
            )
        whole = [slot for slot, opened in self._opened.items() if opened.whole_tokens]
        rows.tokens = weights.clone()
        rows.tokens[:, whole] = (weights[:, whole] != 0).float()

    def _encoded(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        """``encode_text`` of the base, which reads captions one at a time: each with its own row."""
        with self._lock:
            rows = self._current.rows
            if rows is None or len(rows.weights) == 1:
                return self._encode_text(captions, *(() if details is None else (details,)))
            times(len(captions), len(rows.weights))
            weights, asked, found = rows.weights.cpu(), self._asked, []
            try:
                for number, caption in enumerate(captions):
                    row = number % len(weights)
                    self._current.rows = self._rows(weights[row : row + 1])
                    more = () if details is None else (details[number : number + 1],)
                    found += self._encode_text([caption], *more)
            finally:
                self._current.rows, self._asked = rows, asked
            return found

    # --- prompts ---

    def prompt(self, text: str, adapters: Mapping[str, float]) -> str:
        """A prompt as these adapters want to be asked: with their trained tokens, where it names them.

        A token that several have is all of theirs; ``name:[token]`` is that of one.

        Raises:
            UserError: an unknown name.
        """
        with self._lock:
            slots = {name: self._slot(name) for name, weight in adapters.items() if weight}
            return self._bank.written(text, slots)

    def details(self, adapters: Mapping[str, float]) -> Details:
        """What the base is told beside a prompt, where the prompt's own details do not say it.

        An adapter of a voice keeps the speaker's vector on its card; of several it is the weighted mean.

        Raises:
            UserError: an unknown name.
        """
        found: dict[str, list[Tensor]] = {}
        with self._lock:
            for name, weight in adapters.items():
                for key, value in self._opened[self._slot(name)].conditioning.items():
                    if weight and key in self.bundle.columns and isinstance(value, list):
                        found.setdefault(key, []).append(weight * torch.tensor(value))
        return {
            key: json.dumps(torch.stack(some).sum(dim=0).tolist()) for key, some in found.items()
        }

    def detach(self) -> None:
        """Take everything off; the base is bit for bit what it was."""
        with self._lock:
            self._current.rows = self._static = None
            del self.bundle.encode_text  # the class's own is behind it
            self._bank.detach()
            self._names, self._opened = {}, {}


def _base(weights: Tensor) -> Rows:
    """Rows that ask for nothing; trained words, too, are there at strength 0."""
    return Rows(weights, weights, used=frozenset())


def _moved(rows: Rows, device: torch.device) -> Rows:
    for name in ("weights", "tokens", "ranks", "index"):
        tensor = getattr(rows, name)
        if tensor is not None:
            setattr(rows, name, tensor.to(device))
    return rows


def _fits(kept: Rows, new: Rows) -> bool:
    """Whether the tensors of one can take the values of the other."""
    same = kept.weights.shape == new.weights.shape and kept.begin == new.begin
    if kept.ranks is None or new.ranks is None:
        return same and kept.ranks is new.ranks
    return same and kept.ranks.shape == new.ranks.shape


__all__ = ["Mixer"]
