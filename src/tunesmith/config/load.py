"""From YAML, options and defaults to a configuration that passed."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tunesmith.config.faults import MISSING, as_tuples, faults_of, known_settings
from tunesmith.config.recipes import Recipe, changes, read_recipe
from tunesmith.config.sections import RunConfig
from tunesmith.config_source import Source
from tunesmith.errors import ConfigError, Fault, UserError, did_you_mean
from tunesmith.methods._together import Beside
from tunesmith.registry import COMPOSED, Plugin, plugin, plugins, support, tokens_method


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that passed, and what is needed to report on it further.

    Attributes:
        config: the settings, defaults filled in.
        method_config: the method's own settings.
        places: place of each key that was given.
        tokens_config: settings of the tokens that train beside the method; None without any.
        task_config: settings of the task that the base is adapted to; None without one.
        recipe: the recipe, and what became of its settings; None without one.
    """

    config: RunConfig
    method_config: Any
    places: Mapping[str, str]
    tokens_config: Any = None
    task_config: Any = None
    recipe: Recipe | None = None

    @property
    def beside(self) -> list[Beside]:
        """What trains beside the method."""
        found = []
        if self.tokens_config is not None:
            method = tokens_method()
            found.append(Beside("tokens", method.name, method.load(), self.tokens_config))
        if self.task_config is not None and self.config.task is not None:
            task = plugin("tasks", self.config.task["name"])
            found.append(Beside("task", task.name, task.load(), self.task_config))
        return found

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
    recipe: str | Path | None = None,
    *,
    planning: bool = False,
) -> Loaded:
    """Read a configuration.

    Later sources win: the family's defaults for the method, the base's own notes, a recipe, what
    the base says of that recipe, the file, then ``settings`` and ``overrides``.

    Args:
        file: a YAML file.
        settings: dotted keys to values, from options or a Python caller; None values are skipped.
        overrides: ``key=value`` words from the command line.
        recipe: a recipe by name, or its YAML file.
        planning: only to tell what a run would take: no weights are fetched, and data and the
            run's folder may be missing.

    Raises:
        ConfigError: naming every fault.
    """
    from tunesmith.families import find_base

    given = _given(file, settings, overrides)
    _bracketed(given.values)
    told, about, label = read_recipe(given, recipe)
    if planning:
        for key in ("data", "out"):
            given.values.setdefault(key, {"path": ""} if key == "data" else "")
    faults = [*told.faults, *given.faults]
    places = {**told.places, **given.places}
    values = _merged(told.values, given.values)
    composed = _compose(values, faults)
    base = method = None
    name = _dig(values, "base", "name")
    if isinstance(name, str):
        try:
            base = find_base(name, _dig(values, "base", "revision"), weights=not planning)
        except UserError as error:
            faults.append(Fault("base", error.message, error.mend))
    method_name = _dig(values, "method", "name")
    if isinstance(method_name, str):
        try:
            method = plugin("methods", method_name)
        except UserError as error:
            faults.append(Fault("method", error.message, error.mend))
    elif isinstance(values.get("method"), Mapping):
        what = "missing" if method_name is None else f"should be text, not {method_name!r}"
        faults.append(Fault("method.name", what, MISSING["method"]))
    if base and method and (reason := support(base.family, method)) != "ok":
        faults.append(
            Fault("method", f"'{method.name}' does not work on {base.family.name}: {reason}", "")
        )

    if base and about and (misfit := about.misfit(base.family)):
        faults.append(misfit)
    if base and method:
        below = _defaults(base, [method.name, *composed])
        own = base.notes.get("recipes", {}).get(label, {})
        # What a base says of a recipe is about the recipe's own method, not about another one.
        over = _nested(own) if told.values.get("method") else {}
        values = _merged(below, told.values, over, given.values)
        _compose(values, [])
        if about is not None:
            changed = changes(told.values, below, over, given, values, base.name)
            about = dataclasses.replace(about, changes=changed)
    config = None
    try:
        config = RunConfig.model_validate(as_tuples(values))
    except ValidationError as error:
        faults.extend(faults_of(error, "", known_settings()))
    method_config = tokens_config = None
    if method is not None:
        settings_of = {k: v for k, v in values.get("method", {}).items() if k != "name"}
        method_config = _plugin_config(method, "method", settings_of, faults)
    tokens = values.get("tokens")
    if isinstance(tokens, Mapping):
        tokens_config = _plugin_config(tokens_method(), "tokens", tokens, faults)
        if method is not None and method.name == tokens_method().name:
            faults.append(Fault("tokens", "the method trains tokens already", "leave it out"))
    task, task_config = _task(values, faults)
    faults.extend(_missing_folders(values, planning))
    if base is not None and method is not None and method_config is not None:
        besides = {"tokens": (tokens_method(), tokens_config), "task": (task, task_config)}
        faults.extend(_misfits(base, method, method_config, besides, values, composed))
    if faults:
        placed = [
            fault
            if fault.where
            else dataclasses.replace(fault, where=given.where(fault.key) or told.where(fault.key))
            for fault in faults
        ]
        raise ConfigError(dict.fromkeys(placed))
    assert config is not None and method_config is not None
    return Loaded(config, method_config, places, tokens_config, task_config, about)


