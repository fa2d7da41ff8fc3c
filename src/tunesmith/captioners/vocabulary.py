"""The words that zero-shot tags are chosen from, in the order in which a caption names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Words of one kind, which compete with each other.

    Attributes:
        name: what they describe.
        template: the sentence that a word is put in before it is compared with the sound. CLAP was
            trained on sentences; a bare word scores worse (Radford et al. 2021, section 3.1.4,
            for CLIP).
        words: as they stand in a caption.
        most: how many of them a caption may name.
    """

    name: str
    template: str
    words: tuple[str, ...]
    most: int = 1


_MUSIC = "This is a sound of {} music."
_SOUND = "This is a sound of {}."

GROUPS: tuple[Group, ...] = (
    Group(
        "genre",
        _MUSIC,
        (
            "acoustic folk", "afrobeat", "ambient", "baroque", "big band swing", "bluegrass",
            "blues", "bossa nova", "chiptune", "choral", "cinematic orchestral", "classical",
            "country", "dancehall", "disco", "drum and bass", "dub", "dubstep", "electro house",
            "flamenco", "funk", "garage rock", "gospel", "hard rock", "heavy metal", "hip hop",
            "indie pop", "jazz", "klezmer", "latin salsa", "lo-fi hip hop", "new wave", "pop",
            "psychedelic rock", "punk rock", "reggae", "soul", "synthwave", "techno", "trance",
            "trap",
        ),
    ),
    Group(
        "instruments",
        _SOUND,
        (
            "accordion", "acoustic guitar", "banjo", "bass guitar", "bassoon", "bells", "bongos",
            "brass section", "cello", "choir", "clarinet", "distorted electric guitar",
            "double bass", "drum kit", "drum machine", "electric guitar", "electric piano", "flute",
            "French horn", "glockenspiel", "hammond organ", "harmonica", "harp", "harpsichord",
            "mandolin", "marimba", "oboe", "piano", "pipe organ", "saxophone", "sitar", "steel drums",
            "string section", "synth bass", "synth lead", "synth pad", "tabla", "trombone",
            "trumpet", "ukulele", "vibraphone", "violin",
        ),
        most=3,
    ),
    Group(
        "mood",
        _MUSIC,
        (
            "aggressive", "calm", "cheerful", "dark", "dreamy", "energetic", "epic", "hopeful",
            "melancholic", "mysterious", "playful", "romantic", "sad", "tense", "triumphant",
        ),
        most=2,
    ),
    Group(
        "texture",
        _MUSIC,
        (
            "a cappella", "clean studio", "compressed and loud", "dense layered", "distorted",
            "glitchy", "grainy lo-fi", "groovy", "minimalist", "percussive", "reverberant",
            "solo instrument", "sparse", "vinyl crackle", "warm analog",
        ),
    ),
    Group("voice", _SOUND, ("male vocals", "female vocals", "instrumental music")),
)  # fmt: skip

CAPTION_WORDS = {"instrumental music": "instrumental"}
"""Words that are put to the model in another form than a caption has them."""
