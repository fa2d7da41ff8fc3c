"""`check`: small data sets whose faults are known, and captions whose emptiness is."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import soundfile
from sounds import RATE_HZ, tone

from tunesmith.data._caption_stats import caption_stats
from tunesmith.data._caption_words import contradictions, key_claimed, tempo_claimed, to_add, told
from tunesmith.data._clip_measures import FaultFound, Measured
from tunesmith.data._diversity import _correlation
from tunesmith.data._histogram import of_names, of_numbers
from tunesmith.data.check import check
from tunesmith.data.load import load_dataset, load_readable
from tunesmith.data.needs import NEEDS, Tally, judge, need_of, verdicts
from tunesmith.errors import UserError
from tunesmith.types import Clip


def row(file, **changes):
    facts = {
        "duration_s": 3.0, "loudness_lufs": -14.0, "loudness_range_lu": None,
        "true_peak_dbtp": -1.0, "tempo_bpm": 92.0, "tempo_confidence": 0.9, "key": "F major",
        "key_confidence": 0.9, "brightness_hz": 900.0, "density_per_s": 2.0,
    }  # fmt: skip
    plain = {"file": file, "facts": facts, "bandwidth_hz": 4000.0, "faults": [], "repeats": []}
    return {**plain, "fingerprint": "", **changes}


def data_set(folder, sounds, captions=(), measures=True, side="train"):
    """An AudioFolder of tones by seed; with measures, as if they had been taken."""
    rows = []
    for index, sound in enumerate(sounds):
        file = f"{side}/{index:02d}.wav"
        samples = tone(3.0, sound) if isinstance(sound, int) else sound
        (folder / side).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / file, samples, RATE_HZ)
        if captions:
            caption = captions[index % len(captions)]
            (folder / file).with_suffix(".txt").write_text(caption, encoding="utf-8")
        rows.append(row(file))
    if measures:
        write_rows(folder, rows)
    return rows


def write_rows(folder, rows):
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "measures.jsonl").write_text(text, encoding="utf-8")


def test_counts_figures_and_verdict(tmp_path):
    data_set(tmp_path, range(6), [f"flute and harp, waltz number {i}, sad" for i in range(6)])
    found = check(tmp_path)
    assert (found.counts.recordings, found.counts.clips) == (6, 6)
    assert found.counts.seconds == pytest.approx(18.0)
    assert found.formats == {"WAV 8000 Hz mono": 6}
    assert found.verdict.method == "lora" and found.verdict.word == "too little"
    assert "add 44 clean recordings" in found.verdict.mend
    assert {one.method for one in found.verdicts} == {need.method for need in NEEDS}
    key = next(one for one in found.histograms if one.name == "key")
    assert (key.labels, key.counts) == (("F major",), (6,))
    assert not found.screening.repeats and 2 < found.diversity.vendi <= 6
    assert not any("measured now" in note for note in found.notes)
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["counts"]["clips"] == 6 and str(tmp_path) not in json.dumps(again)


def test_one_clip(tmp_path):
    data_set(tmp_path, [1], ["oboe"])
    found = check(tmp_path, "full")
    assert found.diversity.vendi == 1.0 and found.diversity.nearest == ()
    assert found.verdict.word == "too little"
    assert found.verdict.sentences[0] == "1 recording counts; at least 500 are needed."
    assert json.dumps(found.to_json(), allow_nan=False)


def test_identical_clips_count_once(tmp_path):
    data_set(tmp_path, [3] * 9 + [4], ["the same caption"])
    found = check(tmp_path, "textual_inversion")
    clips = found.counts.clips
    assert len(found.screening.repeats) == clips - 2
    assert found.verdict.counted == 2
    assert found.diversity.vendi < 2
    assert found.diversity.repeat_share == pytest.approx((clips - 1) / clips, abs=1e-3)
    assert any("sound like 1 different" in line for line in found.verdict.sentences)
    assert any(f.what == "Every clip has the same caption." for f in found.findings)
    assert found.captions.distinct == 1 and found.captions.same_share == 1.0


def test_a_quieter_shifted_copy_is_a_repeat_and_another_take_is_not(tmp_path):
    rng = np.random.default_rng(0)
    steps = np.repeat(rng.uniform(0.05, 1.0, 60), RATE_HZ // 10)  # an envelope that moves

    def take(seed, envelope):
        noise = np.random.default_rng(seed).standard_normal(len(envelope))
        return (0.2 * envelope * noise).astype(np.float32)

    original = take(1, steps)
    other = take(1, np.repeat(rng.permutation(steps[:: RATE_HZ // 10]), RATE_HZ // 10))
    data_set(tmp_path, [original, 0.5 * original[2500:], other])
    found = check(tmp_path)
    assert [set(pair) for pair in found.screening.repeats] == [{"train/00.wav", "train/01.wav"}]


def test_two_short_words_with_a_like_contour_are_no_repeat(tmp_path):
    rise = np.linspace(0.05, 1.0, RATE_HZ // 2)
    takes = [
        (0.2 * rise * np.random.default_rng(seed).standard_normal(len(rise))).astype(np.float32)
        for seed in (1, 2)
    ]
    data_set(tmp_path, takes)
    assert check(tmp_path).screening.repeats == ()


def test_the_sound_one_of_two_copies_counts(tmp_path):
    rows = data_set(tmp_path, [1, 1, 2])
    fault = {"name": "clipping", "figure": 8.0, "unit": "%", "reason": "clipped: 8 %"}
    rows[0]["faults"] = [fault]
    write_rows(tmp_path, rows)
    found = check(tmp_path, "voice")
    assert found.screening.repeats == (("train/00.wav", "train/01.wav"),)
    assert found.screening.flagged == {"clipping": 1}
    assert found.screening.clips[0].faults == (FaultFound("clipping", 8.0, "%", "clipped: 8 %"),)
    assert found.verdict.counted == pytest.approx(0.1)


def test_a_copy_on_both_sides_is_said(tmp_path):
    data_set(tmp_path, [1, 2])
    data_set(tmp_path, [1], side="valid", measures=False)
    what = [finding.what for finding in check(tmp_path).findings]
    assert what[0] == "1 clip to validate with has the sound of one to train with."


def test_repeats_by_fingerprint_and_rows_left_out(tmp_path):
    rows = data_set(tmp_path, [1, 2, 3])
    rows[2]["repeats"] = [{"file": "train/00.wav", "share": 0.8}]
    rows[1]["repeats"] = [{"file": "train/00.wav", "share": 0.2}]
    write_rows(tmp_path, rows)
    lines = [
        {"file": "a.wav", "start_s": 0.0, "reason": "is 0.5 s long"},  # as older sets have it
        {"file": "b.wav", "start_s": 1, "reason": "clipped", "fault": "clipping", "figure": None},
        {"file": "b.wav", "start_s": 9, "reason": "clipped!", "fault": "clipping", "unit": "%"},
    ]
    (tmp_path / "rejected.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = check(tmp_path)
    assert {frozenset(pair) for pair in found.screening.repeats} == {
        frozenset(("train/00.wav", "train/02.wav"))
    }
    assert found.screening.rejected == {"clipping": 2, "is 0.5 s long": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[1]", "is no JSON object"),
        ('{"file": "train/00.wav"}', "column 'facts'"),
        ('{"file": "x", "facts": 3}', "bad or missing column"),
        ('{"file": "x", "facts": {"loudness_lufs": "loud"}}', "bad or missing column"),
    ],
)
def test_a_bad_row_is_one_clear_error(tmp_path, text, words):
    data_set(tmp_path, [1])
    (tmp_path / "measures.jsonl").write_text("\n" + text + "\n")
    with pytest.raises(UserError, match=words) as caught:
        check(tmp_path)
    assert "measures.jsonl:2" in str(caught.value) and "prepare" in caught.value.mend


def test_valid_only(tmp_path):
    data_set(tmp_path, range(12), ["x"], side="valid")
    found = check(tmp_path, "dreambooth")
    assert found.counts.train == 0 and found.verdict.word == "too little"
    assert any("for validation" in line for line in found.verdict.sentences)


def test_a_folder_from_elsewhere_is_measured(tmp_path):
    data_set(tmp_path, [1, 2, 1], measures=False)
    stages = []
    found = check(tmp_path, on_progress=lambda *at: stages.append(at))
    assert ("measuring", 3, 3) in stages and ("listening", 3, 3) in stages
    assert any("3 clips measured now" in note for note in found.notes)
    assert next(one for one in found.histograms if one.name == "loudness").total == 3
    assert any("the names of their files" in finding.what for finding in found.findings)


def test_variants_do_not_count(tmp_path, monkeypatch):
    data_set(tmp_path, [1, 2, 3])
    loaded = load_readable(tmp_path)
    first = loaded.clips[0]
    loaded.clips[2] = replace(
        loaded.clips[2], variant_of=first.path.name, recording=first.recording
    )
    # By its entry in sys.modules: as an attribute of the package, `check` is the function.
    module = sys.modules["tunesmith.data.check"]
    monkeypatch.setattr(module, "load_readable", lambda folder, on_progress: loaded)
    found = check(tmp_path)
    assert (found.counts.clips, found.counts.variants, found.counts.recordings) == (2, 1, 2)


def test_many_clips_are_thinned(tmp_path, monkeypatch):
    data_set(tmp_path, range(5))
    monkeypatch.setattr("tunesmith.data._diversity.MOST", 3)
    found = check(tmp_path)
    assert (found.diversity.n, found.diversity.of) == (3, 5)
    assert "variety and repeats were judged by 3 of 5 clips, evenly spaced" in found.notes


def test_errors_of_use(tmp_path):
    with pytest.raises(UserError, match="did you mean 'lora'"):
        check(tmp_path, "lorra")
    with pytest.raises(UserError, match="no folder"):
        check(tmp_path / "nothing")


# What cannot be read ------------------------------------------------------------------------


def what(found):
    return [finding.what for finding in found.findings]


def test_unreadable_files_are_told_and_the_rest_is_judged(tmp_path):
    data_set(tmp_path, range(4), measures=False)
    (tmp_path / "train" / "empty.wav").write_bytes(b"")
    (tmp_path / "train" / "not.wav").write_bytes(b"PK\x03\x04" + b"x" * 100)
    (tmp_path / "train" / "noise.flac").write_bytes(b"x" * 1000)
    whole = (tmp_path / "train" / "00.wav").read_bytes()
    (tmp_path / "train" / "torn.wav").write_bytes(whole[: len(whole) // 2])
    rows = [{"file_name": "gone.wav", "text": "x"}]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = check(tmp_path)
    reasons = {one.file: one.reason for one in found.unreadable}
    assert reasons["train/empty.wav"] == "is empty (0 bytes)"
    assert "zip archive" in reasons["train/not.wav"]
    assert "cut short" in reasons["train/torn.wav"]
    assert reasons["train/gone.wav"] == "is missing, train/metadata.jsonl:1 names it"
    assert len(reasons) == 5 and "train/noise.flac" in reasons
    assert (found.counts.clips, found.counts.unreadable) == (4, 5)
    assert what(found)[0].startswith("5 files cannot be read: train/gone.wav: is missing")
    assert what(found)[0].endswith("; and 2 more.")
    told = found.to_json()["unreadable"]
    assert {"file": "train/empty.wav", "reason": "is empty (0 bytes)"} in told
    with pytest.raises(UserError, match=r"gone\.wav: is missing"):
        load_dataset(tmp_path)


@pytest.mark.skipif(which("ffmpeg") is None, reason="no ffmpeg")
def test_what_ffmpeg_decodes_is_measured(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(3.0, 1), RATE_HZ)
    words = ["ffmpeg", "-nostdin", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / "b.m4a"]
    subprocess.run(words, check=True)
    (tmp_path / "c.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + b"x" * 400)
    found = check(tmp_path, "voice")
    assert found.formats == {"WAV 8000 Hz mono": 1, "AAC 8000 Hz mono": 1}
    assert found.counts.seconds == pytest.approx(6.0, abs=0.3)
    assert [one.file for one in found.unreadable] == ["c.m4a"]
    assert found.screening.repeats  # both of them have been heard
    (tmp_path / "c.m4a").unlink()
    assert {clip.path.name for clip in load_dataset(tmp_path)} == {"a.wav", "b.m4a"}


def test_broken_clips_of_a_prepared_set(tmp_path):
    from tunesmith.data.prepare import prepare

    for i in range(5):
        (tmp_path / "s").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "s" / f"{i}.wav", tone(6.0, i), RATE_HZ)
    prepare(tmp_path / "s", tmp_path / "d", min_s=2.0, max_s=3.0, workers=0)
    before = check(tmp_path / "d").counts
    gone, empty, torn, *_ = sorted((tmp_path / "d" / "train").glob("*.flac"))
    gone.unlink()
    empty.write_bytes(b"")
    torn.write_bytes(torn.read_bytes()[:200])  # opens, and holds nothing
    found = check(tmp_path / "d")
    assert found.counts.clips == before.clips - 3
    assert {one.file for one in found.unreadable} == {
        f"train/{one.name}" for one in (gone, empty, torn)
    }
    with pytest.raises(UserError, match="is missing"):
        load_dataset(tmp_path / "d")
    table = tmp_path / "d" / "train" / "metadata.jsonl"
    table.write_text("{\n" + table.read_text())
    found = check(tmp_path / "d")
    assert "train/metadata.jsonl:1" in {one.file for one in found.unreadable}
    assert any("clips" in note for note in found.notes)  # more rows than clips were written


def test_nothing_readable_is_one_clear_error(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.wav: is empty \(0 bytes\) \(and 1 more\)") as caught:
        check(tmp_path)
    assert "\n" not in str(caught.value)
    for name in ("a.wav", "b.wav"):  # opens, but cannot be decoded to its end
        soundfile.write(tmp_path / name, tone(2.0), RATE_HZ)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"nothing in .*cut short"):
        check(tmp_path)


def test_a_test_split_is_told(tmp_path):
    data_set(tmp_path, [1, 2], ["x"])
    data_set(tmp_path, [3], side="test", measures=False)
    (tmp_path / "test" / "broken.wav").write_bytes(b"")
    found = check(tmp_path)
    assert found.counts.clips == 2 and not found.unreadable
    assert found.notes[0].startswith("1 clip in test/ is left alone")


def test_recordings_are_known_without_a_dataset_json(tmp_path):
    from tunesmith.data.prepare import prepare

    for i in range(5):
        (tmp_path / "s").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "s" / f"{i}.wav", tone(6.0, i), RATE_HZ)
    prepare(tmp_path / "s", tmp_path / "d", min_s=2.0, max_s=3.0, workers=0)
    before = check(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").unlink()
    after = check(tmp_path / "d")
    assert after.counts == before.counts and after.counts.recordings == 5
    assert after.captions.sources == before.captions.sources


def test_a_side_drawn_here_is_nobodys_fault(tmp_path):
    for i in range(8):
        samples = tone(6.0, i)
        soundfile.write(tmp_path / f"{i}.wav", samples, RATE_HZ)
        soundfile.write(tmp_path / f"{i}-quiet.wav", 0.5 * samples, RATE_HZ)
    found = check(tmp_path)
    assert found.counts.valid and len(found.screening.repeats) >= 8
    assert not any("has the sound of one to train with" in line for line in what(found))
    assert not any("stand in train and valid" in line for line in what(found))
    (said,) = [one for one in found.findings if "sides were drawn here" in one.what]
    assert "`tunesmith prepare`" in said.mend


def test_the_import_is_light():
    code = "import sys, tunesmith.data.check; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# The verdict ---------------------------------------------------------------------------------


def tally(**changes):
    plain = Tally(
        recordings=100, clips=100, minutes=20.0, clips_all=100, flawed=0, repeats=0, rejected=0,
        train=90, recordings_all=100, different=60.0, heard=100,
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("method", "count", "word"),
    [
        ("lora", 49, "too little"), ("lora", 50, "enough to try"), ("lora", 199, "enough to try"),
        ("lora", 200, "good"), ("lora", 500, "best"), ("full", 499, "too little"),
        ("full", 5000, "best"), ("prefix", 50, "enough to try"), ("bottleneck", 0, "too little"),
        ("textual_inversion", 10, "enough to try"), ("dreambooth", 30, "good"),
    ],
)  # fmt: skip
def test_the_words_of_the_table(method, count, word):
    here = tally(recordings=count, clips=count, clips_all=max(count, 1))
    first = verdicts(method, here)[0]
    assert (first.method, first.word) == (method, word)


def test_minutes_are_rounded_so_that_they_are_enough():
    said = judge(need_of("voice"), tally(minutes=3.44))
    assert said.mend == ("add 1.6 clean minutes",)


@pytest.mark.parametrize(
    ("method", "flawed", "falls"),
    [("full", 20, 0), ("lora", 20, 1), ("lora", 9, 0), ("voice", 6, 1)],
)
def test_faults_weigh_by_sensitivity(method, flawed, falls):
    plenty = tally(recordings=6000, clips=6000, minutes=600.0, flawed=flawed)
    said = judge(need_of(method), plenty)
    assert said.word == ("good" if falls else "best")
    assert any("'good' instead of 'best'" in line for line in said.sentences) == bool(falls)
    assert said.lowered == (f"{flawed} % of the clips have faults" if falls else "")


def test_a_word_without_anything_to_train_with_is_marked():
    assert judge(need_of("lora"), tally(train=0)).lowered == "no clip is there to train with"
    assert judge(need_of("lora"), tally(train=0, recordings=3)).lowered == ""
    assert judge(need_of("lora"), tally(recordings=3, flawed=50)).lowered == ""


def test_a_clip_that_is_flawed_and_a_repeat_is_left_out_once():
    said = judge(need_of("full"), tally(clips=96, flawed=4, repeats=1))
    assert "4 of 100 clips do not count: 4 with faults, 1 that repeats another." in said.sentences


def test_little_variety_is_said_where_it_matters():
    dull = tally(different=7.0, heard=60)
    style = judge(need_of("lora"), dull)
    assert any("60 clips sound like 7 different ones: lora" in s for s in style.sentences)
    one_sound = judge(need_of("textual_inversion"), dull)
    assert any("as is meant" in s for s in one_sound.sentences)


# Captions ------------------------------------------------------------------------------------

HEARD = Measured("a.flac", -14.0, 92.0, 0.9, "F major", 0.9, 8000.0)
UNSURE = Measured("a.flac", -14.0, 92.0, 0.2, "F major", 0.2, 8000.0)


def clip(caption, recording="r", **more):
    return Clip(Path("a.flac"), caption, "train", recording, 0.0, 1.0, "00", **more)


def test_what_a_caption_tells():
    said = told("Slow hip-hop with electric guitars, 92 BPM in F# minor", "mytone")
    assert said.aspects == {"tempo", "genre", "instrument", "key"}
    assert {"electric guitar", "slow", "bpm"} <= said.terms.keys()
    nothing = told("a very nice song, good music track")
    assert not nothing.content
    assert told("mytone, music", "mytone").content == frozenset()
    assert "key" not in told("a major breakthrough for a minor label").aspects


def test_what_to_add():
    assert to_add(told("nice song"), HEARD) == (
        "instrument or voice, genre, mood, tempo (measured 92 bpm), key (measured F major)"
    )
    assert to_add(told("nice song"), UNSURE) == "instrument or voice, genre, mood"
    assert to_add(told("slow sad blues, guitar, F major"), HEARD) == ""


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("140 bpm", ("says 140 bpm, measured 92",)),
        ("184 bpm", ()), ("46bpm", ()), ("94 BPM", ()), ("276 bpm", ()),
        ("in D minor", ()), ("in F major", ()), ("F# minor", ("says F# minor, measured F major",)),
        ("B flat major", ("says B flat major, measured F major",)), ("E sharp major", ()),
        ("from 80 bpm to 140 bpm", ()), ("a minor label", ()),
    ],
)  # fmt: skip
def test_contradictions(caption, expected):
    assert contradictions(caption, HEARD, lyrics=False) == expected
    assert contradictions(caption, UNSURE, lyrics=False) == ()


def test_claims():
    assert tempo_claimed("at 92.5 bpm") == 92.5 and tempo_claimed("92") is None
    assert key_claimed("C major, later G major") is None
    assert contradictions("an instrumental", UNSURE, lyrics=True)


def test_figures_of_captions():
    texts = ["tok, sad cello, slow", "tok, happy ukulele, 120 bpm", "tok, music", "tok, music"]
    clips = [clip(text, f"r{i}", caption_source="model") for i, text in enumerate(texts)]
    clips[0] = replace(clips[0], caption_confidence=0.3)
    stats = caption_stats(clips, [HEARD] * 4)
    assert (stats.trigger, stats.trigger_guessed, stats.trigger_share) == ("tok", True, 1.0)
    assert (stats.distinct, stats.same_share, stats.words) == (3, 0.5, 6)
    assert stats.sources == {"model": 4}
    assert [row.caption for row in stats.worst] == ["tok, music"]
    assert stats.worst[0].clips == 2 and stats.worst[0].specificity == 0
    assert [row.confidence for row in stats.low_confidence] == [0.3]
    assert [row.contradictions for row in stats.contradicting] == [("says 120 bpm, measured 92",)]


def test_clips_of_one_recording_may_share_their_caption():
    stats = caption_stats([clip("sad cello")] * 3, [HEARD] * 3)
    assert (stats.distinct, stats.same_share) == (1, 0.0)


@pytest.mark.parametrize(
    "text", ["", "日本語の歌 と ギター", "<script>alert(1)</script>", "x" * 60_000]
)
def test_strange_captions(text):
    stats = caption_stats([clip(text)] * 2, [HEARD] * 2)
    assert 0 <= stats.specificity < 1
    assert all(len(row.caption) <= 300 for row in stats.worst)


def test_a_voice_need_name_no_instrument():
    clips = [clip("well"), clip("yes")]
    assert caption_stats(clips, [HEARD] * 2).worst[0].add
    assert not caption_stats(clips, [HEARD] * 2, music=False).worst[0].add


def test_other_languages_are_not_judged_by_english_lists():
    texts = ["melancholische Ballade für Klavier", "fröhlicher Walzer mit Geige"]
    stats = caption_stats([clip(text) for text in texts], [HEARD] * 2)
    assert not stats.english and all(row.add == "" for row in stats.worst)


# Small parts ---------------------------------------------------------------------------------


def test_histograms_lose_nothing():
    values = [1.0, 2.0, 2.5, None, 9.75, float("nan")]
    histogram = of_numbers("x", "s", values)
    assert histogram.total == 4 and histogram.missing == 2 and histogram.median == 2.25
    assert histogram.edges[0] <= 1.0 and histogram.edges[-1] >= 9.75
    assert len(histogram.edges) == len(histogram.counts) + 1 <= 16
    assert of_numbers("x", "s", [5.0] * 3).counts == (3,)
    assert of_numbers("x", "s", [None]).counts == () and of_numbers("x", "s", [0.0]).total == 1
    assert of_names("key", ["b", None, "a", "b"]).labels == ("b", "a")


def test_what_lies_far_out_does_not_squeeze_the_rest():
    loud = [-14.0 - i / 10 for i in range(20)]
    histogram = of_numbers("loudness", "LUFS", [*loud, -60.0, 0.0])
    assert (histogram.under, histogram.over, histogram.total) == (1, 1, 22)
    assert histogram.counts[0] == histogram.counts[-1] == 1
    assert histogram.edges[0] >= -17 and histogram.edges[-1] <= -13
    assert (histogram.low, histogram.high) == (-60.0, 0.0)
    assert len(histogram.edges) == len(histogram.counts) + 1 <= 18
    assert sum(count > 0 for count in histogram.counts[1:-1]) >= 8
    for even in (loud, [-60.0], [-60.0, -14.0], [5.0] * 9 + [1.0], [*loud, -60, -60]):
        plain = of_numbers("x", "", even)
        assert (plain.under, plain.over, plain.total) == (0, 0, len(even))


def test_correlation_equals_a_loop_over_shifts():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(30, 3)).astype(np.float32)
    best = -1.0
    for shift in range(15 - 30, 40 - 15 + 1):
        p = a[max(0, shift) : shift + 30]
        q = b[max(0, -shift) :][: len(p)]
        best = max(best, float((p * q).sum() / np.sqrt((p * p).sum() * (q * q).sum())))
    assert _correlation(a, b) == pytest.approx(best, abs=1e-5)
    assert _correlation(a, a[5:]) == pytest.approx(1.0, abs=1e-5)
    assert _correlation(a, np.zeros((9, 3), np.float32)) == 0.0


def test_a_prepared_set_is_read(tmp_path):
    from tunesmith.data.prepare import prepare

    for i in range(5):
        (tmp_path / "s").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "s" / f"{i}.wav", tone(6.0, i), RATE_HZ)
    prepare(
        tmp_path / "s", tmp_path / "d", min_s=2.0, max_s=3.0, trigger="tok", caption="flute",
        workers=0, sample_rate_hz=RATE_HZ, channels=1,
    )  # fmt: skip
    found = check(tmp_path / "d", "voice")
    assert found.counts.clips == len(load_dataset(tmp_path / "d"))
    assert found.captions.trigger == "tok" and not found.captions.trigger_guessed
    assert not any("measured now" in note for note in found.notes)
