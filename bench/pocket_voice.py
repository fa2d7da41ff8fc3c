"""What the embedded voice is worth: can it be understood, does it speak as it is told to, does it end.

    python -m bench.pocket_voice [--base FOLDER] [--judge FILE] [--quick]

Sentences of none of its training, said by espeak-ng in voices that it knows (needs the program
`espeak-ng`), then by the base with the vectors that its own encoder hears in other recordings of these
voices. The judge of phones (`bench/judge/phones_judge.safetensors`) and the judge of voices
(`voiceprint`) learnt from other sentences and never steered it. `--base` or `--judge` measures others and
writes nothing to RESULTS.md.
"""

from __future__ import annotations

import json
import shutil
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench._results import Row, parser, record
from pretrain.card import write_measured
from pretrain.voice.speak import PROGRAM, Unsayable, speak
from pretrain.voice.speakers import Speaker, speakers
from pretrain.voice.text import sentence
from tunesmith.analysis.phones import PhoneRecogniser
from tunesmith.embeddings import open_embedder
from tunesmith.families import EMBEDDED, find_base, load
from tunesmith.metrics import phone_error, speaker
from tunesmith.types import Audio

JUDGE = Path(__file__).with_name("judge") / "phones_judge.safetensors"
BAR = 0.20
SPEAKERS, TEXTS, HELD_TEXTS, HEARD, AT_ONCE = 24, 5, 30, 6, 24
SHORTEST_S, MOST_S = 2.0, 10.0
_KEYS = ("the voices that it knows", "held voice, zero-shot", "held accent, zero-shot")


@dataclass(frozen=True)
class Said:
    """A sentence, as a voice said it."""

    who: str
    language: str
    text: str
    phones: list[str]
    sound: Audio


def recordings(who: Speaker, split: str, count: int, seed: int) -> list[Said]:
    """Sentences of a split of two seconds or more, said by a voice."""
    draw = np.random.default_rng((zlib.crc32(f"{who.id} {who.language}".encode()), seed))
    made: list[Said] = []
    while len(made) < count:
        text = sentence(who.language, split, draw)
        try:
            spoken = speak(text, who, seed=int(draw.integers(2**31)))
        except Unsayable:
            continue
        sound = Audio(spoken.sound[None].astype(np.float32) / 32768, 16_000)
        if SHORTEST_S <= sound.samples.shape[1] / 16_000 <= 5.2:
            made.append(Said(who.id, who.language, text, spoken.phones, sound))
    return made


@dataclass
class Part:
    """What is measured together: recordings, and takes of the same sentences."""

    real: list[Said]
    takes: list[Audio]
    ended: list[bool]


def takes_of(bundle: Any, real: Sequence[Said], heard: dict[str, str]) -> Part:
    """A take of each sentence with the vector of its voice, and whether it came to an end by itself."""
    made, ended = [], []
    for at in range(0, len(real), AT_ONCE):
        some = real[at : at + AT_ONCE]
        codes = bundle.generate_codes(
            [one.text for one in some],
            MOST_S,
            list(range(at, at + len(some))),
            bundle.sampling,
            details=[{"speaker": heard[one.who]} for one in some],
        )
        ended += [one.shape[1] < int(MOST_S * bundle.frame_rate_hz) - 2 for one in codes]
        made += [bundle.decode_audio(one) for one in codes]
    return Part(list(real), made, ended)


def errors(judge: PhoneRecogniser, said: Sequence[Said], sounds: Sequence[Audio]) -> Any:
    return phone_error.compute([one.phones for one in said], [judge.phones(one) for one in sounds])


def percent(result: Any) -> str:
    low, high = result.interval or (result.value, result.value)
    return f"{100 * result.value:.1f} % [{100 * low:.1f}..{100 * high:.1f}]"


def phone_rows(name: str, part: Part, judge: PhoneRecogniser, bundle: Any) -> list[Row]:
    """Phone error of takes, of recordings, and of recordings through the vocoder alone."""
    known = name == _KEYS[0]
    own = errors(judge, part.real, part.takes)
    real = errors(judge, part.real, [one.sound for one in part.real])
    again = [bundle.decode_audio(bundle.encode_audio(one.sound)) for one in part.real]
    through = errors(judge, part.real, again)
    rows = [
        Row(
            f"{name}: phone error of its speech",
            f"<= {BAR:.0%}" if known else "",
            f"{percent(own)} of {own.n_reference} phones, {own.n_candidate} takes",
            own.value <= BAR if known else None,
        ),
        Row(f"{name}: the same sentences by espeak-ng", "", percent(real)),
        Row(f"{name}: those through its vocoder", "", percent(through)),
    ]
    if known:
        groups: dict[str, list[int]] = defaultdict(list)
        for place, one in enumerate(part.real):
            groups[one.language[:2]].append(place)
        told = []
        for language, places in sorted(groups.items()):
            some = [part.real[place] for place in places]
            figure = errors(judge, some, [part.takes[place] for place in places])
            told.append(f"{language} {100 * figure.value:.0f}")
        rows.append(
            Row(f"{name}: phone error of its speech, each language in %", "", ", ".join(told))
        )
    return rows


