"""Recipes are data: what each says, what a base and a user make of it, and that both are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.ace_step import save_ace_step
from contract.speecht5 import save_speecht5
from tiny import save_stable_audio, save_stable_audio_3, write_data, write_noise

from tunesmith.config import load_config
from tunesmith.config.recipes import Change
from tunesmith.errors import ConfigError, Stopped, UserError
from tunesmith.families import find_base
from tunesmith.formats.card import model_card
from tunesmith.registry import plugins, recipes
from tunesmith.report.run import report_on_run
from tunesmith.training import run as run_module
from tunesmith.training.recipe import is_prepared, told, with_data
from tunesmith.training.signals import StopFlag

ISSUE = {
    "genre": (32, 1e-4, (500, 2000)),
    "style": (16, 1e-4, (300, 1000)),
    "accent": (32, 1e-4, (500, 2000)),
    "inpaint": (32, 1e-4, (500, 2000)),
}
PICKY = {
    "accent": ("ace_step",),
    "inpaint": ("ace_step", "stable_audio", "stable_audio_3"),
    "voice": ("csm", "speecht5"),
}
"""Recipes that not every family can do, and those that can."""

DIFFUSION = {
    "stable_audio": save_stable_audio,
    "stable_audio_3": save_stable_audio_3,
    "ace_step": save_ace_step,
}
SHORT = ["train.steps=2", "preview.every=0", "base.dtype=float32"]


@pytest.fixture
def hub_like(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base, which has no word of its own about any recipe."""
    return tiny_base


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny bases that make sound from noise, by family, and one that speaks."""
    folder = tmp_path_factory.mktemp("diffusers")
    saves = {**DIFFUSION, "speecht5": save_speecht5}
    return {name: save(folder / name) for name, save in saves.items()}


@pytest.fixture
def noted(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base with notes on the recipe ``genre``."""
    folder = tmp_path / "noted"
    shutil.copytree(tiny_base, folder)
    notes = json.loads((folder / "tunesmith.json").read_text())
    notes["recipes"] = {"genre": {"train.lr": 2e-3, "train.ema": 0.5}}
    (folder / "tunesmith.json").write_text(json.dumps(notes))
    return folder


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Plain recordings, longer than the tiny base takes."""
    for number in range(4):
        write_noise(tmp_path / "recordings" / f"{number}.wav", 9.0, number, rate_hz=8000)
    return tmp_path / "recordings"


@pytest.fixture
def load(tiny_data: Path, tmp_path: Path) -> Callable[..., Any]:
    def make(recipe: str | Path, base: Path | str, *overrides: str, **settings: Any) -> Any:
        plain = {"base": str(base), "data": str(tiny_data), "out": str(tmp_path / "run")}
        return load_config(settings=plain | settings, overrides=overrides, recipe=recipe)

    return make


def by_key(loaded: Any) -> dict[str, Change]:
    return {one.key: one for one in loaded.recipe.changes}


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_stands_on_a_base_without_notes(
    name: str, load: Callable[..., Any], hub_like: Path, diffusers: dict[str, Path]
):
    """Its numbers are the run's, nothing is called changed, and its steps lie in its own range."""
    plain = name not in PICKY
    # What those stand on is so small that the recipe's rank does not go into it.
    picky = diffusers["speecht5" if name == "voice" else "ace_step"]
    loaded = (
        load(name, hub_like)
        if plain
        else load(name, picky, f"method.rank={4 if name == 'voice' else 8}")
    )
    assert loaded.config.recipe == loaded.recipe.name == name
    assert [one.key for one in loaded.recipe.changes] == ([] if plain else ["method.rank"])
    low, high = loaded.recipe.steps
    assert low <= loaded.config.train.steps <= high
    assert loaded.config.method["name"] == "lora"
    if name in ISSUE:
        rank, lr, steps = ISSUE[name]
        used = loaded.method_config.rank if plain else by_key(loaded)["method.rank"].recipe
        assert (used, loaded.config.train.lr) == (rank, lr)
        assert loaded.recipe.steps == steps
        assert (loaded.recipe.prepare.min_s, loaded.recipe.prepare.max_s) == (10, 30)
    more = {"up", "down"} if name in ("inpaint", "voice") else set()
    assert set(loaded.method_config.targets) == {"q", "k", "v", "o"} | more
    assert loaded.config.data.require == (("lyrics", "language") if name == "accent" else ())
    assert (loaded.task_config is not None) == (name == "inpaint")
    assert (loaded.tokens_config is not None) == (name in ("style", "instrument"))
    assert (loaded.config.data.keep_best < 1) == (name == "quality")


