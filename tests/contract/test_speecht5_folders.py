"""SpeechT5 in folders: the hub's layout, the vocoder's places, letters, what is refused, export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import close, losses, mixed, noise, shaken
from safetensors.torch import load_file, save_file
from speecht5 import VOICE, opened, plain, save_speecht5
from tiny import write_data
from transformers import SpeechT5FeatureExtractor

import tunesmith.families.speecht5.loading as loading
from tunesmith.config import load_config
from tunesmith.errors import UserError
from tunesmith.families import base_hash, base_limits, find_base, skeleton
from tunesmith.families.speecht5 import tiny
from tunesmith.families.speecht5.words import from_sentencepiece
from tunesmith.formats.adapter import load_adapter, read_card
from tunesmith.formats.merged import merge
from tunesmith.methods import lora
from tunesmith.training import run
from tunesmith.training.signals import StopFlag


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_speecht5(tmp_path / "base")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No hub to be reached; what was asked of it."""
    asked: list[str] = []

    def fetch(name: str, what: str, patterns: list[str], revision: str | None = None) -> Path:
        asked.append(name)
        raise UserError(f"{what} is not in the cache", "")

    monkeypatch.setattr(loading, "fetch", fetch)
    return asked


def test_a_folder_is_the_model_that_was_saved(folder: Path):
    bundle = opened(folder)
    assert bundle.family == "speecht5"
    assert (bundle.sample_rate_hz, bundle.channels, bundle.frame_rate_hz) == (1600, 1, 50)
    assert base_limits(str(folder)) == (1600, 1, 4.0)
    assert bundle.base_hash == base_hash(find_base(str(folder)))
    wanted: Any = tiny(0)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    close(losses(bundle, batch), losses(wanted, wanted.collate(mixed(wanted), [1, 2, 3])), 0)


def test_a_skeleton_has_shapes_and_no_weights(folder: Path):
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    bundle = skeleton(find_base(str(folder)))
    assert {p.device.type for p in bundle.module.parameters()} == {"meta"}
    config = lora.Config(rank=4)
    assert lora.parameter_count(bundle, config) == lora.parameter_count(tiny(0), config)


def test_what_the_real_checkpoint_says_of_its_sound():
    """The defaults of the library's extractor are those of microsoft/speecht5_tts."""
    sound = SpeechT5FeatureExtractor()
    assert (sound.sampling_rate, sound.sample_stride, sound.sample_size) == (16000, 256, 1024)
    assert (sound.num_mel_bins, sound.n_fft) == (80, 1024)


# --- the vocoder's places ---


def test_the_vocoder_beside_the_base_or_named_by_it(tmp_path: Path, no_hub: list[str]):
    folder = save_speecht5(tmp_path / "base", vocoder="../speecht5_hifigan")
    assert loading.find_vocoder(find_base(str(folder))) == tmp_path / "speecht5_hifigan"
    opened(folder)
    (tmp_path / "speecht5_hifigan").rename(tmp_path / "mine")
    notes = {"vocoder": str(tmp_path / "mine")}
    (folder / "tunesmith.json").write_text(json.dumps(notes))
    assert loading.find_vocoder(find_base(str(folder))) == tmp_path / "mine"
    assert no_hub == []


def test_the_vocoder_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = save_speecht5(tmp_path / "base", vocoder="../elsewhere")
    seen = []

    def fetch(name: str, what: str, patterns: list[str], revision: str | None = None) -> Path:
        seen.append((name, patterns))
        return tmp_path / "elsewhere"

    monkeypatch.setattr(loading, "fetch", fetch)
    opened(folder)
    skeleton(find_base(str(folder)))
    assert seen == [
        ("microsoft/speecht5_hifigan", ["config.json", "*.safetensors"]),
        ("microsoft/speecht5_hifigan", ["config.json"]),
    ]


def test_without_a_vocoder_there_is_one_clear_error(tmp_path: Path, no_hub: list[str]):
    folder = save_speecht5(tmp_path / "base", vocoder="")
    with pytest.raises(UserError, match="no vocoder") as caught:
        opened(folder)
    assert "microsoft/speecht5_hifigan" in str(caught.value)
    assert no_hub == ["microsoft/speecht5_hifigan"]


