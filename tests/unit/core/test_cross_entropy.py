from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tunesmith.objectives import cross_entropy
from tunesmith.objectives.cross_entropy import IGNORE, codebook_cross_entropy


def reference(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Full logits, one codebook at a time."""
    rows = [
        F.cross_entropy(hidden @ weight[k].T, labels[:, k], ignore_index=IGNORE, reduction="none")
        for k in range(weight.shape[0])
    ]
    return torch.stack(rows, dim=1)


def inputs(rows: int = 23) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 8, generator=draw)
    weight = torch.randn(3, 11, 8, generator=draw)
    labels = torch.randint(0, 11, (rows, 3), generator=draw)
    labels[torch.rand(rows, 3, generator=draw) < 0.3] = IGNORE
    slopes = torch.randn(rows, 3, generator=draw)  # an uneven gradient from above
    return hidden, weight, labels, slopes


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("slice_rows", [4, 23, 1024])
def test_value_and_gradient(trainable: bool, slice_rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cross_entropy, "_ROWS", slice_rows)
    hidden, weight, labels, slopes = inputs()
    found, wanted = [], []
    for function, results in ((codebook_cross_entropy, found), (reference, wanted)):
        h = hidden.clone().requires_grad_(True)
        w = weight.clone().requires_grad_(trainable)
        losses = function(h, w, labels)
        (losses * slopes).sum().backward()
        results += [losses.detach(), h.grad, *([w.grad] if trainable else [])]
    assert len(found) == 2 + trainable
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert bool((found[0][labels == IGNORE] == 0).all())


def test_rows_without_any_label_have_no_gradient():
    hidden, weight, labels, _ = inputs()
    labels[5] = IGNORE
    hidden.requires_grad_(True)
    codebook_cross_entropy(hidden, weight, labels).sum().backward()
    assert hidden.grad is not None
    assert not bool(hidden.grad[5].any())
    assert bool(hidden.grad[6].any())


def test_finite_differences_in_double():
    hidden, weight, labels, _ = inputs(5)
    hidden, weight = hidden.double().requires_grad_(True), weight.double()

    def mean(h: torch.Tensor) -> torch.Tensor:
        return codebook_cross_entropy(h, weight, labels).double().sum()

    (analytic,) = torch.autograd.grad(mean(hidden), hidden)
    step = 1e-2  # losses are float32 inside, so a small step would drown
    for row, column in ((0, 0), (2, 5), (4, 7)):
        ahead, behind = hidden.detach().clone(), hidden.detach().clone()
        ahead[row, column] += step
        behind[row, column] -= step
        numeric = (mean(ahead) - mean(behind)) / (2 * step)
        assert float(analytic[row, column]) == pytest.approx(float(numeric), abs=2e-3)


def test_without_gradients_nothing_is_kept():
    hidden, weight, labels, _ = inputs()
    with torch.no_grad():
        losses = codebook_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(losses, reference(hidden, weight, labels), rtol=1e-5, atol=1e-6)
    assert not losses.requires_grad


def test_autocast_takes_the_products_in_its_precision():
    hidden, weight, labels, _ = inputs()
    hidden.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = codebook_cross_entropy(hidden, weight, labels)
        losses.sum().backward()
    assert losses.dtype == torch.float32
    wanted = reference(hidden, weight, labels)
    torch.testing.assert_close(losses, wanted, rtol=0.05, atol=0.1)
    assert not torch.equal(losses, wanted)
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32
