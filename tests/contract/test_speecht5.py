"""Our SpeechT5 is SpeechT5: held against transformers and PEFT."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import bits, close, example, losses, mixed, noise, same_bits, shaken
from safetensors.torch import save_file
from speecht5 import VOICE, opened, plain, same_dropout, save_speecht5
from transformers.models.speecht5.modeling_speecht5 import SpeechT5SpectrogramLoss

from tunesmith.errors import UserError
from tunesmith.families._tiny import byte_tokenizer
from tunesmith.families.speecht5 import tiny
from tunesmith.families.speecht5 import vocoder as vocoder_module
from tunesmith.families.speecht5._tiny import tiny_bundle, tiny_sound
from tunesmith.formats.adapter import load_adapter, save_adapter
from tunesmith.methods import full, lora
from tunesmith.training.selftest import overfit
from tunesmith.types import Example, GenerationSettings

DETAILS = {"step": 1, "steps": 1, "metrics": {}}
PLAIN = GenerationSettings()


def total(bundle: Any, batch: Any) -> float:
    """The loss as it is trained on: weighted means over the batch."""
    terms = bundle.module(batch)
    return sum(
        bundle.term_weights[name] * float(sums.sum() / counts.sum())
        for name, (sums, counts) in terms.items()
    )


def theirs(bundle: Any, batch: Any) -> dict[str, Any]:
    """A batch as the library takes it: -100 where there is nothing."""
    labels = batch.codes.transpose(1, 2).clone()
    for row, frames in enumerate(batch.frames.tolist()):
        labels[row, frames:] = -100.0
    text = batch.text
    return {
        "input_ids": text["ids"],
        "attention_mask": text["mask"],
        "speaker_embeddings": text["speaker"],
        "labels": labels,
    }


# --- the loss ---


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_the_loss_is_the_librarys(reduction: int):
    bundle: Any = tiny_bundle(3, reduction=reduction)
    bundle.use_conditioning({"speaker": VOICE})
    model = bundle.module.model
    captions = ["a", "something longer", "in between"]
    clips = [example(bundle, 0.6, caption, seed=n) for n, caption in enumerate(captions)]
    for some, seeds in ((clips, [4, 5, 6]), (clips[:1], [7])):
        batch = bundle.collate(some, seeds)
        assert int(batch.frames[0]) % reduction == 0
        with torch.no_grad():
            ours = total(bundle, batch)
            same_dropout(model, bundle.module.kept(seeds, batch.codes.shape[-1]))
            wanted = model(**theirs(bundle, batch)).loss
        assert ours == pytest.approx(float(wanted), rel=1e-5)


def test_what_is_padded_is_left_out_as_the_library_leaves_it_out():
    """Clips of several lengths: the library's own criterion of what we predict."""
    bundle: Any = tiny(0)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    assert len(set(batch.frames.tolist())) == 3
    with torch.no_grad():
        found = bundle.module.predict(batch)
        asked = theirs(bundle, batch)
        wanted = SpeechT5SpectrogramLoss(bundle.module.model.config)(
            asked["attention_mask"],
            found.before,
            found.after,
            found.stop,
            asked["labels"],
            found.attentions,
        )
        assert total(bundle, batch) == pytest.approx(float(wanted), rel=1e-5)


