"""Our CSM is CSM: held against transformers' own loss, sampler and processor."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import close, example, losses, mixed, noise
from csm import BEYOND, GREEDY, inputs, save_csm, talk
from transformers import AutoModelForTextToWaveform, CsmForConditionalGeneration, CsmProcessor

from tunesmith.errors import UserError
from tunesmith.families import find_base, load
from tunesmith.families.csm import tiny
from tunesmith.families.csm.turns import Turn, speaker_of
from tunesmith.methods import full
from tunesmith.tasks.generate import generate
from tunesmith.training.selftest import overfit
from tunesmith.types import Example, GenerationSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_csm(tmp_path_factory.mktemp("csm"), seed=3)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Any:
    """Read only."""
    return load(find_base(str(folder)))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    return CsmForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return CsmProcessor.from_pretrained(folder)


# --- the loss ---


def test_the_loss_is_that_of_transformers(bundle: Any, plain: Any, processor: Any):
    """Three clips of different lengths and speakers, through their processor and their ``labels``."""
    said = [("a", 0), ("a good deal longer than that", 1), ("in between", 0)]
    sounds = [noise(bundle, 0.3 + 0.2 * number, number) for number in range(3)]
    talks = [talk((text, speaker, True)) for text, speaker in said]
    told = inputs(processor, talks, sounds, output_labels=True)
    with torch.no_grad():
        theirs = plain(**told)
    texts = bundle.encode_text([t for t, _ in said], [{"speaker": s} for _, s in said])
    clips = [Example(str(n), bundle.encode_audio(sounds[n]), texts[n]) for n in range(len(sounds))]
    for row, clip in enumerate(clips):
        wanted = told["input_ids"][row][told["attention_mask"][row] == 1]
        assert torch.equal(wanted[: len(clip.text["ids"])], clip.text["ids"])
        assert len(wanted) == len(clip.text["ids"]) + clip.frames + 1
    bundle.module.eval()
    with torch.no_grad():
        terms = bundle.module(bundle.collate(clips, [1, 2, 3]))
    means = {name: float(total.sum() / count.sum()) for name, (total, count) in terms.items()}
    assert means["backbone"] == pytest.approx(float(theirs.backbone_loss), rel=1e-5)
    assert means["depth"] == pytest.approx(float(theirs.depth_decoder_loss), rel=1e-5)
    frames = sum(clip.frames + 1 for clip in clips)
    assert int(terms["backbone"][1].sum()) == frames
    assert int(terms["depth"][1].sum()) == 3 * frames


def test_earlier_turns_are_heard_and_not_learned(bundle: Any, plain: Any, processor: Any):
    """The library learns all turns; with the earlier ones masked in its own labels it is ours."""
    sounds = [noise(bundle, 0.3, 5), noise(bundle, 0.4, 6)]
    told = inputs(
        processor,
        [talk(("what was said", 1, True), ("and the answer", 0, True))],
        sounds,
        output_labels=True,
    )
    before = Turn("what was said", sounds[0], speaker=1)
    (text,) = bundle.encode_text(["and the answer"], [{"context": [before]}])
    clip = Example("x", bundle.encode_audio(sounds[1]), text)
    with torch.no_grad():
        merged = plain._merge_input_ids_with_input_values(
            told["input_ids"], told["input_values"], told["input_values_cutoffs"], told["labels"]
        )
        merged["labels"][:, : len(text["ids"])] = -100
        theirs = plain(inputs_embeds=merged["inputs_embeds"], labels=merged["labels"])
        bundle.module.eval()
        # Beside a row without a context: that has none all the same.
        other = example(bundle, 0.5, "alone")
        terms = bundle.module(bundle.collate([clip, other], [1, 2]))
        alone = bundle.module(bundle.collate([other], [2]))
    wanted = {"backbone": theirs.backbone_loss, "depth": theirs.depth_decoder_loss}
    for name, value in wanted.items():
        total, count = terms[name]
        assert float(total[0] / count[0]) == pytest.approx(float(value), rel=1e-5)
        torch.testing.assert_close(total[1:], alone[name][0], rtol=1e-5, atol=1e-5)
    assert bundle.agreement(clip) <= 1e-4


def test_the_loss_starts_near_chance():
    """Σ of a model that knows nothing is log V a code; a label leak would show as less."""
    bundle: Any = tiny(0)
    with torch.no_grad():
        bundle.module.model.lm_head.weight.zero_()
        bundle.module.model.depth_decoder.codebooks_head.weight.zero_()
        terms = bundle.module(bundle.collate(mixed(bundle), [1, 2, 3]))
    for total, count in terms.values():
        torch.testing.assert_close(total / count, torch.full((3,), math.log(35)))


def test_a_clip_that_was_cut_off_has_no_end(bundle: Any):
    """Clips are used up to ``max_s``; a model that learned to stop there would stop mid-word."""
    most = round(bundle.max_s * bundle.frame_rate_hz)
    cut = example(bundle, bundle.max_s, "longer than that")
    assert cut.frames == most
    whole = Example("x", cut.codes[:, :-1], cut.text)
    counts = bundle.module.count(bundle.collate([cut, whole], [1, 2]))
    assert counts["backbone"].tolist() == [most, most]
    assert counts["depth"].tolist() == [3 * most, 3 * most]
    batch = bundle.collate([cut], [1])
    found = losses(bundle, batch)
    batch.text["ends"].fill_(1)  # type: ignore[attr-defined]
    ended = losses(bundle, batch)
    state = bundle.module.states(batch.text, batch.codes)[0, -1]
    surprise = -bundle.module.model.lm_head(state).log_softmax(dim=-1)[0]
    assert float(ended["backbone"] - found["backbone"]) == pytest.approx(float(surprise), rel=1e-3)


def test_a_share_of_the_frames_is_drawn_from_the_seed(tmp_path: Path):
    bundle: Any = load(find_base(str(save_csm(tmp_path, seed=3, depth_share=0.25))))
    assert bundle.draws_noise
    clips = mixed(bundle)
    bundle.depth_share = 1.0
    whole = losses(bundle, bundle.collate(clips, [0, 0, 0]))
    bundle.depth_share = 0.25
    found = []
    for seed in range(200):
        batch = bundle.collate(clips, [seed, seed + 1, seed + 2])
        counts = bundle.module.count(batch)
        frames = torch.tensor([clip.frames + 1.0 for clip in clips])
        assert torch.equal(counts["depth"], 3 * torch.ceil(frames / 4))
        found.append(losses(bundle, batch))
        torch.testing.assert_close(found[-1]["backbone"], whole["backbone"])
    again = losses(bundle, bundle.collate(clips, [0, 1, 2]))
    close(again, found[0], 0)
    assert not torch.equal(found[1]["depth"], found[0]["depth"])
    # On average it is the loss of all frames: each is drawn equally often.
    mean = torch.stack([one["depth"] for one in found]).mean(dim=0) / counts["depth"]
    torch.testing.assert_close(mean, whole["depth"] / (3 * frames), rtol=0.03, atol=0)
    for wrong in (0, 1.5, "all"):
        save = tmp_path / "tunesmith.json"
        save.write_text(json.dumps({"depth_share": wrong}))
        with pytest.raises(UserError, match="depth_share"):
            load(find_base(str(tmp_path)))


# --- generation ---


@pytest.mark.parametrize("context", [False, True])
def test_greedy_generation_is_that_of_transformers(
    context: bool, bundle: Any, plain: Any, processor: Any
):
    prompts = ["good morning", "a rather longer line, to be spoken slowly"]
    heard = noise(bundle, 0.4, 8)
    before = [("what was said", 1, True)] * context
    talks = [talk(*before, (text, number, False)) for number, text in enumerate(prompts)]
    told = inputs(processor, talks, [heard, heard] if context else [])
    turns = [Turn("what was said", heard, speaker=1)] * context
    details = [{"speaker": number, "context": turns} for number in range(2)]
    ours = bundle.generate_codes(prompts, 1.0, [0, 0], GREEDY, details=details)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about their own defaults
        theirs = plain.generate(
            **told,
            do_sample=False,
            depth_decoder_do_sample=False,
            max_new_tokens=25,
            suppress_tokens=BEYOND,
            depth_decoder_suppress_tokens=BEYOND,
        )
    assert theirs.shape == (2, 25, 4)
    for row, codes in enumerate(ours):
        assert torch.equal(codes.long().T, theirs[row])
    assert len(torch.stack(ours).unique()) > 3, "one code over and over proves little"
    assert not torch.equal(ours[0], ours[1])


def test_speech_ends_where_its_text_does_and_plain_transformers_says_the_same(
    folder: Path, tmp_path: Path
):
    """One clip learned by heart, asked for at greater length: its end was learned as well."""
    bundle: Any = load(find_base(str(folder)))
    clip = example(bundle, 0.6, "a certain noise")
    adapter = full.attach(bundle, full.Config())
    overfit(bundle, adapter, clip, lr=1e-2, steps=300, limit_s=1e9, target=0.01)
    assert bundle.free_length
    (codes,) = bundle.generate_codes(["a certain noise"], 2.0, [0], GREEDY)
    assert torch.equal(codes, clip.codes)
    (begun,) = bundle.generate_codes(["a certain noise"], 2.0, [0], GREEDY, [noise(bundle, 0.2, 0)])
    assert torch.equal(begun, clip.codes)  # the codec is causal: what was given is its beginning
    (short,) = bundle.generate_codes(["a certain noise"], 0.4, [0], GREEDY)
    assert torch.equal(short, clip.codes[:, :10])
    adapter.merge()
    bundle.export(tmp_path)
    opened: Any = AutoModelForTextToWaveform.from_pretrained(tmp_path).eval()
    assert isinstance(opened, CsmForConditionalGeneration)
    reader = CsmProcessor.from_pretrained(tmp_path)
    told = inputs(reader, [talk(("a certain noise", 0, False))], [])
    assert torch.equal(told["input_ids"][0], clip.text["ids"])
    options = {"do_sample": False, "depth_decoder_do_sample": False, "max_new_tokens": 50}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = opened.generate(**told, **options)
        sound = opened.generate(**told, **options, output_audio=True)
    assert torch.equal(said[0, :-1], clip.codes.long().T)
    assert not said[0, -1].any()
    ours = bundle.decode_audio(codes).samples[0]
    np.testing.assert_allclose(sound[0].clamp(-1, 1).numpy(), ours, atol=1e-5)
    again: Any = load(find_base(str(tmp_path)))
    close(losses(again, again.collate([clip], [1])), losses(bundle, bundle.collate([clip], [1])), 0)
    assert again.base_hash != load(find_base(str(folder))).base_hash


def test_a_take_is_never_empty(bundle: Any, monkeypatch: pytest.MonkeyPatch):
    """A model that ends at once still says one frame."""
    ending = torch.zeros(2, 4, dtype=torch.long)
    monkeypatch.setattr("tunesmith.families.csm.decode._frame", lambda *_: ending)
    found = bundle.generate_codes(["a", "b"], 1.0, [0, 1], GREEDY)
    assert [one.shape for one in found] == [(4, 1), (4, 1)]
    assert bundle.decode_audio(found[0]).samples.shape == (1, 64)


def test_codes_that_the_codec_does_not_know_are_not_said(bundle: Any):
    wild = GenerationSettings(guidance=1.0, temperature=50.0, top_k=0)
    for codes in bundle.generate_codes(["a", "b"], 2.0, [0, 1], wild):
        assert 28 < len(codes.unique()) <= 32
        assert int(codes.max()) < 32


def test_a_row_does_not_depend_on_contexts_and_beginnings_beside_it(bundle: Any):
    turn = Turn("before", noise(bundle, 0.4, 2), speaker=3)
    details = [{"context": [turn]}, {"speaker": 1}, {"context": [turn, turn], "speaker": 2}]
    prompts, seeds = ["one", "a second one", "third"], [1, 2, 3]
    begun = [noise(bundle, length, 4) for length in (0.2, 0.5, 0.3)]
    settings = GenerationSettings(guidance=1.0)
    together = bundle.generate_codes(prompts, 1.0, seeds, settings, begun, details=details)
    for row in range(3):
        (alone,) = bundle.generate_codes(
            prompts[row : row + 1],
            1.0,
            seeds[row : row + 1],
            settings,
            begun[row : row + 1],
            details=details[row : row + 1],
        )
        assert torch.equal(alone, together[row])
        given = bundle.encode_audio(begun[row])
        assert torch.equal(alone[:, : given.shape[-1]], given)
    plain_text, voiced = (
        bundle.generate_codes(["one"], 1.0, [1], settings, details=[one])[0]
        for one in ({}, {"context": [turn]})
    )
    assert not torch.equal(plain_text, voiced)


# --- what is said ---


def test_a_speaker_is_a_number(bundle: Any):
    assert [speaker_of({"speaker": one}) for one in ("", 0, "1", 2.0, " 7 ")] == [0, 0, 1, 2, 7]
    assert speaker_of({}) == 0
    for wrong in ("jackson", -1, 1.5, True, "²"):
        with pytest.raises(UserError, match="no number"):
            speaker_of({"speaker": wrong})
    one, two = bundle.encode_text(["x", "x"], [{"speaker": 1}, {"speaker": 2}])
    assert bundle.tokenizer.decode(two["ids"]).replace(" ", "") == (
        "<|begin_of_text|>[2]x<|end_of_text|>"
    )
    assert not torch.equal(one["ids"], two["ids"])
    assert not torch.equal(one["blank"], two["blank"])  # who speaks is no caption
    with pytest.raises(UserError, match="speaker"):
        next(generate(bundle, ["x"], duration_s=0.2, details={"speaker": "she"}))
    with pytest.raises(UserError, match="not conditioned"):
        next(generate(bundle, ["x"], duration_s=0.2, details={"key": "A minor"}))


def test_texts_that_cannot_be_spoken(bundle: Any):
    with pytest.raises(UserError, match="longer than 512"):
        bundle.encode_text(["word " * 200])
    with pytest.raises(UserError, match="stands for sound"):
        bundle.encode_text(["say <|AUDIO|> aloud"])


def test_a_tokenizer_that_frames_no_text(bundle: Any):
    """Copies of the checkpoint differ in what their tokenizer puts around a text by itself."""
    from tokenizers.processors import TemplateProcessing

    other: Any = tiny(0)
    wanted = bundle.encode_text(["some words"])[0]["ids"]
    bare = TemplateProcessing(single="$A", special_tokens=[])  # type: ignore[arg-type]
    other.tokenizer.backend_tokenizer.post_processor = bare
    other.use_tokens({})
    assert torch.equal(other.encode_text(["some words"])[0]["ids"], wanted)
