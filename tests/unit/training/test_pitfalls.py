"""The watchers' rules, on series and sounds made for them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import write_data, write_noise

from tunesmith.data._diversity import Diversity, Near
from tunesmith.data.load import load_dataset
from tunesmith.training.pitfalls import Finding, Watch, captions, homogeneous
from tunesmith.training.pitfalls.finding import Step, Validation, Watcher, spread
from tunesmith.training.pitfalls.forgetting import Forgetting
from tunesmith.training.pitfalls.learning_rate import LearningRate
from tunesmith.training.pitfalls.sounds import apart, listen
from tunesmith.training.pitfalls.too_long import TooLong
from tunesmith.types import Audio

LR = 1e-3


def noisy(start: float, end: float, count: int, seed: int, width: float = 0.2) -> list[float]:
    """Losses that fall from one level to another, with the scatter of small batches."""
    draw = np.random.default_rng(seed)
    return [float(x) for x in np.linspace(start, end, count) + draw.normal(0, width, count)]


def feed(
    watcher: Watcher | Watch, losses: list[float], norms: list[float] | None = None, begin: int = 0
) -> list[tuple[int, Finding]]:
    """Show training steps; the findings with their steps."""
    found: list[tuple[int, Finding]] = []
    for index, loss in enumerate(losses):
        norm = norms[index] if norms else 0.2
        good = math.isfinite(loss) and math.isfinite(norm)
        told = watcher.after_step(Step(begin + index + 1, loss, norm, LR, good))
        some = told if isinstance(told, list) else [told]
        found += [(begin + index + 1, one) for one in some if one is not None]
    return found


# --- learning rate ---


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("width", [0.02, 0.2, 0.5])
def test_a_falling_loss_is_no_spike_however_it_scatters(seed: int, width: float):
    draw = np.random.default_rng(seed)
    norms = [float(x) for x in np.exp(draw.normal(0, 0.5, 300))]
    watcher = LearningRate(LR)
    assert feed(watcher, noisy(4.2, 3.2, 300, seed, width), norms) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_jump_that_stays_is_noticed_at_its_third_step(seed: int):
    watcher = LearningRate(LR)
    before = noisy(4.2, 4.0, 25, seed)
    ((step, found),) = feed(watcher, [*before, *noisy(8.0, 7.0, 20, seed + 100)])
    assert step == 28
    assert found.since == 26
    assert found.action == "roll_back"
    assert found.values["since"] == 26
    assert found.mend == "set train.lr to 0.0001 (now 0.001)"
    assert "jumped" in found.message


def test_a_jump_in_the_first_steps_is_noticed():
    """The rate is far too high from the start: there is one ordinary step, that of the base."""
    ((step, found),) = feed(LearningRate(LR), [4.2, 4.4, 9.7, 10.0, 9.1, 8.0, 7.9])
    assert (step, found.since) == (5, 3)


@pytest.mark.parametrize("at", [3, 10, 40])
def test_single_odd_batches_come_and_go(at: int):
    losses = noisy(4.2, 3.8, 80, 1)
    losses[at], losses[at + 2] = 12.0, 12.0
    assert feed(LearningRate(LR), losses) == []


@pytest.mark.parametrize("clips", [1, 2, 4])
@pytest.mark.parametrize(("easy", "hard", "share"), [(3.0, 5.0, 0.15), (2.0, 5.0, 0.4)])
def test_a_few_clips_a_step_of_very_unlike_data_are_no_jumps(
    clips: int, easy: float, hard: float, share: float
):
    """Pads and drums, a stem each: what a step sees differs by more than half of its loss."""
    for seed in range(8):
        draw = np.random.default_rng(seed)
        each = np.where(np.arange(200) < 200 * share, hard, easy) * draw.normal(1, 0.05, 200)
        watcher = LearningRate(LR)
        watcher.after_validation(Validation(0, {"loss": float(each.mean())}, float(each.std())))
        for step in range(1, 500):
            loss = float(draw.choice(each, clips, replace=False).mean())
            assert watcher.after_step(Step(step, loss, 0.2, LR, clips=clips)) is None
        # A model that is lost is noticed all the same.
        found = [
            watcher.after_step(Step(step, 11.0, 0.2, LR, clips=clips)) for step in range(500, 505)
        ]
        assert any(found)


def test_what_is_no_higher_than_a_jump_that_came_to_nothing_is_none():
    """Without validation clips nobody knows how clips differ, but the same hard ones come again."""
    ordinary = noisy(4.0, 4.0, 30, 1, 0.05)
    often = [*ordinary, 6.0, *ordinary, 5.9, 6.0, 5.8, 5.9]
    assert feed(LearningRate(LR), often) == []
    assert feed(LearningRate(LR), [*ordinary, 6.0, *ordinary, 6.4, 6.3, 6.2]) != []
    # After a while it is forgotten.
    assert feed(LearningRate(LR), [*ordinary, 6.0, *ordinary * 10, *[5.9] * 3]) != []
    # NaN is no height.
    assert feed(LearningRate(LR), [*ordinary, math.nan, *ordinary, *[6.0] * 3]) != []


def test_memory_of_an_earlier_version_is_filled_up():
    watch = Watch.usual(LR, auto_fix=False)
    old = watch.memory()
    del old["learning_rate"]["odd"], old["forgetting"]
    watch.restore(old)
    assert watch.memory() == Watch.usual(LR, auto_fix=False).memory()


def test_a_suspicious_step_is_no_time_to_keep_a_state():
    watcher = LearningRate(LR)
    feed(watcher, noisy(4.2, 4.0, 20, 0))
    assert watcher.calm
    feed(watcher, [9.0], begin=20)
    assert not watcher.calm
    feed(watcher, noisy(4.0, 4.0, 6, 1), begin=21)
    assert watcher.calm


def test_a_gradient_spike_needs_a_loss_above_its_start():
    losses = noisy(4.2, 4.0, 30, 3)
    spike = [0.2] * 30 + [40.0] * 5
    assert feed(LearningRate(LR), [*losses, *[3.9] * 5], spike) == []
    ((step, found),) = feed(LearningRate(LR), [*losses, *[4.7] * 5], spike)
    assert step == 33
    assert "gradient norm jumped to 40" in found.message


def test_nan_steps_are_noticed_before_they_end_the_run():
    ((step, found),) = feed(LearningRate(LR), [4.0, 4.1, 4.0, *[math.nan] * 4])
    assert (step, found.since) == (6, 4)
    assert "NaN" in found.message
    assert feed(LearningRate(LR, max_bad_steps=1), [4.0, math.nan])[0][0] == 2
    # A base that gives no number is not mended by any rate.
    assert feed(LearningRate(LR), [math.nan] * 8) == []


def test_it_is_said_once():
    watcher = LearningRate(LR)
    jumps = [*noisy(4.2, 4.0, 20, 0), *[9.0] * 30]
    assert len(feed(watcher, jumps)) == 1


def validations(watcher: Watcher, losses: list[float], train: list[float]) -> list[int]:
    """Show validations, five training steps before each but the first; where something was found."""
    found = []
    for index, loss in enumerate(losses):
        if index:
            for other in range(5):
                level = train[index]
                watcher.after_step(Step(5 * index - 4 + other, level + 0.01 * other, 0.2, LR))
        if watcher.after_validation(Validation(5 * index, {"loss": loss})):
            found.append(index)
    return found


def test_validation_that_rises_while_training_does_not_fall():
    flat = [4.2] * 8
    assert validations(LearningRate(LR), [4.1, 4.0, 3.9, 3.9, 3.9], flat) == []
    assert validations(LearningRate(LR), [4.1, 4.2, 4.5, 4.5], flat) == [2]
    # Three in a row only slightly above the start, once there are twelve steps.
    assert validations(LearningRate(LR), [4.1, 4.13, 4.13, 4.13, 4.13], flat) == [3]
    assert validations(LearningRate(LR), [4.1, 4.13, 4.13, 4.09, 4.13, 4.13, 4.09], flat) == []
    # It wavers around its start: three in a row by chance.
    assert validations(LearningRate(LR), [4.1, *[4.115] * 6], [4.2] * 7) == []
    # A training loss that falls by much is learning by heart, which another watcher tells.
    falling = [4.2 - 0.3 * index for index in range(8)]
    assert validations(LearningRate(LR), [4.1, 4.5, 4.6, 4.7, 4.8], falling) == []
    # So is one that falls by far more than the validation loss rises.
    slowly = [4.2 - 0.1 * index for index in range(8)]
    assert validations(LearningRate(LR), [4.1, 4.12, 4.13, 4.14, 4.15], slowly) == []


def test_a_rate_that_was_lowered_once_stays_suspected():
    watcher = LearningRate(10 * LR)  # the steps below run at a tenth of what was asked for
    assert validations(watcher, [4.1, 4.0, 4.12], [4.2] * 8) == [2]


# --- previews ---


def tone(hz: float, level: float = 0.2, moving: bool = True) -> Audio:
    """A held tone; or one that swells and fades, with some noise, as music does."""
    time_s = np.arange(16_000) / 16_000
    sound = np.sin(2 * np.pi * hz * time_s)
    if moving:
        noise = np.random.default_rng(round(hz)).normal(0, 0.3, len(sound))
        sound = (sound + noise) * np.exp(-4 * (1 + np.sin(2 * np.pi * 3 * time_s)))
    return Audio((level * sound)[None].astype(np.float32), 16_000)


def silence() -> Audio:
    return Audio(np.zeros((1, 16_000), np.float32), 16_000)


def test_what_a_preview_sounds_like():
    assert listen(silence()).level_db == -120
    held = listen(tone(440, moving=False))
    assert held.level_db == pytest.approx(20 * math.log10(0.2 / math.sqrt(2)), abs=0.1)
    assert held.movement_db < 0.1 < 3 < listen(tone(440)).movement_db
    quiet, loud = listen(tone(440, 0.2)), listen(tone(440, 0.4))
    others = apart([listen(tone(200)), listen(tone(3000))])
    assert apart([quiet, loud]) < 0.5 * others, "loudness is hardly a difference in kind"
    assert apart([quiet]) == 0


def hear(watch: Watch, *takes: list[Audio]) -> list[tuple[int, str]]:
    return [
        (10 * i, one.name)
        for i, t in enumerate(takes)
        for one in watch.after_preview(10 * i, list(map(listen, t)))
    ]


def test_previews_that_collapse():
    base = [tone(300), tone(2000)]
    for gone in ([silence(), silence()], [tone(300, moving=False), tone(900, moving=False)]):
        watch = Watch.usual(LR, auto_fix=True)
        assert hear(watch, base, base)[:1] == []
        (found, *_) = watch.after_preview(20, list(map(listen, gone)))
        assert found.name == "learning_rate"
        assert found.action == "roll_back"
        assert "collapsed" in found.message
    # One of two may be quiet; and what was silent with the base is no collapse.
    assert hear(Watch.usual(LR, auto_fix=True), base, [silence(), tone(2000)]) == []
    assert hear(Watch.usual(LR, auto_fix=True), [silence()] * 2, [silence()] * 2) == []


def test_previews_that_grow_alike_are_told_after_two():
    base, alike = [tone(300), tone(2000)], [tone(300), tone(303)]
    assert hear(Watch.usual(LR, auto_fix=True), base, alike, base, alike) == []
    assert hear(Watch.usual(LR, auto_fix=True), base, alike, alike, alike) == [(20, "too_long")]
    # A single prompt has nothing to be alike with.
    assert hear(Watch.usual(LR, auto_fix=True), [tone(300)], [tone(300)], [tone(300)]) == []


# --- too long ---


def test_a_validation_loss_that_turns_while_the_training_loss_falls():
    falling = [4.2 - 0.2 * index for index in range(10)]
    assert validations(TooLong(), [4.1, 4.0, 3.9, 3.95, 4.0, 4.05, 4.1], falling) == [5]
    # Around its best, or on the way back to it, or barely above: no turn.
    assert validations(TooLong(), [4.1, 4.0, 3.9, 3.92, 3.91, 3.93, 3.92, 3.93], falling) == []
    assert validations(TooLong(), [4.1, 4.0, 3.9, 4.2, 4.1, 4.0, 3.95], falling) == []
    # A training loss that does not fall either is another pitfall.
    assert validations(TooLong(), [4.1, 4.0, 3.9, 3.95, 4.0, 4.05, 4.1], [4.2] * 10) == []


def test_where_nothing_was_ever_gained_the_advice_is_another():
    watcher = TooLong()
    falling = [4.2 - 0.4 * index for index in range(10)]
    assert validations(watcher, [4.1, 4.2], falling) == []
    found = None
    for index, loss in enumerate((4.3, 4.4, 4.5), 2):
        feed(watcher, [4.2 - 0.4 * index] * 5)
        found = found or watcher.after_validation(Validation(5 * index, {"loss": loss}))
    assert found is not None
    assert "add recordings" in found.mend
    assert "train.steps=0" not in found.mend
    assert found.action == "stop"


# --- forgetting ---


@pytest.mark.parametrize("key", ["general_loss", "anchor_loss"])
def test_forgetting_is_told_at_a_tenth_and_at_a_quarter(key: str):
    watcher = Forgetting(LR)
    told = [
        watcher.after_validation(Validation(step, {"loss": 4.0, key: loss}))
        for step, loss in enumerate((3.0, 3.15, 3.29, 3.31, 3.5, 3.74, 3.76, 9.0))
    ]
    assert [bool(one) for one in told] == [False, False, False, True, False, False, True, False]
    first, second = told[3], told[6]
    assert first is not None and second is not None
    assert (first.action, second.action) == ("replay", "")
    assert first.values["measured_on"] == key
    assert first.values["rise"] == pytest.approx(0.31 / 3)
    assert "replay.path" in first.mend and "train.lr" in first.mend
    assert Forgetting(LR).after_validation(Validation(0, {"loss": 4.0})) is None


def test_general_recordings_count_before_the_base_s_own_clips():
    watcher = Forgetting(LR)
    watcher.after_validation(Validation(0, {"general_loss": 3.0, "anchor_loss": 3.0}))
    assert (
        watcher.after_validation(Validation(5, {"general_loss": 3.0, "anchor_loss": 9.0})) is None
    )


# --- all of them ---


def test_what_they_remember_is_plain_data_and_all_there_is():
    """A watch that was restored half-way says what one says that saw everything."""
    losses = [*noisy(4.2, 4.0, 20, 0), *[9.0] * 4]
    for cut in (1, 5, 21, 22):
        whole, first = Watch.usual(LR, auto_fix=True), Watch.usual(LR, auto_fix=True)
        wanted = feed(whole, losses)
        early = feed(first, losses[:cut])
        second = Watch.usual(LR, auto_fix=True)
        second.restore(json.loads(json.dumps(first.memory())))
        assert early + feed(second, losses[cut:], begin=cut) == wanted
        assert second.memory() == whole.memory()
    assert len(wanted) == 1


def test_memory_is_a_copy():
    watch = Watch.usual(LR, auto_fix=True)
    feed(watch, noisy(4.2, 4.0, 20, 0))
    kept = watch.memory()
    text = json.dumps(kept)
    feed(watch, [9.0, 9.0], begin=20)
    assert json.dumps(kept) == text
    watch.restore(kept)
    feed(watch, [9.0, 9.0], begin=20)
    assert json.dumps(kept) == text


def test_without_auto_fix_nothing_is_asked_for():
    for auto_fix, action in ((True, "roll_back"), (False, "")):
        watch = Watch.usual(LR, auto_fix=auto_fix)
        ((_, found),) = feed(watch, [*noisy(4.2, 4.0, 20, 0), *[9.0] * 4])
        assert found.action == action
        assert found.mend


def test_the_scaled_deviation_of_normal_values_is_their_own():
    values = np.random.default_rng(0).normal(3.0, 0.7, 20_000)
    assert spread(values.tolist()) == pytest.approx((3.0, 0.7), rel=0.03)


# --- the data ---


def heard(n: int, vendi: float, nearest_db: float, pairs: int = 0) -> Diversity:
    near = tuple(Near(f"{i}.wav", f"{i}b.wav", nearest_db, None) for i in range(pairs))
    return Diversity("e", n, n, vendi, 2.5, (nearest_db,) * n, 0.0, near)


def test_homogeneous_data_by_its_figures():
    assert homogeneous.judge(heard(90, 30, 1.8)) is None
    for n, vendi, nearest_db in ((90, 11.9, 1.8), (20, 3.9, 1.8), (90, 30, 0.9)):
        found = homogeneous.judge(heard(n, vendi, nearest_db, pairs=9))
        assert found is not None
        assert found.values["vendi"] == vendi
        assert found.action == ""
    found = homogeneous.judge(heard(90, 30, 0.9, pairs=9))
    assert found is not None
    assert "0.wav and 0b.wav (0.9 dB)" in found.message
    assert "5.wav" not in found.message, "five pairs are named, the rest `check` lists"


def test_near_copies_are_named_by_their_files(tmp_path: Path):
    data = write_data(tmp_path / "d", tuple([0.5] * 10), valid=0)
    clips = load_dataset(data)
    names = [clip.path.name for clip in clips]
    found = homogeneous.look(clips, names)
    for index in range(10):
        write_noise(data / "train" / f"{index}.wav", 0.5, seed=index // 5)
    again = homogeneous.look(load_dataset(data), names)
    assert again is not None
    assert again.values["near_copies"] == 1
    assert ".wav and " in again.message
    assert homogeneous.look(clips[:5], names) is None, "five clips are few, not homogeneous"
    assert found is None or found.values["near_copies"] < again.values["near_copies"]


def with_captions(folder: Path, texts: list[str]) -> Finding | None:
    data = write_data(folder, tuple([0.4] * len(texts)), valid=0)
    for index, text in enumerate(texts):
        (data / "train" / f"{index}.txt").write_text(text)
    return captions.look(load_dataset(data), data)


def test_generic_captions_are_listed_with_what_to_add(tmp_path: Path):
    found = with_captions(tmp_path / "a", ["music"] * 10)
    assert found is not None
    assert '"music"' in found.mend
    assert "add instrument or voice, genre, mood" in found.mend
    assert found.values["weak_share"] == 1
    good = [
        f"slow {mood} {genre} in C major with {lead}, {bpm} bpm"
        for mood, genre, lead, bpm in zip(
            ("sad", "warm", "dark", "calm", "tense") * 2,
            ("blues", "jazz", "waltz", "folk", "tango") * 2,
            ("piano", "violin", "flute", "oboe", "harp") * 2,
            range(60, 160, 10),
            strict=True,
        )
    ]
    assert with_captions(tmp_path / "b", good) is None
    assert with_captions(tmp_path / "c", [*good[:6], *["track"] * 4]) is None
    assert with_captions(tmp_path / "d", [*good[:4], *["track"] * 6]) is not None
    assert with_captions(tmp_path / "e", ["music"] * 5) is None, "a handful may share a caption"


def test_captions_against_what_prepare_measured(tmp_path: Path):
    texts = [f"slow sad blues with piano and violin number {i}, 100 bpm" for i in range(10)]
    data = write_data(tmp_path / "d", tuple([0.4] * 10), valid=0)
    rows = []
    for index, text in enumerate(texts):
        (data / "train" / f"{index}.txt").write_text(text)
        facts = {
            "loudness_lufs": -20.0, "tempo_bpm": 137.0 if index < 3 else 100.0,
            "tempo_confidence": 0.9, "key": None, "key_confidence": 0.0,
        }  # fmt: skip
        rows.append({"file": f"train/{index}.wav", "facts": facts, "bandwidth_hz": 800.0})
    assert captions.look(load_dataset(data), data) is None
    (data / "measures.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = captions.look(load_dataset(data), data)
    assert found is not None
    assert "says 100 bpm, measured 137" in found.message
    (data / "measures.jsonl").write_text('{"file": "train/0.wav"')
    assert captions.look(load_dataset(data), data) is None, (
        "a torn table is not ours to complain of"
    )