def test_a_vocoder_of_other_mels_is_refused(folder: Path):
    path = folder / "vocoder" / "config.json"
    config = json.loads(path.read_text())
    tensors = load_file(folder / "vocoder" / "model.safetensors")
    tensors["conv_pre.weight"] = torch.zeros(16, 9, 7)
    tensors["mean"], tensors["scale"] = torch.zeros(9), torch.ones(9)
    save_file(tensors, folder / "vocoder" / "model.safetensors", metadata={"format": "pt"})
    path.write_text(json.dumps({**config, "model_in_dim": 9}))
    with pytest.raises(UserError, match="9 mels"):
        opened(folder)


# --- what is refused ---


@pytest.mark.parametrize("part", ["", "vocoder"])
def test_missing_tensors_are_refused(folder: Path, part: str):
    file = folder / part / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 tensors"):
        opened(folder)


def test_a_torn_file_is_refused(folder: Path):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not load"):
        opened(folder)


def test_a_checkpoint_that_listens_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["SpeechT5ForSpeechToText"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not speak"):
        opened(folder)


def test_without_letters_it_is_refused(folder: Path):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"spm_char\.model"):
        opened(folder)
    (folder / "spm_char.model").write_bytes(b"no model at all")
    with pytest.raises(UserError, match="SentencePiece"):
        opened(folder)


# --- the way out ---


def test_what_is_exported_is_opened_by_the_library_and_by_us(folder: Path, tmp_path: Path):
    bundle = opened(folder)
    adapter = shaken(lora.attach(bundle, lora.Config(rank=4)), size=0.2)
    adapter.merge()
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    wanted = losses(bundle, batch)
    bundle.export(tmp_path / "out")
    again = opened(tmp_path / "out")
    close(losses(again, again.collate(mixed(again), [1, 2, 3])), wanted, 0)
    assert again.base_hash != bundle.base_hash
    assert (again.codec_hash, again.text_hash) == (bundle.codec_hash, bundle.text_hash)
    model, vocoder = plain(tmp_path / "out")
    for ours, theirs in ((bundle.module.model, model), (bundle.module.vocoder, vocoder)):
        tensors = theirs.state_dict()
        assert tensors.keys() == ours.state_dict().keys()
        assert all(torch.equal(value, tensors[name]) for name, value in ours.state_dict().items())
    sound = SpeechT5FeatureExtractor.from_pretrained(tmp_path / "out")
    assert sound.to_dict() == bundle.sound.to_dict()


