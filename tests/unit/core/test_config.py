from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from procs import cli

from tunesmith.config import dump, load_config
from tunesmith.config_source import Source, scalar, to_yaml
from tunesmith.errors import ConfigError, UserError


@pytest.fixture
def write(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> Callable[[str], Path]:
    """A configuration file; BASE and DATA stand for the tiny ones."""

    def make(text: str) -> Path:
        file = tmp_path / "tune.yaml"
        file.write_text(text.replace("BASE", str(tiny_base)).replace("DATA", str(tiny_data)))
        return file

    return make


GOOD = "base: BASE\nmethod: lora\ndata: DATA\nout: run\n"


def faults(*args: Any, **kwargs: Any) -> dict[str, str]:
    """``{key: "where: message - mend"}`` of a configuration that must not pass."""
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)
    assert caught.value.exit_code == 2
    keys = [fault.key for fault in caught.value.faults]
    assert len(set(keys)) == len(keys), "one thing reported twice"
    assert all("\n" not in str(fault) for fault in caught.value.faults)
    return {fault.key: str(fault) for fault in caught.value.faults}


# --- scalars ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E-5", 5e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-12", -12),
        ("+3", 3),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("2026-11-22", "2026-11-22"),
        ("nan", "nan"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any):
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number():
    assert math.isnan(scalar(".nan"))


# PyYAML takes these three for line breaks, as YAML 1.1 did.
TEXT = st.text(st.characters(exclude_categories=["C"], exclude_characters="\x85\u2028\u2029"))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT


@hypothesis.settings(max_examples=60)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,5}", fullmatch=True),
        PLAIN
        | st.lists(PLAIN, max_size=3)
        | st.sampled_from(["1e4", "1e-4", "no", ".5", "1.", "-1E2", "0o7", "010", "~", ".inf"]),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read_back(values: dict[str, Any]):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.yaml"
        file.write_text(to_yaml({"method": values}), encoding="utf-8")
        source = Source()
        source.put_file(file)
    assert source.faults == []
    assert source.values == {"method": values}


# --- faults, all at once, with their lines ---


def test_every_fault_at_once_with_line_and_mend(write: Callable[[str], Path]):
    file = write(
        "base: BASE\n"
        "method:\n"
        "  name: lora\n"
        "  rank: 64\n"
        "  rnak: 3\n"
        "data: nowhere/at/all\n"
        "trian:\n"
        "  lr: 1\n"
        "train:\n"
        "  lr: fast\n"
        "  stepz: 5\n"
        "  batch_size: 0\n"
        "  bucket: 3\n"
        "  betas: 0.9\n"
        "  schedule: cosin\n"
    )
    found = faults(file)
    assert found["trian"].startswith(f"{file}:7: ")
    assert "did you mean 'train'?" in found["trian"]
    assert found["train.lr"].startswith(f"{file}:10: ")
    assert "should be a number, not 'fast'" in found["train.lr"]
    assert "usual: 1e-4" in found["train.lr"]
    assert found["train.stepz"].startswith(f"{file}:11: ")
    assert "did you mean 'steps'?" in found["train.stepz"]
    assert f"{file}:12: train.batch_size" in found["train.batch_size"]
    assert "greater than or equal to 1" in found["train.batch_size"]
    assert "should be true or false" in found["train.bucket"]
    assert "should be a list" in found["train.betas"]
    assert "'cosine'" in found["train.schedule"]
    assert found["data"].startswith(f"{file}:6: ")
    assert "tunesmith prepare" in found["data"]
    assert found["method.rnak"].startswith(f"{file}:5: ")
    assert "did you mean 'rank'?" in found["method.rnak"]
    assert found["method.rank"].startswith(f"{file}:4: ")
    assert "rank 64 is above the layer's size 32" in found["method.rank"]
    assert "give at most 32" in found["method.rank"]
    assert "missing" in found["out"]
    assert len(found) == 11


def test_the_command_line_prints_each_fault_and_exits_with_2(write: Callable[[str], Path]):
    file = write(GOOD + "train:\n  lr: fast\n  stepz: 5\n")
    done = cli("train", str(file), "seed=x")
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True] * 3
    assert any(f"{file}:6: train.lr" in line for line in lines)
    assert any("command line: seed: should be a whole number" in line for line in lines)


def test_nothing_given_names_all_that_is_missing():
    found = faults()
    assert found.keys() == {"base", "data", "out", "method"}
    assert all("missing" in text for text in found.values())
    assert "--base" in found["base"]


def test_wrong_base(write: Callable[[str], Path], tmp_path: Path):
    assert "did you mean 'pocket'?" in faults(write(GOOD), {"base": "pockt"})["base"]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    found = faults(write(GOOD), {"base": str(tmp_path / "bert")})
    assert "'bert' model" in found["base"]
    assert "musicgen" in found["base"]
    (tmp_path / "bert" / "config.json").write_text("{")
    assert "not readable as JSON" in faults(write(GOOD), {"base": str(tmp_path / "bert")})["base"]
    (tmp_path / "bert" / "config.json").unlink()
    assert "config.json" in faults(write(GOOD), {"base": str(tmp_path / "bert")})["base"]
    assert "nor in the cache" in faults(write(GOOD), {"base": "nobody/nothing"})["base"]


def test_wrong_method_and_its_settings(write: Callable[[str], Path]):
    assert "did you mean 'lora'?" in faults(write(GOOD), {"method": "lorra"})["method"]
    found = faults(write(GOOD), {"method": {"name": "lora", "rank": "many", "dropout": 2.0}})
    assert "whole number" in found["method.rank"] or "integer" in found["method.rank"]
    found = faults(write(GOOD), {"method": {"name": "lora", "targets": ["q", "z"], "alpha": -1.0}})
    assert "no target 'z'" in found["method.targets"]
    assert "below 0" in found["method.alpha"]
    found = faults(write(GOOD), {"method": {"name": "full", "components": ["decodr"]}})
    assert "did you mean 'decoder'?" in found["method.components"]
    found = faults(write(GOOD), {"method": {"name": "full", "rank": 4}})
    assert "unknown setting" in found["method.rank"]


