"""Styles and instruments as data.

Grids are strings of sixteenth steps, one bar each (16 steps in 4/4, 12 in 3/4).
Drums: ``X`` accent, ``x`` normal, ``o`` ghost. Bass: ``R`` root, ``3``, ``5``, ``6``, ``7``, ``8`` octave,
``a`` a step below the next root. Comping: ``C`` held chord, ``c`` short chord, ``1``-``5`` single voices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

KICK, RIM, SNARE, CLAP, CLOSED, OPEN, PEDAL = 36, 37, 38, 39, 42, 46, 44
CRASH, RIDE, TAMBOURINE, COWBELL, SHAKER, CONGA_HI, CONGA_LO, CLAVE = 49, 51, 54, 56, 70, 63, 64, 75
MARACAS, BONGO_HI, BONGO_LO, TRIANGLE = 70, 60, 61, 81

Groove = dict[int, str]


@dataclass(frozen=True)
class Lead:
    """An instrument that can carry the melody: General MIDI program (from 0) and range in MIDI notes."""

    name: str
    program: int
    low: int
    high: int
    words: tuple[str, ...]
    poly: bool = False
    sustained: bool = True


@dataclass(frozen=True)
class Style:
    """A style: tempo range in beats per minute, harmony, grooves. ``swing`` 0 is straight, 0.33 triplets."""

    name: str
    words: tuple[str, ...]
    tempo: tuple[int, int]
    progressions: dict[str, tuple[str, ...]]
    bass: tuple[str, ...]
    comp: tuple[str, ...]
    drums: tuple[Groove, ...]
    comp_programs: tuple[int, ...]
    bass_programs: tuple[int, ...]
    feel: str
    moods: tuple[str, ...]
    beats: int = 4
    swing: float = 0.0
    kit: int = 0
    band: float = 0.65
    melody_scale: dict[str, str] = field(default_factory=dict)


LEADS: tuple[Lead, ...] = (
    Lead("acoustic piano", 0, 58, 88, ("piano", "acoustic piano", "grand piano"), True, False),
    Lead("electric piano", 4, 58, 86, ("electric piano",), True, False),
    Lead("vibraphone", 11, 60, 86, ("vibraphone", "vibes"), True, False),
    Lead("marimba", 12, 55, 84, ("marimba",), True, False),
    Lead("organ", 16, 55, 84, ("organ", "Hammond organ"), True),
    Lead("accordion", 21, 58, 84, ("accordion",), True),
    Lead("harmonica", 22, 60, 84, ("harmonica",)),
    Lead("nylon guitar", 24, 52, 79, ("nylon guitar", "classical guitar"), True, False),
    Lead(
        "clean electric guitar",
        27,
        52,
        81,
        ("clean electric guitar", "electric guitar"),
        True,
        False,
    ),
    Lead("distorted guitar", 30, 50, 79, ("distorted guitar", "distorted electric guitar")),
    Lead("violin", 40, 60, 91, ("violin", "fiddle")),
    Lead("cello", 42, 43, 69, ("cello",)),
    Lead("harp", 46, 55, 88, ("harp",), True, False),
    Lead("trumpet", 56, 58, 82, ("trumpet",)),
    Lead("alto saxophone", 65, 54, 79, ("alto saxophone", "saxophone", "alto sax", "sax")),
    Lead("clarinet", 71, 55, 84, ("clarinet",)),
    Lead("flute", 73, 64, 93, ("flute",)),
    Lead("synth lead", 81, 57, 84, ("synth lead", "synthesizer", "saw synth")),
)
HELD_OUT_LEAD = Lead(
    "steel drums", 114, 60, 84, ("steel drums", "steel drums", "steel pan"), True, False
)

STYLES: tuple[Style, ...] = (
    Style(
        "blues",
        ("blues",),
        (60, 118),
        {
            "major": ("I7|IV7|I7|I7|IV7|IV7|I7|V7", "I7|I7|IV7|I7|V7|IV7|I7|V7"),
            "minor": ("i7|i7|iv7|i7|bVI7|V7|i7|V7", "i7|iv7|i7|i7|iv7|iv7|i7|V7"),
        },
        ("R...3...5...6...", "R.R.5.5.6.6.5.5.", "R...5...6...7..."),
        ("c...c...c...c...", "......c.......c.", "c.....c.........", "C.......C......."),
        (
            {CLOSED: "x.x.x.x.x.x.x.x.", SNARE: "....X.......X...", KICK: "x.......x.x....."},
            {RIDE: "x...x.x.x...x.x.", SNARE: "....x.......x..o", KICK: "x.....x.x......."},
        ),
        (0, 16, 27),
        (33, 32),
        "swing",
        ("mellow", "sad", "dark", "calm", "energetic"),
        swing=0.33,
        melody_scale={"major": "blues", "minor": "blues"},
    ),
    Style(
        "jazz swing",
        ("jazz", "swing jazz", "jazz swing"),
        (118, 196),
        {
            "major": ("ii7|V7|Imaj7|VI7", "Imaj7 VI7|ii7 V7|iii7 VI7|ii7 V7", "Imaj7|Imaj7|ii7|V7"),
            "minor": ("iih7|V7|i6|i6", "i6 VIh7|iih7 V7|i6|V7"),
            "dorian": ("i7|i7|i7|i7|bii7|bii7|i7|i7",),
        },
        ("R...3...5...a...", "R...5...3...a...", "R...3...6...a...", "R...8...5...a..."),
        ("c.....c.........", "......c.......c.", "c.........c.....", "..c...........c."),
        (
            {
                RIDE: "x...x.x.x...x.x.",
                PEDAL: "....x.......x...",
                KICK: "o...o...o...o...",
                SNARE: "......o.........",
            },
            {RIDE: "x...X.x.x...X.x.", PEDAL: "....x.......x...", SNARE: "..........o...o."},
        ),
        (0, 26, 4),
        (32,),
        "swing",
        ("bright", "happy", "playful", "energetic", "mellow"),
        swing=0.33,
        kit=32,
    ),
    Style(
        "rock",
        ("rock",),
        (104, 152),
        {
            "major": ("I|V|vi|IV", "I|bVII|IV|I", "I|IV|V|IV"),
            "minor": ("i|bVI|bIII|bVII", "i|bVII|bVI|bVII"),
        },
        ("R.R.R.R.R.R.R.R.", "R..RR.R.R..RR.R.", "R.R.R.R.R.R.5.8."),
        ("c.c.c.c.c.c.c.c.", "C.......c.c.C...", "C.....c.C......."),
        (
            {CLOSED: "X.x.X.x.X.x.X.x.", SNARE: "....X.......X...", KICK: "X.....x.X.x....."},
            {OPEN: "x...x...x...x...", SNARE: "....X.......X.x.", KICK: "X.x.....X.x....."},
        ),
        (29, 30, 27),
        (33, 34),
        "straight",
        ("energetic", "bright", "dark", "tense"),
    ),
    Style(
        "bossa nova",
        ("bossa nova", "bossa nova", "bossa"),
        (108, 144),
        {
            "major": ("Imaj7|Imaj7|ii7|V7", "Imaj7|VI7|ii7|V7", "Imaj7|II7|ii7|V7"),
            "minor": ("i7|i7|iih7|V7", "i6|iv7|iih7|V7"),
        },
        ("R.....5.5.....R.", "R.....5.R.....5."),
        ("c..c..c...c..c..", "c...c..c..c...c.", "..c..c..c...c..."),
        (
            {CLOSED: "x.x.x.x.x.x.x.x.", RIM: "x..x..x...x..x..", KICK: "x.....x.x.....x."},
            {SHAKER: "xoxoxoxoxoxoxoxo", RIM: "..x...x...x..x..", KICK: "x.....x.x.....x."},
        ),
        (24,),
        (32,),
        "syncopated",
        ("mellow", "calm", "dreamy", "happy", "sad"),
    ),
    Style(
        "baroque",
        ("baroque",),
        (76, 116),
        {
            "major": ("I V|vi iii|IV I|ii V", "I IV|VIIo iii|vi ii|V I", "I|V|I|V"),
            "minor": ("i iv|bVII bIII|bVI iio|V i", "i V|i V|iv i|V i", "i bVII|bVI V|i iv|V i"),
        },
        ("R...3...5...3...", "R.3.5.3.R.3.5.3.", "R.5.8.5.R.5.3.5."),
        ("1231231212312312", "C.......C.......", "1.3.2.3.1.3.2.3."),
        (),
        (6,),
        (42,),
        "running",
        ("bright", "calm", "sad", "playful", "tense"),
        band=0.5,
    ),
    Style(
        "folk",
        ("folk",),
        (88, 132),
        {
            "major": ("I|IV|I|V", "I|V|vi|IV", "I|I|IV|V"),
            "minor": ("i|bVII|bVI|bVII", "i|i|bVII|i"),
            "dorian": ("i|IV|i|bVII",),
        },
        ("R.......5.......", "R.......R...5..."),
        ("1.3.2.3.1.3.2.3.", "C...c.c...c.c.c.", "1.2.3.4.3.2.3.2."),
        ({TAMBOURINE: "....x.......x...", KICK: "x.......x......."}, {SHAKER: "x.x.x.x.x.x.x.x."}),
        (25,),
        (32,),
        "straight",
        ("happy", "calm", "sad", "bright", "mellow"),
        band=0.4,
        melody_scale={"major": "pentatonic"},
    ),
    Style(
        "funk",
        ("funk",),
        (94, 116),
        {
            "dorian": ("i7|i7|i7|IV9", "i9|IV9|i9|IV9"),
            "minor": ("i7|i7|bVII|i7",),
            "major": ("I9|I9|IV9|I9",),
        },
        ("R..R..R.8.7.R...", "R.....R.R..R.57.", "R..8..R...7.5.R."),
        ("..c...cc..c...c.", "cc..c.c...cc..c.", "....c..c....c.c."),
        (
            {CLOSED: "xoxoxoxoxoxoxoxo", SNARE: "....X..o.o..X..o", KICK: "X.x...x...x....."},
            {CLOSED: "x.x.x.x.x.x.x.x.", SNARE: "....X..o....X.o.", KICK: "X..x..x..x......"},
        ),
        (7, 28, 4),
        (36, 33),
        "syncopated",
        ("energetic", "playful", "bright", "dark"),
    ),
    Style(
        "reggae",
        ("reggae",),
        (68, 94),
        {"major": ("I|IV|I|IV", "I|V|vi|IV", "I|ii|I|ii"), "minor": ("i|iv|i|iv", "i|bVII|i|bVII")},
        ("R.....R.3...5...", "....R.R.R...5.3.", "R..R..R...5.3..."),
        ("....c.......c...", "..c...c...c...c.", "....c.c.....c.c."),
        (
            {CLOSED: "x.x.x.x.x.x.x.x.", RIM: "........X.......", KICK: "........X......."},
            {CLOSED: "..x...x...x...x.", SNARE: "........X......o", KICK: "x.......X......."},
        ),
        (16, 27, 0),
        (33, 34),
        "syncopated",
        ("mellow", "happy", "calm", "dark"),
        swing=0.1,
    ),
    Style(
        "waltz",
        ("waltz",),
        (92, 176),
        {
            "major": ("I|I|V7|V7|V7|V7|I|I", "I|vi|ii|V7", "I|IV|V7|I"),
            "minor": ("i|i|V7|V7|iv|iv|V7|i", "i|iv|V7|i"),
        },
        ("R...........", "R.......5..."),
        ("....c...c...", "1...3...3...", "....C......."),
        ({RIDE: "x...o...o...", PEDAL: "....x...x...", KICK: "x..........."}, {}),
        (48, 0, 24),
        (32, 43),
        "waltz",
        ("bright", "dreamy", "sad", "happy", "playful"),
        beats=3,
        kit=40,
        band=0.55,
    ),
    Style(
        "ambient",
        ("ambient",),
        (58, 80),
        {
            "major": ("Iadd9|Iadd9|IVadd9|IVadd9", "Imaj7|iii7|IVmaj7|Iadd9"),
            "minor": ("iadd9|iadd9|bVImaj7|bVImaj7", "i9|bVImaj7|bIII|bVII"),
        },
        ("R...............",),
        ("C...............", "1...2...3...4..."),
        (),
        (89, 91, 88),
        (89, 38),
        "long",
        ("dreamy", "calm", "dark", "mellow"),
        band=0.6,
    ),
    Style(
        "disco",
        ("disco",),
        (110, 128),
        {
            "minor": ("i7|iv7|i7|V7", "i|bVI|bVII|i", "i7|bIII|bVII|iv7"),
            "major": ("I|vi|ii7|V7", "I|V|IV|V"),
        },
        ("R.8.R.8.R.8.R.8.", "R.R8R.R8R.R8R.58", "..R8..R8..R8..R8"),
        ("..c...c...c...c.", "C.......C.......", "c..c..c.c..c..c."),
        (
            {
                KICK: "X...X...X...X...",
                OPEN: "..x...x...x...x.",
                SNARE: "....x.......x...",
                CLOSED: "x.x.x.x.x.x.x.x.",
            },
            {
                KICK: "X...X...X...X...",
                OPEN: "..X...X...X...X.",
                CLAP: "....x.......x...",
                CLOSED: "xo.oxo.oxo.oxo.o",
            },
        ),
        (48, 50, 28),
        (38, 33),
        "syncopated",
        ("energetic", "bright", "happy", "tense"),
    ),
    Style(
        "tango",
        ("tango",),
        (108, 132),
        {"minor": ("i|i|V7|V7", "i|iv|V7|i", "i7|iih7|V7|i", "i|bVI|V7|i")},
        ("R...5...R...5...", "R.....5.R...5...", "R.....R.R...a..."),
        ("c...c...c...c...", "c..c..c.c..c..c.", "c.......c..cc..."),
        ({SNARE: "o.....o.o...o.oo"}, {}),
        (23, 0, 48),
        (32,),
        "tango",
        ("dark", "tense", "sad", "energetic"),
        band=0.6,
    ),
)
HELD_OUT_STYLE = Style(
    "calypso",
    ("calypso",),
    (100, 126),
    {"major": ("I|IV|V7|I", "I|I|V7|I", "I|vi|ii7|V7", "IV|I|V7|I")},
    ("R.....R.5...5...", "R.....5.8...5...", "R..R..5.R..R..5."),
    ("..c...cc..c...cc", "..cc..c...cc..c.", "..c..cc...c..cc."),
    (
        {
            COWBELL: "X.x.xx.xX.x.xx.x",
            CONGA_HI: "..x...xx..x...xx",
            CONGA_LO: "....x.......x.x.",
            KICK: "X...x...X...x...",
            SHAKER: "xoxoxoxoxoxoxoxo",
        },
        {
            COWBELL: "x..x..x.x..x..x.",
            RIM: "...x..x....x..x.",
            KICK: "X.....x.X.....x.",
            SNARE: "......x.......xx",
            SHAKER: "xoxoxoxoxoxoxoxo",
        },
        {
            CLAVE: "x..x..x...x.x...",
            KICK: "X...X...X...X...",
            BONGO_HI: "x.xx..x.x.xx..x.",
            BONGO_LO: "....xx......xx..",
        },
    ),
    (27, 25),
    (33,),
    "calypso",
    ("happy", "bright", "playful", "energetic", "mellow"),
    band=0.85,
)
