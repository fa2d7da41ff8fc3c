"""Mels, speech model, vocoder and export of ``pocket-voice``, at tiny sizes."""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pretrain.common import write_array, write_jsonl
from pretrain.voice import (
    export,
    mel,
    run,
    spell,
    tts,
    tts_align,
    tts_check,
    tts_data,
    tts_model,
    vocoder,
)
from tunesmith.analysis import speech_nets as nets

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
    "speech_decoder_prenet_units": 32,
    "speech_decoder_postnet_units": 16,
    "speech_decoder_postnet_layers": 2,
}
NARROW = {
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}
LETTERS = tts_model.letters_of([])
LESSONS: dict[str, Any] = {"aligned": 0.5, "spelt": 0.2, "withheld": 0.5, "own": 0.5}


def _clips(count: int, seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Letters as tones, two speakers an octave apart."""
    draw, sounds, rows, at = np.random.default_rng(seed), [], [], 0
    for number in range(count):
        text = "".join(draw.choice(list("abcd"), 4))
        pitch_hz = 110 * (1 + number % 2)
        t = np.arange(2400) / 16000
        tones = [np.sin(2 * np.pi * pitch_hz * (2 + "abcd".index(one)) * t) for one in text]
        wave = np.concatenate(tones) * 0.3
        sound = np.round(wave * 32767 + draw.normal(0, 3, len(wave))).astype(np.int16)
        row = {"start": at, "length": len(sound), "text": text, "speaker": str(number % 2)}
        rows.append({**row, "phones": list(text), "language": "en"})
        sounds.append(sound)
        at += len(sound)
    return np.concatenate(sounds), rows


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voice")
    for split, count in (("train", 12), ("valid", 4)):
        sound, rows = _clips(count, count)
        write_array(folder / "corpus" / f"{split}-0000.npy", sound)
        write_jsonl(folder / "corpus" / f"{split}-0000.jsonl", rows)
        told = {"letters": [0, 1, 2, 3, 4], "samples": [0, 2400, 4800, 7200, 9600]}
        write_jsonl(folder / "corpus" / f"{split}-0000.times.jsonl", [told] * count)
    (folder / "weights").mkdir()
    _leave_listener(folder / "weights" / "xvector.safetensors", {"training": {}})
    return folder


def _leave_listener(path: Path, config: dict[str, Any]) -> None:
    save_file({"w": torch.zeros(2)}, path, metadata={"config": json.dumps(config)})


class Ear(torch.nn.Module):
    """Stands for the speaker encoder."""

    def forward(self, mels: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.cat([mels.mean(1)] * 7, 1)[:, :512]


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "load", lambda path: (Ear(), {}))


def _data(work: Path, ear: Any = None) -> tts_data.Data:
    sound, rows, count = tts_data.Data.read(work, 7.0)
    return tts_data.Data(sound, rows, count, tts_model.make_tokenizer(LETTERS), "cpu")


# --- mels ---


def test_mels_are_the_librarys():
    draw = np.random.default_rng(0)
    waves = [(draw.normal(0, 0.1, n)).astype(np.float32) for n in (16000, 20003, 700, 2560)]
    waves[1][4000:9000] = 0  # digital silence: the floor
    sound = [np.round(wave * 32767).astype(np.int16) for wave in waves]
    lengths = torch.tensor([len(one) for one in sound])
    made, offsets = mel.corpus_mels(
        torch.from_numpy(np.concatenate(sound)), lengths.cumsum(0) - lengths, lengths, torch.float32
    )
    library = mel.extractor()
    for number, one in enumerate(sound):
        wave = one.astype(np.float32) / 32768
        wanted = library(audio_target=wave, sampling_rate=16000)["input_values"][0]
        found = made[offsets[number] : offsets[number + 1]].numpy()
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-4


def test_a_clip_that_cannot_be_mirrored_is_refused():
    with pytest.raises(ValueError, match="too short"):
        mel.log_mels(torch.zeros(1, 600), [512])


# --- letters ---


def test_letters():
    tokenizer = tts_model.make_tokenizer(LETTERS)
    assert tokenizer.convert_ids_to_tokens(tokenizer("Ça  va ").input_ids) == [
        *"▁ça▁va",
        "</s>",
    ]
    assert tokenizer("☃").input_ids == [4, 3, 2]  # space, unknown, end
    assert len(tokenizer) == tts_model.make_config(LETTERS).vocab_size


# --- the speech model ---


def _small(**changes: Any) -> Any:
    return tts_model.make_model(tts_model.make_config(LETTERS, **{**SMALL, **changes}))


def test_one_pass_is_the_librarys(work: Path):
    data, model = _data(work), _small()
    config = model.config
    config.speech_decoder_prenet_dropout = 0.0  # to the library this would be to drop everything
    model.eval().speecht5.decoder.prenet._consistent_dropout = lambda states, p: states
    data.vectors.normal_()
    rows = torch.tensor([3])
    frames, letters = int(data.frames[3]), int(data.letters[3])
    batch = data.batch(rows, tts_data.Bucket(rows, frames, letters, 1), vary=False)
    with torch.no_grad():
        found = tts_model.predict(model, batch)
        wanted = model(
            input_ids=batch.ids,
            attention_mask=torch.ones_like(batch.ids),
            labels=batch.mels,
            speaker_embeddings=batch.speaker,
        )
    assert torch.allclose(found.after, wanted.spectrogram, atol=1e-4)
    assert float(tts_model.losses(model, found, batch).sum()) == pytest.approx(
        float(wanted.loss), rel=1e-4
    )


def test_padding_changes_nothing(work: Path):
    data, model = _data(work), _small().eval()
    model.config.speech_decoder_prenet_dropout = 0.0
    data.vectors.normal_()
    rows = torch.tensor([1, 2])
    frames, letters = int(data.frames.max()), data.ids.shape[1]
    tight = data.batch(rows, tts_data.Bucket(rows, frames, letters, 2), vary=False)
    wide = data.batch(rows, tts_data.Bucket(rows, frames + 16, letters, 2), vary=False)
    with torch.no_grad():
        one, other = (
            tts_model.losses(model, tts_model.predict(model, b), b) for b in (tight, wide)
        )
    assert torch.allclose(one, other, atol=1e-4)


def test_speakers_are_those_of_the_same_speaker(work: Path):
    data = _data(work)
    for number, row in enumerate(data.rows):
        data.vectors[number, int(row["speaker"])] = 1.0
    rows = torch.arange(len(data.rows))
    for vary in (False, True):
        made = data.speakers(rows, vary)
        assert [str(int(one)) for one in made.argmax(1)] == [row["speaker"] for row in data.rows]
    assert set(data.members.tolist()) == set(range(data.count))  # none of those that do not train


def test_the_average_follows():
    net = torch.nn.Linear(2, 2)
    average = tts_model.Average(net)
    with torch.no_grad():
        net.weight.fill_(5.0)
    for _ in range(200):
        average.update()
    assert torch.allclose(average.kept["weight"], net.weight, atol=1e-2)


def _options(kind: Any, work: Path, **values: Any) -> argparse.Namespace:
    usual = {
        "work": work, "device": "cpu", "seed": 0, "deadline": 0.0, "minutes": 1.0, "no_graphs": True,
    }  # fmt: skip
    return argparse.Namespace(**{**usual, **values})


def _train_speech(work: Path, steps: int, rate: float = 3e-3) -> None:
    tts.train(
        _options(
            tts, work, steps=steps, batch=8, buckets=1, rate=rate, max_s=7.0, xvector=None,
            wait_minutes=0.01, check=2, geometry=json.dumps(SMALL), begin=None, languages="",
            lessons=json.dumps(LESSONS), average=0.999, warm_up=400, save_s=60.0,
        )
    )  # fmt: skip


def _train_sound(work: Path, steps: int, minutes: float = 1.0) -> None:
    vocoder.train(
        _options(
            vocoder, work, steps=steps, batch=2, rate=1e-3, judge_width=4, no_judges=False,
            begin=None, alone=vocoder.ALONE,
            geometry=json.dumps(NARROW), minutes=minutes,
        )
    )  # fmt: skip


def test_from_clips_to_a_folder(work: Path, ear: None, tmp_path: Path):
    _train_speech(work, 30)
    _, notes = export.read_weights(work / "tts.safetensors")
    _train_speech(work, 60)  # goes on
    _, later = export.read_weights(work / "tts.safetensors")
    assert (notes["counters"]["step"], later["counters"]["step"]) == (30, 60)
    assert later["figures"]["valid_after"] < notes["figures"]["valid_after"]
    assert len(later["voice"]) == 512
    _train_sound(work, 4)
    _train_sound(work, 6, minutes=0.0)  # with judges, and no time left
    assert all(
        torch.isfinite(v).all()
        for v in export.read_weights(work / "vocoder.safetensors")[0].values()
    )
    export.write_folder(work, tmp_path / "out", without_listeners=True)
    export.verify(tmp_path / "out", "abcd")
    # What was found by trying stays; a card says what it is, and where it was not measured.
    notes_file = tmp_path / "out" / "tunesmith.json"
    tried = {**json.loads(notes_file.read_text()), "defaults": {"lora": {"train.lr": 1e-3}}}
    notes_file.write_text(json.dumps(tried))
    export.write_folder(work, tmp_path / "out", without_listeners=True)
    assert json.loads(notes_file.read_text()) == tried
    told = (tmp_path / "out" / "README.md").read_text()
    assert "# pocket-voice" in told and "Not measured yet" in told and "{" not in told


def test_judges_are_copied_beside(tmp_path: Path):
    (tmp_path / "weights").mkdir()
    for name in ("phones", "voiceprint", "xvector"):
        (tmp_path / "weights" / f"{name}.safetensors").write_bytes(name.encode())
    export.copy_judges(tmp_path, tmp_path / "judges")
    found = {one.name: one.read_bytes() for one in (tmp_path / "judges").iterdir()}
    assert found == {"phones.safetensors": b"phones", "voiceprint.safetensors": b"voiceprint"}


def test_parts_of_two_trainings_are_refused(work: Path, ear: None, tmp_path: Path):
    _leave_listener(work / "weights" / "xvector.safetensors", {"training": {"steps": 9}})
    with pytest.raises(ValueError, match="not what the speech model was trained with"):
        export.write_folder(work, tmp_path / "out")


def test_weights_that_do_not_come(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="has not come"):
        tts.wait_for(tmp_path / "none", 0.001)
    _leave_listener(tmp_path / "some", {})  # in the midst of its training
    with pytest.raises(FileNotFoundError, match="has not come"):
        tts.wait_for(tmp_path / "some", 0.001)


def test_a_deadline_shortens():
    assert tts.minutes_left(5.0, 0.0) == 5.0
    assert tts.minutes_left(5.0, time.time() + 60) == pytest.approx(1.0, abs=0.01)


def test_an_epoch_has_each_clip_once(work: Path):
    data = _data(work)
    buckets = tts_data.buckets_of(data, range(data.count), 2, 3)
    made = tts.plan(buckets, 0, 5, "cpu")
    assert sorted(torch.cat([rows for _, rows in made]).tolist()) == list(range(data.count))
    assert [n for n, _ in made] == [n for n, _ in tts.plan(buckets, 0, 5, "cpu")]


def test_warping_forgives_time_and_nothing_else():
    one = np.random.default_rng(0).normal(size=(20, 3))
    assert tts_check.warped_distance(one, np.repeat(one, 2, axis=0)) == 0
    assert tts_check.warped_distance(one, one + 0.5) > 0.3


def test_diagonality():
    assert tts_model.diagonality(torch.eye(30)) == pytest.approx(1.0)
    assert tts_model.diagonality(torch.ones(60, 60)) == pytest.approx(0.31, abs=0.02)


# --- lessons ---


def test_letters_find_their_phones():
    said = {
        "cab": ["k", "a", "b"],
        "back": ["b", "a", "k"],
        "lamb": ["l", "a", "m"],
        "ball": ["b", "o", "l"],
    }
    found = spell.letters_say(said)
    assert found["cab"] == [("k",), ("a",), ("b",)]
    assert all([p for chunk in found[w] for p in chunk] == said[w] for w in said)
    (_, slots), *_ = spell.rows_of(
        {"cab": found["cab"]}, {"k": 1, "a": 2, "b": 3}, random.Random(0)
    )
    assert slots == [0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0]  # beginning, letters, stop, end


def test_a_letter_sounds_in_its_time():
    row = {"letters": [0, 1, 2], "samples": [0, 1024, 2048]}
    assert tts_align.letter_places(row, 4, 512).tolist() == [1.25, 1.75, 2.25, 2.75]


def test_looking_where_it_sounds_costs_least(work: Path):
    data, model = _data(work), _small().eval()
    rows = torch.tensor([0, 1])
    frames, size = int(data.frames.max()), data.ids.shape[1]
    batch = data.batch(rows, tts_data.Bucket(rows, frames, size, 2), vary=False)
    with torch.no_grad():
        found = tts_model.predict(model, batch)
    right = torch.nn.functional.one_hot(batch.places.round().long(), size)[:, None].float()
    there, away = (replace(found, attentions=[one]) for one in (right, right.roll(3, -1)))
    costs = [float(tts_align.looking(one, batch, 1, 1.2, 2)) for one in (there, found, away)]
    assert costs == sorted(costs)


def test_much_is_withheld():
    heard = torch.ones(400, 30, 2)
    made = tts_align.withheld(heard, 0.8, torch.zeros(2))
    assert float(made.mean()) == pytest.approx(0.6, abs=0.05)
    assert set(made.unique().tolist()) == {0.0, 1.0}


# --- the vocoder ---


def test_pieces_and_their_mels_belong_together(work: Path):
    pieces = vocoder.Pieces(*mel.read_split(work, "train"), "cpu")
    torch.manual_seed(0)
    mels, wave = pieces.draw(6)
    assert mels.shape == (6, vocoder.PIECE, mel.BINS)
    assert wave.shape == (6, vocoder.PIECE * mel.HOP)
    inner = mel.log_mel(wave)[:, 3:-3]  # away from the cuts
    loud = mels[:, 3:30] > -2
    assert float((inner[:, :27] - mels[:, 3:30])[loud].abs().max()) < 0.02


# --- all stages ---


def test_stages_run_in_order_and_once(tmp_path: Path):
    def stage(name: str, code: str, *needs: str) -> run.Stage:
        path = tmp_path / f"stage_{name}.py"
        path.write_text(f"import pathlib, sys\nroot = pathlib.Path({str(tmp_path)!r})\n{code}\n")
        return run.Stage(name, (f"stage_{name}",), needs)

    append = "with (root / 'order').open('a') as f: f.write('{}')"
    once = "\nif not (root / 'seen').exists(): (root / 'seen').touch(); sys.exit(1)"
    planned = [
        stage("a", append.format("a")),
        stage("b", append.format("b") + once, "a"),
        stage("c", append.format("c"), "b"),
        stage("d", "sys.exit(3)", "a"),
        stage("e", append.format("e"), "d"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        assert run.run(planned, tmp_path, side_by_side=False) == ["d", "e"]
        assert (tmp_path / "order").read_text() == "abbc"
        assert run.run(planned[:3], tmp_path, side_by_side=True) == []
        assert (tmp_path / "order").read_text() == "abbc"
        assert run.run(planned[4:], tmp_path, side_by_side=True) == []  # d is somebody else's
    assert (tmp_path / "order").read_text() == "abbce"


def test_what_stages_need_comes_before_them():
    planned = run.stages(Path("w"), "cpu")
    for number, stage in enumerate(planned):
        assert set(stage.needs) <= {one.name for one in planned[:number]}
