"""The run configuration: strict, every fault reported at once, each with its line and a mend."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tunesmith.config_source import Source
from tunesmith.errors import ConfigError, Fault, UserError, did_you_mean


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BaseConfig(_Strict):
    """The base model. ``base: pocket`` is short for ``base: {name: pocket}``."""

    name: str = Field(description="pocket, a folder in the hub's layout, or a hub id")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the computation; auto looks at the hardware"
    )


class DataConfig(_Strict):
    """The data. ``data: DIR`` is short for ``data: {path: DIR}``."""

    path: str = Field(description="a folder that `tunesmith prepare` wrote, or any HF AudioFolder")
    general: str | None = Field(
        None, description="other recordings, never trained on: their loss shows what is forgotten"
    )


class TrainConfig(_Strict):
    """How to train."""

    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    steps: int | None = Field(None, ge=1, description="optimizer steps; give this or epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the data; give this or steps")
    batch_size: int = Field(4, ge=1, description="clips a forward pass, over all devices")
    accumulate: int = Field(1, ge=1, description="forward passes an optimizer step")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="after warm-up")
    warmup: float = Field(0.05, ge=0, description="steps if 1 or more, else a share of all steps")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's moment decays")
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0 is off")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of averaged weights, e.g. 0.999; 0 is off"
    )
    caption_dropout: float = Field(
        0.1, ge=0, le=1, description="share of rows without text (guidance)"
    )
    activation_checkpointing: bool = Field(
        False, description="less memory, about a third more time"
    )
    bucket: bool = Field(True, description="batches of clips of similar length")
    eval_every: int | None = Field(
        None, ge=1, description="steps between validations; default 10 in all"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(
        2, ge=1, description="how many of the last are kept, beside the best"
    )
    disk_budget_gb: float | None = Field(None, gt=0, description="most that checkpoints may take")
    patience: int = Field(
        0, ge=0, description="validations without progress before stopping; 0 is off"
    )
    max_bad_steps: int = Field(10, ge=1, description="NaN or inf steps in a row before giving up")


class PreviewConfig(_Strict):
    """Listening examples while training, the same prompts and seeds each time."""

    prompts: tuple[str, ...] = Field((), description="default: two captions of the data")
    seconds: float | None = Field(None, gt=0, description="default: 5 or the base's longest")
    every: int | None = Field(
        None, ge=0, description="steps between previews; 0 is none; default 4 in all"
    )
    seed: int = Field(1, description="seed of the first prompt; the next has the next")
    guidance: float | None = Field(
        None, ge=0, description="classifier-free guidance scale; the base's own by default"
    )


class RunConfig(_Strict):
    """Everything that decides a run."""

    base: BaseConfig
    data: DataConfig
    out: str = Field(description="the run's folder")
    method: dict[str, Any] = Field(description="{name: lora, ...}: the method and its settings")
    train: TrainConfig = TrainConfig()  # type: ignore[call-arg]
    preview: PreviewConfig = PreviewConfig()  # type: ignore[call-arg]
    seed: int = Field(0, description="seed of everything random in the run")
    init_from: str | None = Field(
        None, description="adapter whose weights to start from (not --resume)"
    )
    log: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="further logs"
    )

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if self.train.steps is not None and self.train.epochs is not None:
            raise ValueError("train.steps and train.epochs both given: give one")
        return self


_SECTIONS: dict[str, type[BaseModel]] = {
    "base": BaseConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "preview": PreviewConfig,
}


def _tuples(value: Any) -> Any:
    """YAML lists as tuples, which frozen settings hold."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(inner) for inner in value)
    return value


def _message(error: Mapping[str, Any]) -> str:
    kind, given = error["type"], error.get("input")
    plain = {
        "missing": "missing",
        "int_type": f"should be a whole number, not {given!r}",
        "float_type": f"should be a number, not {given!r}",
        "bool_type": f"should be true or false, not {given!r}",
        "string_type": f"should be text, not {given!r}",
        "tuple_type": f"should be a list like [a, b], not {given!r}",
        "model_type": f"should be a section of settings, not {given!r}",
        "dict_type": f"should be a section of settings, not {given!r}",
    }
    if kind in plain:
        return plain[kind]
    text = str(error["msg"]).removeprefix("Value error, ")
    text = text[0].lower() + text[1:].replace("Input should be", "should be")
    return text.replace("input should be", "should be") + (
        f", not {given!r}" if isinstance(given, int | float | str) else ""
    )


