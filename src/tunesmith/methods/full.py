"""Full fine-tuning: the base's own weights train.

It moves furthest and forgets most, hence its defaults: a rate 10 to 100 times below pre-training,
few epochs, weight decay, early stopping. Only what changed is saved, and loaded by replacement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import Fault, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State, frozen, match_keys

SPEC = {
    "summary": "full fine-tuning: all weights of the chosen components train",
    "roles": [],
    "linear": True,
    "needs": "500 recordings or more (5000 at best); the most memory",
    "identity_at_start": True,
    "saves_changes_only": True,
    # What it must reach on one clip and a tiny model: the contract suite holds it to this.
    "overfits": {"lr": 1e-2, "steps": 300, "share": 0.95, "regenerates": True},
}


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``method: full``.

    Attributes:
        components: which parts of the model train (MusicGen has decoder, conditioner and
            text_encoder); empty means all that generate, which is all but the text encoder.
    """

    components: tuple[str, ...] = ()


def _chosen(bundle: Bundle, config: Config) -> tuple[str, ...]:
    return config.components or tuple(name for name in bundle.components if name != "text_encoder")


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    return [
        Fault(
            "method.components", f"the base has no '{name}'", did_you_mean(name, bundle.components)
        )
        for name in config.components
        if name not in bundle.components
    ]


def parameter_count(bundle: Bundle, config: Config) -> int:
    """How many parameters will train."""
    return sum(
        p.numel() for name in _chosen(bundle, config) for p in bundle.components[name].parameters()
    )


def attach(bundle: Bundle, config: Config, seed: int | None = 0) -> FullAdapter:
    """Let the chosen components train. ``seed`` is unused: the start is the base itself."""
    return FullAdapter(bundle, config)


class FullAdapter(Adapter):
    """The chosen components' own parameters, and a copy of what they were."""

    method = "full"
    linear = True

    def __init__(self, bundle: Bundle, config: Config) -> None:
        self.config = config
        self._parameters: dict[str, nn.Parameter] = {}
        for component in _chosen(bundle, config):
            for name, parameter in bundle.components[component].named_parameters():
                parameter.requires_grad_(True)
                self._parameters[f"{component}/{name}"] = parameter
        # On the CPU: the way back costs no memory where memory is scarce.
        self._origin = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in self._parameters.items()
        }
        self._target: dict[str, Tensor] | None = None

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._parameters)

    def _trained(self) -> Mapping[str, Tensor]:
        return self._target if self._target is not None else self._parameters

    def state(self) -> State:
        state: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self._trained().items():
            component, path = name.split("/", 1)
            value = tensor.detach().cpu()
            if not torch.equal(value, self._origin[name]):
                state.setdefault(component, {})[path] = value.clone().contiguous()
        return state

    def load_state(self, state: State) -> None:
        given = {
            f"{part}/{path}": value
            for part, tensors in state.items()
            for path, value in tensors.items()
        }
        # Unchanged tensors are not saved, so missing ones are the base's; foreign ones are faults.
        known = {name: self._origin[name] for name in given if name in self._origin}
        match_keys("the model", known, given)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(given.get(name, self._origin[name]))
        self._target = None

    def set_strength(self, strength: float) -> None:
        if self._target is None:
            self._target = {
                name: p.detach().to("cpu", copy=True) for name, p in self._parameters.items()
            }
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                origin, target = self._origin[name], self._target[name]
                # The ends are copies, not sums, so that 0 and 1 are exact.
                exact = {0.0: origin, 1.0: target}.get(float(strength))
                parameter.copy_(
                    exact if exact is not None else origin + strength * (target - origin)
                )

    def merge(self) -> None:
        frozen(self._parameters.values())
        self._parameters, self._origin, self._target = {}, {}, None

    def detach(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._origin[name])
        self.merge()

    def peft_config(self, component: str) -> Mapping[str, Any] | None:
        return None
