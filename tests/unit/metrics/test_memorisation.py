"""Memorisation: distances against double loops, copies that are planted, chance against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.metrics import memorisation
from tunesmith.metrics.memorisation import Nearness, Tail, chance, compare, distances, shared_codes

Rng = np.random.Generator


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(0)


def test_distances_are_those_of_the_best_shift(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorisation, "_CHUNK", 2)
    takes = [rng.normal(1000, 1, (w, 3)) for w in (5, 1, 3)]
    clips = [rng.normal(1000, 1, (w, 3)) for w in (4, 5, 1, 9, 2)]
    expected = np.full((3, 5), np.inf)
    for i, a in enumerate(takes):
        for j, b in enumerate(clips):
            least = np.ceil(0.6 * min(len(a), len(b)))
            for shift in range(-len(a), len(b) + 1):
                pairs = [(t, t + shift) for t in range(len(a)) if 0 <= t + shift < len(b)]
                if pairs and len(pairs) >= least:
                    mean = np.mean([((a[s] - b[t]) ** 2).sum() for s, t in pairs])
                    expected[i, j] = min(expected[i, j], np.sqrt(mean))
    np.testing.assert_allclose(distances(takes, clips), expected, rtol=1e-9)


def test_a_part_of_a_clip_is_at_no_distance_and_reversed_it_is(rng: Rng) -> None:
    clip = rng.normal(0, 1, (10, 8))
    found = distances([clip[3:7], clip[::-1]], [clip])
    assert found[0, 0] == pytest.approx(0, abs=1e-6)
    assert found[1, 0] > 1


def test_shared_codes_are_those_of_the_best_passage(
    rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorisation, "_CHUNK", 2)
    takes = [rng.integers(0, 4, (2, t)) for t in (12, 5, 9)]
    clips = [rng.integers(0, 4, (2, t)) for t in (11, 3, 8, 11, 20)]
    rate, span = 3, 2
    expected = np.zeros((3, 5))
    for i, a in enumerate(takes):
        for j, b in enumerate(clips):
            blocks = -(-a.shape[1] // rate)
            wide = min(span, blocks)
            least = np.ceil(0.75 * min(wide * rate, a.shape[1], b.shape[1]))
            for shift in range(-a.shape[1] + 1, b.shape[1]):
                for first in range(blocks - wide + 1):
                    times = range(first * rate, min((first + wide) * rate, a.shape[1]))
                    pairs = [(t, t + shift) for t in times if 0 <= t + shift < b.shape[1]]
                    if len(pairs) >= least:
                        equal = [
                            (2 * (a[0, s] == b[0, t]) + (a[1, s] == b[1, t])) / 3 for s, t in pairs
                        ]
                        expected[i, j] = max(expected[i, j], np.mean(equal))
    found = shared_codes(takes, clips, frames_per_s=rate, passage_s=span)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_two_copied_seconds_in_a_longer_take_are_found(rng: Rng) -> None:
    clips = [rng.integers(0, 512, (4, 250)) for _ in range(3)]
    take = rng.integers(0, 512, (4, 250))
    take[:, 100:200] = clips[1][:, 37:137]
    found = shared_codes([take], clips, frames_per_s=50)[0]
    assert found[1] > 0.99
    assert max(found[0], found[2]) < 0.1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: distances([], [np.ones((1, 2))]), "no takes"),
        (lambda: distances([np.ones((1, 3))], [np.ones((1, 2))]), "several widths"),
        (lambda: distances([np.full((1, 2), np.nan)], [np.ones((1, 2))]), "NaN"),
        (
            lambda: shared_codes([np.ones((1, 9), int)], [np.ones((2, 9), int)], frames_per_s=2),
            "several codecs",
        ),
        (lambda: shared_codes([np.ones((1, 9))], [np.ones((1, 9))], frames_per_s=2), "latents"),
    ],
)
def test_what_cannot_be_compared_is_said(call, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


def test_gumbel_is_found_again_with_a_tenth_of_leaked_copies(rng: Rng) -> None:
    scores = rng.gumbel(0.4, 0.1, 4000)
    scores[:400] = 9.0
    fit = Tail.fit(scores)
    assert fit.place == pytest.approx(0.4, abs=0.03)
    assert fit.width == pytest.approx(0.1, rel=0.3)
    clean = Tail.fit(scores[400:])
    beyond = clean.standard(scores[400:]) > memorisation.reached(0.01)
    assert 0.004 < beyond.mean() < 0.02


def test_chance_is_what_shuffling_gives(rng: Rng) -> None:
    takes, innocent, beyond = 20, 30, 1
    hits = np.zeros(21)
    for _ in range(20_000):
        order = rng.permutation(takes + innocent) < takes  # True is a take, the foremost first
        hits[order[: np.flatnonzero(~order)[beyond]].sum()] += 1
    tail = hits[::-1].cumsum()[::-1] / hits.sum()
    for copies in (1, 2, 4, 7):
        assert chance(copies, takes, beyond, innocent) == pytest.approx(tail[copies], abs=0.015)
    assert chance(0, takes, beyond, innocent) == 1


class World:
    """Sounds around one style: clips, others of the style, and takes, as embeddings and codes."""

    def __init__(self, rng: Rng, clips: int = 40, unheard: int = 60) -> None:
        self.rng = rng
        self.style = rng.normal(0, 1, (8, 16))
        self.train = [self.sound() for _ in range(clips)]
        self.unheard = [self.sound() for _ in range(unheard)]

    def sound(self, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        rows = self.style + self.rng.normal(0, spread, (8, 16))
        return rows, self.rng.integers(0, 12, (2, 80))

    def copy(self, of: int) -> tuple[np.ndarray, np.ndarray]:
        rows, codes = self.train[of]
        worn = np.where(
            self.rng.random(codes.shape) < 0.4, self.rng.integers(0, 12, codes.shape), codes
        )
        return rows + self.rng.normal(0, 0.2, rows.shape), worn

    def near(self, sounds, same: bool = False) -> list[Nearness]:
        found = []
        for part, measure in enumerate(
            (distances, lambda a, b: 1 - shared_codes(a, b, frames_per_s=10))
        ):
            own = [one[part] for one in sounds]
            both = [measure(own, [c[part] for c in some]) for some in (self.train, self.unheard)]
            if same:
                np.fill_diagonal(both[1], np.nan)
            found.append(Nearness(*both))
        return found

    def compare(self, takes, base=()):
        return compare(
            self.near(takes),
            self.near(self.unheard, same=True),
            self.near(base) if base else (),
        )


def test_copies_are_flagged_and_traced(rng: Rng) -> None:
    world = World(rng)
    found = world.compare([world.copy(3), world.copy(7)] + [world.sound() for _ in range(40)])
    assert found.flagged[:2].all()
    assert found.clip[:2].tolist() == [3, 7]
    assert (found.distance < found.usual)[:2].all()
    assert found.shared is not None and found.usual_shared is not None
    assert (found.shared > found.usual_shared)[:2].all()
    assert found.suspicion[:2].min() > found.suspicion[2:].max()


def test_enough_copies_are_more_than_chance(rng: Rng) -> None:
    world = World(rng)
    takes = [world.copy(i) for i in range(15)] + [world.sound() for _ in range(25)]
    found = world.compare(takes, [world.sound() for _ in range(40)])
    assert found.p_value < 1e-4
    assert found.copies >= 15
    assert found.expected == pytest.approx(1 / 101)


def test_by_codes_alone_a_passage_is_found(rng: Rng) -> None:
    world = World(rng)
    rows, codes = world.sound()
    codes = codes.copy()
    codes[:, 20:40] = world.train[5][1][:, 30:50]
    found = world.compare([(rows, codes)])
    assert found.flagged[0] and found.clip[0] == 5
    assert found.distance[0] > found.usual[0]


def test_innocent_subjects_are_hardly_ever_flagged() -> None:
    wrong = 0
    for seed in range(60):
        world = World(np.random.default_rng(seed), clips=20, unheard=20)
        found = world.compare([world.sound() for _ in range(20)])
        wrong += found.p_value < memorisation.LEVEL
    assert wrong <= 3


def test_typical_takes_are_no_copies(rng: Rng) -> None:
    """A model that has collapsed to the middle of the style is near to all clips, and to none."""
    world = World(rng)
    found = world.compare([world.sound(spread=0.3) for _ in range(40)])
    raw = world.near([world.sound(spread=0.3) for _ in range(40)])[0].dissimilarity.min(axis=1)
    assert raw.max() < world.near(world.unheard)[0].dissimilarity.min(axis=1).min()
    assert found.p_value > 0.01


def test_near_copies_among_the_training_clips_do_not_hide_a_copy(rng: Rng) -> None:
    world = World(rng)
    world.train += [(rows + 0.01, codes) for rows, codes in world.train] * 2
    found = world.compare([world.copy(3)] + [world.sound() for _ in range(10)])
    assert found.flagged[0] and found.clip[0] % 40 == 3
    assert not found.flagged[1:].any()


def test_training_clips_among_the_unheard_do_not_count(rng: Rng) -> None:
    world = World(rng)
    world.unheard[:5] = world.train[:5]
    found = world.compare([world.copy(9)] + [world.sound() for _ in range(10)])
    assert np.flatnonzero(found.leaked).tolist() == [0, 1, 2, 3, 4]
    assert found.unheard == 55
    assert found.flagged[0]


def test_too_few_unheard_clips_are_said(rng: Rng) -> None:
    world = World(rng, unheard=9)
    with pytest.raises(UserError, match=r"9 unheard clips .* are too few, 10 are the least"):
        world.compare([world.sound()])


def test_what_the_base_does_as_well_is_no_memorisation(rng: Rng) -> None:
    """Silence in some training clips, say: the untrained base comes as near to them."""
    world = World(rng)
    takes, base = ([world.copy(i % 40) for i in range(40)] for _ in range(2))
    assert world.compare(takes).p_value < 1e-6
    assert world.compare(takes, base).p_value > 0.01


def test_without_codes_there_is_one_comparison(rng: Rng) -> None:
    world = World(rng)
    found = compare(
        world.near([world.copy(1), world.sound()])[:1], world.near(world.unheard, same=True)[:1]
    )
    assert found.shared is None and found.usual_shared is None
    assert found.flagged.tolist() == [True, False]
