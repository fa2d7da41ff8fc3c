from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tunesmith.errors import ResourceError, UserError
from tunesmith.families.musicgen import tiny
from tunesmith.formats.adapter import card_hash, find_adapter, home, load_adapter, save_adapter
from tunesmith.formats.sound import read_made_of, write_sound
from tunesmith.methods import lora
from tunesmith.types import Audio


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    bundle = tiny(0)
    save_adapter(folder, lora.attach(bundle, lora.Config(rank=2)), bundle, {})
    return folder


@pytest.mark.parametrize(
    "inside",
    ["", "adapter.json", "adapter", "adapter/decoder", "adapter/decoder/adapter_model.safetensors"],
)
def test_an_adapter_is_found_by_folder_file_and_name(
    run: Path, inside: str, monkeypatch: pytest.MonkeyPatch
):
    assert find_adapter(str(run / inside)) == run
    monkeypatch.chdir(run.parent)
    assert find_adapter(f"mine/{inside}".rstrip("/")).resolve() == run
    home().mkdir(parents=True, exist_ok=True)
    by_name = home() / "by-name"
    if not by_name.exists():
        by_name.symlink_to(run)
    assert find_adapter(f"by-name/{inside}".rstrip("/")).resolve() == run


def test_what_is_no_adapter(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no adapter 'nothing'"):
        find_adapter("nothing")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no adapter"):
        find_adapter(str(run / "metrics.jsonl"))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match=r"has not finished.*--resume"):
        find_adapter(str(tmp_path))


def changed(run: Path, folder: Path, change: Any) -> Path:
    import shutil

    shutil.copytree(run, folder)
    card = json.loads((folder / "adapter.json").read_text())
    change(card)
    (folder / "adapter.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda card: card.update(format=99), "newer version"),
        (lambda card: card.pop("base"), "not readable"),
        (lambda card: card.pop("components"), "not readable"),
        (lambda card: card["method"].pop("name"), "not readable"),
        (lambda card: card["method"].update(name="lorra"), "did you mean 'lora'"),
        (lambda card: card["method"].update(rank="many"), "another version"),
        (lambda card: card["method"].update(unheard_of=1), "another version"),
        (lambda card: card["components"].update({"../../etc": "0"}), "not readable"),
    ],
)
def test_cards_that_cannot_be_right(run: Path, tmp_path: Path, change: Any, complaint: str):
    folder = changed(run, tmp_path / "x", change)
    with pytest.raises(UserError, match=complaint):
        load_adapter(folder, tiny(0))


def test_a_card_cannot_choose_code_to_run(run: Path, tmp_path: Path):
    """An adapter is downloaded from strangers; a method's name in it is never a path."""
    mark = tmp_path / "it ran"
    evil = tmp_path / "evil.py"
    evil.write_text(f"SPEC = {{'summary': 's'}}\nopen({str(mark)!r}, 'w')\n")
    folder = changed(run, tmp_path / "x", lambda card: card["method"].update(name=str(evil)))
    with pytest.raises(UserError, match="not installed"):
        load_adapter(folder, tiny(0))
    assert not mark.exists()


def test_a_torn_card(run: Path, tmp_path: Path):
    folder = changed(run, tmp_path / "x", lambda card: None)
    text = (folder / "adapter.json").read_text()
    (folder / "adapter.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match="not readable"):
        load_adapter(folder, tiny(0))


def test_the_hash_tells_adapters_apart(run: Path, tmp_path: Path):
    bundle = tiny(0)
    save_adapter(tmp_path, lora.attach(bundle, lora.Config(rank=2), seed=1), bundle, {})
    assert card_hash(tmp_path) != card_hash(run)
    assert card_hash(run) == card_hash(run)


def test_a_dora_adapter_has_no_half_strength():
    bundle = tiny(0)
    adapter = lora.attach(bundle, lora.Config(rank=2, dora=True))
    assert not adapter.linear
    with pytest.raises(UserError, match=r"no strength 0.5"):
        adapter.set_strength(0.5)


# --- sound files ---


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_and_what_made_it_come_back(tmp_path: Path, kind: str, channels: int):
    samples = np.random.default_rng(0).uniform(-1.2, 1.2, (channels, 999)).astype(np.float32)
    path = tmp_path / "new folder" / f"x.{kind}"
    made_of = {"prompt": 'schön "quoted"\nnext line ✓', "seed": 3, "strength": 0.5, "adapter": None}
    write_sound(path, Audio(samples, 1600), made_of)
    assert read_made_of(path) == made_of
    found, rate = soundfile.read(path, always_2d=True)
    assert rate == 1600
    np.testing.assert_allclose(found.T, samples.clip(-1, 1), atol=2 / 2**15)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_sound_without_a_note_has_none(tmp_path: Path):
    audio = Audio(np.zeros((1, 10), np.float32), 1600)
    write_sound(tmp_path / "x.wav", audio)
    assert read_made_of(tmp_path / "x.wav") == {}


def test_sounds_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    audio = Audio(np.zeros((1, 10), np.float32), 1600)
    with pytest.raises(UserError, match="give wav or flac"):
        write_sound(tmp_path / "x.mp3", audio)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        write_sound(tmp_path / "x.wav", audio)
    assert list(tmp_path.iterdir()) == []
