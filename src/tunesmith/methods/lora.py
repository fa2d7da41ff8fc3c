"""LoRA (Hu et al. 2021, arXiv:2106.09685): W' = W + s·BA, with A ``[r, k]`` and B ``[d, r]``.

s = alpha / r, or alpha / √r with rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). DoRA (Liu et al.
2024, arXiv:2402.09353) trains each row's magnitude apart from its direction. Stands on PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from tunesmith.errors import Fault, UserError
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State, match_keys, seeded
from tunesmith.types import Site

SPEC = {
    "summary": "low-rank adapters on attention (and feed-forward on request), through PEFT",
    "roles": ["self_attention", "cross_attention", "feed_forward"],
    "linear": True,
    "needs": "50-200 recordings at least (500 at best); little memory",
    "identity_at_start": True,
    # What it must reach on one clip and a tiny model: the contract suite holds it to this.
    "overfits": {"lr": 1e-2, "steps": 150, "share": 0.2, "regenerates": False},
    "presets": {
        "rank": {
            4: "subtle style shifts",
            16: "a genre or an instrument",
            64: "a significant change of domain",
            128: "near full fine-tuning",
        }
    },
}

TARGETS = ("q", "k", "v", "o", "up", "down")
_NAME = "default"
_PREFIX = "base_model."  # what PEFT puts before a name when a whole model is saved


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``method: lora``.

    Attributes:
        rank: r. 4 for subtle shifts, 16 for a genre or instrument, 64 for a new domain, 128 near full.
        alpha: numerator of the scale; 0 means the rank itself (scale 1, or √r with rsLoRA).
        dropout: of the adapter's input, while training.
        rslora: scale by alpha/√r, which keeps high ranks from learning slower.
        dora: train magnitudes apart; slower, often better at low ranks.
        targets: which linears: q, k, v, o of attentions, up, down of feed-forwards.
        roles: which seams; self_attention, cross_attention, feed_forward.
    """

    rank: int = 16
    alpha: float = 0.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    targets: tuple[str, ...] = ("q", "k", "v")
    roles: tuple[str, ...] = ("self_attention", "cross_attention", "feed_forward")

    @property
    def scale(self) -> float:
        """s in W + s·BA."""
        alpha = self.alpha or float(self.rank)
        return alpha / (self.rank**0.5 if self.rslora else self.rank)


def _outputs(site: Site) -> str:
    return "down" if site.role == "feed_forward" else "o"


def target_paths(bundle: Bundle, config: Config) -> dict[str, list[str]]:
    """``{component: [path of each linear that gets an adapter]}``."""
    found: dict[str, list[str]] = {}
    for site in bundle.sites_of(config.roles):
        if site.role not in SPEC["roles"]:
            continue
        named = dict(site.inputs) | ({_outputs(site): site.output} if site.output else {})
        paths = [path for short, path in named.items() if short in config.targets]
        found.setdefault(site.component, []).extend(paths)
    return {component: paths for component, paths in found.items() if paths}


def _shape(bundle: Bundle, component: str, path: str) -> tuple[int, int]:
    """``(d, k)`` of a linear."""
    weight: Any = bundle.components[component].get_submodule(path).weight
    return int(weight.shape[0]), int(weight.shape[1])


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    faults = []
    for target in config.targets:
        if target not in TARGETS:
            faults.append(
                Fault("method.targets", f"no target '{target}'", f"known: {', '.join(TARGETS)}")
            )
    for role in config.roles:
        if role not in SPEC["roles"]:
            faults.append(
                Fault("method.roles", f"lora has no use for '{role}'", f"known: {SPEC['roles']}")
            )
    if config.rank < 1:
        faults.append(Fault("method.rank", f"{config.rank} is below 1", "usual: 4, 16, 64, 128"))
    if not 0 <= config.dropout < 1:
        faults.append(
            Fault("method.dropout", f"{config.dropout} is not in 0..1", "usual: 0 to 0.1")
        )
    if config.alpha < 0:
        faults.append(Fault("method.alpha", f"{config.alpha} is below 0", "usual: the rank"))
    paths = target_paths(bundle, config)
    if not paths and not faults:
        faults.append(
            Fault("method.targets", "no linear of this base is chosen", "usual: [q, k, v]")
        )
    sizes = {min(_shape(bundle, part, path)): path for part, some in paths.items() for path in some}
    if sizes and config.rank > min(sizes):
        smallest = min(sizes)
        faults.append(
            Fault(
                "method.rank",
                f"rank {config.rank} is above the layer's size {smallest} ({sizes[smallest]})",
                f"give at most {smallest}",
            )
        )
    return faults


