"""A file or folder in ``families/ methods/ metrics/ embeddings/ tasks/`` is the plug-in; its name is its name.

Each carries a literal ``SPEC`` dictionary which is read from the source text, not by importing, so
that ``--help`` and ``ls`` never pay for torch. Third parties plug in through an entry point
(group ``tunesmith.methods`` ...) or a path (``method: ./mine.py``).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from tunesmith.errors import UserError, did_you_mean

Kind = Literal["families", "methods", "metrics", "embeddings", "tasks"]

_ROOT = Path(__file__).parent

COMPOSED: Mapping[str, Mapping[str, Any]] = {
    "qlora": {
        "summary": "lora on a base whose frozen linears are in 4 bits (NF4)",
        "on": ("lora",),
        "settings": {"base.quantize": "nf4"},
        "needs": (),
    },
    "dreambooth": {
        "summary": "a rare token that comes to mean the recordings, with prior preservation",
        "on": ("full", "lora"),
        "settings": {"prior.weight": 1.0},
        "needs": ("concept",),
    },
}
"""Names that a user can type for a method with settings: the method (``method.on`` chooses among
several, the first by default), what is set where the user says nothing, and which sections the user
has to fill."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in that has been found but not imported.

    Attributes:
        name: what a user types.
        kind: which folder it belongs in.
        source: its file (a package's ``__init__.py``).
        spec: its literal ``SPEC``.
        module: dotted module name; empty for a plug-in given as a path.
    """

    name: str
    kind: Kind
    source: Path
    spec: Mapping[str, Any]
    module: str = ""

    def load(self) -> ModuleType:
        """Import it. Importing may pull in torch."""
        if self.module:
            return importlib.import_module(self.module)
        name = f"tunesmith_plugin_{self.kind}_{self.source.stem}"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(self.source):
            return sys.modules[name]
        found = importlib.util.spec_from_file_location(name, self.source)
        if found is None or found.loader is None:
            raise UserError(f"{self.source} cannot be imported", "give a Python file")
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        try:
            found.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]  # half a module must not pass for a whole one next time
            raise
        return module


def read_spec(source: Path) -> dict[str, Any]:
    """The literal ``SPEC`` of a Python file, without importing it.

    Raises:
        UserError: no SPEC, or one that is not a literal.
    """
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: not a readable Python file ({error})") from None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == "SPEC" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            try:
                spec = ast.literal_eval(node.value)
            except ValueError:
                raise UserError(
                    f"{source}:{node.lineno}: SPEC is not a literal",
                    "write plain strings, numbers, lists and dictionaries",
                ) from None
            if not isinstance(spec, dict) or "summary" not in spec:
                raise UserError(
                    f"{source}:{node.lineno}: SPEC has no summary", 'add "summary": "one line"'
                )
            return spec
    raise UserError(f"{source}: no SPEC", 'add SPEC = {"summary": "one line", ...}')


def _sources(folder: Path) -> dict[str, Path]:
    """Public plug-in sources in a folder by name: ``continue_.py`` is the plug-in ``continue``."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py":
            found[path.stem.rstrip("_")] = path
        elif (path / "__init__.py").is_file():
            found[path.name.rstrip("_")] = path / "__init__.py"
    return found


@cache
def plugins(kind: Kind) -> Mapping[str, Plugin]:
    """Every plug-in of a kind, by name: the package's own first, then installed third parties."""
    found: dict[str, Plugin] = {}
    folder = _ROOT / kind
    for name, source in _sources(folder).items():
        stem = source.parent.name if source.name == "__init__.py" else source.stem
        found[name] = Plugin(name, kind, source, read_spec(source), f"tunesmith.{kind}.{stem}")
    for entry in metadata.entry_points(group=f"tunesmith.{kind}"):
        located = importlib.util.find_spec(entry.module)
        if located is None or located.origin is None:
            raise UserError(f"the installed plug-in '{entry.name}' cannot be found", "reinstall it")
        source = Path(located.origin)
        found[entry.name] = Plugin(entry.name, kind, source, read_spec(source), entry.module)
    return found


def plugin(kind: Kind, name: str) -> Plugin:
    """The plug-in of that name, or the one in the file that ``name`` is a path to.

    Raises:
        UserError: no such plug-in; the message suggests the nearest.
    """
    if name.endswith(".py") or "/" in name:
        source = Path(name)
        if not source.is_file():
            raise UserError(f"no file {name}", f"give a file or one of: {', '.join(plugins(kind))}")
        return Plugin(source.stem, kind, source.resolve(), read_spec(source))
    known = plugins(kind)
    if name not in known:
        singular = {"families": "family"}.get(kind, kind.removesuffix("s"))
        more = COMPOSED if kind == "methods" else ()
        raise UserError(f"no {singular} '{name}'", did_you_mean(name, [*known, *more]))
    return known[name]


def tokens_method() -> Plugin:
    """The method that trains tokens, which can stand beside any other one."""
    return next(one for one in plugins("methods").values() if one.spec.get("adds_tokens"))


def support(family: Plugin, method: Plugin) -> str:
    """``ok``, or the reason why this method cannot be used on this family.

    A family may decline a method (``SPEC["declines"] = {method: reason}``); a method needs at
    least one of its roles in the family's ``SPEC["roles"]``.
    """
    reason = family.spec.get("declines", {}).get(method.name)
    if reason:
        return str(reason)
    wanted = method.spec.get("roles", [])
    if wanted and not set(wanted) & set(family.spec.get("roles", [])):
        return f"{family.name} has none of the roles {', '.join(wanted)}"
    return "ok"


def loss_unit(family: str) -> str:
    """What a family's loss is counted in: ``nats a code`` unless its SPEC says otherwise."""
    found = plugins("families").get(family)
    return str(found.spec.get("loss_unit", "nats a code")) if found else "nats a code"


def matrix() -> dict[str, dict[str, str]]:
    """``{family: {method: "ok" or the reason}}`` for everything that is installed."""
    return {
        family.name: {
            method.name: support(family, method) for method in plugins("methods").values()
        }
        for family in plugins("families").values()
    }


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """What each recipe says of itself, by name."""
    import yaml

    return {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["recipe"]
        for path in sorted((_ROOT / "recipes").glob("*.yaml"))
    }


def recipe_file(name: str) -> Path:
    """A recipe's file, by name or path.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    if name not in recipes():
        raise UserError(f"no recipe '{name}'", did_you_mean(name, recipes()))
    return _ROOT / "recipes" / f"{name}.yaml"
