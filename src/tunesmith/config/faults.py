"""What is wrong with given settings, in the words of those who gave them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.config.sections import (
    BaseConfig,
    ConceptConfig,
    DataConfig,
    PreviewConfig,
    PriorConfig,
    ReplayConfig,
    RunConfig,
    TrainConfig,
    VoiceConfig,
)
from tunesmith.errors import Fault, did_you_mean

SECTIONS: dict[str, type[BaseModel]] = {
    "base": BaseConfig,
    "data": DataConfig,
    "concept": ConceptConfig,
    "prior": PriorConfig,
    "replay": ReplayConfig,
    "train": TrainConfig,
    "preview": PreviewConfig,
    "voice": VoiceConfig,
}


def as_tuples(value: Any) -> Any:
    """YAML lists as tuples, which frozen settings hold."""
    if isinstance(value, dict):
        return {name: as_tuples(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(as_tuples(inner) for inner in value)
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


def faults_of(
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
            yield Fault(path, "missing", MISSING.get(path, "add it"))
        else:
            yield Fault(path or "configuration", _message(one), _HINTS.get(path, ""))


MISSING = {
    "base": "add `base: pocket` or --base",
    "base.name": "add `base: pocket` or --base",
    "data": "add `data: DIR` or --data, a folder that `tunesmith prepare` wrote",
    "data.path": "add `data: DIR` or --data, a folder that `tunesmith prepare` wrote",
    "method": "add `method: lora` or --method",
    "out": "add `out: runs/NAME` or --out",
}
_HINTS = {
    "train.lr": "usual: 1e-4 for lora, 5e-6 for full",
    "prior.weight": "usual: 1; 0 is off",
    "replay.weight": "usual: 1; leave replay.path out to have none",
}


def known_settings() -> Mapping[str, Sequence[str]]:
    return {"": list(RunConfig.model_fields)} | {
        name: list(section.model_fields) for name, section in SECTIONS.items()
    }
