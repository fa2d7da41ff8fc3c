"""Real speech: half of a speaker's takes of digits adapt the embedded base, the other half measures it.

Similarity is told by an encoder that no part of training or of choosing the weights has used: Resemblyzer,
where it is installed; the weights are chosen by the embedded one. Needs ../shared/audio/digits_jackson.

python -m bench.real_voice [--quick]
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from bench._results import Row, parser, record
from bench._sounds import AUDIO
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.embeddings import open_embedder
from tunesmith.evaluation.hearing import read
from tunesmith.evaluation.takes import make_takes
from tunesmith.families import base_limits
from tunesmith.formats.adapter import read_card
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag
from tunesmith.training.voice import likeness
from tunesmith.types import Audio

DIGITS = AUDIO / "digits_jackson"
BASE = "pocket-voice"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONSENT = "Free Spoken Digit Dataset, speaker jackson, published under CC BY-SA 4.0"
WHAT = "real speech (digits of one speaker): similarity to the unheard takes"
BAR = "rises over zero-shot"


def halves(folder: Path) -> tuple[Path, list[Path]]:
    """A folder with every other take of each digit and what it says, and the files of the others."""
    heard, unheard = folder / "heard", []
    heard.mkdir()
    for digit, word in enumerate(WORDS):
        for index, file in enumerate(sorted(DIGITS.glob(f"{digit}_*.wav"))):
            if index % 2:
                unheard.append(file)
                continue
            shutil.copyfile(file, heard / file.name)
            (heard / f"{file.stem}.txt").write_text(word)
    return heard, unheard


def measure(folder: Path, quick: bool) -> Row:
    """The row of this machine."""
    heard, unheard = halves(folder)
    rate, channels, longest = base_limits(BASE)
    made = prepare(
        heard,
        folder / "data",
        sample_rate_hz=rate,
        channels=channels,
        min_s=0.2,
        base_max_s=longest,
        voice=True,
        consent=CONSENT,
        encoder="voiceprint",
        valid_share=0.2,
    )
    settings = {
        "base": BASE,
        "data": str(folder / "data"),
        "out": str(folder / "run"),
        "voice.ear": "voiceprint",
        "preview.every": 0,
    }
    settings |= {"train.steps": 4} if quick else {}
    run = train(load_config(settings=settings, recipe="voice"), stop=StopFlag()).folder
    texts = [WORDS[int(file.name[0])] for file in unheard]
    sounds = {}
    for name, adapter, voice in (("zero-shot", None, str(run)), ("adapted", str(run), "")):
        files = make_takes(
            out=folder / name,
            base=BASE,
            run=adapter,
            voice_of=voice,
            prompts=texts,
            seed=50_000,
            duration_s=3.0,
            stop=StopFlag(),
            on_event=lambda kind, values: None,
        )
        sounds[name] = [read(file) for file in files]
    target: list[Audio] = [read(file) for file in unheard]
    ear = open_embedder("resemblyzer" if find_spec("resemblyzer") else "voiceprint", "cpu")
    before, after = (likeness(ear, target, sounds[one]) for one in ("zero-shot", "adapted"))
    card = read_card(run)
    return Row(
        WHAT,
        BAR,
        f"{before.value:.3f} -> {after.value:.3f} (same speaker {after.details['same_speaker']:.3f}); "
        f"{ear.label}, weights chosen by voiceprint; {made.train + made.valid} takes heard, "
        f"{len(unheard)} unheard, step {card['step']} of {card['steps']}",
        float(after.value) > float(before.value),
    )


def main() -> None:
    args = parser(__doc__).parse_args()
    if not DIGITS.is_dir():
        reason = "not measured: ../shared/audio/digits_jackson is not there"
        print(reason)
        if not args.quick:
            row = Row(WHAT, BAR, None, missing=reason)
            record("real_voice", "A real voice", [row])
        return
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), args.quick)
    if args.quick:
        print(row)
        return
    notes = (
        "Telephone-band takes of half a second: zero-shot is the base with the speaker's vector, heard in "
        "the takes that are trained on. The embedded base has heard synthetic voices only."
    )
    record("real_voice", "A real voice", [row], notes=notes)


if __name__ == "__main__":
    main()