def attach(bundle: Bundle, config: Config, seed: int | None = 0) -> LoraAdapter:
    """Put adapters on the base; B starts at zero, so the model is the base exactly."""
    return LoraAdapter(bundle, config, seed or 0)


class LoraAdapter(Adapter):
    """PEFT tuners on the components, one each."""

    method = "lora"

    def __init__(self, bundle: Bundle, config: Config, seed: int) -> None:
        self.config = config
        # DoRA normalises by the merged weight: the sum of two is not the effect of both.
        self.linear = not config.dora
        self._tuners: dict[str, LoraModel] = {}
        with seeded(seed):
            for component, paths in target_paths(bundle, config).items():
                module = bundle.components[component]
                self._tuners[component] = LoraModel(module, self._lora_config(paths), _NAME)

    def _lora_config(self, paths: list[str]) -> LoraConfig:
        return LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha or self.config.rank,  # type: ignore[arg-type]
            lora_dropout=self.config.dropout,
            use_rslora=self.config.rslora,
            use_dora=self.config.dora,
            target_modules=list(paths),
            bias="none",
        )

    def _layers(self) -> list[LoraLayer]:
        return [
            m
            for tuner in self._tuners.values()
            for m in tuner.model.modules()
            if isinstance(m, LoraLayer)
        ]

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{component}/{name.replace(f'.{_NAME}', '')}": parameter
            for component, tuner in self._tuners.items()
            for name, parameter in tuner.model.named_parameters()
            if parameter.requires_grad
        }

    def state(self) -> State:
        return {
            component: {
                f"{_PREFIX}{name}": value.detach().cpu().clone().contiguous()
                for name, value in get_peft_model_state_dict(tuner, adapter_name=_NAME).items()
            }
            for component, tuner in self._tuners.items()
        }

    def load_state(self, state: State) -> None:
        mine = self.state()
        if foreign := sorted(state.keys() - mine.keys()):
            match_keys(foreign[0], {}, state[foreign[0]])
        for component, tensors in mine.items():
            match_keys(component, tensors, state.get(component, {}))
            named = {name.removeprefix(_PREFIX): value for name, value in state[component].items()}
            set_peft_model_state_dict(self._tuners[component], named, adapter_name=_NAME)

    def set_strength(self, strength: float) -> None:
        if self.config.dora:
            # DoRA's magnitudes apply to W + BA as a whole, so scaling BA would not lead to the base.
            if strength not in (0, 1):
                raise UserError(f"a DoRA adapter has no strength {strength:g}", "give 0 or 1")
            for layer in self._layers():
                layer.enable_adapters(bool(strength))
            return
        for layer in self._layers():
            layer.set_scale(_NAME, strength)

    def merge(self) -> None:
        if any(layer.disable_adapters for layer in self._layers()):
            self.detach()  # at strength 0 of a DoRA; merging would bring it back
        for tuner in self._tuners.values():
            tuner.merge_and_unload(safe_merge=True)
        self._tuners = {}

    def detach(self) -> None:
        for tuner in self._tuners.values():
            tuner.unload()
        self._tuners = {}

    def peft_config(self, component: str) -> Mapping[str, Any] | None:
        config = self._tuners[component].peft_config[_NAME].to_dict()
        targets = config["target_modules"]
        config["target_modules"] = sorted(targets) if not isinstance(targets, str) else targets
        return {
            key: getattr(value, "value", value)
            for key, value in config.items()
            if not callable(value)
        }


def delta(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """ΔW = s·BA of each linear, from one component's saved tensors: ``{path: [d, k]}``."""
    found = {}
    for name, down in state.items():
        if name.endswith(".lora_A.weight"):
            root = name.removesuffix(".lora_A.weight")
            up = state[f"{root}.lora_B.weight"]
            found[root.removeprefix(f"{_PREFIX}model.")] = config.scale * (up @ down)
    return found


def parameter_count(bundle: Bundle, config: Config) -> int:
    """Σ r·(d + k) over the chosen linears."""
    total = 0
    for component, paths in target_paths(bundle, config).items():
        for path in paths:
            rows, columns = _shape(bundle, component, path)
            total += config.rank * (rows + columns) + (rows if config.dora else 0)
    return total


__all__ = [
    "SPEC",
    "Config",
    "LoraAdapter",
    "attach",
    "check",
    "delta",
    "parameter_count",
    "target_paths",
]
