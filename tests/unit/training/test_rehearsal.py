"""Prior preservation and replay: L = L_concept + λ·L_prior, over sets that the base made or a user gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_data

from tunesmith.config import ConceptConfig, load_config
from tunesmith.data.encode import cache_folder
from tunesmith.errors import ConfigError, Stopped, UserError
from tunesmith.families import find_base, load
from tunesmith.formats.adapter import read_card
from tunesmith.training import rehearsal
from tunesmith.training import run as run_module
from tunesmith.training.log import read_metrics
from tunesmith.training.loop import Loop
from tunesmith.training.rare_token import check_rare
from tunesmith.training.rehearsal import sampled, with_concept
from tunesmith.training.signals import StopFlag

Settings = Callable[..., dict[str, Any]]


def gradients(
    settings: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Gradients of the first step, and its line in the log."""
    found: dict[str, torch.Tensor] = {}
    step = Loop._step

    def spy(loop: Loop) -> None:
        step(loop)
        if loop.state.step == 1:
            found.update({name: p.grad.clone() for name, p in loop.names.items()})

    wanted = settings | {"out": str(folder), "train.clip_norm": 0.0, "train.steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", spy)
        run_module.train(load_config(settings=wanted))
    (line,) = (x for x in read_metrics(folder / "metrics.jsonl") if x["kind"] == "train")
    return found, line


def test_the_total_is_linear_in_lambda_and_the_concept_does_not_notice(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """∇(L_concept + λ·L_prior) at λ = 3 follows from those at 0 and 1."""
    common = {"method": "full", "prior.clips": 5, "prior.seconds": 0.4, "train.accumulate": 2}
    found, lines = {}, {}
    for weight in (0.0, 1.0, 3.0):
        wanted = settings() | common | {"prior.weight": weight}
        found[weight], lines[weight] = gradients(wanted, tmp_path / f"{weight}", monkeypatch)
    assert lines[0.0]["loss"] == lines[1.0]["loss"] == lines[3.0]["loss"]
    assert "prior_loss" not in lines[0.0]
    assert lines[1.0]["prior_loss"] == lines[3.0]["prior_loss"] > 0
    moved = 0.0
    for name, zero in found[0.0].items():
        prior = found[1.0][name] - zero
        moved = max(moved, float(prior.abs().max()))
        torch.testing.assert_close(found[3.0][name], zero + 3 * prior, rtol=1e-4, atol=1e-5)
    assert moved > 1e-3


def test_the_prior_is_what_the_base_samples_by_itself(tiny_base: Path):
    """Codes as sampled at guidance 1, temperature 1, all codes; each clip by its own seed; cached."""
    bundle = load(find_base(str(tiny_base)))
    stop = StopFlag()
    clips = sampled(bundle, ["a hum", "a hiss"], 5, 0.4, 7, stop)
    assert [clip.frames for clip in clips] == [20] * 5
    assert len({clip.clip_id for clip in clips}) == 5
    seeds = [rehearsal.stable_seed("prior", 7, index) for index in range(5)]
    alone = bundle.generate_codes(["a hiss"], 0.4, [seeds[3]], rehearsal.AS_IT_IS)[0]
    assert torch.equal(clips[3].codes, alone)
    assert torch.equal(clips[3].text["ids"], bundle.encode_text(["a hiss"])[0]["ids"])

    def refuse(*_: Any) -> Any:
        raise AssertionError("sampled again")

    bundle.generate_codes = refuse  # type: ignore[method-assign]
    again = sampled(bundle, ["a hum", "a hiss"], 5, 0.4, 7, stop)
    assert all(torch.equal(one.codes, two.codes) for one, two in zip(clips, again, strict=True))
    with pytest.raises(AssertionError, match="again"):
        sampled(bundle, ["a hum", "a hiss"], 5, 0.4, 8, stop)
    # Half a file in the cache is made again, not trusted.
    for file in (cache_folder() / "prior").rglob("*.safetensors"):
        load_file(file)
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(AssertionError, match="again"):
        sampled(bundle, ["a hum", "a hiss"], 5, 0.4, 7, stop)


def test_replay_is_trained_on_and_forgetting_is_measured_elsewhere(
    settings: Settings, tmp_path: Path
):
    data = write_data(tmp_path / "general", (0.4, 0.5, 0.6, 0.4))
    wanted = settings() | {"replay.path": str(data), "data.general": str(data), "train.steps": 2}
    run_module.train(load_config(settings=wanted))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all("replay_loss" in line for line in lines if line["kind"] == "train")
    assert all("general_loss" in line for line in lines if line["kind"] == "valid")
    clips = rehearsal.forgetting_clips(load_config(settings=wanted).config)
    assert [clip.split for clip in clips] == ["valid", "valid"]
    only = write_data(tmp_path / "only", (0.4,), valid=0)
    bad = settings(out=str(tmp_path / "bad")) | {
        "replay.path": str(only), "data.general": str(only)
    }  # fmt: skip
    with pytest.raises(UserError, match="one folder"):
        run_module.train(load_config(settings=bad))


def test_a_given_prior_takes_the_place_of_a_sampled_one(settings: Settings, tmp_path: Path):
    data = write_data(tmp_path / "guitars", (0.4, 0.5, 0.6))
    wanted = settings() | {"prior.path": str(data), "prior.weight": 0.5, "train.steps": 1}
    run_module.train(load_config(settings=wanted))
    (line,) = (x for x in read_metrics(tmp_path / "run" / "metrics.jsonl") if x["kind"] == "train")
    assert line["prior_loss"] > 0


def test_a_negative_weight_is_refused_in_one_line(settings: Settings):
    with pytest.raises(ConfigError) as caught:
        load_config(settings=settings() | {"prior.weight": -1.0})
    (fault,) = caught.value.faults
    assert str(fault).count("\n") == 0
    assert "prior.weight" in str(fault) and "greater than or equal to 0" in str(fault)
    assert "usual: 1" in str(fault)


# --- the concept ---


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("slow blues", "zq guitar, slow blues"),
        ("", "zq guitar"),
        ("slow zq, loud", "slow zq, loud"),
        ("zqx blues", "zq guitar, zqx blues"),
    ],
)
def test_captions_name_the_concept_once(text: str, wanted: str):
    concept = ConceptConfig(token="zq", class_name="guitar")  # type: ignore[call-arg]
    assert with_concept(text, concept) == wanted
    assert with_concept(text, ConceptConfig()) == text  # type: ignore[call-arg]


