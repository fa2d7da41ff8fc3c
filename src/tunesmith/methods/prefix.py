"""Prefix tuning (Li & Liang 2021, arXiv:2101.00190): trained vectors that the frozen model attends to.

``layers`` joins trained keys and values in each attention, after the cache and never through it, so
that no position is shifted. ``input`` puts trained vectors before the sequence that cross-attention
reads. Unconditional rows of guidance see the prefix too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import Fault, UserError, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State, frozen, match_keys, not_mergeable, seeded
from tunesmith.methods._prefix_vectors import JoinedKeys, JoinedStates, Trunk, Vectors
from tunesmith.randomness import own_generators
from tunesmith.types import Example, Site

SPEC = {
    "summary": "prefix tuning: trained keys and values, or vectors before the conditioning",
    "roles": ["self_attention", "cross_attention"],
    "linear": False,
    "not_linear": "keys and values that are attended to are no change of any weight matrix",
    "needs": "50-200 recordings at least; very little memory",
    "identity_at_start": False,
    # What it must reach on one clip and a tiny model: the contract suite holds it to this.
    "overfits": {"lr": 3e-2, "steps": 100, "share": 0.2, "regenerates": False},
    "presets": {
        "length": {
            8: "subtle style shifts",
            16: "a genre or an instrument",
            64: "a significant change of domain",
        }
    },
}

_PLACEMENTS = ("layers", "input")
_KEYS, _STATES = "joined", "joined_states"  # the children that a family calls
_STARTS = ("activations", "random")
_INPUT = "conditioner_prefix"  # the component that `placement: input` is saved under
_SPREAD = 0.1  # of the noise on copies, as a share of the spread of what is copied


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``method: prefix``.

    Attributes:
        length: P, vectors a place. 8 for subtle shifts, 16 for a genre or instrument, 64 for a new
            domain.
        placement: layers (keys and values in each attention) or input (vectors before the
            conditioning that cross-attention reads).
        roles: for layers: which attentions; both by default, as Li & Liang have it in models that
            have both: one holds what was heard, the other what was asked for.
        mlp: reparametrise by an MLP while training; it is folded away on save.
        mlp_width: of that MLP's embeddings and hidden layer.
        init: activations (what the base itself attends to while it makes something) or random.
        init_text: the prompt that these activations are taken from.
    """

    length: int = 16
    placement: str = "layers"
    roles: tuple[str, ...] = ("self_attention", "cross_attention")
    mlp: bool = False
    mlp_width: int = 512
    init: str = "activations"
    init_text: str = "music"


def _sites(bundle: Bundle, config: Config) -> list[Site]:
    """The attentions that get keys and values; none for ``placement: input``."""
    if config.placement != "layers":
        return []
    roles = [role for role in config.roles if role in SPEC["roles"]]
    return [site for site in bundle.sites_of(roles) if site.attention and site.heads]


def shapes(bundle: Bundle, config: Config) -> dict[str, tuple[int, int, int]]:
    """``[N, P, d]`` of each place's vectors, by ``component/path``."""
    if config.placement == "input":
        readers = bundle.sites_of(["cross_attention"]) if _reads_states(bundle) else []
        return {
            f"{_INPUT}/states": (1, config.length, _linear(bundle, site).in_features)
            for site in readers[:1]
        }
    return {
        f"{site.component}/{site.attention}": (
            2 * site.heads,
            config.length,
            site.head_size or _linear(bundle, site).out_features // site.heads,
        )
        for site in _sites(bundle, config)
    }


def _linear(bundle: Bundle, site: Site) -> Any:
    """The linear that makes an attention's keys; PEFT's and 4-bit ones tell their sizes as well."""
    return bundle.components[site.component].get_submodule(site.inputs["k"])


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    faults = [
        Fault("method.roles", f"prefix has no use for '{role}'", f"known: {SPEC['roles']}")
        for role in config.roles
        if role not in SPEC["roles"]
    ]
    named = (("placement", config.placement, _PLACEMENTS), ("init", config.init, _STARTS))
    for key, word, known in named:
        if word not in known:
            faults.append(Fault(f"method.{key}", f"no {key} '{word}'", did_you_mean(word, known)))
    for key, number, usual in (
        ("length", config.length, "8, 16, 64"),
        ("mlp_width", config.mlp_width, "512"),
    ):
        if number < 1:
            faults.append(Fault(f"method.{key}", f"{number} is below 1", f"usual: {usual}"))
    if config.init == "activations" and not config.init_text.strip():
        faults.append(
            Fault("method.init_text", "it is empty", "give a prompt, or set method.init to random")
        )
    if faults:
        return faults
    if config.placement == "input" and not _reads_states(bundle):
        faults.append(
            Fault(
                "method.placement",
                f"family {bundle.family} has no conditioning sequence to put vectors before",
                "set it to layers",
            )
        )
    if config.placement == "layers" and not _sites(bundle, config):
        faults.append(
            Fault("method.roles", "no attention of this base can be joined", "use another method")
        )
    most = int(bundle.max_s * bundle.frame_rate_hz)
    if config.placement == "layers" and config.init == "activations" and config.length > most:
        faults.append(
            Fault(
                "method.length",
                f"{config.length} frames are more than the base makes at once ({most})",
                f"give at most {most}, or set method.init to random",
            )
        )
    return faults


