"""Outputs as chat models write them, and the captions that they become."""

import pytest

from tunesmith.captioners._clean import clean


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        ("A slow blues with electric guitar.", "A slow blues with electric guitar."),
        (
            'Sure! Here is a description: **"A slow blues with guitar."** Let me know if you need more!',
            "A slow blues with guitar.",
        ),
        ("Certainly! The music is mellow, 85 BPM.", "The music is mellow, 85 BPM."),
        ("Here's one sentence: Fast techno.", "Fast techno."),
        ("Great drums drive a funk tune.", "Great drums drive a funk tune."),
        ("The caption is: 'Pop with drums and it's got a groovin' bass.'",
         "Pop with drums and it's got a groovin' bass."),
        ("Description: “Dreamy ambient pads.”", "Dreamy ambient pads."),
        ("<think>is it jazz?</think>Slow jazz trio.<|im_end|>", "Slow jazz trio."),
        ("<think>is it jazz? it could", ""),
        ("- Genre: rock\n- Instruments: guitar, drums\n- Tempo: fast",
         "rock, guitar, drums, Tempo: fast"),
        ("# Music\n1. Calm piano.\n2. Soft strings.", "Music, Calm piano. Soft strings."),
        ("Calm  piano.\n\nI hope this helps!", "Calm piano."),
        ("I'm sorry, but I cannot listen to audio.", ""),
        ("As an AI model I have no ears.", ""),
        ("There is no audio provided.", ""),
        ("", ""),
        ("…!", ""),
    ],
)  # fmt: skip
def test_chat_and_markup_go(written, caption):
    assert clean(written) == caption


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        ("The singer sings “we will rise again” over a heavy riff.",
         "The singer sings over a heavy riff."),
        ("The singer sings 'don't let me go' over drums, fast tempo.",
         "The singer sings over drums, fast tempo."),
        ("The singer sings ‘don’t let me go’ over drums.", "The singer sings over drums."),
        ('A song with the words "love me" and "hold me" in a disco style.',
         "A song in a disco style."),
        ("A ballad. The lyrics include 'come back, my love, don't go', repeated.", "A ballad."),
        ("A folk ballad with lyrics: I walked alone\ndown the road", "A folk ballad"),
        ("The music is calm.\n\nThe lyrics are: la la la", "The music is calm."),
        ("Lyrics\nOh my love", ""),
        ("[Verse 1]\nI was walking\n[Chorus]\nla la", ""),
        ("Synth pop. [Chorus] oh oh oh", "Synth pop."),
        ('A soul track saying "baby', "A soul track"),
        ("A soul track saying 'baby come", "A soul track"),
        ("The song says \"go\" twice.", "The song twice."),
    ],
)  # fmt: skip
def test_words_of_a_song_go_and_none_are_made_up(written, caption):
    assert clean(written) == caption


@pytest.mark.parametrize(
    "written",
    [
        "Rock with a '50s feel and the guitarists' solo.",
        "A drum'n'bass track, 174 bpm, with vocals about lost love.",
        "Don't expect drums: it's a cappella.",
    ],
)
def test_apostrophes_are_no_quotations(written):
    assert clean(written) == written


def test_a_single_word_only_loses_its_quotes():
    assert clean('Fast techno with an "acid" bass.') == "Fast techno with an acid bass."


def test_an_unfinished_sentence_goes_if_there_is_a_whole_one():
    written = "A calm piano piece in C minor, 80 bpm. It opens with soft arpeg"
    assert clean(written, finished=False) == "A calm piano piece in C minor, 80 bpm."
    assert clean(written) == written
    assert clean("A calm piano piece in", finished=False) == "A calm piano piece"


def test_long_answers_end_with_a_sentence_or_a_word():
    sentences = " ".join(f"Sentence number {index} of many." for index in range(40))
    assert len(clean(sentences)) <= 400 and clean(sentences).endswith("of many.")
    words = "very " * 200 + "long"
    assert len(clean(words)) <= 400 and clean(words).endswith("very")


def test_nothing_takes_forever():
    for written in ('"' * 5000, "' a" * 2000, "and, with the " * 1000, "a'b" * 3000 + "'"):
        assert len(clean(written)) <= 400
