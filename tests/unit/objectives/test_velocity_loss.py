"""Sums and counts over the frames that are real."""

from __future__ import annotations

import pytest
import torch

from tunesmith.objectives.velocity_loss import valid_frames, velocity_loss


def test_by_hand_in_both_layouts() -> None:
    predicted = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]], [[1.0, 1.0, 1.0]] * 2])
    target = torch.zeros(2, 2, 3)
    mask = valid_frames(torch.tensor([2, 3]), 3)
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    sums, counts = velocity_loss(predicted, target, mask)
    assert sums.tolist() == [(1 + 0) / 2 + (4 + 0) / 2, 3.0] and counts.tolist() == [2.0, 3.0]
    turned = velocity_loss(predicted.mT, target.mT, mask, time_dim=1)
    assert torch.equal(turned[0], sums) and torch.equal(turned[1], counts)
    whole, _ = velocity_loss(predicted, target)
    assert whole.tolist() == [2.5 + (9 + 1) / 2, 3.0]
    weighted, same = velocity_loss(predicted, target, mask, weights=torch.tensor([2.0, 0.5]))
    assert weighted.tolist() == [5.0, 1.5] and torch.equal(same, counts)


def test_padding_has_no_say_and_no_gradient() -> None:
    torch.manual_seed(0)
    predicted, target = torch.randn(2, 3, 4, 10)
    mask = valid_frames(torch.tensor([10, 4, 0]), 10)
    kept, counts = velocity_loss(predicted, target, mask)
    assert counts.tolist() == [10.0, 4.0, 0.0] and kept[2] == 0
    hurt = predicted.clone()
    hurt[~mask[:, None].expand_as(hurt)] = float("nan")
    hurt.requires_grad_()
    sums, _ = velocity_loss(hurt, target, mask)
    assert torch.equal(sums, kept)
    sums.sum().backward()
    assert hurt.grad is not None and hurt.grad.isfinite().all()
    assert (hurt.grad[~mask[:, None].expand_as(hurt)] == 0).all()
    assert (hurt.grad[mask[:, None].expand_as(hurt)] != 0).all()


def test_a_longer_padding_gives_the_same_mean() -> None:
    torch.manual_seed(0)
    predicted, target = torch.randn(2, 2, 3, 6)
    short = velocity_loss(predicted, target, valid_frames(torch.tensor([6, 2]), 6))
    wide = [torch.nn.functional.pad(part, (0, 5), value=7.0) for part in (predicted, -target)]
    long = velocity_loss(wide[0], -wide[1], valid_frames(torch.tensor([6, 2]), 11))
    assert torch.allclose(short[0], long[0]) and torch.equal(short[1], long[1])


def test_a_mask_may_have_holes() -> None:
    """Inpainting learns a span in the middle."""
    predicted, target = torch.ones(1, 2, 5), torch.zeros(1, 2, 5)
    mask = torch.tensor([[False, True, False, True, True]])
    assert [part.item() for part in velocity_loss(predicted, target, mask)] == [3.0, 3.0]


def test_half_precision_is_summed_in_full() -> None:
    predicted, target = torch.full((1, 1, 4096), 1.0), torch.zeros(1, 1, 4096)
    sums, _ = velocity_loss(predicted.bfloat16(), target.bfloat16())
    assert sums.dtype == torch.float32 and sums.item() == 4096


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="predicted is"):
        velocity_loss(torch.ones(2, 3, 4), torch.ones(2, 1, 4))
    with pytest.raises(ValueError, match="mask is"):
        velocity_loss(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.ones(2, 3))
