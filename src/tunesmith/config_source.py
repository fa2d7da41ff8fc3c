"""Settings with the places they came from: YAML files by line, options by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import Fault, UserError

_SHORT = {"base": "name", "method": "name", "data": "path"}
# YAML 1.2's core schema: PyYAML's own 1.1 reads `1e-4` as text and `no` as false.
_FLOAT = re.compile(
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?[0-9]+$")


def scalar(text: str) -> Any:
    """A plain YAML 1.2 scalar as a Python value: ``1e-4`` is a number, ``no`` is text."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text[0] in "tT"
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan").lower())
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would read back as a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def to_yaml(values: Mapping[str, Any]) -> str:
    """YAML that :class:`Source` reads back as the same values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class Source:
    """Values with the places they came from, for messages."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[str, str] = {}
        self.faults: list[Fault] = []

    def where(self, key: str) -> str:
        """Place of a key, else of the nearest above it, else of one below it."""
        below = next(
            (place for name, place in self.places.items() if name.startswith(f"{key}.")), ""
        )
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return below

    def put(self, key: str, value: Any, place: str) -> None:
        """Set one dotted key; a short form and a long one of the same section agree."""
        head, _, rest = key.partition(".")
        if not rest and head in _SHORT and not isinstance(value, Mapping):
            key, rest = f"{head}.{_SHORT[head]}", _SHORT[head]
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self.put(f"{key}.{name}", inner, self.places.get(f"{key}.{name}", place))
            if not value:
                self.values.setdefault(head, {})
            return
        node = self.values
        *parents, last = key.split(".")
        for parent in parents:
            inner = node.setdefault(parent, {})
            if not isinstance(inner, dict):
                self.faults.append(Fault(key, "stands under a plain value", "give it once", place))
                return
            node = inner
        node[last] = value
        self.places[key] = place
        if key in (f"{head}.{_SHORT.get(head)}",):
            self.places[head] = place

    def put_file(self, path: Path) -> None:
        """Take over a YAML file, remembering each key's line."""
        try:
            text = path.read_text(encoding="utf-8")
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror})", "check the path"
            ) from None
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a text file", "give a YAML file") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "not valid YAML"
            raise UserError(
                f"{path}{line}: {problem}", "check indentation, colons and quotes"
            ) from None
        if root is None:
            return
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}:1: not a mapping", "write `key: value` lines")
        value = self._node(root, "", str(path))
        for name, inner in value.items():
            self.put(name, inner, self.places.get(name, str(path)))

    def put_text(self, key: str, text: str, place: str) -> None:
        """Set one dotted key to a value written as YAML, as on the command line."""
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            self.faults.append(Fault(key, f"{text!r} is not valid", "quote it", place))
            return
        self.put(key, self._node(node, "", place) if node is not None else None, place)

    def _node(self, node: yaml.Node, key: str, file: str) -> Any:
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for name_node, value_node in node.value:
                name = str(name_node.value)
                inner = f"{key}.{name}" if key else name
                place = f"{file}:{name_node.start_mark.line + 1}"
                if name in found:
                    self.faults.append(Fault(inner, "given twice", "remove one of them", place))
                self.places[inner] = place
                found[name] = self._node(value_node, inner, file)
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self._node(item, key, file) for item in node.value]
        assert isinstance(node, yaml.ScalarNode)
        return scalar(node.value) if node.style is None else node.value