def _given(
    file: Path | None, settings: Mapping[str, Any] | None, overrides: Sequence[str]
) -> Source:
    """What the user says, in a file and beside it."""
    given = Source()
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
    return given


def _bracketed(values: Mapping[str, Any]) -> None:
    """``token=[my_sound]`` means the token with its brackets, though YAML reads a list of one."""
    for section in ("method", "tokens"):
        token = _dig(values, section, "token")
        if isinstance(token, list) and len(token) == 1 and not str(token[0]).startswith("["):
            values[section]["token"] = f"[{token[0]}]"


def _compose(values: dict[str, Any], faults: list[Fault]) -> list[str]:
    """Replace the name of a composed method (qlora, dreambooth) by its parts; its name, if any."""
    name = _dig(values, "method", "name")
    if not isinstance(name, str) or name not in COMPOSED:
        return []
    parts = COMPOSED[name]
    method = values["method"]
    method["name"] = method.pop("on", parts["on"][0])
    if method["name"] not in parts["on"]:
        faults.append(
            Fault("method.on", f"{name} does not go with '{method['name']}'", f"{parts['on']}")
        )
    for key, value in parts["settings"].items():
        section, _, last = key.partition(".")
        inner = values.setdefault(section, {})
        if isinstance(inner, dict):
            inner.setdefault(last, value)
    return [name]


def _defaults(base: Any, names: Sequence[str]) -> dict[str, Any]:
    """The family's and the base's own defaults for a method, then for its composed name."""
    layers = [
        _nested(defaults.get(name, {}))
        for defaults in (base.family.spec.get("defaults", {}), base.notes.get("defaults", {}))
        for name in names
    ]
    return _merged(*layers)


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    source = Source()
    for key, value in dotted.items():
        source.put(key, value, "")
    return source.values


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Sections laid over each other; who gives a length in steps or epochs replaces both."""
    whole: dict[str, Any] = {}
    for layer in layers:
        train = layer.get("train", {})
        if isinstance(train, Mapping) and ("steps" in train or "epochs" in train):
            for key in ("steps", "epochs"):
                whole.get("train", {}).pop(key, None)
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(whole.get(key), dict):
                whole[key] = {**whole[key], **value}
            else:
                whole[key] = dict(value) if isinstance(value, Mapping) else value
    return whole


def _plugin_config(method: Any, key: str, settings: Mapping[str, Any], faults: list[Fault]) -> Any:
    """A method's own dataclass from plain settings; None where they are faulty."""
    kind = method.load().Config
    known = {key: [field.name for field in dataclasses.fields(kind)]}
    rest = dict(settings)
    for name in sorted(rest.keys() - set(known[key])):
        faults.append(Fault(f"{key}.{name}", "unknown setting", did_you_mean(name, known[key])))
        del rest[name]
    try:
        return TypeAdapter(kind).validate_python(as_tuples(rest), strict=False)
    except ValidationError as error:
        faults.extend(faults_of(error, key, known))
    return None


