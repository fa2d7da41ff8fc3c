"""The pocket voice's corpus and the networks that hear it: what is said is what is written down."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.voice import corpus, hear, recogniser, speak, text, voiceprint, xvector
from pretrain.voice.speakers import HELD_ACCENT, SPLITS, Speaker, speakers, voices
from tunesmith.analysis import speech_nets as nets

needs_espeak = pytest.mark.skipif(
    shutil.which(speak.PROGRAM) is None, reason="espeak-ng is not installed"
)


def test_the_held_voice_and_accent_are_in_no_split_that_the_voice_learns_from() -> None:
    for split in ("train", "crowd", "judge"):
        people = speakers(split)
        assert not [one for one in people if one.variant == "pedro" or one.language == HELD_ACCENT]
    (held,) = speakers("heldvoice")
    (accented,) = speakers("heldaccent")
    assert held.id not in {one.id for one in voices()}
    assert accented.id in {one.id for one in voices()}
    assert accented.id not in {one.id for one in speakers("accent")}


def test_voices_are_many_and_all_different() -> None:
    made = voices()
    assert len(made) >= 100
    assert len({one.id for one in made}) == len(made)
    assert len({(one.variant, one.pitch, one.warp) for one in made}) == len(made)
    english = [one for one in speakers("train") if one.language.startswith("en")]
    assert len(english) >= len(speakers("train")) / 2
    with pytest.raises(ValueError, match="no split"):
        speakers("test")


def test_no_sentence_is_in_two_parts_and_all_are_lower_case() -> None:
    draw = np.random.default_rng(0)
    parts = {
        split: {text.part(text.sentence(name, split, draw)) for name in ("en-us", "de", "es")}
        for split in SPLITS
    }
    for a, b in (
        ("train", "valid"),
        ("train", "heldvoice"),
        ("train", "judge"),
        ("valid", "judge"),
    ):
        assert not parts[a] & parts[b]
    for language in ("en-gb", "de", "es", "fr-fr", "it"):
        assert len(text.words(language)) > 1000
        made = [text.sentence(language, "train", draw) for _ in range(50)]
        assert all(one == one.lower() and one[-1] in ".?" and "*" not in one for one in made)


def test_symbols_lose_stress_and_are_refused_in_two_languages() -> None:
    assert speak.symbols("h_ə_l_ˈoʊ w_ˈɜː_l_d\n k_ˈɔːɹ t_ˈəl") == [
        *("h", "ə", "l", "oʊ", "w", "ɜː", "l", "d", "k", "ɔː", "ɹ", "t", "ə", "l")
    ]
    assert speak.symbols("t_ˈuː_tː_o") == ["t", "uː", "t", "o"]
    for nothing in ("(en)_ð_ə_(fr)", " \n"):
        with pytest.raises(speak.Unsayable):
            speak.symbols(nothing)


@needs_espeak
def test_speech_has_a_level_a_pace_and_pitch_moved_by_the_warp() -> None:
    one = Speaker("a", "en-us", "m3", 50, 160, 1.0)
    said = speak.speak("the water is under the old bridge.", one)
    again = speak.speak("the water is under the old bridge.", one)
    assert said.sound.dtype == np.int16
    assert np.array_equal(said.sound, again.sound)
    assert said.phones[:2] == ["ð", "ə"]
    wave = said.sound / 32768
    assert 1.0 < len(wave) / 16000 < 4.0
    assert 0.04 < np.sqrt((wave**2).mean()) < 0.1
    assert np.abs(wave).max() < 0.97
    warped = speak.speak(
        "the water is under the old bridge.", Speaker("b", "en-us", "m3", 50, 160, 1.2)
    )
    assert warped.phones == said.phones
    # As long, although played faster: the pace makes up for it.
    assert abs(len(warped.sound) / len(said.sound) - 1) < 0.15


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voice")
    for split, count in {"train": 8, "valid": 6, "judge": 6, "accent": 6, "crowd": 8}.items():
        corpus.shard(folder, split, 0, count)
    corpus.make(folder, {"heldvoice": 3, "heldaccent": 3}, 1)
    return folder


@needs_espeak
def test_a_corpus_is_whole_and_made_once(work: Path) -> None:
    sound, rows = corpus.load(work, "train")
    assert sound.dtype == np.int16
    assert rows[-1]["start"] + rows[-1]["length"] == len(sound)
    assert all(a["start"] + a["length"] == b["start"] for a, b in pairwise(rows))
    assert set(rows[0]) == {"start", "length", "text", "phones", "speaker", "language"}
    phones = corpus.inventory(work)
    assert {phone for row in rows for phone in row["phones"]} <= set(phones)
    assert corpus.shard(work, "train", 0, 8) == 0
    with pytest.raises(FileNotFoundError, match="corpus"):
        corpus.load(work / "nowhere", "train")


@needs_espeak
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (recogniser, "phones"),
        (recogniser, "phones_judge"),
        (xvector, "xvector"),
        (voiceprint, "voiceprint"),
    ],
)
def test_what_is_trained_is_what_is_loaded(
    work: Path, stage: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["stage", "--work", str(work), "--steps", "2", "--batch", "4"]
    if stage is recogniser:
        command += ["--name", name]
        small = recogniser.NETWORKS[name] | {"width": 16, "depth": 1}
        monkeypatch.setitem(recogniser.NETWORKS, name, small)
    monkeypatch.setattr("sys.argv", command)
    stage.main()  # type: ignore[attr-defined]
    model, config = nets.load(work / "weights" / f"{name}.safetensors")
    assert config["training"]["steps"] == 2
    assert config["figures"]
    assert (work / "logs" / f"{name}.jsonl").exists()
    if stage is voiceprint:
        data = voiceprint.Waves(work, ["valid"], "cpu")
        vectors = voiceprint.embedded(model, data)
        assert vectors.shape == (6, 256)
    else:
        data = hear.Mels(work, ["valid"], "cpu")
        if stage is recogniser:
            assert model.head.out_features == len(config["phones"]) + 1
            assert len(recogniser.heard(model, data)) == 6
            return
        vectors = xvector.embedded(model, data)
        assert vectors.shape == (6, 512)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(6), atol=1e-4)


@needs_espeak
@pytest.mark.parametrize(("stage", "name"), [(recogniser, "phones"), (voiceprint, "voiceprint")])
def test_training_goes_on_from_weights_and_keeps_their_phones(
    work: Path, stage: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    phones = [*corpus.inventory(work), "a phone of old"]
    small = nets.Recogniser(len(phones), width=16, depth=1, kernel=3)
    network = small if stage is recogniser else nets.Voiceprint(width=4, size=8)
    config = {"phones": phones, "training": {"steps": 7}}
    hear.export(tmp_path / "before.safetensors", network, kind_of(stage), config)
    command = ["stage", "--work", str(work), "--steps", "2", "--batch", "4", "--rate", "1e-5"]
    command += ["--begin", str(tmp_path / "before.safetensors")]
    monkeypatch.setattr("sys.argv", command)
    stage.main()
    model, config = nets.load(work / "weights" / f"{name}.safetensors")
    assert config["training"]["before"] == {"steps": 7} and config["network"] == network.config
    for key, value in model.state_dict().items():
        if value.is_floating_point() and "running" not in key:
            assert torch.allclose(value, network.state_dict()[key], atol=3e-3), key
    if stage is recogniser:
        assert config["phones"] == phones


def kind_of(stage: Any) -> str:
    return "recogniser" if stage is recogniser else "voiceprint"


@pytest.mark.parametrize("recurrent", [0, 16])
def test_what_is_heard_depends_neither_on_level_nor_on_the_batch(recurrent: int) -> None:
    torch.manual_seed(0)
    model = nets.Recogniser(10, width=32, depth=2, kernel=5, recurrent=recurrent).eval()
    encoder = nets.XVector(32, 48, 64).eval()
    mel = torch.randn(2, 41, 80) * 0.5 - 1
    lengths = torch.tensor([41, 30])
    one, both = mel[1:, :30] + 0.7, mel
    scores, counts = model(both, lengths)
    alone, count = model(one, lengths[1:])
    assert count.item() == counts[1].item() == 15
    assert torch.allclose(alone[0], scores[1, :15], atol=1e-4)
    assert torch.allclose(encoder(one, lengths[1:])[0], encoder(both, lengths)[1], atol=1e-4)


def test_the_best_path_and_the_distance() -> None:
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0, 3]])
    scores = torch.nn.functional.one_hot(path, 4).float()
    assert nets.best_path(scores, torch.tensor([7])) == [[1, 1, 2]]
    assert recogniser.distance([1, 2, 3], [1, 2, 3]) == 0
    assert recogniser.distance([], [1, 2]) == 2
    assert recogniser.distance([1, 2, 3, 4], [2, 3, 5, 4]) == 2
    assert recogniser.distance([4, 4, 4], [4]) == 2


def test_equal_error_of_voices_that_are_apart_mixed_and_alone() -> None:
    apart = torch.eye(4).repeat_interleave(3, 0)
    names = [name for name in "abcd" for _ in range(3)]
    assert hear.equal_error(apart, names) < 0.01
    torch.manual_seed(0)
    mixed = torch.nn.functional.normalize(torch.randn(80, 8), dim=1)
    assert abs(hear.equal_error(mixed, list("abcd") * 20) - 0.5) < 0.1
    assert hear.equal_error(apart[::3], list("abcd")) == 0.5


def test_a_schedule_ends_by_steps_or_by_time() -> None:
    optimizer = hear.adamw([torch.nn.Parameter(torch.zeros(1))], 1.0, "cpu")
    plan = hear.Schedule(optimizer, 1.0, steps=400, minutes=60)
    rates = []
    while plan.progress < 1:
        plan.advance()
        rates.append(optimizer.param_groups[0]["lr"])
    assert len(rates) == 400
    assert rates[0] < rates[150] > rates[-1]
    assert rates[-1] == pytest.approx(0.01)
    assert hear.Schedule(optimizer, 1.0, steps=400, minutes=1e-9).progress == 1