@pytest.mark.parametrize("family", DIFFUSION)
@pytest.mark.parametrize("name", recipes())
def test_recipes_are_for_every_family_or_say_why_not(
    name: str, family: str, load: Callable[..., Any], diffusers: dict[str, Path]
):
    """None but those that need a voice, or holes, name a family, not even in what they leave out."""
    small = {"method.rank": 8}
    if family in PICKY.get(name, DIFFUSION):
        loaded = load(name, diffusers[family], **small)
        assert {one.key for one in loaded.recipe.changes} <= {"method.rank"}
        if name == "instrument":
            load(name, diffusers[family], method="dreambooth", **small, **{"concept.check": False})
        return
    with pytest.raises(ConfigError) as caught:
        load(name, diffusers[family], **small)
    (line,) = str(caught.value).splitlines()
    does = {"accent": "sings lyrics", "voice": "is told speaker"}[name]
    assert f"the recipe '{name}' needs a base that {does}" in line
    assert all(one in line for one in PICKY[name])


@pytest.mark.parametrize("family", plugins("families"))
def test_families_are_told_what_their_spec_says(family: str):
    """Recipes are refused by SPEC alone, before anything is loaded."""
    found = plugins("families")[family]
    assert set(found.spec.get("columns", ())) == set(found.load().tiny(0).columns)


def test_musicgen_neither_sings_nor_fills_holes(load: Callable[..., Any], hub_like: Path):
    for name, reason in (
        ("accent", r"base: the recipe 'accent' needs a base that sings lyrics: musicgen is told"),
        ("inpaint", r"task.name: family musicgen cannot learn to fill holes: "),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            load(name, hub_like)
        assert len(str(caught.value).splitlines()) == 1


def test_accent_trains_the_attentions_and_nothing_else(
    load: Callable[..., Any], diffusers: dict[str, Path]
):
    config = load("accent", diffusers["ace_step"], **{"method.rank": 8}).method_config
    assert config.roles == ("self_attention", "cross_attention")


def test_inpaint_shows_spans_and_tails_and_some_whole(
    load: Callable[..., Any], diffusers: dict[str, Path]
):
    loaded = load("inpaint", diffusers["stable_audio"], **{"method.rank": 8})
    assert (loaded.task_config.masks, loaded.task_config.plain) == (("span", "tail"), 0.1)
    assert loaded.config.train.batch_size == 4


def test_pocket_changes_numbers_and_says_so(load: Callable[..., Any]):
    for name in recipes().keys() - PICKY.keys():
        loaded = load(name, "pocket")
        notes = find_base("pocket").notes["recipes"][name]
        for key, value in notes.items():
            section, _, setting = key.partition(".")
            plugged = {"method": loaded.method_config, "tokens": loaded.tokens_config}
            holder = plugged[section] if section in plugged else getattr(loaded.config, section)
            used = getattr(holder, setting)
            assert used == (tuple(value) if isinstance(value, list) else value)
        assert by_key(loaded).keys() == notes.keys()
        assert {one.by for one in loaded.recipe.changes} == {"the notes of pocket"}
        assert all(one.recipe is not None for one in loaded.recipe.changes)


def test_who_changed_a_number(load: Callable[..., Any], noted: Path, hub_like: Path):
    found = by_key(load("genre", noted, "train.steps=7"))
    assert found["train.lr"] == Change("train.lr", 1e-4, 2e-3, "the notes of " + str(noted))
    assert found["train.ema"].recipe is None, "the recipe says nothing about it"
    assert found["train.steps"] == Change("train.steps", 1000, 7, "your settings (command line)")
    found = by_key(load("genre", noted, **{"train.lr": 5e-5}))
    assert found["train.lr"] == Change("train.lr", 1e-4, 5e-5, "your settings")
    found = by_key(load("genre", hub_like, "train.epochs=3"))
    assert (found["train.steps"].recipe, found["train.steps"].used) == (1000, None)
    assert load("genre", noted, "train.lr=1e-4").recipe.changes[-1].key == "train.ema"


def test_dreambooth_in_the_place_of_the_token(load: Callable[..., Any], hub_like: Path):
    loaded = load("instrument", hub_like, method="dreambooth", **{"concept.check": False})
    assert loaded.tokens_config is None
    assert loaded.config.method["name"] == "lora"
    assert (loaded.config.concept.token, loaded.config.prior.weight) == ("sks", 1.0)
    assert loaded.config.train.batch_size == 2 and loaded.config.train.lr == 1e-4
    loaded = load("instrument", "pocket", method="dreambooth")
    notes = find_base("pocket").notes["recipes"]["instrument/dreambooth"]
    assert by_key(loaded)["train.steps"].used == notes["train.steps"]


def test_a_recipe_is_for_its_own_method(load: Callable[..., Any], hub_like: Path):
    with pytest.raises(ConfigError, match=r"made for lora, not for full.*leave --method out"):
        load("genre", hub_like, method="full")
    assert load("genre", hub_like, method="full", **{"train.lr": 5e-6}).config.train.lr == 5e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: {sumary: x}", "recipe.sumary: unknown setting - did you mean 'summary'"),
        ("recipe: {prepare: {min_s: long}}", "recipe.prepare.min_s: should be a number"),
        ("train: {lr: fast}", "train.lr: should be a number"),
    ],
)
def test_faults_of_an_own_recipe(
    text: str, message: str, load: Callable[..., Any], hub_like: Path, tmp_path: Path
):
    file = tmp_path / "mine.yaml"
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load(file, hub_like, method="lora")
    (line,) = str(caught.value).splitlines()
    assert message in line and f"{file}:1" in line