@pytest.mark.parametrize(
    "text", ["method: [lora]\n", "method: 3\n", "train: 5\n", "base: {nam: x}\n"]
)
def test_sections_of_the_wrong_kind(write: Callable[[str], Path], text: str):
    key = text.split(":")[0]
    lines = [line for line in GOOD.splitlines(True) if not line.startswith(key)]
    found = faults(write("".join(lines) + text))
    assert any(name.split(".")[0] == key for name in found)


def test_steps_and_epochs_together(write: Callable[[str], Path]):
    (text,) = faults(write(GOOD + "train: {steps: 5, epochs: 2}\n")).values()
    assert "train.steps and train.epochs both given" in text


def test_a_key_given_twice(write: Callable[[str], Path]):
    file = write(GOOD + "train:\n  lr: 1e-3\n  steps: 4\n  lr: 1e-4\n")
    found = faults(file)
    assert found == {"train.lr": f"{file}:8: train.lr: given twice - remove one of them"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("base: [", r"tune.yaml:\d+: "),
        ("- a\n- b\n", "tune.yaml:1: not a mapping"),
        ("a: b: c\n", "tune.yaml:1: "),
    ],
)
def test_files_that_are_no_configuration(write: Callable[[str], Path], text: str, complaint: str):
    with pytest.raises(UserError, match=complaint):
        load_config(write(text))


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        load_config(tmp_path / "x.yaml")


def test_bad_words_on_the_command_line(write: Callable[[str], Path]):
    found = faults(write(GOOD), overrides=["train.lr", "=3", "train.steps=[", "train.ema.x=3"])
    assert "not key=value" in found["train.lr"]
    assert "not key=value" in found["=3"]
    assert "not valid" in found["train.steps"]
    assert "should be a number" in found["train.ema"]


# --- what wins ---


def test_later_sources_win(
    write: Callable[[str], Path], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """defaults < family < base notes < recipe < file < command line, each seen to win once."""
    import json

    base = tmp_path / "noted"
    base.mkdir()
    for file in tiny_base.iterdir():
        (base / file.name).symlink_to(file)
    (base / "tunesmith.json").unlink()
    notes = {"max_s": 4.0, "defaults": {"lora": {"train.lr": 2e-3, "train.warmup": 7.0}}}
    (base / "tunesmith.json").write_text(json.dumps(notes))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: {summary: s}\nmethod: {name: lora, rank: 8, alpha: 3}\ntrain: {lr: 3e-3, ema: 0.5}\n"
    )
    plain = {"base": str(base), "out": "run"}

    def train(**more: Any) -> Any:
        return load_config(settings=plain | {"method": "lora"}, **more).config.train

    file = write("data: DATA\n")
    assert train(file=file).steps == 1000  # the family's own default
    assert train(file=file).lr == 2e-3  # the base's notes over the family's
    assert train(file=file).weight_decay == 0.01  # the schema's
    assert train(file=file, recipe=recipe).lr == 3e-3
    file = write("data: DATA\ntrain: {lr: 4e-3}\nmethod: {rank: 4}\n")
    loaded = load_config(file, plain, recipe=recipe)
    assert loaded.config.train.lr == 4e-3
    assert loaded.config.train.ema == 0.5
    assert loaded.config.train.warmup == 7.0
    assert (loaded.method_config.rank, loaded.method_config.alpha) == (4, 3.0)
    loaded = load_config(file, plain, ["train.lr=5e-3", "method.rank=2"], recipe)
    assert loaded.config.train.lr == 5e-3
    assert loaded.method_config.rank == 2
    assert loaded.places["train.lr"] == "command line"


def test_own_length_replaces_the_default_length(write: Callable[[str], Path]):
    train = load_config(write(GOOD + "train: {epochs: 2}\n")).config.train
    assert (train.steps, train.epochs) == (None, 2)
    assert load_config(write(GOOD), overrides=["train.steps=7"]).config.train.steps == 7


def test_short_and_long_forms_agree(write: Callable[[str], Path]):
    short = load_config(write(GOOD))
    long = load_config(
        write("base: {name: BASE}\nmethod: {name: lora}\ndata: {path: DATA}\nout: run\n")
    )
    assert dump(short) == dump(long)
    both = load_config(write(GOOD), overrides=["method={name: full}"])
    assert both.config.method["name"] == "full"


def test_a_dumped_configuration_loads_to_itself(write: Callable[[str], Path], tmp_path: Path):
    loaded = load_config(
        write(GOOD + "train: {lr: 1e-5, betas: [0.8, 0.9]}\npreview: {prompts: ['1e4', no]}\n"),
        overrides=["method.targets=[q, o]", "seed=3"],
    )
    assert loaded.config.preview.prompts == ("1e4", "no")
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(dump(loaded)))
    assert dump(load_config(again)) == dump(loaded)


def test_settings_of_a_caller_may_be_nested_or_dotted(tiny_base: Path, tiny_data: Path):
    settings = {
        "base": str(tiny_base),
        "data": str(tiny_data),
        "out": "x",
        "method": {"name": "lora", "rank": 2},
        "train": {"lr": 1e-3, "steps": 3},
        "train.steps": 4,
        "init_from": None,
    }
    loaded = load_config(settings=settings)
    assert (loaded.config.train.lr, loaded.config.train.steps) == (1e-3, 4)
    assert loaded.method_config.rank == 2
