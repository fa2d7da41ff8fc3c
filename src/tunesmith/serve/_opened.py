"""An adapter read from the disk and checked against a base, before anything of it touches the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import TASK, beside_of, check_base, method_of
from tunesmith.formats.blend import TOKENS, Part, low_rank
from tunesmith.methods import bottleneck, prefix, textual_inversion
from tunesmith.serve._mapped import mapped_files

_KNOWN = ("bottleneck", "prefix", "textual_inversion")
_BROKEN = "download or copy the adapter again"


@dataclass(slots=True)
class Opened:
    """What an adapter consists of.

    Attributes:
        folder: where it was read.
        method: its name.
        factors: ``{component/path: (A [r, k], B [d, r])}``, scales in B.
        bottlenecks: ``{component/path: {down.weight, down.bias, up.weight, up.bias}}``.
        activation: of the bottlenecks.
        prefixes: ``{component/path of an attention: [2·H, P, d]}``, keys before values.
        states: ``[1, P, D]`` of a prefix before the conditioning.
        tokens: ``{token: (start [V, d], rows [V, d])}``.
        whole_tokens: they are there or not, and do not fade with the adapter's weight.
        conditioning: what the base is told beside a prompt, as the card says it.
    """

    folder: Path
    method: str
    factors: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    bottlenecks: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    activation: Any = None
    prefixes: dict[str, Tensor] = field(default_factory=dict)
    states: Tensor | None = None
    tokens: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    whole_tokens: bool = False
    conditioning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest of its linears; 0 if it changes none."""
        return max((down.shape[0] for down, _ in self.factors.values()), default=0)

    def release(self) -> None:
        """Let go of the tensors: they lie in a slot now."""
        self.factors, self.bottlenecks, self.prefixes, self.tokens = {}, {}, {}, {}
        self.states = None


def open_adapter(name: str, folder: Path, bundle: Bundle, table: Any) -> Opened:
    """Read an adapter that is whole and of this base; the hashes of its files are not looked at.

    Args:
        name: what it is called in messages.
        folder: a run's folder with ``adapter.json``.
        bundle: the base.
        table: the base's own text embedding; None if it has none.

    Raises:
        UserError: another base, torn or foreign files, or a kind that cannot be mixed, with the reason.
    """
    card = check_base(folder, bundle)
    place = folder / "adapter.json"
    config = method_of(card, place)[1]
    kind = str(card["method"]["name"])
    if card.get(TASK):
        raise UserError(
            f"{name} was trained for the task {card[TASK].get('name')}, which widens what the base takes "
            "in: rows without it could not share a batch",
            "serve it alone: `tunesmith generate --adapter`",
        )
    state, factors = mapped_files(folder), {}
    if kind not in _KNOWN:  # says what is not low-rank, and why it cannot be mixed
        factors = low_rank(Part(name, folder, 1.0), state, flat=True)[1]
    found = Opened(folder, kind, conditioning=card.get("conditioning") or {})
    try:
        if kind == "bottleneck":
            _bottlenecks(found, bundle, state, config)
        elif kind == "prefix":
            _prefixes(found, bundle, state, config)
        elif kind == "textual_inversion":
            _tokens(found, bundle, state, config, table)
        else:
            found.factors = factors
        for one in beside_of(card, place):
            found.whole_tokens = True
            _tokens(found, bundle, state, one.config, table)
    except KeyError as error:
        raise UserError(f"{name} lacks the tensor {error.args[0]}", _BROKEN) from None
    parts = (found.factors, found.bottlenecks, found.prefixes, found.tokens)
    if not any(parts) and found.states is None:
        raise UserError(f"{name} has no tensor of its method, '{kind}'", _BROKEN)
    _finite(name, found)
    return found


def _bottlenecks(found: Opened, bundle: Bundle, state: Any, config: Any) -> None:
    found.activation = bottleneck.ACTIVATIONS[config.activation]
    shapes = {
        "down.weight": lambda d: (config.width, d),
        "down.bias": lambda d: (config.width,),
        "up.weight": lambda d: (d, config.width),
        "up.bias": lambda d: (d,),
    }
    for site in bottleneck.sites(bundle, config):
        tensors = state[site.component]
        parts = {part: tensors[f"{site.output}.{part}"].float() for part in shapes}
        for part, shape in shapes.items():
            _same(f"{site.output}.{part}", parts[part], shape(site.width))
        found.bottlenecks[f"{site.component}/{site.output}"] = parts


def _prefixes(found: Opened, bundle: Bundle, state: Any, config: Any) -> None:
    for place, shape in prefix.shapes(bundle, config).items():
        component, path = place.split("/", 1)
        if config.placement == "input":
            _same(place, state[component][path], shape[1:])
            found.states = state[component][path][None]
            continue
        tensors = state[component]
        both = torch.cat([tensors[f"{path}.keys"], tensors[f"{path}.values"]])
        _same(place, both, shape)
        found.prefixes[place] = both


def _tokens(found: Opened, bundle: Bundle, state: Any, config: Any, table: Any) -> None:
    if table is None:
        raise UserError(f"family {bundle.family} has no text embedding", "use another adapter")
    for token, start in textual_inversion.starts(bundle, config, table).items():
        rows = state[TOKENS][token]
        _same(token, rows, start.shape)
        found.tokens[token] = (start, rows.float())


def _same(what: str, tensor: Tensor, shape: Any) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(
            f"{what} has shape {list(tensor.shape)}, not {list(shape)}",
            "the adapter was made for a base of another size",
        )


def _finite(name: str, found: Opened) -> None:
    """Nothing that is not a number: with the weight 0 it would still reach every row of a batch."""
    tensors = [one for pair in (*found.factors.values(), *found.tokens.values()) for one in pair]
    tensors += [one for parts in found.bottlenecks.values() for one in parts.values()]
    tensors += [*found.prefixes.values(), *([] if found.states is None else [found.states])]
    # A sum is finite where all is, and a fifth of the work of asking each number.
    sums = [one.sum(dtype=torch.float32) for one in tensors]
    if sums and not bool(torch.stack(sums).isfinite().all()):
        raise UserError(f"{name} has weights that are not finite", "train it again, from earlier")


__all__ = ["Opened", "open_adapter"]
