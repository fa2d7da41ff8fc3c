"""LoRA (Hu et al. 2021, arXiv:2106.09685): W' = W + s·BA, with A ``[r, k]`` and B ``[d, r]``.

s = alpha / r, or alpha / √r with rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). DoRA (Liu et al.
2024, arXiv:2402.09353) trains each row's magnitude apart from its direction. Stands on PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from tunesmith.errors import Fault, UserError
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State, match_keys, seeded
from tunesmith.methods._lora_linear import LoraLinear
from tunesmith.methods._lora_targets import (
    ROLES,
    TARGETS,
    Config,
    linears,
    nearest,
    shape,
    target_paths,
)
from tunesmith.methods._low_rank import Factors, padded

SPEC = {
    "summary": "low-rank adapters on attention (and feed-forward on request), through PEFT",
    "roles": ["self_attention", "cross_attention", "feed_forward", "vocoder"],
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

_NAME = "default"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_PREFIX = "base_model."  # what PEFT puts before a name when a whole model is saved


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    faults = []
    for target in config.targets:
        if target not in TARGETS:
            faults.append(
                Fault("method.targets", f"no target '{target}'", f"known: {', '.join(TARGETS)}")
            )
    for role in config.roles:
        if role not in ROLES:
            faults.append(
                Fault("method.roles", f"lora has no use for '{role}'", f"known: {list(ROLES)}")
            )
    if config.rank < 1:
        faults.append(Fault("method.rank", f"{config.rank} is below 1", "usual: 4, 16, 64, 128"))
    if not 0 <= config.dropout < 1:
        faults.append(
            Fault("method.dropout", f"{config.dropout} is not in 0..1", "usual: 0 to 0.1")
        )
    if config.alpha < 0:
        faults.append(Fault("method.alpha", f"{config.alpha} is below 0", "usual: the rank"))
    if config.vocoder_rate <= 0:
        faults.append(
            Fault("method.vocoder_rate", f"{config.vocoder_rate} is not above 0", "usual: 1 to 3")
        )
    known = linears(bundle) if config.paths else {}
    if unknown := [name for name in config.paths if name not in known]:
        return faults + [
            Fault("method.paths", f"the base has no linear '{name}'", nearest(name, known))
            for name in unknown
        ]
    paths = target_paths(bundle, config)
    if not paths and not faults:
        faults.append(
            Fault("method.targets", "no linear of this base is chosen", "usual: [q, k, v]")
        )
    sizes = {min(shape(bundle, part, path)): path for part, some in paths.items() for path in some}
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


def _lora_config(config: Config, paths: list[str]) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or config.rank,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        target_modules=list(paths),
        bias="none",
    )


def _plain(config: PeftConfig) -> dict[str, Any]:
    """A configuration as PEFT itself writes it."""
    values = config.to_dict()
    targets = values["target_modules"]
    values["target_modules"] = sorted(targets) if not isinstance(targets, str) else targets
    return {
        key: getattr(value, "value", value) for key, value in values.items() if not callable(value)
    }


class LoraAdapter(Adapter):
    """PEFT tuners on the components, one each."""

    method = "lora"

    def __init__(self, bundle: Bundle, config: Config, seed: int) -> None:
        self.config = config
        # DoRA normalises by the merged weight: the sum of two is not the effect of both.
        self.linear = not config.dora
        self._tuners: dict[str, LoraModel] = {}
        self._quantized = bundle.quantized
        with seeded(seed):
            for component, paths in target_paths(bundle, config).items():
                module, told = bundle.components[component], _lora_config(config, paths)
                if not bundle.quantized and not config.dora:
                    told._register_custom_module({nn.Linear: LoraLinear})
                self._tuners[component] = LoraModel(module, told, _NAME)

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
            if parameter.requires_grad and "lora_" in name  # others may train beside it
        }

    def rates(self) -> dict[str, float]:
        factor = self.config.vocoder_rate
        if factor == 1:
            return {}
        # Of convolutions, both parts have a kernel's axis; of linears, neither.
        return {name: factor for name, one in self.parameters().items() if one.dim() == 3}

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
        if self._quantized:
            raise UserError(
                f"the base is in {self._quantized}: rounded to that, the change would be lost",
                "merge into the full-precision weights, as `tunesmith merge` does",
            )
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
        return _plain(self._tuners[component].peft_config[_NAME])


def delta(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """ΔW = s·BA of each linear, from one component's saved tensors: ``{path: [d, k]}``."""
    found = {}
    for name, down in state.items():
        if name.endswith(_DOWN):
            root = name.removesuffix(_DOWN)
            up = state[f"{root}{_UP}"]
            change = config.scale * (up.flatten(1) @ down.flatten(1))
            found[root.removeprefix(f"{_PREFIX}model.")] = change.view(len(up), *down.shape[1:])
    return found


