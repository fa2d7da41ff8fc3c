"""Zero-shot tags: which are kept, and what is refused."""

import numpy as np
import pytest

from tunesmith.captioners import Told, open_captioner
from tunesmith.captioners.clap import LIFT, MARGIN, _windows, chosen
from tunesmith.captioners.vocabulary import GROUPS, Group
from tunesmith.errors import UserError
from tunesmith.types import Audio


def spread(count, *given):
    """Probabilities that begin with ``given`` and share the rest evenly."""
    return np.array([*given, *[(1 - sum(given)) / (count - len(given))] * (count - len(given))])


def test_the_vocabulary_has_no_doubles_and_its_sentences_one_gap():
    assert [group.name for group in GROUPS] == ["genre", "instruments", "mood", "texture", "voice"]
    assert [len(group.words) for group in GROUPS] == [41, 42, 15, 15, 3]
    words = [word for group in GROUPS for word in group.words]
    assert len(set(words)) == len(words)
    assert all(group.template.count("{}") == 1 for group in GROUPS)


def test_a_tag_needs_lift_and_margin():
    group = Group("x", "{}", tuple("abcdefghijklmnopqrst"), most=3)
    least = LIFT / 20
    assert chosen(group, spread(20)) == []
    assert chosen(group, spread(20, 0.9 * least)) == []
    assert chosen(group, spread(20, 1.1 * least)) == [0]
    assert chosen(group, spread(20, 0.01, 0.3, 0.29)) == [1, 2]
    assert chosen(group, spread(20, 0.25, 0.25, 0.25)) == [0, 1, 2]
    # Four that are alike: three of them would be a guess.
    assert chosen(group, spread(20, 0.24, 0.24, 0.24, 0.24)) == []
    # The third is near the fourth, the second is not.
    assert chosen(group, spread(20, 0.28, 0.25, 0.17, 0.17 / MARGIN + 0.01)) == [0, 1]
    single = Group("y", "{}", tuple("abc"))
    assert chosen(single, np.array([0.3, 0.62, 0.08])) == [1]
    assert chosen(single, np.array([0.3, 0.58, 0.12])) == []


def test_windows_cover_the_whole_clip():
    sound = np.arange(100)
    for size in (7, 30, 50, 100, 130):
        windows = list(_windows(sound, size))
        assert windows[0][0] == 0 and windows[-1][-1] == 99 and len(windows) <= 8
        assert all(len(window) == min(size, 100) for window in windows)
        if len(windows) < 8:
            assert set(np.concatenate(windows)) == set(sound)


@pytest.mark.parametrize("fusion", [False, True])
def test_tags_are_the_same_each_time_and_the_world_stays_as_it_was(models, clips, silence, fusion):
    folder = models("clap", fusion=fusion)
    tagger = open_captioner(f"clap:{folder}")
    assert tagger.source == "clap" and tagger.name == f"clap:{folder}"
    np.random.seed(5)
    before = np.random.get_state()[1].tobytes()
    told = tagger.caption([*clips, silence])
    assert np.random.get_state()[1].tobytes() == before
    assert told[-1] == Told("", 0.0)
    assert all(0 <= one.confidence <= 1 and "\n" not in one.text for one in told)
    again = open_captioner(str(folder))  # a CLAP is known by its config, too
    assert [again.caption([clip])[0] for clip in clips] == told[:-1]
    assert again.fingerprint == tagger.fingerprint
    for clip in clips:
        for group in GROUPS:
            probabilities = tagger.probabilities(clip)[group.name]
            assert probabilities.shape == (len(group.words),)
            assert probabilities.sum() == pytest.approx(1) and probabilities.min() >= 0


def test_a_caption_names_what_is_near_in_order(models):
    """A sound placed exactly where some words are gets these words, and no others."""
    tagger = open_captioner(str(models("clap")))
    clip = Audio(
        np.random.default_rng(0).uniform(-0.3, 0.3, (1, 16_000)).astype(np.float32), 16_000
    )
    sound = tagger._embed_sound(clip.samples[0])
    away = np.linalg.qr(np.stack([sound, np.arange(len(sound)) - 3.0]).T)[0].T[1]
    tagger._scale = 100.0
    tagger._texts = [np.tile(away, (len(group.words), 1)) for group in GROUPS]
    for index, words in enumerate(([3], [27, 36], [], [], [2])):
        for word in words:
            tagger._texts[index][word] = sound
    (told,) = tagger.caption([clip])
    # Two instruments share the certainty; mood and texture say nothing.
    assert told.text == "baroque, piano, tabla, instrumental"
    assert told.confidence == pytest.approx((1 + 0.5 + 0.5 + 1) / 4, abs=1e-3)


def test_fingerprints_follow_weights_and_precision(models):
    first = open_captioner(str(models("clap")))
    prints = {first.fingerprint}
    prints.add(open_captioner(str(models("clap", seed=1))).fingerprint)
    prints.add(open_captioner(str(models("clap")), dtype="bfloat16").fingerprint)
    assert len(prints) == 3


def test_a_collapsed_text_side_is_refused(models):
    with pytest.raises(UserError) as caught:
        open_captioner(f"clap:{models('clap', collapsed=True)}")
    assert "cannot tell texts apart (cosine of unrelated ones: 1.000)" in str(caught.value)
    assert "\n" not in str(caught.value)
