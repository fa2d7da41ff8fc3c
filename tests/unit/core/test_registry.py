from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tunesmith import registry
from tunesmith.errors import UserError, did_you_mean
from tunesmith.registry import Plugin, matrix, plugin, plugins, read_spec, recipe_file, support


@pytest.mark.parametrize("kind", ["families", "methods", "metrics", "tasks"])
def test_every_plugin_loads_and_carries_the_spec_that_was_read(kind: str):
    found = plugins(kind)  # type: ignore[arg-type]
    assert found
    for name, one in found.items():
        assert one.name == name
        assert dict(one.spec) == one.load().SPEC
        json.dumps(one.spec)


def test_what_the_issue_promises_is_there():
    assert {"musicgen"} <= plugins("families").keys()
    assert {"full", "lora"} <= plugins("methods").keys()
    assert {"fad", "kad"} <= plugins("metrics").keys()
    assert matrix()["musicgen"]["lora"] == matrix()["musicgen"]["full"] == "ok"


def test_private_files_are_no_plugins(tmp_path: Path):
    for name in ("_helper.py", ".hidden.py", "notes.txt", "continue_.py", "plain.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__init__.py").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "_private").mkdir()
    (tmp_path / "_private" / "__init__.py").write_text("")
    assert registry._sources(tmp_path).keys() == {"continue", "plain", "folder"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1", "no SPEC"),
        ("SPEC = {'summary': str(1)}", "not a literal"),
        ("SPEC = {'other': 1}", "no summary"),
        ("SPEC = ['summary']", "no summary"),
        ("SPEC = {", "not a readable Python file"),
    ],
)
def test_a_bad_spec_is_refused_by_file(tmp_path: Path, text: str, complaint: str):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        read_spec(file)
    assert str(file) in str(caught.value)


def test_an_annotated_spec_is_read(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("SPEC: dict = {'summary': 's', 'n': [1, 2.5, None, True]}")
    assert read_spec(file) == {"summary": "s", "n": [1, 2.5, None, True]}


def test_a_plugin_by_path_is_imported_once_and_only_when_loaded(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("SPEC = {'summary': 's'}\ncount = [0]\ncount[0] += 1\n")
    found = plugin("methods", str(file))
    assert (found.name, found.kind) == ("mine", "methods")
    assert not any(module.endswith("methods_mine") for module in sys.modules)
    assert found.load() is plugin("methods", str(file)).load()
    assert found.load().count == [1]
    twin = tmp_path / "elsewhere" / "mine.py"
    twin.parent.mkdir()
    twin.write_text("SPEC = {'summary': 'another'}\n")
    assert plugin("methods", str(twin)).load().SPEC["summary"] == "another"


def test_a_plugin_that_failed_to_import_fails_again(tmp_path: Path):
    file = tmp_path / "broken.py"
    file.write_text("SPEC = {'summary': 's'}\nraise RuntimeError('half')\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="half"):
            plugin("methods", str(file)).load()


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UserError, match=r"no method 'lorra'.*did you mean 'lora'"):
        plugin("methods", "lorra")
    with pytest.raises(UserError, match=r"no family 'qqq'.*known: .*musicgen"):
        plugin("families", "qqq")
    with pytest.raises(UserError, match=r"no file \./nowhere.py"):
        plugin("methods", "./nowhere.py")
    assert did_you_mean("ful", ["full", "lora"]) == "did you mean 'full'?"


def test_support_has_reasons():
    def one(name: str, kind: str, **spec: object) -> Plugin:
        return Plugin(name, kind, Path("x"), {"summary": "s", **spec})  # type: ignore[arg-type]

    family = one("f", "families", roles=["self_attention"], declines={"never": "it hums"})
    assert support(family, one("never", "methods")) == "it hums"
    assert support(family, one("any", "methods", roles=[])) == "ok"
    assert support(family, one("fits", "methods", roles=["vocoder", "self_attention"])) == "ok"
    assert "vocoder" in support(family, one("lacks", "methods", roles=["vocoder"]))


def test_recipes_are_found_by_name_and_by_path(tmp_path: Path):
    assert recipe_file("genre").is_file()
    own = tmp_path / "own.yaml"
    own.write_text("recipe: {summary: mine}\n")
    assert recipe_file(str(own)) == own
    with pytest.raises(UserError, match="did you mean 'genre'"):
        recipe_file("gender")


# --- what importing costs ---


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["ls"], ["ls", "--json"], ["train", "--help"], ["generate", "-h"]],
    ids=" ".join,
)
def test_help_and_listing_import_no_torch(arguments: list[str]):
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'transformers', 'peft', 'scipy')\n"
        "atexit.register(lambda: print('HEAVY', [m for m in heavy if m in sys.modules]))\n"
        f"sys.argv = ['tunesmith', *{arguments!r}]\n"
        "from tunesmith.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []")
    if "--json" in arguments:
        table = json.loads(done.stdout[: done.stdout.rindex("HEAVY")])
        assert table["matrix"]["musicgen"]["lora"] == "ok"
        assert table.keys() >= {"families", "methods", "metrics", "recipes", "matrix"}


def test_public_names_can_be_imported():
    import tunesmith

    assert set(tunesmith.__all__) == {
        "Model",
        "blend",
        "check",
        "evaluate",
        "extract",
        "__version__",
        "limits",
        "merge",
        "open",
        "prepare",
        "read_sound",
        "train",
        "write_sound",
    }
    for name in tunesmith.__all__:
        assert getattr(tunesmith, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tunesmith.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["tunesmith.training", "tunesmith.training.run", "tunesmith.api"])
def test_train_can_be_called_whatever_was_imported_first(first: str):
    """A function and a folder share the name."""
    code = (
        f"import tunesmith, {first}\n"
        "from tunesmith.errors import ConfigError\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        tunesmith.train(method='lorra')\n"
        "    except ConfigError as error:\n"
        "        print(len(error.faults))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["4", "4"], done.stderr


def test_every_module_can_be_imported():
    root = Path(registry.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] in ("__main__",):
            continue
        name = ".".join(("tunesmith", *(p for p in parts if p != "__init__")))
        # Triton comes with builds of torch for CUDA; who imports these two does without where it is not.
        if parts[-1] in ("_kernels", "_tuned") and find_spec("triton") is None:
            continue
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            assert hasattr(module, public), f"{name}.{public}"