def test_dropout_comes_from_the_seed_in_evaluation_too():
    bundle: Any = tiny(0)
    bundle.module.eval()
    clip = example(bundle, 0.5)
    state = torch.random.get_rng_state()
    first, again, other = (losses(bundle, bundle.collate([clip], [seed])) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    close(again, first, 0)
    assert not torch.allclose(other["mel_before"], first["mel_before"], rtol=1e-3)
    kept = torch.stack(bundle.module.kept(range(8), 100)).float()
    assert abs(float(kept.mean()) - 0.5) < 4 * 0.5 / kept.numel() ** 0.5
    assert not torch.equal(kept[0], kept[1])


def test_training_leaves_the_statistics_of_the_postnet_alone():
    bundle: Any = tiny(0)
    adapter = lora.attach(bundle, lora.Config(rank=4))
    before = {name: value for name, value in bits(bundle).items() if "running" in name}
    assert before
    bundle.module.train()
    bundle.module(bundle.collate(mixed(bundle), [1, 2, 3]))
    after = bits(bundle)
    same_bits({name: after[name] for name in before}, before)
    assert adapter.parameters()


def test_bare_text_says_nothing_about_the_caption_but_all_about_the_speaker():
    bundle: Any = tiny(0)
    codes = example(bundle, 0.5).codes
    told = [{"speaker": json.dumps(VOICE)}, {"speaker": json.dumps([-x for x in VOICE])}]
    texts = bundle.encode_text(["a", "b"], told)
    clips = [Example("x", codes, text) for text in texts]
    found = losses(bundle, bundle.collate(clips, [1, 1], drop=1))
    assert not torch.allclose(found["mel_before"][0], found["mel_before"][1], rtol=1e-3)


# --- generation ---


@pytest.mark.parametrize("reduction", [1, 2])
def test_generation_is_the_librarys(reduction: int):
    bundle: Any = tiny_bundle(0, reduction=reduction)
    bundle.use_conditioning({"speaker": VOICE})
    model = bundle.module.model
    prompts, seeds = ["one", "a second, longer prompt", "and a third"], [7, 8, 9]
    ends = model.speech_decoder_postnet.prob_out
    with torch.no_grad():
        ends.weight.mul_(30)
    # Until rows end, and at places of their own.
    for bias in torch.arange({1: 1.0, 2: -4.2}[reduction], 9.0, 0.2):
        with torch.no_grad():
            ends.bias.fill_(bias)
        ours = bundle.generate_codes(prompts, 1.2, seeds, PLAIN)
        if len({one.shape[1] for one in ours}) > 1:
            break
    text = bundle._stacked(bundle.encode_text(prompts), [False] * 3)
    most = 60
    same_dropout(model, bundle.module.kept(seeds, most))
    with torch.no_grad():
        mels, lengths = model.generate(
            input_ids=text["ids"],
            attention_mask=text["mask"],
            speaker_embeddings=text["speaker"],
            maxlenratio=(most + 0.5) / text["ids"].shape[1],
            return_output_lengths=True,
        )
    for row, (mine, length) in enumerate(zip(ours, lengths, strict=True)):
        torch.testing.assert_close(mine, mels[row, :length].T, rtol=1e-3, atol=1e-4)
    assert len(set(lengths)) > 1, lengths
    assert 2 < min(lengths) < most, lengths


def test_a_row_ends_where_it_says_so_and_at_the_limit_at_the_latest():
    bundle: Any = tiny(0)
    heads = bundle.module.model.speech_decoder_postnet
    for bias, frames in ((9.0, 2), (-9.0, 25)):
        with torch.no_grad():
            heads.prob_out.bias.fill_(bias)
        (audio,) = bundle.generate(["x"], 0.5, [1])
        assert audio.samples.shape == (1, frames * 32)
    given = noise(bundle, 0.3, 1)
    with torch.no_grad():
        heads.prob_out.bias.fill_(9.0)
    (codes,) = bundle.generate_codes(["x"], 1.0, [1], PLAIN, [given])
    # What is given is not asked whether it is the end.
    assert codes.shape[1] == bundle.encode_audio(given).shape[1] + 2


def test_mels_and_sound_are_the_librarys(tmp_path: Path):
    bundle = opened(save_speecht5(tmp_path))
    _, vocoder = plain(tmp_path)
    audio = noise(bundle, 0.5, 1)
    codes = bundle.encode_audio(audio)
    wanted = tiny_sound()(audio_target=audio.samples[0], sampling_rate=1600).input_values[0]
    assert wanted.shape[0] - codes.shape[1] in (0, 1)  # a step has two frames
    np.testing.assert_array_equal(codes.T.numpy(), wanted[: codes.shape[1]])
    with torch.no_grad():
        sound = vocoder(codes.T)
    np.testing.assert_allclose(bundle.decode_audio(codes).samples[0], sound.clamp(-1, 1), atol=1e-6)
    short = type(audio)(audio.samples[:, :10], 1600)
    assert bundle.encode_audio(short).shape[1] == 2


# --- the speaker ---


def test_a_speaker_is_a_list_or_a_file(tmp_path: Path):
    bundle: Any = tiny(0)
    (tmp_path / "a.json").write_text(json.dumps(VOICE))
    save_file({"x": torch.tensor(VOICE)}, tmp_path / "a.safetensors")
    wanted = torch.tensor(VOICE) / torch.tensor(VOICE).norm()
    for given in (json.dumps(VOICE), str(tmp_path / "a.json"), str(tmp_path / "a.safetensors")):
        (text,) = bundle.encode_text(["x"], [{"speaker": given, "duration_s": 1.0}])
        torch.testing.assert_close(text["speaker"], wanted)
    for given in ("", None):
        (text,) = bundle.encode_text(["x"], [{"speaker": given}])
        assert not bool(text["speaker"].any())
    other = bundle.generate_codes(["x"], 0.5, [1], PLAIN, details=[{"speaker": json.dumps(VOICE)}])
    none = bundle.generate_codes(["x"], 0.5, [1], PLAIN)
    assert bundle.mismatch(other[0], none[0]) > 0.03
    bundle.use_conditioning({"speaker": VOICE})
    said = bundle.generate_codes(["x"], 0.5, [1], PLAIN)
    assert torch.equal(said[0], other[0])


@pytest.mark.parametrize(
    "given", ["[1, 2]", "nowhere.json", "[1, null]", "[1", 7, '["a"]', "[NaN, 1, 1, 1, 1, 1, 1, 1]"]
)
def test_what_is_no_speaker_is_refused(given: Any):
    with pytest.raises(UserError):
        tiny(0).encode_text(["x"], [{"speaker": given}])


def test_what_is_said_of_another_kind_is_refused():
    with pytest.raises(UserError, match="bpm"):
        tiny(0).encode_text(["x"], [{"bpm": 90}])


def test_the_voice_of_clips_is_the_direction_between_them():
    bundle: Any = tiny(0)
    codes = example(bundle, 0.3).codes
    told = [{"speaker": json.dumps([1.0 if i == k else 0.0 for i in range(8)])} for k in (0, 1)]
    clips = [Example("x", codes, text) for text in bundle.encode_text(["a", "b"], told)]
    found = torch.tensor(bundle.conditioning(clips)["speaker"])
    torch.testing.assert_close(found[:2], torch.full((2,), 0.5**0.5))
    before = bundle.text_hash
    bundle.use_conditioning({"speaker": found.tolist()})
    assert bundle.text_hash != before


# --- the vocoder ---


def vocoder_cell(method: str, bundle: Any) -> Any:
    if method == "full":
        return full.attach(bundle, full.Config(components=("vocoder",)))
    config = lora.Config(rank=4, roles=("vocoder",))
    assert lora.check(bundle, config) == []
    adapter = lora.attach(bundle, config)
    count = sum(p.numel() for p in adapter.parameters().values())
    assert lora.parameter_count(tiny(0), config) == count
    return adapter


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_vocoder_learns_and_nothing_else(method: str, tmp_path: Path):
    bundle: Any = tiny(0)
    plain_codes, hashed = example(bundle, 1.0).codes, bundle.codec_hash
    before = bits(bundle)
    adapter = vocoder_cell(method, bundle)
    assert bundle.codec_hash != hashed
    clip = example(bundle, 1.0)
    assert clip.codes.shape == (8 + 32, 50)
    assert torch.equal(clip.codes[:8], plain_codes)
    wave = torch.from_numpy(noise(bundle, 1.0, 0).samples[0])
    assert torch.equal(clip.codes[8:].T.flatten(), wave[:1600])
    found, _ = overfit(bundle, adapter, clip, lr=1e-2, steps=40, limit_s=1e9, target=0.01)
    batch = bundle.collate([clip], [0])
    terms, base = losses(bundle, batch), losses(tiny(0), tiny(0).collate([clip], [0]))
    assert found[-1] < found[0] - 0.5
    close({n: v for n, v in terms.items() if n != "vocoder"}, base, 0)
    loss = bundle.module(batch)["vocoder"][0].sum()
    bundle.module.zero_grad()
    loss.backward()
    declared = {id(p) for p in adapter.parameters().values()}
    moved = {id(p) for p in bundle.module.parameters() if p.grad is not None and p.grad.any()}
    assert moved == declared
    heard = bundle.decode_audio(plain_codes).samples
    save_adapter(tmp_path, adapter, bundle, DETAILS)
    fresh: Any = tiny(0)
    load_adapter(tmp_path, fresh)
    np.testing.assert_array_equal(fresh.decode_audio(plain_codes).samples, heard)
    adapter.merge()
    np.testing.assert_allclose(bundle.decode_audio(plain_codes).samples, heard, atol=1e-5)
    other = vocoder_cell(method, again := tiny(0))
    shaken(other)
    other.detach()
    same_bits(bits(again), before)


def test_only_the_vocoder_learns_at_its_own_rate():
    bundle: Any = tiny(0)
    config = lora.Config(rank=4, roles=("self_attention", "vocoder"), vocoder_rate=3.0)
    adapter = lora.attach(bundle, config)
    rates = adapter.rates()
    assert set(rates.values()) == {3.0}
    assert rates.keys() == {n for n in adapter.parameters() if n.startswith("vocoder/")}
    assert rates.keys() < adapter.parameters().keys()
    assert lora.check(tiny(0), lora.Config(vocoder_rate=0.0))[0].key == "method.vocoder_rate"


def test_a_batch_of_pieces_is_the_pieces_alone():
    bundle: Any = tiny(0)
    vocoder_cell("full", bundle)
    clips, seeds = mixed(bundle), [1, 2, 3]
    together = losses(bundle, bundle.collate(clips, seeds))["vocoder"]
    for row, clip in enumerate(clips):
        alone = losses(bundle, bundle.collate([clip], [seeds[row]]))["vocoder"]
        torch.testing.assert_close(alone[0], together[row])


def test_a_share_of_the_pieces_has_the_mels_that_the_model_says(monkeypatch: pytest.MonkeyPatch):
    bundle: Any = tiny(0)
    vocoder_cell("full", bundle)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    said = torch.randn(3, batch.codes.shape[-1], 8, requires_grad=True)

    def heard(share: float, mels: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(vocoder_module, "SAID", share)
        return vocoder_module.vocoder_loss(
            bundle.module.vocoder, bundle.module.sound, batch, 8, mels
        )

    given, own = heard(0.0, said), heard(1.0, said)
    assert torch.equal(given, heard(0.0, 2 * said))
    assert not torch.isclose(own, heard(1.0, 2 * said)).any()
    recorded = batch.codes[:, :8].float().transpose(1, 2)
    torch.testing.assert_close(heard(1.0, recorded), given)
    own.sum().backward()
    assert said.grad is None
    some = heard(0.5, said)
    assert not torch.equal(some, given)
    assert not torch.equal(some, own)


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_a_vocoder_that_is_too_soft_pays_for_it_thrice(gain: float):
    """Of the right wave g times: |1 − g| + |ln g| by its STFT, |ln g| by its mels, λ·|ln g| by its energy."""
    bundle: Any = tiny(0)
    vocoder_cell("full", bundle)
    clip = bundle.encode_audio(noise(bundle, 1.0, 3))[:, : vocoder_module.PIECE]
    batch = bundle.collate([Example("x", clip, bundle.encode_text(["a"])[0])], [0])
    wave = batch.codes[:, 8:].transpose(1, 2).flatten(1)

    class Loud:
        conv_pre = bundle.module.vocoder.conv_pre

        def __call__(self, mels: torch.Tensor) -> torch.Tensor:
            return gain * wave.expand(len(mels), -1)

    found = vocoder_module.vocoder_loss(
        Loud(), bundle.module.sound, batch, 8, batch.codes[:, :8].mT
    )
    off = abs(math.log(gain))
    wanted = abs(1 - gain) + (2 + vocoder_module.ENERGY) * off
    assert float(found) == pytest.approx(wanted, rel=1e-3, abs=1e-6)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_plain_peft_opens_both_parts(tmp_path: Path):
    peft = pytest.importorskip("peft")
    bundle = opened(save_speecht5(tmp_path / "base"))
    config = lora.Config(rank=4, roles=("cross_attention", "self_attention", "vocoder"))
    adapter = shaken(lora.attach(bundle, config), size=0.2)
    save_adapter(tmp_path / "run", adapter, bundle, DETAILS)
    model, vocoder = plain(tmp_path / "base")
    ids, mels = torch.randint(3, 90, (1, 9)), torch.randn(10, 8)
    bundle.module.eval()
    with torch.no_grad():
        base = model.speecht5.encoder(input_values=ids).last_hidden_state
        wave = vocoder(mels)
        opened_model = peft.PeftModel.from_pretrained(model, tmp_path / "run" / "adapter" / "model")
        opened_vocoder = peft.PeftModel.from_pretrained(
            vocoder, tmp_path / "run" / "adapter" / "vocoder"
        )
        theirs = opened_model.eval().base_model.model.speecht5.encoder(input_values=ids)
        ours = bundle.module.text_states({"ids": ids, "mask": torch.ones_like(ids)})
        torch.testing.assert_close(theirs.last_hidden_state, ours, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(opened_vocoder.eval()(mels), bundle.module.vocoder(mels))
        assert not torch.allclose(base, ours, atol=1e-2)
        # Of a vocoder that nothing taught sound is faint: its change is told by its own size.
        assert not torch.allclose(wave, bundle.module.vocoder(mels), rtol=0.1, atol=0.0)


def test_what_a_vocoder_learned_is_not_blended():
    bundle: Any = tiny(0)
    config = lora.Config(rank=4, roles=("vocoder",))
    adapter = shaken(lora.attach(bundle, config))
    with pytest.raises(UserError, match="convolution"):
        lora.factors(adapter.state(), config)
    vocoder = bundle.components["vocoder"]
    path = sorted(lora.delta(adapter.state()["vocoder"], config))[0]
    layer = vocoder.get_submodule(path)
    wanted = layer.get_delta_weight("default")
    torch.testing.assert_close(lora.delta(adapter.state()["vocoder"], config)[path], wanted)


def test_letters_are_bytes_in_the_tiny_model():
    assert tiny(0).text_pieces("ab") == byte_tokenizer().tokenize("ab")
    with pytest.raises(UserError, match="sentences"):
        tiny(0).encode_text(["x" * 200])