def _task(values: Mapping[str, Any], faults: list[Fault]) -> tuple[Plugin | None, Any]:
    """The task that the base is adapted to, and its settings."""
    said = values.get("task")
    if not isinstance(said, Mapping):
        return None, None
    known = {name: one for name, one in plugins("tasks").items() if one.spec.get("trains")}
    name = said.get("name")
    if name not in known:
        faults.append(
            Fault("task", f"no task '{name}' to train for", did_you_mean(str(name), known))
        )
        return None, None
    settings = {key: value for key, value in said.items() if key != "name"}
    return known[name], _plugin_config(known[name], "task", settings, faults)


def _missing_folders(values: Mapping[str, Any], planning: bool) -> list[Fault]:
    prepare = "run `tunesmith prepare SRC DEST` and give DEST"
    found = []
    for section, key, mend in (
        ("data", "path", prepare),
        ("data", "general", "run `tunesmith prepare` or leave it out"),
        ("prior", "path", "leave it out to sample the class from the base"),
        ("replay", "path", "run `tunesmith prepare` or leave it out"),
    ):
        path = _dig(values, section, key)
        if not isinstance(path, str) or (planning and not path):
            continue
        if not Path(path).expanduser().is_dir():
            where = section if (section, key) == ("data", "path") else f"{section}.{key}"
            found.append(Fault(where, f"no folder {path}", mend))
    return found


def _misfits(
    base: Any,
    method: Any,
    method_config: Any,
    besides: Mapping[str, tuple[Plugin | None, Any]],
    values: Mapping[str, Any],
    composed: Sequence[str],
) -> list[Fault]:
    """What the base's own modules and tokenizer have to say."""
    from tunesmith.config.concept import check_concept
    from tunesmith.families import skeleton

    bundle = skeleton(base)
    faults = list(method.load().check(bundle, method_config))
    for section, (one, config) in besides.items():
        if one is None or config is None:
            continue
        for fault in one.load().check(bundle, config):
            key = fault.key.replace("method", section, 1)
            faults.append(dataclasses.replace(fault, key=key))
    if _dig(values, "base", "quantize") == "nf4":
        if method.spec.get("trains_base"):
            faults.append(
                Fault(
                    "base.quantize",
                    f"4-bit weights are frozen, and '{method.name}' trains the weights themselves",
                    "use a method that leaves them alone, or base.quantize=none",
                )
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            faults.append(
                Fault(
                    "base.quantize", "nf4 needs bitsandbytes", "pip install 'tunesmith[quantize]'"
                )
            )
    concept = values.get("concept", {})
    wanted = any("concept" in COMPOSED[name]["needs"] for name in composed)
    if isinstance(concept, Mapping):
        faults.extend(check_concept(bundle, concept, wanted=wanted))
    return faults


def _dig(values: Mapping[str, Any], *keys: str) -> Any:
    node: Any = values
    for key in keys:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def dump(loaded: Loaded) -> dict[str, Any]:
    """The configuration as plain data, every default written out."""
    values = loaded.config.model_dump(mode="json")
    values["method"] = {
        "name": loaded.config.method["name"],
        **dataclasses.asdict(loaded.method_config),
    }
    if loaded.tokens_config is not None:
        values["tokens"] = dataclasses.asdict(loaded.tokens_config)
    if loaded.task_config is not None and loaded.config.task is not None:
        values["task"] = {
            "name": loaded.config.task["name"],
            **dataclasses.asdict(loaded.task_config),
        }
    return values
