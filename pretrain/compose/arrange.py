"""Arrangement: a style, a lead and a seed become notes on tracks, ten seconds long."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pretrain.compose import theory
from pretrain.compose.caption import Labels, captions
from pretrain.compose.phrases import RHYTHMS
from pretrain.compose.styles import (
    HELD_OUT_LEAD,
    HELD_OUT_STYLE,
    LEADS,
    STYLES,
    Lead,
    Style,
)

CLIP_S = 10.0
LEAD_CH, COMP_CH, BASS_CH, LEFT_CH, DRUM_CH = 0, 1, 2, 3, 9
_BASS_STEPS = {"R": 0, "5": 7, "6": 9, "8": 12}


@dataclass(frozen=True)
class Note:
    """One note: start and end in seconds, MIDI pitch and velocity, MIDI channel (9 = drums)."""

    start_s: float
    end_s: float
    pitch: int
    velocity: int
    channel: int


@dataclass(frozen=True)
class Composition:
    """What a seed composes: notes within [0, 10] s, GM program and volume [0, 127] per channel, words."""

    seed: int
    notes: tuple[Note, ...]
    programs: dict[int, int]
    volumes: dict[int, int]
    labels: Labels
    captions: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """All decisions that hold for a whole piece. Velocities and registers are offsets."""

    style: Style
    lead: Lead
    labels: Labels
    tonic: int
    mode: str
    bars: list[list[theory.Chord]]
    velocity: int
    register: int
    staccato: bool

    @property
    def steps(self) -> int:
        return self.style.beats * 4

    def chord_at(self, bar: int, step: int) -> theory.Chord:
        chords = self.bars[bar % len(self.bars)]
        return chords[min(step * len(chords) // self.steps, len(chords) - 1)]

    def time_s(self, bar: int, step: float) -> float:
        """Seconds of a step; swing delays what lies between the beats (off-beat at 1/2 + swing/2)."""
        beat, within = divmod(step / 4.0, 1.0)
        middle = 0.5 + self.style.swing / 2
        within = (
            within / 0.5 * middle if within < 0.5 else middle + (within - 0.5) / 0.5 * (1 - middle)
        )
        return (bar * self.style.beats + beat + within) * 60.0 / self.labels.tempo_bpm


def _decide(rng: random.Random, held_out: bool) -> _Plan:
    style = HELD_OUT_STYLE if held_out else rng.choice(STYLES)
    lead = HELD_OUT_LEAD if held_out else rng.choice(LEADS)
    mood = rng.choice(style.moods)
    modes = list(style.progressions)
    if mood in ("sad", "dark", "tense"):
        modes = [m for m in modes if m != "major"] or modes
    elif mood in ("happy", "bright", "playful"):
        modes = [m for m in modes if m == "major"] or modes
    mode = rng.choice(modes)
    low, high = style.tempo
    span = {
        "calm": (0.0, 0.5),
        "sad": (0.0, 0.5),
        "mellow": (0.1, 0.7),
        "energetic": (0.5, 1.0),
    }.get(mood, (0, 1))
    tempo = round(low + (high - low) * rng.uniform(*span))
    weights = (1, 3, 3) if mood in ("energetic", "playful", "tense") else (3, 4, 1)
    density = rng.choices(("sparse", "medium", "busy"), weights)[0]
    rest = 1.0 - style.band
    texture = rng.choices(("solo", "duo", "band"), (rest * 0.35, rest * 0.65, style.band))[0]
    tonic = rng.randrange(12)
    labels = Labels(
        style.name, lead.name, tempo, f"{theory.KEY_NAMES[tonic]} {mode}", mood, density, texture
    )
    velocity = {
        "mellow": -14,
        "calm": -16,
        "dreamy": -12,
        "sad": -8,
        "energetic": 12,
        "tense": 8,
    }.get(mood, 0)
    register = {"bright": 4, "happy": 2, "dark": -5, "mellow": -3, "sad": -2, "dreamy": 2}.get(
        mood, 0
    )
    bars = theory.parse_progression(rng.choice(style.progressions[mode]), tonic)
    staccato = mood in ("playful", "tense") and rng.random() < 0.7
    return _Plan(style, lead, labels, tonic, mode, bars, velocity, register, staccato)


def _melody(plan: _Plan, rng: random.Random, n_bars: int) -> list[Note]:
    """Form A A' B A over two-bar phrases; motifs are rhythm plus contour in scale steps."""
    lead, style = plan.lead, plan.style
    scale = style.melody_scale.get(plan.mode, plan.mode)
    ladder = theory.scale_ladder(plan.tonic, scale, lead.low, lead.high)
    home = (lead.low + lead.high) / 2 + plan.register + rng.uniform(-3, 3)
    pool = RHYTHMS[style.feel][plan.labels.density]
    spread = 3 if plan.labels.density == "busy" else 4

    def motif() -> tuple[list[str], list[int]]:
        grids = [rng.choice(pool), rng.choice(pool)]
        count = sum(g.count("x") for g in grids)
        moves = [
            rng.choice((-2, -1, -1, 1, 1, 2, 0, rng.randint(-spread, spread))) for _ in range(count)
        ]
        return grids, moves

    first, second = motif(), motif()
    varied = (
        first[0],
        first[1][: len(first[1]) * 2 // 3] + [-m for m in first[1][len(first[1]) * 2 // 3 :]],
    )
    notes: list[Note] = []
    for phrase in range((n_bars + 1) // 2):
        grids, moves = (first, varied, second, first)[phrase % 4]
        start = home + (4 if phrase % 4 == 2 else 0)
        at = min(range(len(ladder)), key=lambda i: abs(ladder[i] - start))
        moving = iter(moves)
        for half, grid in enumerate(grids):
            bar = phrase * 2 + half
            for step, mark in enumerate(grid):
                if mark != "x":
                    continue
                # Fold at the edges of the range: the line turns back as a player would.
                at += next(moving)
                at = -at if at < 0 else at
                at = 2 * (len(ladder) - 1) - at if at >= len(ladder) else at
                pitch = ladder[at]
                if step % 4 == 0:
                    pitch = theory.nearest(pitch, plan.chord_at(bar, step).pitch_classes)
                length = 1
                while step + length < len(grid) and grid[step + length] == "-":
                    length += 1
                held = 0.45 if plan.staccato else (0.98 if lead.sustained else 0.92)
                begin = plan.time_s(bar, step)
                end = begin + (plan.time_s(bar, step + length) - begin) * held
                accent = 8 if step % (plan.steps // 2) == 0 else 0
                velocity = 94 + plan.velocity + accent + rng.randint(-5, 5)
                notes.append(
                    Note(begin, end, min(max(pitch, lead.low), lead.high), velocity, LEAD_CH)
                )
    return notes


def _pan_rolls(plan: _Plan, notes: list[Note], rng: random.Random) -> list[Note]:
    """Long notes of pans are rolled, and many lines are doubled a third or sixth below."""
    doubled = rng.random() < 0.5
    out: list[Note] = []
    for note in notes:
        voices = [note]
        if doubled:
            below = theory.nearest(
                note.pitch - 3.5, tuple((plan.tonic + s) % 12 for s in theory.SCALES["major"])
            )
            voices.append(replace(note, pitch=below, velocity=note.velocity - 12))
        for voice in voices:
            length = voice.end_s - voice.start_s
            if length < 0.45:
                out.append(voice)
                continue
            strokes = round(length / 0.075)
            for i in range(strokes):
                begin = voice.start_s + i * length / strokes
                loud = voice.velocity if i == 0 else voice.velocity - 14 + rng.randint(-4, 4)
                out.append(
                    Note(begin, begin + length / strokes * 0.95, voice.pitch, loud, voice.channel)
                )
    return out


def _comp(
    plan: _Plan, rng: random.Random, n_bars: int, channel: int, center: int, level: int
) -> list[Note]:
    grid = rng.choice(plan.style.comp)
    notes: list[Note] = []
    for bar in range(n_bars):
        onsets = [i for i, mark in enumerate(grid) if mark != "."]
        for i, step in enumerate(onsets):
            mark = grid[step]
            voices = theory.voicing(plan.chord_at(bar, step), center)
            until = onsets[i + 1] if i + 1 < len(onsets) else len(grid)
            begin = plan.time_s(bar, step)
            end = plan.time_s(bar, until) - 0.01
            if mark == "c":
                end = min(end, begin + 0.16)
            picked = (
                voices
                if mark in "Cc"
                else [voices[(int(mark) - 1) % len(voices)] + 12 * (int(mark) > len(voices))]
            )
            velocity = level + plan.velocity // 2 + rng.randint(-4, 4)
            notes += [Note(begin, end, p, velocity, channel) for p in picked]
    return notes


def _bass(plan: _Plan, rng: random.Random, n_bars: int, channel: int) -> list[Note]:
    grid = rng.choice(plan.style.bass)
    notes: list[Note] = []
    onsets = [i for i, mark in enumerate(grid) if mark != "."]
    for bar in range(n_bars):
        for i, step in enumerate(onsets):
            chord = plan.chord_at(bar, step)
            root = 36 + (chord.root - 4) % 12 + 4 - 12 * ((chord.root - 4) % 12 > 8)
            mark = grid[step]
            if mark == "a":
                following = plan.chord_at(bar + 1, 0)
                pitch = theory.nearest(root, (following.root,)) - 1
            elif mark in "37":
                wanted = (
                    chord.tones[1]
                    if mark == "3"
                    else (10 if len(chord.tones) < 4 else chord.tones[3] % 12)
                )
                pitch = root + wanted
            else:
                pitch = root + _BASS_STEPS[mark]
            until = onsets[i + 1] if i + 1 < len(onsets) else len(grid)
            begin, end = plan.time_s(bar, step), plan.time_s(bar, until)
            notes.append(
                Note(begin, begin + (end - begin) * 0.9, pitch, 88 + rng.randint(-5, 5), channel)
            )
    return notes


def _drums(plan: _Plan, rng: random.Random, n_bars: int) -> list[Note]:
    groove = rng.choice(plan.style.drums) if plan.style.drums else {}
    loud = {"X": 108, "x": 86, "o": 46}
    notes: list[Note] = []
    for bar in range(n_bars):
        for drum, grid in groove.items():
            for step, mark in enumerate(grid):
                if mark in loud:
                    begin = plan.time_s(bar, step)
                    velocity = loud[mark] + plan.velocity // 2 + rng.randint(-5, 5)
                    notes.append(Note(begin, begin + 0.1, drum, velocity, DRUM_CH))
    return notes


def _within(notes: list[Note], offset_s: float) -> tuple[Note, ...]:
    """Cut to [0, 10] s after moving the music by ``-offset_s``; notes cut to stubs are dropped."""
    moved = (replace(n, start_s=n.start_s - offset_s, end_s=n.end_s - offset_s) for n in notes)
    kept = [n for n in moved if n.start_s >= -1e-6 and n.start_s < CLIP_S - 0.06]
    clean = (
        replace(
            n,
            start_s=max(n.start_s, 0.0),
            end_s=min(max(n.end_s, n.start_s + 0.04), CLIP_S),
            pitch=min(max(n.pitch, 0), 127),
            velocity=min(max(n.velocity, 20), 124),
        )
        for n in kept
    )
    return tuple(sorted(clean, key=lambda n: (n.start_s, n.channel, n.pitch)))


def compose(seed: int, *, held_out: bool = False) -> Composition:
    """Compose ten seconds.

    ``held_out`` False draws from the pre-training styles and leads; True gives the style and lead that
    pre-training never sees. Equal seeds give equal pieces.
    """
    rng = random.Random(f"{'held-out' if held_out else 'general'}:{seed}")
    plan = _decide(rng, held_out)
    bar_s = plan.style.beats * 60.0 / plan.labels.tempo_bpm
    offset_bars = rng.choice((0, 0, 0, 2, 4))
    n_bars = offset_bars + int(CLIP_S / bar_s) + 2
    programs = {LEAD_CH: plan.lead.program}
    volumes = {LEAD_CH: 118}
    notes = _melody(plan, rng, n_bars)
    if held_out:
        notes = _pan_rolls(plan, notes, rng)
    texture = plan.labels.texture
    backing = [p for p in plan.style.comp_programs if p != plan.lead.program] or [
        0 if plan.lead.program else 24
    ]
    if texture == "solo" and plan.lead.poly:
        center = max(plan.lead.low - 7, 50)
        notes += _comp(plan, rng, n_bars, LEFT_CH, center, 66)
        programs[LEFT_CH], volumes[LEFT_CH] = plan.lead.program, 92
    if texture in ("duo", "band"):
        notes += _comp(plan, rng, n_bars, COMP_CH, 60 + rng.choice((-5, -3, 0, 2)), 68)
        programs[COMP_CH], volumes[COMP_CH] = rng.choice(backing), 84 if texture == "duo" else 74
    if texture == "band":
        notes += _bass(plan, rng, n_bars, BASS_CH)
        notes += _drums(plan, rng, n_bars)
        programs[BASS_CH], volumes[BASS_CH] = rng.choice(plan.style.bass_programs), 92
        programs[DRUM_CH], volumes[DRUM_CH] = plan.style.kit, 84
    has_drums = texture == "band" and any(n.channel == DRUM_CH for n in notes)
    return Composition(
        seed=seed,
        notes=_within(notes, offset_bars * bar_s),
        programs=programs,
        volumes=volumes,
        labels=plan.labels,
        captions=captions(plan.labels, plan.style.words, plan.lead.words, has_drums, rng),
    )