def _faults(
    error: ValidationError, prefix: str, known: Mapping[str, Sequence[str]]
) -> Iterator[Fault]:
    for one in error.errors():
        path = ".".join(str(part) for part in (*filter(None, [prefix]), *one["loc"]))
        # Union members and tuple positions are not part of what the user wrote.
        path = re.sub(r"\.\d+(?=\.|$)", "", path)
        if one["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            parent, _, last = path.rpartition(".")
            yield Fault(path, "unknown setting", did_you_mean(last, known.get(parent, [])))
        elif one["type"] == "missing":
            yield Fault(path, "missing", _MISSING.get(path, "add it"))
        else:
            yield Fault(path or "configuration", _message(one), _HINTS.get(path, ""))


_MISSING = {
    "base": "add `base: pocket` or --base",
    "base.name": "add `base: pocket` or --base",
    "data": "add `data: DIR` or --data, a folder that `tunesmith prepare` wrote",
    "data.path": "add `data: DIR` or --data, a folder that `tunesmith prepare` wrote",
    "method": "add `method: lora` or --method",
    "out": "add `out: runs/NAME` or --out",
}
_HINTS = {"train.lr": "usual: 1e-4 for lora, 5e-6 for full"}


def _known() -> Mapping[str, Sequence[str]]:
    return {"": list(RunConfig.model_fields)} | {
        name: list(section.model_fields) for name, section in _SECTIONS.items()
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that passed, and what is needed to report on it further.

    Attributes:
        config: the settings, defaults filled in.
        method_config: the method's own settings.
        places: place of each key that was given.
        sources: ``default``, ``base``, ``recipe``, ``file`` or ``command line`` of each given key.
    """

    config: RunConfig
    method_config: Any
    places: Mapping[str, str]

    def at(self, fault: Fault) -> Fault:
        """The fault with the place of its key."""
        key = fault.key
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return dataclasses.replace(fault, where=self.places.get(key, ""))


def load_config(
    file: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    recipe: Path | None = None,
) -> Loaded:
    """Read a configuration.

    Later sources win: the family's defaults for the method, the base's own notes, a recipe, the
    file, then ``settings`` and ``overrides``.

    Args:
        file: a YAML file.
        settings: dotted keys to values, from options or a Python caller; None values are skipped.
        overrides: ``key=value`` words from the command line.
        recipe: a recipe's YAML file.

    Raises:
        ConfigError: naming every fault.
    """
    from tunesmith.families import find_base
    from tunesmith.registry import plugin, support

    given = Source()
    if recipe is not None:
        given.put_file(recipe)
        given.values.pop("recipe", None)  # what the recipe says of itself
    if file is not None:
        given.put_file(file)
    for key, value in (settings or {}).items():
        if value is not None:
            given.put(key, value, "command line" if file or overrides else "")
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            given.faults.append(
                Fault(word, "not key=value", "write e.g. train.lr=5e-5", "command line")
            )
            continue
        given.put_text(key, text, "command line")

    faults = list(given.faults)
    base = method = None
    name = _dig(given.values, "base", "name")
    if isinstance(name, str):
        try:
            base = find_base(name, _dig(given.values, "base", "revision"))
        except UserError as error:
            faults.append(Fault("base", error.message, error.mend))
    method_name = _dig(given.values, "method", "name")
    if isinstance(method_name, str):
        try:
            method = plugin("methods", method_name)
        except UserError as error:
            faults.append(Fault("method", error.message, error.mend))
    elif isinstance(given.values.get("method"), Mapping):
        what = "missing" if method_name is None else f"should be text, not {method_name!r}"
        faults.append(Fault("method.name", what, _MISSING["method"]))
    if base and method and (reason := support(base.family, method)) != "ok":
        faults.append(
            Fault("method", f"'{method.name}' does not work on {base.family.name}: {reason}", "")
        )

    values = _with_defaults(given.values, base, method)
    config = None
    try:
        config = RunConfig.model_validate(_tuples(values))
    except ValidationError as error:
        faults.extend(_faults(error, "", _known()))
    method_config = None
    if method is not None:
        kind = method.load().Config
        rest = {key: value for key, value in values.get("method", {}).items() if key != "name"}
        known = {"method": [field.name for field in dataclasses.fields(kind)]}
        if unknown := sorted(rest.keys() - set(known["method"])):
            faults.extend(
                Fault(f"method.{key}", "unknown setting", did_you_mean(key, known["method"]))
                for key in unknown
            )
            rest = {key: value for key, value in rest.items() if key not in unknown}
        try:
            method_config = TypeAdapter(kind).validate_python(_tuples(rest), strict=False)
        except ValidationError as error:
            faults.extend(_faults(error, "method", known))
    data = _dig(given.values, "data", "path")
    if isinstance(data, str) and not Path(data).expanduser().is_dir():
        faults.append(
            Fault("data", f"no folder {data}", "run `tunesmith prepare SRC DEST` and give DEST")
        )
    general = _dig(given.values, "data", "general")
    if isinstance(general, str) and not Path(general).expanduser().is_dir():
        faults.append(
            Fault("data.general", f"no folder {general}", "run `tunesmith prepare` or leave it out")
        )
    if base is not None and method is not None and method_config is not None:
        from tunesmith.families import skeleton

        faults.extend(method.load().check(skeleton(base), method_config))
    if faults:
        placed = [
            fault if fault.where else dataclasses.replace(fault, where=given.where(fault.key))
            for fault in faults
        ]
        raise ConfigError(dict.fromkeys(placed))
    assert config is not None and method_config is not None
    return Loaded(config, method_config, given.places)


def _dig(values: Mapping[str, Any], *keys: str) -> Any:
    node: Any = values
    for key in keys:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def _with_defaults(values: dict[str, Any], base: Any, method: Any) -> dict[str, Any]:
    """The given values over the family's and the base's defaults for this method."""
    filled = Source()
    if base is not None and method is not None:
        for defaults in (base.family.spec.get("defaults", {}), base.notes.get("defaults", {})):
            for key, value in defaults.get(method.name, {}).items():
                filled.put(key, value, "")
    train = values.get("train", {})
    if isinstance(train, Mapping) and ("steps" in train or "epochs" in train):
        for key in ("steps", "epochs"):
            filled.values.get("train", {}).pop(key, None)
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(filled.values.get(key), dict):
            filled.values[key] = {**filled.values[key], **value}
        else:
            filled.values[key] = value
    return filled.values


def dump(loaded: Loaded) -> dict[str, Any]:
    """The configuration as plain data, every default written out."""
    values = loaded.config.model_dump(mode="json")
    values["method"] = {
        "name": loaded.config.method["name"],
        **dataclasses.asdict(loaded.method_config),
    }
    return values