def test_dreambooth_is_a_name_for_its_parts(settings: Settings):
    plain = settings()
    del plain["method"]
    token = {"concept.token": "zq", "concept.class_name": "guitar"}
    loaded = load_config(settings=plain | {"method": "dreambooth"} | token)
    assert loaded.config.method["name"] == "full"
    assert loaded.config.prior.weight == 1.0
    on_lora = {"method": {"name": "dreambooth", "on": "lora", "rank": 2}, "prior.weight": 0.0}
    loaded = load_config(settings=plain | on_lora | token)
    assert loaded.config.method["name"] == "lora"
    assert loaded.method_config.rank == 2
    assert loaded.config.prior.weight == 0.0
    for more, what in (
        ({"method": "dreambooth"}, "concept.token: missing"),
        ({"method": {"name": "dreambooth", "on": "prefix"}} | token, "does not go with 'prefix'"),
    ):
        with pytest.raises(ConfigError, match=what):
            load_config(settings=plain | more)


def test_a_token_in_many_pieces_is_refused_with_a_better_one():
    """``pocket`` knows words and letters; so a long word of no caption falls apart."""
    plain = {"base": "pocket", "method": "dreambooth", "out": "x"}
    for token, what in (
        ("thelonious", r"falls into \d+ pieces \(.*\).*give one that stays whole: \w+, \w+, \w+"),
        ("guitar", "is a word of the base's own vocabulary"),
        (" ", "is no token"),
    ):
        with pytest.raises(ConfigError, match=what):
            load_config(settings=plain | {"concept.token": token, "data": "."})


def test_a_token_that_the_base_answers_to_is_refused():
    """By its effect on the loss: ``pocket`` knows what a trumpet is, and nothing of zq."""
    bundle, stop = load(find_base("pocket")), StopFlag()
    unknown = ConceptConfig(token="zq", class_name="music")  # type: ignore[call-arg]
    check_rare(bundle, unknown, 0, stop)
    known = ConceptConfig(token="trumpet", class_name="music")  # type: ignore[call-arg]
    what = r"already means something to 'pocket'.* times .* take a rare one, e.g. \w+ or \w+"
    with pytest.raises(UserError, match=what):
        check_rare(bundle, known, 0, stop)


def test_a_run_of_dreambooth_names_its_concept(settings: Settings, tmp_path: Path):
    plain = settings()
    del plain["method"]
    wanted = plain | {
        "method": {"name": "dreambooth", "on": "lora", "rank": 2},
        "concept.token": "zq",
        "concept.class_name": "hum",
        "concept.check": False,
        "prior.clips": 3,
        "train.steps": 2,
        "preview.every": 2,
        "preview.seconds": 0.2,
    }
    run_module.train(load_config(settings=wanted))
    from tunesmith.formats.sound import read_made_of

    assert read_card(tmp_path / "run")["trigger_tokens"] == ["zq"]
    sound = tmp_path / "run" / "previews" / "step-00000002" / "00.flac"
    assert read_made_of(sound)["asked"].startswith("zq hum, noise number")


def test_resumed_with_prior_replay_and_tokens_is_the_run_that_never_stopped(
    settings: Settings, tmp_path: Path
):
    data = write_data(tmp_path / "general", (0.4, 0.5, 0.6, 0.4))
    common = {
        "replay.path": str(data),
        "prior.weight": 0.5,
        "prior.clips": 3,
        "tokens": {"token": "[mine]", "init": "hum", "rate": 10.0},
        "train.steps": 4,
        "train.eval_every": 2,
        "train.checkpoint_every": 2,
    }

    def go(out: str, stop_at: tuple[str, int] | None = None, resume: bool = False) -> None:
        stop = StopFlag()

        def on_event(kind: str, values: Any) -> None:
            if stop_at == (kind, values.get("step")):
                stop.set(15)

        loaded = load_config(settings=settings(out=str(tmp_path / out)) | common)
        run_module.train(loaded, resume=resume, stop=stop, on_event=on_event)

    go("whole")
    with pytest.raises(Stopped):
        go("parts", ("train", 1))
    with pytest.raises(Stopped):
        go("parts", ("valid", 2), resume=True)
    go("parts", resume=True)
    left, right = (
        {k: v for k, v in read_card(tmp_path / out).items() if k != "versions"}
        for out in ("whole", "parts")
    )
    assert left == right
    assert left["trigger_tokens"] == ["[mine]"]
    assert left["metrics"]["validation_loss"]["base"] is not None
    for part in left["components"]:
        one, two = (
            load_file(tmp_path / out / "adapter" / part / "adapter_model.safetensors")
            for out in ("whole", "parts")
        )
        assert all(torch.equal(one[name], two[name]) for name in one)