def test_the_letters_go_out_as_they_came(folder: Path, tmp_path: Path):
    model = spm([("<s>", 3), ("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("▁", 1), ("a", 1), ("b", 1)])
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "spm_char.model").write_bytes(model)
    bundle = opened(folder)
    (text,) = bundle.encode_text(["ab xyz a"])
    assert text["ids"].tolist() == [4, 5, 6, 4, 3, 4, 5, 2]
    bundle.export(tmp_path / "out")
    assert (tmp_path / "out" / "spm_char.model").read_bytes() == model
    assert opened(tmp_path / "out").text_hash == bundle.text_hash


def test_numbers_are_spelt_out_where_the_checkpoint_does(folder: Path):
    bundle = opened(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalize": True}))
    spelling = opened(folder)
    (wanted,) = bundle.encode_text(["I have twenty one dogs"])
    (found,) = spelling.encode_text(["I have 21 dogs"])
    assert torch.equal(found["ids"], wanted["ids"])
    (plain_ids,) = bundle.encode_text(["I have 21 dogs"])
    assert not torch.equal(plain_ids["ids"], wanted["ids"])


def test_a_base_may_have_a_voice_of_its_own(folder: Path):
    notes = json.loads((folder / "tunesmith.json").read_text())
    (folder / "tunesmith.json").write_text(
        json.dumps({**notes, "conditioning": {"speaker": VOICE}})
    )
    bundle = opened(folder)
    torch.testing.assert_close(bundle.voice, torch.tensor(VOICE))
    (text,) = bundle.encode_text(["x"])
    assert torch.equal(text["speaker"], bundle.voice)
    assert bundle.encode_audio(noise(bundle, 0.3, 0)).dtype == torch.float32


def test_an_adapter_speaks_with_the_voice_of_its_clips(folder: Path, tmp_path: Path):
    """Trained on rows that say a speaker; asked without the data and without a speaker."""
    data = write_data(tmp_path / "data", (0.3, 0.5, 0.4), valid=1)
    rows = [
        {"file_name": f"{n}.wav", "text": "a word", "speaker": json.dumps(VOICE)} for n in range(2)
    ]
    (data / "train" / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    loaded = load_config(
        settings={
            "base": str(folder),
            "method": "lora",
            "data": str(data),
            "out": str(tmp_path / "run"),
            "train.steps": 2,
            "train.batch_size": 2,
            "preview.every": 0,
        }
    )
    run.train(loaded, stop=StopFlag())
    card = read_card(tmp_path / "run")
    assert card["conditioning"]["speaker"] == pytest.approx(VOICE)
    bundle = opened(folder)
    load_adapter(tmp_path / "run", bundle)
    torch.testing.assert_close(bundle.voice, torch.tensor(VOICE))
    found = bundle.generate_codes(["x"], 0.3, [1], bundle.sampling)
    said = [{"speaker": json.dumps(VOICE)}]
    wanted = bundle.generate_codes(["x"], 0.3, [1], bundle.sampling, details=said)
    torch.testing.assert_close(found[0], wanted[0])
    merge(tmp_path / "run", tmp_path / "merged")
    assert torch.equal(opened(tmp_path / "merged").voice, bundle.voice)


# --- letters ---


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _block(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def spm(pieces: list[tuple[str, int]], kind: int = 4) -> bytes:
    """A serialised SentencePiece model of these pieces and their types."""
    whole = b""
    for text, sort in pieces:
        score = _varint(2 << 3 | 5) + b"\0\0\0\0"
        whole += _block(1, _block(1, text.encode()) + score + _varint(3 << 3) + _varint(sort))
    return whole + _block(2, _varint(3 << 3) + _varint(kind))


LETTERS = [("<s>", 3), ("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("▁", 1), ("e", 1), ("-", 1)]


def test_letters_are_read_as_sentencepiece_reads_them():
    words = from_sentencepiece(spm([*LETTERS, ("]", 1)]), {"<mask>": 8})
    assert words("ee").input_ids == [4, 5, 5, 2]
    assert words("  e   e ").input_ids == [4, 5, 4, 5, 2]
    assert words("").input_ids == [2]
    assert words("exyz-]").input_ids == [4, 5, 3, 6, 7, 2]  # a run of unknown ones is one
    assert words.convert_tokens_to_ids("<mask>") == 8
    assert (words.pad_token_id, words.eos_token_id, words.unk_token_id) == (1, 2, 3)


def test_other_models_are_refused():
    for wrong in (spm(LETTERS, kind=1), spm([]), b"\x0a\xff"):
        with pytest.raises((ValueError, IndexError)):
            from_sentencepiece(wrong)


def test_a_real_model_gives_the_librarys_ids(tmp_path: Path):
    """Held against SentencePiece itself where it is installed; the package does without."""
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = ["Hello, my dog is cute.", "The quick brown fox!", "café — naïve"] * 20
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "lines.txt"),
        model_prefix=str(tmp_path / "letters"),
        model_type="char",
        vocab_size=60,
        character_coverage=1.0,
        hard_vocab_limit=False,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
    )
    model = (tmp_path / "letters.model").read_bytes()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = from_sentencepiece(model)
    for text in ("Hello world", "  two  spaces ", "Ünknown € 漢字 run", "", "½ ﬁne", "tab\tand"):
        assert ours(text).input_ids == [*theirs.encode(text), 2]


def test_no_copy_of_a_folder_is_needed(folder: Path, tmp_path: Path):
    """A moved base is the same base."""
    before = opened(folder).base_hash
    shutil.move(folder, tmp_path / "moved")
    assert opened(tmp_path / "moved").base_hash == before