def _reads_states(bundle: Bundle) -> bool:
    return hasattr(bundle.module, "joined_states") and bool(bundle.sites_of(["cross_attention"]))


def parameter_count(bundle: Bundle, config: Config) -> int:
    """Σ N·P·d over the places; with an MLP its trunk and a head a place on top."""
    found, width = shapes(bundle, config).values(), config.mlp_width
    total = sum(places * length * size for places, length, size in found)
    if config.mlp:
        total += config.length * width + width * width + width
        total += sum((width + 1) * places * size for places, _, size in found)
    return total


def attach(bundle: Bundle, config: Config, seed: int | None = 0) -> PrefixAdapter:
    """Join a prefix to the base. It starts from what the base attends to, or at random.

    Args:
        bundle: the base.
        config: settings.
        seed: of the start; None computes none (values are to be loaded), and no MLP either.

    Raises:
        UserError: the family lacks the seam.
    """
    if faults := check(bundle, config):
        raise UserError(f"{faults[0].key}: {faults[0].message}", faults[0].mend)
    return PrefixAdapter(bundle, config, seed)


class PrefixAdapter(Adapter):
    """Children named ``joined`` in the attentions, or ``joined_states`` in the loss module."""

    method = "prefix"
    linear = False
    starts_as_base = False

    def __init__(self, bundle: Bundle, config: Config, seed: int | None) -> None:
        self.config = config
        wanted = shapes(bundle, config)
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for name in wanted:
            component, path = name.split("/", 1)
            inside = component != _INPUT
            holder = bundle.components[component].get_submodule(path) if inside else bundle.module
            self._places[name] = (holder, _KEYS if inside else _STATES)
        self._trunk = None
        # Models draw from Python's in their forward pass (MusicGen's layer drop, even in evaluation).
        with own_generators(seed or 0), seeded(seed or 0):
            start = self._start(bundle, wanted, seed)
            if config.mlp and seed is not None:
                self._trunk = Trunk(config.length, config.mlp_width, bundle.device)
            self._vectors = {name: Vectors(start[name], self._trunk) for name in wanted}
        self._joined: list[JoinedKeys | JoinedStates] = []
        for name, (holder, child) in self._places.items():
            kind = JoinedKeys if child == _KEYS else JoinedStates
            self._joined.append(kind(self._vectors[name]))
            setattr(holder, child, self._joined[-1])

    def _start(
        self, bundle: Bundle, shapes: Mapping[str, tuple[int, int, int]], seed: int | None
    ) -> dict[str, Tensor]:
        """Where each place's vectors start: ``[N, P, d]`` float32, on the base's device."""
        if seed is None:
            return {
                name: torch.zeros(shape, device=bundle.device) for name, shape in shapes.items()
            }
        if self.config.init == "random":
            found = {name: torch.randn(shape) for name, shape in shapes.items()}
        else:
            seen = _activations(bundle, self.config, self._places, seed)
            # A second vector of times, and a wrong one, would be believed as much as the right one.
            before = {
                f"{s.component}/{s.attention}": s.leading for s in _sites(bundle, self.config)
            }
            found = {
                name: _of_length(seen[name][:, before.get(name, 0) :], self.config.length)
                for name in shapes
            }
        return {name: value.to(bundle.device) for name, value in found.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        found = {}
        if self._trunk is not None and self._vectors:
            component = next(iter(self._vectors)).split("/")[0]
            for name, parameter in self._trunk.named_parameters():
                found[f"{component}/prefix_mlp.{name}"] = parameter
        for name, vectors in self._vectors.items():
            found[f"{name}.prefix"] = vectors.own
            if vectors.head is not None:
                found |= {f"{name}.{n}": p for n, p in vectors.head.named_parameters("prefix_head")}
        return found

    @torch.no_grad()
    def state(self) -> State:
        state: dict[str, dict[str, Tensor]] = {}
        for name, vectors in self._vectors.items():
            component, path = name.split("/", 1)
            values = vectors().detach().cpu()
            named = {path: values[0]}
            if component != _INPUT:
                keys, values = values.chunk(2)
                named = {f"{path}.keys": keys, f"{path}.values": values}
            more = {key: value.clone().contiguous() for key, value in named.items()}
            state.setdefault(component, {}).update(more)
        return state

    def load_state(self, state: State) -> None:
        mine = self.state()
        for component in sorted(mine.keys() | state.keys()):
            match_keys(component, mine.get(component, {}), state.get(component, {}))
        for name, vectors in self._vectors.items():
            component, path = name.split("/", 1)
            tensors = state[component]
            if component == _INPUT:
                vectors.take(tensors[path][None])
            else:
                vectors.take(torch.cat([tensors[f"{path}.keys"], tensors[f"{path}.values"]]))

    def set_strength(self, strength: float) -> None:
        if strength < 0:
            raise UserError(f"a prefix has no strength {strength:g}", "give 0 or more")
        for joined in self._joined:
            joined.strength = float(strength)

    def merge(self) -> None:
        raise not_mergeable("a prefix", SPEC)

    def detach(self) -> None:
        frozen(self.parameters().values())
        _take_off(self._places)
        self._places, self._vectors, self._joined, self._trunk = {}, {}, [], None


# --- the start ---


class _KeyListener(nn.Module):
    """Joins nothing, and keeps the keys and values of the first row: ``[2·H, S, d]``."""

    seen: Tensor

    def forward(
        self, keys: Tensor, values: Tensor, mask: Tensor | None, queries: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        self.seen = torch.cat([keys[0], values[0]]).detach().float().cpu()
        return keys, values, mask


class _StateListener(nn.Module):
    """Joins nothing, and keeps the states of the first row: ``[1, S, D]``."""

    seen: Tensor

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = states[:1].detach().float().cpu()
        return states, mask


@torch.no_grad()
def _activations(
    bundle: Bundle, config: Config, places: Mapping[str, tuple[nn.Module, str]], seed: int
) -> dict[str, Tensor]:
    """What stands at each place while the base hears P frames of its own: ``[N, S, d]``."""
    frames = config.length if config.placement == "layers" else 1
    (codes,) = bundle.generate_codes(
        [config.init_text], frames / bundle.frame_rate_hz, [seed], bundle.sampling
    )
    (text,) = bundle.encode_text([config.init_text])
    batch = bundle.collate([Example("prefix", codes, text)], [seed]).to(bundle.device)
    listeners = {
        name: _KeyListener() if child == _KEYS else _StateListener()
        for name, (_, child) in places.items()
    }
    was_training = bundle.module.training
    bundle.module.eval()
    try:
        for name, (holder, child) in places.items():
            setattr(holder, child, listeners[name])
        bundle.module(batch)
    finally:
        bundle.module.train(was_training)
        _take_off(places)
    return {name: listener.seen for name, listener in listeners.items()}


def _take_off(places: Mapping[str, tuple[nn.Module, str]]) -> None:
    """No child at any place, as it was before."""
    for holder, child in places.values():
        if child == _KEYS:
            delattr(holder, child)
        else:
            setattr(holder, child, None)  # the seam itself is the family's


def _of_length(values: Tensor, length: int) -> Tensor:
    """``[N, S, d]`` cut or repeated to ``[N, P, d]``, no two of the P equal.

    Copies get a little noise, and so do places that are equal from the start (those that a text does
    not fill): vectors that are equal would get equal gradients, and stay equal.
    """
    tiled = values.repeat(1, -(-length // values.shape[1]), 1)[:, :length].contiguous()
    spread = values.std(dim=(1, 2), keepdim=True)  # keys and values may differ in size by far
    same = (tiled[:, :, None] == tiled[:, None]).flatten(3).all(-1).all(0)  # [P, P]
    copies = same.tril(-1).any(1)
    tiled[:, copies] += _SPREAD * spread * torch.randn_like(tiled[:, copies])
    return tiled


__all__ = ["SPEC", "Config", "PrefixAdapter", "attach", "check", "parameter_count", "shapes"]
