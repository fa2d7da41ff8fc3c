"""What every method hands back once it is attached to a base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import UserError

State = Mapping[str, Mapping[str, Tensor]]
"""``{component: {tensor name: tensor}}``: what an adapter is, apart from its base."""


class Adapter(ABC):
    """A method attached to a base: its parameters, their state, and the ways back.

    Attributes:
        method: the method's name.
        config: the method's configuration.
        linear: whether merging and blending are exact for it.
        starts_as_base: whether the freshly attached model is the base; else the base is this
            adapter at strength 0.
    """

    method: str
    config: Any
    linear: bool
    starts_as_base: bool = True

    def caption(self, text: str) -> str:
        """The caption that a clip is trained and measured with: where a token has to stand in it."""
        return text

    def prompt(self, text: str) -> str:
        """A prompt as this adapter wants to be asked; by default what its clips are captioned with."""
        return self.caption(text)

    def rates(self) -> Mapping[str, float]:
        """Factors of the learning rate for parameters that do not learn at the common one."""
        return {}

    def after_step(self, rate: float) -> None:
        """Called after each optimizer step with its learning rate."""
        return

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters, by a name that is stable across runs: ``component/path``."""

    @abstractmethod
    def state(self) -> State:
        """The tensors to save, per component, on the CPU, detached."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Take over saved tensors.

        Raises:
            UserError: a key is missing or foreign, or a shape differs.
        """

    @abstractmethod
    def set_strength(self, strength: float) -> None:
        """Scale the adapter's effect: 0 is the base, 1 as trained."""

    @abstractmethod
    def merge(self) -> None:
        """Fold the adapter into the base's weights and let go of it.

        Raises:
            UserError: it is not linear, or the base is quantised.
        """

    @abstractmethod
    def detach(self) -> None:
        """Take the adapter off; the base is bit for bit what it was."""

    def peft_config(self, component: str) -> Mapping[str, Any] | None:
        """What PEFT's ``adapter_config.json`` says for a component; None if PEFT cannot hold it."""
        return None


def placed(value: Tensor, parameter: Tensor, *, copy: bool = False) -> Tensor:
    """A whole tensor as a parameter lies: on its device, and split over processes if that is."""
    if not hasattr(parameter, "device_mesh"):
        return value.to(parameter.device, copy=copy)
    from torch.distributed.tensor import distribute_tensor

    like: Any = parameter
    # Everyone has the whole: each takes its part, and nothing is sent.
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def seeded(seed: int) -> torch.random.fork_rng:  # type: ignore[name-defined]
    """A context in which torch's generators start from ``seed`` and are put back afterwards."""
    context = torch.random.fork_rng()

    class _Seeded:
        def __enter__(self) -> None:
            context.__enter__()
            torch.manual_seed(seed)

        def __exit__(self, *details: Any) -> None:
            context.__exit__(*details)

    return _Seeded()


def match_keys(component: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Check that saved tensors fit: same names, same shapes.

    Raises:
        UserError: naming the first key that does not fit.
    """
    missing, foreign = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or foreign:
        kind, keys = ("lacks", missing) if missing else ("has foreign", foreign)
        raise UserError(
            f"the adapter {kind} {len(keys)} tensors of {component} ({keys[0]} ...)",
            "it was made with other settings or another version; use the files as they were saved",
        )
    for name, tensor in wanted.items():
        if tensor.shape != given[name].shape:
            raise UserError(
                f"{component}/{name} has shape {list(given[name].shape)}, not {list(tensor.shape)}",
                "the adapter was made for a base of another size",
            )


def not_mergeable(what: str, spec: Mapping[str, Any]) -> UserError:
    """The refusal to fold what is not linear, with the reason that the method's SPEC gives."""
    return UserError(
        f"{what} cannot be merged: {spec['not_linear']}",
        "keep the adapter beside the base; generate takes both",
    )


def frozen(parameters: Iterable[nn.Parameter]) -> None:
    """Switch gradients off."""
    for parameter in parameters:
        parameter.requires_grad_(False)
