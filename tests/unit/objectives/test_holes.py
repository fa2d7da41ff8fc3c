"""What is missing is drawn from the seed alone, in the shares and sizes that are asked for."""

from __future__ import annotations

import torch

from tunesmith.objectives.holes import KINDS, Holes

SEEDS = list(range(2000))


def rows(kinds: tuple[str, ...], plain: float, frames: int = 40, length: int = 50) -> torch.Tensor:
    return Holes(kinds, plain).given(SEEDS, torch.full((len(SEEDS),), frames), length)


def test_the_share_of_which_nothing_is_given():
    nothing = ~rows(("span", "tail"), 0.25).any(dim=1)
    # Four standard deviations of a binomial.
    assert abs(int(nothing.sum()) - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    assert not bool((~rows(("span", "tail"), 0.0).any(dim=1)).any())


def test_a_span_is_one_stretch_inside_the_clip():
    given = rows(("span",), 0.0)
    assert bool(given[:, 40:].all())  # silence after the end is given
    sizes = (~given).sum(dim=1)
    assert int(sizes.min()) >= 4
    assert int(sizes.max()) <= 24
    assert len(sizes.unique()) > 10
    edges = given[:, 1:] != given[:, :-1]
    assert int(edges.sum(dim=1).max()) <= 2
    assert bool((~given[:, 0]).any())
    assert bool((~given[:, 39]).any())


def test_a_tail_is_all_from_a_point_on():
    given = rows(("tail",), 0.0)
    assert not bool(given[:, 39].any())
    assert bool(given[:, :8].all())
    begins = given[:, :40].sum(dim=1)
    assert 8 <= int(begins.min()) <= 10
    assert 30 <= int(begins.max()) <= 32


def test_a_missing_band_gives_no_frame_as_it_is():
    holes = Holes(("band",), 0.5)
    banded = torch.tensor(holes.banded(SEEDS))
    assert not bool(holes.given(SEEDS, torch.full((2000,), 40), 50).any())
    assert abs(int(banded.sum()) - 1000) < 4 * (2000 * 0.25) ** 0.5
    assert not any(Holes(("span",), 0.5).banded(SEEDS))


def test_kinds_occur_as_often_as_each_other():
    holes = Holes(KINDS, 0.1)
    given, banded = rows(KINDS, 0.1), torch.tensor(holes.banded(SEEDS))
    tails = ~given[:, 39] & given.any(dim=1)
    for kind in (banded, tails):
        assert 450 < int(kind.sum()) < 760


def test_a_row_is_the_same_in_any_company():
    frames = torch.tensor([3, 17, 40])
    together = Holes().given([5, 6, 7], frames, 50)
    for row, seed in enumerate((5, 6, 7)):
        alone = Holes().given([seed], frames[row : row + 1], 45)
        assert torch.equal(alone[0], together[row, :45])


def test_a_clip_of_one_frame_has_a_hole():
    one = torch.ones(len(SEEDS), dtype=torch.long)
    given = Holes(("span", "tail"), 0.0).given(SEEDS, one, 4)
    assert not bool(given[:, 0].any())
    assert bool(given[:, 1:].all())