def voice_rows(
    name: str, part: Part, ear: Any, others: Sequence[tuple[str, np.ndarray]]
) -> list[Row]:
    """Cosines of takes and their own voice, between its two bounds; means over the voices."""
    real: dict[str, list[np.ndarray]] = defaultdict(list)
    takes: dict[str, list[np.ndarray]] = defaultdict(list)
    for said, take in zip(part.real, part.takes, strict=True):
        real[said.who].append(ear.embed(said.sound))
        takes[said.who].append(ear.embed(take))
    found = []
    for who, own in real.items():
        strange = [one for other, many in real.items() if other != who for one in many]
        strange += [one for other, one in others if other != who]  # the accent is a known voice's
        result = speaker.compute(own, takes[who], others=strange)
        details = result.details
        found.append((result.value, details["same_speaker"], details["different_speakers"]))
    value, same, different = np.mean(found, axis=0)
    share = (value - different) / (same - different)
    return [
        Row(
            f"{name}: likeness of takes and recordings of their voice",
            "",
            f"{value:.2f}; recordings of one voice {same:.2f}, of two voices {different:.2f}: "
            f"{100 * share:.0f} % of the way, {len(found)} voice{'s' if len(found) > 1 else ''}",
        )
    ]


def rows_of(bundle: Any, judge: PhoneRecogniser, ear: Any, quick: bool) -> tuple[list[Row], float]:
    """All rows, and seconds of computing per second of speech."""
    count, texts, held = (4, 2, 3) if quick else (SPEAKERS, TEXTS, HELD_TEXTS)
    people = speakers("valid")
    known = [people[index * len(people) // count] for index in range(count)]
    # Their vectors come from sentences that the takes do not say, as a user's would.
    sets = {
        _KEYS[0]: [(one, "valid", texts) for one in known],
        _KEYS[1]: [(speakers("heldvoice")[0], "heldvoice", held)],
        _KEYS[2]: [(speakers("heldaccent")[0], "heldaccent", held)],
    }
    rows: list[Row] = []
    ended: list[bool] = []
    spent_s = sounding_s = 0.0
    others: list[tuple[str, np.ndarray]] = []
    for name, wanted in sets.items():
        heard, real = {}, []
        for who, split, number in wanted:
            listened = [one.sound for one in recordings(who, split, HEARD, 1)]
            heard[who.id] = json.dumps(bundle.hear_speaker(listened).tolist())
            real += recordings(who, split, number, 0)
        begin = time.perf_counter()
        part = takes_of(bundle, real, heard)
        spent_s += time.perf_counter() - begin
        sounding_s += sum(one.samples.shape[1] / one.sample_rate_hz for one in part.takes)
        ended += part.ended
        rows += phone_rows(name, part, judge, bundle)
        rows += voice_rows(name, part, ear, others)
        if not others:
            others = [(one.who, ear.embed(one.sound)) for one in part.real]
    rows.append(Row("takes that come to an end by themselves", "", f"{sum(ended)} of {len(ended)}"))
    return rows, spent_s / sounding_s


def size_row(base: Path) -> Row:
    """Megabytes of the base's folder, and of its parts."""
    sizes = {file: file.stat().st_size / 1e6 for file in base.rglob("*") if file.is_file()}
    parts = ", ".join(
        f"{file.relative_to(base)} {size:.1f}"
        for file, size in sorted(sizes.items(), key=lambda one: -one[1])
        if file.suffix == ".safetensors"
    )
    total = sum(sizes.values())
    return Row("size", "<= 25 MB", f"{total:.1f} MB ({parts})", total <= 25)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--base", type=Path, default=EMBEDDED["pocket-voice"])
    options.add_argument("--judge", type=Path, default=JUDGE)
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    if shutil.which(PROGRAM) is None:
        raise SystemExit(f"install {PROGRAM}: its speech is what this is held against")
    torch.set_num_threads(args.threads)
    bundle: Any = load(find_base(str(args.base)), device="cpu")
    judge, ear = PhoneRecogniser.load(args.judge), open_embedder("voiceprint")
    rows, cost = rows_of(bundle, judge, ear, args.quick)
    rows.append(Row("seconds of computing for a second of speech, 24 at once", "", f"{cost:.2f}"))
    rows.append(size_row(args.base))
    if args.quick or args.base != EMBEDDED["pocket-voice"] or args.judge != JUDGE:
        for row in rows:
            print(f"{row.what}: {row.figure}")
        return
    notes = (
        f"{SPEAKERS} voices of the corpus, {TEXTS} sentences each, and {HELD_TEXTS} of the held voice and "
        f"in the held accent; all sentences and the recordings that vectors were heard in ({HEARD} a voice) "
        f"are of no training set. Phones by {judge.label.replace('phones', 'phones_judge')} (`bench/judge`), "
        f"voices by {ear.label}: mean cosine of takes and recordings. In brackets 95 % intervals over takes. "
        f"{args.threads} threads."
    )
    record("pocket_voice", "The embedded voice", rows, notes=notes)
    table = "".join(
        f"| {row.what} | {row.bar} | {row.figure}{' (missed)' if row.passed is False else ''} |\n"
        for row in rows
    )
    text = f"| what | bar | figure |\n|---|---|---|\n{table}\n{notes} Made by `python -m bench.pocket_voice`."
    write_measured(EMBEDDED["pocket-voice"] / "README.md", text)


if __name__ == "__main__":
    main()
