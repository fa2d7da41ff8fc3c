"""What `prepare` does beside cutting: screening, levels, captions, variants."""

import json

import numpy as np
import pytest
import soundfile
from sounds import tree, write

from tunesmith import captioners
from tunesmith.analysis.loudness import integrated_lufs, true_peak_dbtp
from tunesmith.analysis.tonality import KEYS
from tunesmith.captioners import Told
from tunesmith.data import load_dataset, prepare
from tunesmith.errors import Stopped, UserError

SHORT = {"min_s": 2.0, "max_s": 5.0, "workers": 0}
RATE_HZ = 16_000


def music(seconds, seed, bpm=120.0, root_hz=220.0, channels=2):
    """Panned chords with a click on the beat: nothing wrong with it, and a tempo to hear."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE_HZ)
    time_s = np.arange(count) / RATE_HZ
    since_s = time_s % (60 / bpm)
    beat = (time_s // (60 / bpm)).astype(int)
    sound = 0.01 * rng.standard_normal((count, channels))
    sound += (0.3 * np.exp(-60 * since_s) * rng.standard_normal(count))[:, None]
    for _ in range(3):
        steps = rng.choice([0, 4, 7, 12, 16], beat.max() + 1)[beat]
        wave = np.exp(-2 * since_s) * np.sin(2 * np.pi * root_hz * 2 ** (steps / 12) * time_s)
        sound += 0.1 * wave[:, None] * rng.uniform(0.2, 1, channels)
    return np.clip(sound, -0.99, 0.99).astype(np.float32)


def put(path, samples, rate_hz=RATE_HZ, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, **options)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_faults_are_left_out_with_their_figure_and_let_in_by_name(tmp_path):
    for number in range(3):
        put(tmp_path / "src" / f"good{number}.wav", music(6.0, number))
    put(tmp_path / "src" / "loud.wav", np.clip(12 * music(6.0, 10), -1, 1))
    put(tmp_path / "src" / "offset.wav", 0.5 * music(6.0, 11) + 0.2)
    summary = prepare(tmp_path / "src", tmp_path / "d", caption="x", **SHORT)
    rows = lines(tmp_path / "d" / "rejected.jsonl")
    assert {(row["file"], row["fault"]) for row in rows} >= {
        ("loud.wav", "clipping"), ("offset.wav", "dc"),
    }  # fmt: skip
    assert not any(row["file"].startswith("good") for row in rows)
    assert all(row["figure"] is not None and row["reason"] for row in rows)
    assert summary.faults["dc"] == sum(row["fault"] == "dc" for row in rows)
    kept = prepare(tmp_path / "src", tmp_path / "d", caption="x", keep=["dc"], **SHORT)
    assert kept.clips > summary.clips and "dc" not in kept.faults
    measures = lines(tmp_path / "d" / "measures.jsonl")
    faults = {fault["name"] for row in measures for fault in row["faults"]}
    assert faults == {"dc"}


def test_screening_sees_the_recording_as_it_was(tmp_path):
    # Mixed down and resampled, the flat tops are gone from the wave, not from the music.
    put(tmp_path / "src" / "loud.wav", np.clip(12 * music(6.0, 10), -1, 1))
    put(tmp_path / "src" / "good.wav", music(6.0, 0))
    prepare(tmp_path / "src", tmp_path / "d", caption="x", sample_rate_hz=8000, channels=1, **SHORT)
    rows = lines(tmp_path / "d" / "rejected.jsonl")
    assert "clipping" in {row["fault"] for row in rows if row["file"] == "loud.wav"}


def test_two_channels_that_are_one_are_no_fault_where_one_is_made(tmp_path):
    put(tmp_path / "src" / "double.wav", np.repeat(music(6.0, 0, channels=1), 2, axis=1))
    with pytest.raises(UserError, match=r"mono_as_stereo|channels"):
        prepare(tmp_path / "src", tmp_path / "d", caption="x", **SHORT)
    assert prepare(tmp_path / "src", tmp_path / "d", caption="x", channels=1, **SHORT).clips


def test_a_copy_at_another_level_is_left_out(tmp_path):
    sound = music(12.0, 3)
    put(tmp_path / "src" / "a.wav", sound)
    put(tmp_path / "src" / "b.wav", 0.5 * np.concatenate([np.zeros((800, 2)), sound]))
    put(tmp_path / "src" / "other.wav", music(12.0, 4, bpm=97, root_hz=311))
    prepare(tmp_path / "src", tmp_path / "d", caption="x", **SHORT)
    rows = lines(tmp_path / "d" / "rejected.jsonl")
    assert {row["file"] for row in rows if row["fault"] == "near_duplicate"} == {"b.wav"}


def test_clips_are_brought_to_a_loudness_or_a_peak(tmp_path):
    for number, gain in enumerate((0.05, 0.3, 1.0)):
        put(tmp_path / "src" / f"{number}.wav", gain * music(6.0, number))
    prepare(tmp_path / "src", tmp_path / "d", caption="x", normalise_lufs=-20.0, **SHORT)
    for clip in load_dataset(tmp_path / "d"):
        samples, rate = soundfile.read(clip.path, dtype="float32", always_2d=True)
        loudness, peak = integrated_lufs(samples, rate), true_peak_dbtp(samples, rate)
        assert peak <= -1.0 + 0.05
        assert loudness == pytest.approx(-20.0, abs=0.1) or peak == pytest.approx(-1.0, abs=0.05)
    facts = [row["facts"] for row in lines(tmp_path / "d" / "measures.jsonl")]
    assert all(row["loudness_lufs"] <= -19.9 for row in facts)


def test_what_has_no_caption_is_told_what_was_measured(tmp_path):
    put(tmp_path / "src" / "take1.wav", music(12.0, 0, bpm=120))
    put(tmp_path / "src" / "take2.wav", music(12.0, 1, bpm=120))
    (tmp_path / "src" / "take2.txt").write_text("chords with a click")
    prepare(tmp_path / "src", tmp_path / "d", trigger="ohwx", **{**SHORT, "max_s": 12.0})
    clips = {clip.recording: clip for clip in load_dataset(tmp_path / "d")}
    assert clips["take2.wav"].caption == "ohwx, chords with a click"
    told = clips["take1.wav"]
    assert told.caption_source == "facts" and told.caption.startswith("ohwx, ")
    assert 0 < told.caption_confidence <= 1
    assert "bpm" in told.caption


class Parrot:
    name = fingerprint = "parrot"
    source = "model"

    def __init__(self):
        self.heard = 0

    def caption(self, clips):
        self.heard += len(clips)
        return [Told(f"sound of {clip.duration_s:.1f} s", 0.5) for clip in clips]


@pytest.fixture
def parrot(monkeypatch):
    made = Parrot()
    monkeypatch.setattr(captioners, "open_captioner", lambda name, **options: made)
    return made


def test_a_model_hears_what_has_no_caption_and_nothing_else(tmp_path, parrot):
    put(tmp_path / "src" / "a.wav", music(6.0, 0))
    put(tmp_path / "src" / "b.wav", music(6.0, 1))
    (tmp_path / "src" / "b.txt").write_text("chords")
    prepare(tmp_path / "src", tmp_path / "d", captioner="parrot", **SHORT)
    clips = load_dataset(tmp_path / "d")
    heard = [clip for clip in clips if clip.recording == "a.wav"]
    assert {clip.caption_source for clip in heard} == {"model"}
    assert {clip.caption_confidence for clip in heard} == {0.5}
    assert [c.caption for c in heard] == [f"sound of {c.duration_s:.1f} s" for c in heard]
    assert {clip.caption for clip in clips if clip.recording == "b.wav"} == {"chords"}
    assert parrot.heard == len(heard)


def test_what_a_model_said_is_not_asked_again_after_a_stop(tmp_path, parrot):
    for number in range(5):
        put(tmp_path / "src" / f"{number}.wav", music(6.0, number, bpm=90 + 10 * number))
    whole = prepare(tmp_path / "src", tmp_path / "whole", captioner="parrot", **SHORT)
    asked, parrot.heard = parrot.heard, 0
    with pytest.raises(Stopped, match="captions are kept"):
        prepare(
            tmp_path / "src", tmp_path / "d", captioner="parrot",
            should_stop=lambda: 15 * (parrot.heard >= 3), **SHORT,
        )  # fmt: skip
    assert 3 <= parrot.heard < asked
    again = prepare(tmp_path / "src", tmp_path / "d", captioner="parrot", **SHORT)
    assert parrot.heard == asked and again.clips == whole.clips
    assert tree(tmp_path / "d") == tree(tmp_path / "whole")


def test_variants_are_made_of_training_clips_and_their_captions_follow(tmp_path):
    pytest.importorskip("audiomentations")
    for number in range(6):
        put(tmp_path / "src" / f"{number}.wav", music(6.0, number, bpm=100))
        (tmp_path / "src" / f"{number}.txt").write_text("chords, 100 bpm")
    options = {**SHORT, "augment": ["stretch"], "variants": 2, "seed": 4}
    summary = prepare(tmp_path / "src", tmp_path / "d", **options)
    clips = load_dataset(tmp_path / "d")
    varied = [clip for clip in clips if clip.variant_of]
    originals = {clip.path.name: clip for clip in clips if not clip.variant_of}
    assert len(originals) == summary.clips and len(varied) == summary.variants == 2 * summary.train
    for clip in varied:
        original = originals[clip.variant_of]
        assert clip.split == original.split == "train"
        assert clip.recording == original.recording and clip.sha256 != original.sha256
        factor = json.loads(clip.extra["augmentation"])["tempo_factor"]
        assert factor != 1 and clip.caption == f"chords, {round(100 * factor)} bpm"
        assert clip.duration_s <= SHORT["max_s"] + 1e-6
    again = prepare(tmp_path / "src", tmp_path / "again", **{**options, "workers": 2})
    assert again.variants == summary.variants
    assert tree(tmp_path / "again") == tree(tmp_path / "d")


def test_columns_follow_a_variant_or_are_left_out(tmp_path):
    pytest.importorskip("audiomentations")
    for number in range(3):
        put(tmp_path / "src" / f"{number}.wav", music(4.0, number))
    said = {"text": "chords", "bpm": 120, "key": "Am", "mood": "calm", "mode": "minor"}
    rows = [{"file_name": f"{n}.wav", **said, "lyrics": "la"} for n in range(3)]
    (tmp_path / "src" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    operations = ["stretch", "pitch"]
    prepare(tmp_path / "src", tmp_path / "d", augment=operations, variants=4, **SHORT)
    stretched = shifted = 0
    for clip in load_dataset(tmp_path / "d"):
        done = json.loads(clip.extra.get("augmentation", "{}"))
        factor, steps = done.get("tempo_factor", 1.0), int(done.get("pitch_semitones", 0))
        stretched, shifted = stretched + (factor != 1), shifted + (steps != 0)
        assert float(clip.extra["bpm"]) == pytest.approx(120 * factor, abs=0.006)
        assert clip.extra["key"] == KEYS[12 + (9 + steps) % 12]
        assert (clip.extra["mood"], clip.extra["lyrics"]) == ("calm", "la")
        assert ("mode" in clip.extra) == (not clip.variant_of)
    assert stretched and shifted


def test_clips_of_a_steady_piece_are_given_one_tempo(tmp_path):
    put(tmp_path / "src" / "a.wav", music(60.0, 0, bpm=110))
    prepare(tmp_path / "src", tmp_path / "d", min_s=6.0, max_s=10.0, workers=0)
    clips = load_dataset(tmp_path / "d")
    told = {clip.caption.split(",")[0] for clip in clips}
    (tempo,) = {text for text in told if "bpm" in text}
    assert {f"{clip.extra['bpm']} bpm" for clip in clips if "bpm" in clip.extra} == {tempo}


def test_what_was_measured_is_a_column_that_follows_variants(tmp_path):
    pytest.importorskip("audiomentations")
    put(tmp_path / "src" / "a.wav", music(60.0, 0, bpm=110))
    options = {"min_s": 6.0, "max_s": 10.0, "workers": 0, "caption": "x"}
    prepare(tmp_path / "src", tmp_path / "d", augment=["stretch"], variants=4, **options)
    clips = load_dataset(tmp_path / "d")
    measures = {row["file"]: row["facts"] for row in lines(tmp_path / "d" / "measures.jsonl")}
    originals = {clip.path.name: clip for clip in clips if not clip.variant_of}
    followed = 0
    for clip in clips:
        facts = measures[clip.path.relative_to(tmp_path / "d").as_posix()]
        assert clip.extra.get("key", "") == (facts["key"] or "")
        if facts["tempo_bpm"] is None:
            assert "bpm" not in clip.extra
        elif clip.variant_of:
            factor = json.loads(clip.extra["augmentation"])["tempo_factor"]
            before = float(originals[clip.variant_of].extra["bpm"])
            assert float(clip.extra["bpm"]) == pytest.approx(before * factor, abs=1.1)
            followed += round(before) != round(float(clip.extra["bpm"]))
        else:
            assert float(clip.extra["bpm"]) == pytest.approx(110, abs=3)
    assert followed


def test_a_voice_keeps_its_pitch(tmp_path):
    write(tmp_path / "src" / "a.wav")
    with pytest.raises(UserError, match="pitch"):
        prepare(
            tmp_path / "src", tmp_path / "d", augment=["pitch"], voice=True, consent="mine", **SHORT
        )


def test_several_captions_go_with_the_clip(tmp_path):
    put(tmp_path / "src" / "a.wav", music(6.0, 0))
    (tmp_path / "src" / "a.json").write_text(json.dumps({"captions": ["one", "two", "three"]}))
    put(tmp_path / "src" / "b.wav", music(6.0, 1))
    prepare(tmp_path / "src", tmp_path / "d", caption="other", trigger="ohwx", **SHORT)
    clips = {clip.recording: clip for clip in load_dataset(tmp_path / "d")}
    assert clips["a.wav"].caption == "ohwx, one"
    assert clips["a.wav"].captions == ("ohwx, two", "ohwx, three")
    assert clips["b.wav"].captions == ()


def test_what_was_cut_is_not_cut_again_for_another_caption(tmp_path, monkeypatch):
    from tunesmith.data import pool

    for number in range(4):
        put(tmp_path / "src" / f"{number}.wav", music(6.0, number, bpm=90 + 10 * number))
    prepare(tmp_path / "src", tmp_path / "d", caption="one", **SHORT)
    seen = []
    real = pool.cut
    monkeypatch.setattr(
        pool, "cut", lambda path, *rest: seen.append(path.name) or real(path, *rest)
    )
    changed = {"caption": "two", "rights": "mine", "trigger": "ohwx"}
    prepare(tmp_path / "src", tmp_path / "d", **changed, **SHORT)
    assert seen == []
    assert {clip.caption for clip in load_dataset(tmp_path / "d")} == {"ohwx, two"}
    prepare(tmp_path / "src", tmp_path / "fresh", **changed, **SHORT)
    assert tree(tmp_path / "fresh") == tree(tmp_path / "d")
    seen.clear()
    put(tmp_path / "src" / "new.wav", music(6.0, 9, bpm=140))
    prepare(tmp_path / "src", tmp_path / "d", **changed, **SHORT)
    assert seen == ["new.wav"]
    # A clip that was damaged is made again, and only its recording.
    seen.clear()
    clip = next(c for c in load_dataset(tmp_path / "d") if c.recording == "2.wav")
    clip.path.unlink()
    clip.path.write_bytes(b"damaged")
    prepare(tmp_path / "src", tmp_path / "d", **changed, **SHORT)
    assert seen == ["2.wav"]
    seen.clear()
    prepare(tmp_path / "src", tmp_path / "d", **changed, **{**SHORT, "max_s": 4.0})
    assert len(seen) == 5


def test_what_a_model_said_outlives_the_run(tmp_path, parrot):
    put(tmp_path / "src" / "a.wav", music(6.0, 0))
    put(tmp_path / "src" / "b.wav", music(6.0, 1, bpm=97))
    prepare(tmp_path / "src", tmp_path / "d", captioner="parrot", **SHORT)
    parrot.heard = 0
    prepare(tmp_path / "src", tmp_path / "d", captioner="parrot", trigger="ohwx", **SHORT)
    assert parrot.heard == 0
    assert all(c.caption.startswith("ohwx, sound of") for c in load_dataset(tmp_path / "d"))


def test_a_text_that_is_put_beside_nothing_is_said_on_the_next_run(tmp_path):
    put(tmp_path / "src" / "drums.wav", music(6.0, 0))
    put(tmp_path / "src" / "chords.wav", music(6.0, 1, bpm=97))
    prepare(tmp_path / "src", tmp_path / "d", caption="x", **SHORT)
    (tmp_path / "src" / "drmus.txt").write_text("a drum")
    again = prepare(tmp_path / "src", tmp_path / "d", caption="x", **SHORT)
    assert any("drmus.txt" in warning for warning in again.warnings)


def test_the_same_bytes_twice_are_no_fault_that_could_be_kept(tmp_path):
    for name in ("a.wav", "b.wav"):
        put(tmp_path / "src" / name, music(6.0, 0))
    made = prepare(tmp_path / "src", tmp_path / "d", caption="x", keep=["all"], **SHORT)
    assert made.recordings == 1 and made.faults == {"same_file": 1}


def test_settings_that_make_no_sense_are_refused_at_once(tmp_path):
    write(tmp_path / "src" / "a.wav")
    for options, what in (
        ({"normalise_lufs": 3.0}, "LUFS"),
        ({"keep": ["hmu"]}, "did you mean 'hum'"),
        ({"variants": 1000}, "variants"),
        ({"augment": ["pich"]}, "pitch"),
    ):
        with pytest.raises(UserError, match=what):
            prepare(tmp_path / "src", tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()
