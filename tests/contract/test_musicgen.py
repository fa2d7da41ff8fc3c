"""Our MusicGen is MusicGen: held against transformers, PEFT and slow references of its own."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import example, mixed, noise, shaken
from tiny import save_base
from torch.nn import functional as F
from transformers import MusicgenForConditionalGeneration

from tunesmith.families import find_base, load
from tunesmith.families.musicgen import tiny
from tunesmith.families.musicgen.decode import stepwise_difference
from tunesmith.families.musicgen.delay import apply_delay, delays, undo_delay
from tunesmith.formats.adapter import load_adapter, save_adapter
from tunesmith.methods import full, lora
from tunesmith.training.selftest import overfit
from tunesmith.types import GenerationSettings

CHANNELS = pytest.mark.parametrize("channels", [1, 2])


def saved(folder: Path, channels: int) -> Any:
    return load(find_base(str(save_base(folder, seed=3, channels=channels))))


def plain(folder: Path) -> Any:
    model = MusicgenForConditionalGeneration.from_pretrained(folder)
    return model.eval()


# --- the delay pattern ---


@CHANNELS
def test_the_delay_pattern_is_that_of_transformers(channels: int):
    bundle: Any = tiny(0, channels=channels)
    decoder = bundle.module.model.decoder
    codes = torch.randint(0, 32, (2, 4 * channels, 11))
    shifts = delays(4 * channels, channels)
    ours, mask = apply_delay(codes, torch.tensor([11, 11]), shifts, 32)
    # Theirs masks what generation has to fill with -1; given all codes, nothing is left to fill.
    started = F.pad(codes.flatten(0, 1), (1, 0), value=32)
    length = ours.shape[-1]
    _, theirs = decoder.build_delay_pattern_mask(started, pad_token_id=32, max_length=length)
    assert torch.equal(ours.flatten(0, 1), theirs)
    assert torch.equal(mask, ours != 32)
    assert torch.equal(undo_delay(ours, 11, shifts), codes)


@CHANNELS
def test_the_delay_pattern_by_hand(channels: int):
    codes = torch.arange(4 * channels)[:, None] * 10 + torch.arange(3)[None]
    tokens, mask = apply_delay(codes[None], torch.tensor([2]), delays(4 * channels, channels), 99)
    for k in range(4 * channels):
        row = [99] * (1 + 3 + 3)
        for frame in range(2):
            row[1 + frame + k // channels] = k * 10 + frame
        assert tokens[0, k].tolist() == row
        assert mask[0, k].tolist() == [token != 99 for token in row]


# --- the loss ---


def slow_loss(bundle: Any, codes: torch.Tensor, text: Any, dropped: bool) -> list[float]:
    """−Σ log p of one clip, a codebook at a time, by loops over the plain model's own logits."""
    model = bundle.module.model
    codebooks, frames = codes.shape
    stereo = bundle.channels
    length = frames + (codebooks - 1) // stereo
    inputs = [[32] * (length) for _ in range(codebooks)]
    for k in range(codebooks):
        for t in range(frames):
            place = 1 + t + k // stereo
            if place < length:
                inputs[k][place] = int(codes[k, t])
    states = model.enc_to_dec_proj(text["states"][None])
    mask = torch.ones(1, states.shape[1], dtype=torch.long)
    if dropped:
        states, mask = torch.zeros_like(states), torch.zeros_like(mask)
    logits = model.decoder(
        input_ids=torch.tensor(inputs), encoder_hidden_states=states, encoder_attention_mask=mask
    ).logits.double()  # [K, L, V]
    sums = []
    for k in range(codebooks):
        total = 0.0
        for t in range(frames):
            row = logits[k, t + k // stereo]
            total -= float(row[int(codes[k, t])] - torch.log(torch.exp(row).sum()))
        sums.append(total)
    return sums


@CHANNELS
@pytest.mark.parametrize("dropped", [False, True])
def test_the_loss_is_the_slow_reference(channels: int, dropped: bool):
    bundle: Any = tiny(0, channels=channels)
    bundle.module.eval()
    clips = mixed(bundle)
    batch = bundle.collate(clips, [1, 2, 3], drop=float(dropped))
    with torch.no_grad():
        terms = bundle.module(batch)
        for row, clip in enumerate(clips):
            wanted = slow_loss(bundle, clip.codes.long(), clip.text, dropped)
            assert len(wanted) == 4 * channels
            for k, value in enumerate(wanted):
                total, count = terms[f"codebook_{k}"]
                assert float(total[row]) == pytest.approx(value, rel=1e-5)
                assert int(count[row]) == clip.frames


def test_the_loss_starts_near_chance():
    """Σ of a model that knows nothing is log V a code; a label leak would show as less."""
    bundle: Any = tiny(0)
    with torch.no_grad():
        for head in bundle.module.model.decoder.lm_heads:
            head.weight.zero_()
        terms = bundle.module(bundle.collate(mixed(bundle), [1, 2, 3]))
    for total, count in terms.values():
        torch.testing.assert_close(total / count, torch.full((3,), math.log(32)))


def test_cached_text_states_equal_live_ones():
    bundle: Any = tiny(0)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    bundle.module.eval()
    cached = bundle.module(batch)
    adapter = full.attach(bundle, full.Config(components=("text_encoder",)))
    bundle.module.eval()
    live = bundle.module(batch)
    for name, (total, _) in cached.items():
        torch.testing.assert_close(live[name][0].detach(), total, rtol=1e-5, atol=1e-5)
    torch.stack([total.sum() for total, _ in live.values()]).sum().backward()
    grads = [p.grad for p in adapter.parameters().values()]
    assert any(grad is not None and bool(grad.any()) for grad in grads)


# --- guidance ---


@CHANNELS
def test_a_row_without_text_agrees_step_by_step_and_is_finite(channels: int):
    bundle: Any = tiny(0, channels=channels)
    bundle.module.eval()
    clip = example(bundle, 0.5, "gone")
    batch = bundle.collate([clip], [0], drop=1.0)
    assert int(batch.text["mask"].sum()) == 0
    difference = stepwise_difference(bundle.module, batch.text, batch.codes)
    assert 0 <= difference <= 1e-4  # NaN is neither


@CHANNELS
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_greedy_generation_is_what_the_loss_in_one_pass_ranks_first(channels: int, guidance: float):
    """The unconditional row of guidance is the row whose caption was dropped in training."""
    bundle: Any = tiny(0, channels=channels)
    bundle.module.eval()
    prompts = ["short", "a prompt of many more letters"]
    settings = GenerationSettings(guidance=guidance, temperature=0.0)
    found = bundle.generate_codes(prompts, 0.6, [0, 1], settings)
    heads = bundle.module.heads()
    with torch.no_grad():
        clips = [
            type(example(bundle))(prompt, codes, bundle.encode_text([prompt])[0])
            for prompt, codes in zip(prompts, found, strict=True)
        ]
        logits = {}
        for drop in (0.0, 1.0):
            batch = bundle.collate(clips, [0, 1], drop=drop)
            tokens, mask = apply_delay(batch.codes, batch.frames, bundle.module.shifts, 32)
            hidden = bundle.module.hidden(tokens[..., :-1], batch.text)
            logits[drop] = torch.einsum("bld,kvd->bklv", hidden, heads)
        both = logits[1.0] + guidance * (logits[0.0] - logits[1.0])
        best, chosen = both.max(dim=-1).values, tokens[..., 1:].clamp(max=31)
        taken = both.gather(-1, chosen[..., None])[..., 0]
        assert int(mask.sum()) == 2 * 4 * channels * 30
        # Equal but for rounding where two codes are as good as tied.
        assert float((best - taken)[mask[..., 1:]].max()) < 1e-4


@CHANNELS
def test_greedy_generation_is_that_of_transformers(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Same folder, same prompts, guidance 3: the codes are transformers' own."""
    bundle = saved(tmp_path, channels)
    model = plain(tmp_path)
    prompts = ["slow blues, electric guitar", "a waltz"]
    frames = 40
    settings = GenerationSettings(guidance=3.0, temperature=0.0)
    seconds = frames / bundle.frame_rate_hz
    ours = torch.stack(bundle.generate_codes(prompts, seconds, [0, 0], settings)).long()

    seen: list[torch.Tensor] = []
    decode = model.audio_encoder.decode

    def spy(audio_codes: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(audio_codes)
        return decode(audio_codes, *args, **kwargs)

    monkeypatch.setattr(model.audio_encoder, "decode", spy)
    inputs = bundle.tokenizer(prompts, return_tensors="pt", padding=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about their own defaults
        sound = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            guidance_scale=3.0,
            max_new_tokens=frames + 3,
            decoder_start_token_id=32,
        )
    theirs = [codes[0] for codes in seen]  # [B, K, T], a call a channel
    assert len(theirs) == channels
    for side, codes in enumerate(theirs):
        assert torch.equal(codes, ours[:, side::channels])
    assert len(ours.unique()) > 3, "one code over and over proves little"
    for row, codes in enumerate(ours):
        decoded = bundle.decode_audio(codes).samples
        np.testing.assert_allclose(sound[row].clamp(-1, 1).numpy(), decoded, atol=1e-5)


def test_a_base_is_sampled_as_its_checkpoint_asks(tmp_path: Path):
    save_base(tmp_path)
    settings = {"guidance_scale": 1.7, "temperature": 1.2, "top_k": 0, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    bundle = load(find_base(str(tmp_path)))
    made, asked, other = (
        bundle.generate(["a low hum"], 1.0, [5], one).pop().samples
        for one in (None, GenerationSettings(1.7, 1.2, 0), GenerationSettings())
    )
    assert np.array_equal(made, asked)
    assert not np.array_equal(made, other)
    assert tiny(0).sampling == GenerationSettings()


@CHANNELS
def test_encoding_is_that_of_transformers(channels: int, tmp_path: Path):
    bundle = saved(tmp_path, channels)
    audio = noise(bundle, 0.5, 1)
    model = plain(tmp_path)
    codes = bundle.encode_audio(audio)
    with torch.no_grad():
        for side in range(channels):
            wave = torch.from_numpy(audio.samples[side])[None, None]
            theirs = model.audio_encoder.encode(wave).audio_codes[0, 0]
            assert torch.equal(codes[side::channels].long(), theirs)
    bundle.release_codec()  # what comes back is read from the folder
    assert torch.equal(bundle.encode_audio(audio), codes)


def test_a_mono_sound_is_taken_for_both_sides_of_a_stereo_base():
    bundle: Any = tiny(0, channels=2)
    codes = bundle.encode_audio(noise(tiny(0), 0.4, 1))
    assert torch.equal(codes[0::2], codes[1::2])


# --- LoRA ---


# PEFT asks by a name that transformers has renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize(
    "options", [{}, {"rslora": True}, {"dora": True}, {"targets": ("o", "up")}]
)
def test_plain_peft_opens_an_adapter(options: dict[str, Any], tmp_path: Path):
    peft = pytest.importorskip("peft")
    bundle = saved(tmp_path / "base", 1)
    adapter = lora.attach(bundle, lora.Config(rank=4, **options))
    shaken(adapter, size=0.2)
    save_adapter(tmp_path / "run", adapter, bundle, {})
    bundle.module.eval()
    decoder = plain(tmp_path / "base").decoder
    tokens = torch.randint(0, 32, (4, 9))
    states = torch.randn(1, 5, 32)
    with torch.no_grad():
        ours = bundle.components["decoder"](input_ids=tokens, encoder_hidden_states=states).logits
        base = decoder(input_ids=tokens, encoder_hidden_states=states).logits
        opened = peft.PeftModel.from_pretrained(decoder, tmp_path / "run" / "adapter" / "decoder")
        theirs = opened.eval()(input_ids=tokens, encoder_hidden_states=states).logits
    assert sorted(p.name for p in (tmp_path / "run" / "adapter" / "decoder").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(base, ours, atol=1e-2)


def test_strength_is_linear_in_the_weights():
    bundle: Any = tiny(0)
    config = lora.Config(rank=4, alpha=6.0, targets=("q", "up", "down"))
    paths = lora.target_paths(bundle, config)["decoder"]
    base = {path: _weight(bundle, path).clone() for path in paths}
    adapter = shaken(lora.attach(bundle, config), size=0.2)
    deltas = lora.delta(adapter.state()["decoder"], config)
    assert deltas.keys() == base.keys()
    adapter.set_strength(0.3)
    adapter.merge()
    for path, weight in base.items():
        wanted = weight + 0.3 * deltas[path]
        torch.testing.assert_close(_weight(bundle, path), wanted, rtol=1e-5, atol=1e-6)


def _weight(bundle: Any, path: str) -> torch.Tensor:
    return bundle.components["decoder"].get_submodule(path).weight.detach()


@pytest.mark.parametrize(("rslora", "scale"), [(False, 12 / 9), (True, 4.0)])
def test_delta_is_the_effect_of_the_live_adapter(rslora: bool, scale: float):
    bundle: Any = tiny(0)
    config = lora.Config(rank=9, alpha=12.0, rslora=rslora, targets=("q",))
    assert config.scale == pytest.approx(scale)
    adapter = shaken(lora.attach(bundle, config), size=0.2)
    path = lora.target_paths(bundle, config)["decoder"][0]
    layer = bundle.components["decoder"].get_submodule(path)
    x = torch.randn(3, 32)
    live = layer(x) - F.linear(x, layer.base_layer.weight)  # type: ignore[arg-type,union-attr]
    delta = lora.delta(adapter.state()["decoder"], config)[path]
    torch.testing.assert_close(live, x @ delta.T, rtol=1e-4, atol=1e-5)


def test_parameters_of_a_square_linear():
    """The issue's own number: r=16 on 1024 x 1024 trains 32,768, 32 times fewer than all."""

    class Fake:
        components = {"decoder": torch.nn.ModuleDict({"q": torch.nn.Linear(1024, 1024)})}  # noqa: RUF012

        def sites_of(self, roles: Any) -> list[Any]:
            from tunesmith.types import Site

            return [Site("self_attention", 0, "decoder", {"q": "q"}, "", 1024)]

    config = lora.Config(rank=16, targets=("q",))
    assert lora.parameter_count(Fake(), config) == 32_768 == 1024 * 1024 // 32  # type: ignore[arg-type]


def test_parameters_are_the_sum_over_linears():
    bundle: Any = tiny(0)
    config = lora.Config(rank=4, targets=("q", "o", "up", "down"))
    # Two layers: two attentions' q and o (32+32 each), up (32+64) and down (64+32).
    wanted = 2 * 4 * (2 * 2 * (32 + 32) + 2 * (32 + 64))
    adapter = lora.attach(bundle, config)
    assert sum(p.numel() for p in adapter.parameters().values()) == wanted


def test_full_at_half_strength_is_half_way(tmp_path: Path):
    bundle: Any = tiny(0)
    adapter = full.attach(bundle, full.Config())
    before = {name: p.detach().clone() for name, p in adapter.parameters().items()}
    overfit(bundle, adapter, example(bundle, 0.3), lr=1e-2, steps=3, limit_s=1e9, target=-1.0)
    after = {name: p.detach().clone() for name, p in adapter.parameters().items()}
    save_adapter(tmp_path, adapter, bundle, {})
    fresh = tiny(0)
    again = load_adapter(tmp_path, fresh)
    again.set_strength(0.5)
    for name, parameter in again.parameters().items():
        wanted = (before[name] + after[name]) / 2
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-5, atol=1e-6)
    # What is saved stays what was trained, at whatever strength it plays.
    for component, tensors in adapter.state().items():
        for path, tensor in tensors.items():
            assert torch.equal(again.state()[component][path], tensor)
