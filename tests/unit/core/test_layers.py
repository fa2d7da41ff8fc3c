"""Imports run one way. Read from the source text, imports within functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tunesmith

ROOT = Path(tunesmith.__file__).parent

# From the ground up; what stands in one line may import from one another and from all lines above.
# The schema of a run (config) needs to ask families and methods what they accept, and nothing that
# they need, so it stands on them.
LAYERS = [
    ["types", "errors"],
    ["registry", "config_source", "atomic", "randomness"],
    ["analysis", "objectives", "metrics"],
    ["captioners", "embeddings"],
    ["families"],
    ["methods", "tasks"],
    ["config"],
    ["data"],
    ["formats"],
    ["training"],
    ["evaluation"],
    ["listen", "report"],
    ["demo", "voice_demo", "sweep", "api"],
    ["serve"],
    ["studio", "cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
LIGHT = {"types", "errors", "registry", "config_source"}


def room(module: str) -> str:
    """``families`` for ``tunesmith.families.musicgen``; empty for the package itself."""
    return [*module.split("."), ""][1]


def imports(path: Path, *, at_run_time_only: bool = True) -> Iterator[tuple[int, str]]:
    """``(line, module)`` of what a file imports from the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {inner for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if at_run_time_only and node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            if module == "tunesmith":
                yield from ((node.lineno, f"tunesmith.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def test_every_room_has_its_place():
    rooms = {
        path.relative_to(ROOT).parts[0].removesuffix(".py")
        for path in ROOT.rglob("*.py")
        if path.name != "__init__.py" or path.parent != ROOT
    }
    assert rooms - LEVEL.keys() == set()


def test_imports_run_one_way():
    faults, seen = [], 0
    for path in sorted(ROOT.rglob("*.py")):
        if path == ROOT / "__init__.py":
            continue  # the package hands out the public names lazily
        here = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for line, module in imports(path):
            there = room(module)
            if not module.startswith("tunesmith") or there in ("", "__version__"):
                continue
            seen += 1
            if LEVEL[there] > LEVEL[here]:
                faults.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {there}")
    assert seen > 100
    assert faults == []


def test_no_family_and_no_method_is_named_where_all_are_meant():
    """The loop, the data room and the formats work for every family and method."""
    names = [path.stem for path in (ROOT / "methods").glob("[a-z]*.py")]
    names += [path.name for path in (ROOT / "families").iterdir() if path.name[0] not in "_."]
    for folder in ("training", "data", "formats", "config", "tasks"):
        for path in (ROOT / folder).glob("*.py"):
            for line, module in imports(path):
                last = module.rpartition(".")[2]
                assert last not in names, f"{path.name}:{line} imports {module}"


def test_the_ground_floor_needs_no_heavy_library():
    for name in LIGHT:
        for line, module in imports(ROOT / f"{name}.py"):
            assert module.split(".")[0] not in ("torch", "transformers", "numpy", "peft"), (
                f"{name}.py:{line} imports {module}"
            )


def test_files_stay_readable():
    """The house's limit is about 400 lines."""
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in ROOT.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 440
    }
    assert long == {}
    assert not list(ROOT.rglob("utils.py"))