def test_an_own_recipe_is_found_again_from_any_folder(
    load: Callable[..., Any], hub_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.yaml").write_text("recipe: {summary: s}\nmethod: {name: lora, rank: 3}\n")
    monkeypatch.chdir(tmp_path)
    loaded = load("mine.yaml", hub_like)
    assert loaded.config.recipe == str(tmp_path / "mine.yaml")
    assert (loaded.recipe.name, loaded.method_config.rank) == ("mine.yaml", 3)


@pytest.mark.parametrize("value", ["[pan]", '"[pan]"', '["[pan]"]'])
def test_a_token_keeps_its_brackets(value: str, load: Callable[..., Any], hub_like: Path):
    """YAML reads what a user types as a list of one word, which is another word."""
    loaded = load("style", hub_like, f"tokens.token={value}")
    assert loaded.tokens_config.tokens == ("[pan]",)


# --- from recordings to a data set ---


def test_recordings_are_cut_within_what_the_base_takes(
    load: Callable[..., Any], hub_like: Path, recordings: Path, tmp_path: Path
):
    said: list[str] = []
    loaded = with_data(load("genre", hub_like, data=str(recordings)), say=said.append)
    place = tmp_path / "run" / "data"
    assert loaded.config.data.path == str(place)
    settings = json.loads((place / "dataset.json").read_text())["settings"]
    assert (settings["min_s"], settings["max_s"], settings["sample_rate_hz"]) == (2, 4, 1600)
    assert f"{recordings} prepared as {place}" in said[0]
    found = by_key(loaded)
    assert (found["prepare.max_s"].recipe, found["prepare.max_s"].used) == (30, 4)
    assert any("prepare.max_s: 30 in the recipe, 4 by" in line for line in told(loaded))
    before = {file: file.stat().st_mtime_ns for file in place.rglob("*.flac")}
    said.clear()
    with_data(load("genre", hub_like, data=str(recordings)), say=said.append)
    assert "is there already" in said[0]
    assert {file: file.stat().st_mtime_ns for file in place.rglob("*.flac")} == before


def test_a_data_set_is_used_as_it_is(
    load: Callable[..., Any], hub_like: Path, tiny_data: Path, recordings: Path, tmp_path: Path
):
    assert with_data(load("genre", hub_like)).config.data.path == str(tiny_data)
    assert not (tmp_path / "run").exists()
    assert is_prepared(tiny_data) and not is_prepared(recordings)


def test_recordings_do_not_replace_what_a_run_stands_on(
    load: Callable[..., Any], hub_like: Path, recordings: Path, tmp_path: Path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter.json").write_text("{}")
    loaded = with_data(load("genre", hub_like, data=str(recordings)))
    assert not (tmp_path / "run" / "data").exists()
    with pytest.raises(UserError, match="already holds a run"):
        run_module.train(loaded)


@pytest.mark.parametrize("content", [{}, {"notes.txt": b"text"}, {"torn.wav": b"RIFF"}])
def test_a_folder_without_recordings_is_one_line(
    content: dict[str, bytes], load: Callable[..., Any], hub_like: Path, tmp_path: Path
):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name, value in content.items():
        (folder / name).write_bytes(value)
    with pytest.raises(UserError) as caught:
        with_data(load("genre", hub_like, data=str(folder)))
    assert "\n" not in str(caught.value) and caught.value.mend
    assert not (tmp_path / "run" / "data").exists()


def test_a_stop_while_preparing_goes_on_later(
    load: Callable[..., Any], hub_like: Path, recordings: Path
):
    with pytest.raises(Stopped):
        with_data(load("genre", hub_like, data=str(recordings)), should_stop=lambda: 15)
    said: list[str] = []
    with_data(load("genre", hub_like, data=str(recordings)), say=said.append)
    assert "prepared as" in said[0]


# --- what a run says of it ---


def test_a_resumed_run_tells_the_same_changes(
    load: Callable[..., Any], noted: Path, tmp_path: Path
):
    """Its config.yaml says everything, so that on its own it would name nobody else."""
    loaded = load("genre", noted, *SHORT, "train.checkpoint_every=1")
    stop = StopFlag()

    def after_one(kind: str, values: Any) -> None:
        if kind == "train":
            stop.set(15)

    with pytest.raises(Stopped):
        run_module.train(loaded, stop=stop, on_event=after_one)
    folder = tmp_path / "run"
    before = json.loads((folder / "run.json").read_text())["recipe"]
    again = load_config(folder / "config.yaml", {"out": str(folder)})
    run_module.train(again, resume=True)
    assert json.loads((folder / "run.json").read_text())["recipe"] == before
    assert json.loads((folder / "adapter.json").read_text())["recipe"] == before
    rows = {one["key"]: one for one in before["changes"]}
    assert rows["train.lr"]["by"].startswith("the notes of ")
    card, page = model_card(folder), report_on_run(folder).read_text()
    assert "| `train.lr` | 0.0001 | 0.002 | the notes of" in card
    assert "Recipe: genre" in page and "0.0001" in page and "0.002" in page


def test_clips_without_what_is_required_are_refused_before_the_base_is_loaded(
    settings: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = write_data(tmp_path / "some", (0.6,) * 4, valid=1)
    rows = [f"{number}.wav,words" for number in range(2)]
    (data / "train" / "metadata.csv").write_text("\n".join(["file_name,lyrics", *rows]))
    monkeypatch.setattr(run_module, "load_base", lambda *_, **__: pytest.fail("was loaded"))
    loaded = load_config(settings=settings(data=str(data), data__require=("lyrics",)))
    with pytest.raises(UserError, match=r"2 of 4 clips have no lyrics \(train/2\.wav\)"):
        run_module.train(loaded)
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_best_clips_alone_are_trained_on(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
):
    """``data.keep_best`` works without any recipe, and is kept with the adapter."""
    data = write_data(tmp_path / "some", (0.6,) * 8, valid=2)
    wanted = settings(data=str(data), data__keep_best=0.5, train__steps=1)
    run_module.train(load_config(settings=wanted))
    folder = tmp_path / "run"
    facts = json.loads((folder / "run.json").read_text())
    assert facts["data"]["train"]["clips"] == facts["chosen"]["train"]["kept"] == 3
    assert facts["data"]["valid"]["clips"] == facts["chosen"]["valid"]["kept"] == 1
    assert len(facts["chosen"]["train"]["left_out"]) == 3
    assert json.loads((folder / "adapter.json").read_text())["chosen"] == facts["chosen"]
    assert "best of training" in report_on_run(folder).read_text()
