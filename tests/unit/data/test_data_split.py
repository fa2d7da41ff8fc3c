import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.split import split, split_groups
from tunesmith.errors import UserError

lengths = st.dictionaries(
    st.text("abcdef0123456789", min_size=4, max_size=8),
    st.lists(st.floats(0.2, 30.0), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
)


@given(lengths, st.floats(0.01, 0.5), st.integers(0, 3))
def test_no_recording_stands_on_both_sides_without_a_gap(durations, share, seed):
    plan = split(durations, share, seed)
    seen = {side for sides in plan.sides.values() for side in sides}
    assert "train" in seen
    for key, sides in plan.sides.items():
        assert len(sides) == len(durations[key])
        if len(durations) >= 5:
            assert len(set(sides)) == 1 and None not in sides
        elif set(sides) - {"train"} and "train" in sides:
            first = sides.index("valid")
            assert sides[first - 1] is None and set(sides[first:]) == {"valid"}
            assert set(sides[: first - 1]) == {"train"}
    if len(durations) >= 5:
        assert "valid" in seen and not plan.warnings
    else:
        assert len(plan.warnings) == 1


@given(lengths, st.randoms())
def test_order_does_not_matter(durations, random):
    keys = list(durations)
    random.shuffle(keys)
    assert split(durations).sides == split({key: durations[key] for key in keys}).sides


def test_share_is_met_on_many_recordings():
    durations = {f"{i:04x}": [10.0, 10.0] for i in range(200)}
    sides = split(durations, 0.1).sides
    valid = sum(side == "valid" for part in sides.values() for side in part)
    assert valid == 40
    assert split(durations, 0.1, seed=1).sides != sides


def test_one_long_recording_does_not_take_over():
    durations = {"long": [30.0] * 100, **{f"{i:02x}": [30.0] for i in range(10)}}
    for seed in range(20):
        assert set(split(durations, 0.1, seed).sides["long"]) == {"train"}


def test_one_clip_is_trained_on():
    plan = split({"a": [10.0]})
    assert plan.sides == {"a": ("train",)} and "one clip" in plan.warnings[0]


def test_few_recordings_give_their_tails():
    plan = split({"a": [10.0] * 10, "b": [10.0] * 3, "c": [5.0]})
    assert plan.sides["a"] == ("train",) * 8 + (None, "valid")
    assert plan.sides["b"] == ("train", None, "valid")
    assert plan.sides["c"] == ("train",)


def test_nothing_kept_aside_when_asked():
    plan = split({f"{i}": [10.0] for i in range(9)}, 0.0)
    assert set(plan.sides.values()) == {("train",)} and not plan.warnings


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_senseless_shares(share):
    with pytest.raises(UserError):
        split({}, share)


@given(lengths, st.floats(0.01, 0.5), st.integers(0, 3), st.integers(1, 4))
def test_recordings_of_a_group_stand_on_one_side(durations, share, seed, modulus):
    keys = list(durations)
    group = {
        key: keys[index % modulus] for index, key in enumerate(keys) if index % modulus < len(keys)
    }
    plan = split_groups(durations, group, share, seed)
    assert {key: len(sides) for key, sides in plan.sides.items()} == {
        key: len(part) for key, part in durations.items()
    }
    if len(set(group.values())) >= 5:
        for top in set(group.values()):
            assert len({side for key in keys if group[key] == top for side in plan.sides[key]}) == 1


@given(lengths, st.floats(0.01, 0.5), st.integers(0, 3))
def test_groups_of_one_are_no_groups(durations, share, seed):
    alone = {key: key for key in durations}
    assert split_groups(durations, alone, share, seed) == split(durations, share, seed)