def factors(state: State, config: Config, *, flat: bool = False) -> Factors:
    """``{"component/path": (A [r, k], s·B [d, r])}`` of an adapter, from its saved tensors.

    Raises:
        UserError: a DoRA, whose change is no product of the two; a convolution, unless ``flat`` makes
            its channels and kernel one axis k.
    """
    if config.dora:
        raise UserError(
            "a DoRA is not linear: it rescales each row of the whole weight",
            "make a LoRA of it first: `tunesmith extract ADAPTER --rank R -o OUT`",
        )
    found = {}
    for component, tensors in state.items():
        for name, down in tensors.items():
            if name.endswith(_DOWN):
                root = name.removesuffix(_DOWN)
                path = root.removeprefix(f"{_PREFIX}model.")
                if down.dim() != 2 and not flat:
                    raise UserError(
                        f"{component}/{path} is a convolution: such adapters are not blended",
                        "merge it into its base: `tunesmith merge`",
                    )
                up = tensors[f"{root}{_UP}"]
                up = up if config.scale == 1 else config.scale * up
                found[f"{component}/{path}"] = (down.flatten(1), up.flatten(1))
    return found


def from_factors(factors: Factors, config: Config | None = None) -> tuple[Config, State]:
    """The adapter that makes these changes: one rank, scale 1, each linear by its path.

    Args:
        factors: of any ranks; zeros fill up the smaller.
        config: further settings to keep (``dora``).
    """
    same = padded(factors)
    rank = next(iter(same.values()))[0].shape[0]
    config = replace(
        config or Config(), rank=rank, alpha=float(rank), rslora=False, paths=tuple(sorted(same))
    )
    state: dict[str, dict[str, Tensor]] = {}
    for name, (down, up) in same.items():
        component, path = name.split("/", 1)
        root = f"{_PREFIX}model.{path}"
        tensors = state.setdefault(component, {})
        tensors[f"{root}{_DOWN}"], tensors[f"{root}{_UP}"] = down.contiguous(), up.contiguous()
    return config, state


def peft_files(config: Config, state: State) -> dict[str, dict[str, Any]]:
    """``{component: what PEFT's adapter_config.json says}`` of saved tensors, without a base."""
    found = {}
    for component, tensors in state.items():
        roots = [name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
        paths = [root.removeprefix(f"{_PREFIX}model.") for root in roots]
        found[component] = _plain(_lora_config(config, paths))
    return found


def parameter_count(bundle: Bundle, config: Config) -> int:
    """Σ r·(d + k) over the chosen linears."""
    total = 0
    for component, paths in target_paths(bundle, config).items():
        for path in paths:
            rows, columns = shape(bundle, component, path)
            total += config.rank * (rows + columns) + (rows if config.dora else 0)
    return total


__all__ = [
    "SPEC",
    "Config",
    "LoraAdapter",
    "attach",
    "check",
    "delta",
    "factors",
    "from_factors",
    "linears",
    "parameter_count",
    "peft_files",
    "target_paths",
]
