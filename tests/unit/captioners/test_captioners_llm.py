"""The plumbing of generative captioners; what random weights write is gibberish by design."""

import math

import numpy as np
import pytest

from tunesmith.captioners import Told, open_captioner
from tunesmith.types import Audio

KINDS = ["qwen2_audio", "audioflamingo3", "musicflamingo", "glmasr"]


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_lines_the_same_each_time_alone_or_together(models, clips, silence, kind):
    captioner = open_captioner(str(models(kind)))
    assert captioner.source == "model" and captioner.name == str(models(kind))
    told = captioner.caption([*clips, silence])
    assert told[-1] == Told("", 0.0)
    assert any(one.text for one in told)
    for one, clip in zip(told, clips, strict=False):
        assert "\n" not in one.text and len(one.text) <= 400
        assert 0 <= one.confidence <= 1 and (one.confidence > 0) == bool(one.text)
        (alone,) = captioner.caption([clip])
        assert alone.text == one.text
        assert alone.confidence == pytest.approx(one.confidence, rel=1e-4)
    again = open_captioner(str(models(kind)))
    assert again.caption([*clips, silence]) == told
    assert again.fingerprint == captioner.fingerprint
    assert captioner.caption([]) == []


def test_the_sound_is_heard(models, clips):
    told = open_captioner(str(models("audioflamingo3"))).caption(clips)
    assert len({one.text for one in told}) > 1


@pytest.mark.parametrize("kind", ["qwen2_audio", "musicflamingo"])
def test_a_clip_is_heard_up_to_the_models_length(models, kind):
    captioner = open_captioner(str(models(kind)))
    assert captioner.longest_s == {"qwen2_audio": 2, "musicflamingo": 6}[kind]
    rate_hz = captioner.sample_rate_hz
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 10 * rate_hz)).astype(np.float32)
    cut = noise[:, : int(captioner.longest_s * rate_hz)]
    whole, part = (captioner.caption([Audio(one, rate_hz)]) for one in (noise, cut))
    assert whole == part


def test_the_prompt_matters_and_is_in_the_fingerprint(models, clips):
    plain = open_captioner(str(models("qwen2_audio")))
    other = open_captioner(str(models("qwen2_audio")), prompt="fast piano or slow guitar")
    assert plain.caption(clips) != other.caption(clips)
    half = open_captioner(str(models("qwen2_audio")), dtype="bfloat16")
    weights = open_captioner(str(models("qwen2_audio", seed=1)))
    assert len({one.fingerprint for one in (plain, other, half, weights)}) == 4


def test_half_precision_and_many_clips(models, clips):
    captioner = open_captioner(str(models("audioflamingo3")), dtype="bfloat16")
    assert len(captioner.caption(clips * 3)) == 12


def test_confidence_is_the_mean_probability_of_what_was_written(models):
    captioner = open_captioner(str(models("qwen2_audio")))
    tokenizer = captioner._processor.tokenizer
    words = tokenizer("slow piano melody", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    logs = [math.log(p) for p in (0.5, 0.5, 0.25, 0.125, 0.9, 0.9)]
    ended = captioner._told([*words, end, 0, 0], logs)
    assert ended.text == "slow piano melody"
    assert ended.confidence == pytest.approx((0.5 * 0.5 * 0.25 * 0.125) ** 0.25)
    cut_off = captioner._told(words, logs[:3])
    assert cut_off.confidence == pytest.approx((0.5 * 0.5 * 0.25) ** (1 / 3))
    assert captioner._told([end], [0.0]) == Told("", 0.0)


def test_confidence_agrees_with_the_models_own_probabilities(models, clips):
    """Teacher forcing on the written words gives the log-probabilities that were kept on the way."""
    import torch

    captioner = open_captioner(str(models("qwen2_audio")))
    model, processor = captioner._model, captioner._processor
    from tunesmith.captioners._model import mono_at

    inputs = processor(
        text=[captioner._prompt],
        audio=[mono_at(clips[0], captioner.sample_rate_hz, captioner.longest_s)],
        audio_kwargs={"sampling_rate": captioner.sample_rate_hz},
        return_tensors="pt",
    )
    with torch.inference_mode():
        written = model.generate(**inputs, generation_config=captioner._settings)
        start = inputs["input_ids"].shape[1]
        inputs["input_ids"], inputs["attention_mask"] = written, torch.ones_like(written)
        logs = model(**inputs).logits[0, start - 1 : -1].log_softmax(-1)
    kept = logs.gather(1, written[0, start:, None]).mean().exp()
    assert captioner.caption(clips[:1])[0].confidence == pytest.approx(float(kept), rel=1e-4)


def test_a_model_nobody_tried_that_fails_is_refused(models, monkeypatch):
    from transformers import GlmAsrForConditionalGeneration

    from tunesmith.errors import UserError

    def fail(*args, **kwargs):
        raise RuntimeError("wants other inputs")

    monkeypatch.setattr(GlmAsrForConditionalGeneration, "forward", fail)
    with pytest.raises(UserError, match="'glmasr' model, which cannot listen and write"):
        open_captioner(str(models("glmasr")))
