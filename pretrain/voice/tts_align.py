"""What makes the speech model heed its text: where to look, what letters sound like, a history with holes.

A decoder that hears the frames before hardly needs letters to guess the next ones: its loss falls nearly
as far without, and then it babbles when it hears but itself. So attention is drawn to the letters
that sound (as :mod:`pretrain.voice.times` tells), the encoder has to spell phones (connectionist temporal
classification, a head that is thrown away), and much of what came before is withheld.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.voice.tts_model import Batch, Predicted, predict

HEAD = "phone_head"
SLOTS = 2  # phones that a letter may have
SPAN = 4  # steps that are withheld together, at most
_LEAST = 1e-3


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is asked of the model beside its own loss.

    Attributes:
        aligned: weight of :func:`looking`.
        sigma: of its window, letters.
        heads: of each layer that it is asked of.
        spelt: weight of :func:`spelling`.
        withheld: share of the history, at most.
        own: share of rows whose history is what the model says itself, from the truth.
        refine: train the postnet too.
    """

    aligned: float = 0.0
    sigma: float = 1.5
    heads: int = 2
    spelt: float = 0.0
    withheld: float = 0.0
    own: float = 0.0
    refine: bool = True


def letter_places(row: dict[str, Any], steps: int, samples: float) -> np.ndarray:
    """The token that sounds in the middle of each of the decoder's steps, float32 ``[steps]``.

    Args:
        row: of :mod:`pretrain.voice.times`.
        steps: how many.
        samples: the length of one.
    """
    middles = (np.arange(steps) + 0.5) * samples
    # Before a text's first letter there is the token of its first word's beginning.
    return np.interp(middles, row["samples"], row["letters"]).astype(np.float32) + 1


def add_head(model: Any, phones: int) -> None:
    """Give the model its head for phones; :func:`without_head` takes it out of the weights."""
    size = model.config.hidden_size
    model.add_module(HEAD, nn.Linear(size, SLOTS * (phones + 1)))


def without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without it."""
    return {k: v for k, v in tensors.items() if not k.startswith(f"{HEAD}.")}


def withheld(heard: Tensor, share: float, mean: Tensor) -> Tensor:
    """History ``[B, L, M]`` in which frames are replaced by the mean of all.

    Args:
        heard: what the decoder would hear.
        share: of the frames, at most: each row draws its own. In every other row they go singly,
            else a few together.
        mean: ``[M]``.
    """
    rows, steps = heard.shape[:2]
    device = heard.device
    single = torch.rand(rows, steps, device=device)
    groups = torch.rand(rows, -(-steps // SPAN), device=device).repeat_interleave(SPAN, 1)
    drawn = torch.where(torch.rand(rows, 1, device=device) < 0.5, single, groups[:, :steps])
    gone = drawn < share * torch.rand(rows, 1, device=device)
    return torch.where(gone[..., None], mean, heard)


def own_words(model: Any, batch: Batch, heard: Tensor, share: float) -> Tensor:
    """History ``[B, L, M]`` in which rows, a share of them, hear what the model makes of the truth before."""
    with torch.no_grad():
        said = predict(model, batch, heard, refine=False).before
        reduction = model.config.reduction_factor
        said = F.pad(said[:, reduction - 1 :: reduction][:, :-1], (0, 0, 1, 0))
        chosen = torch.rand(len(heard), 1, 1, device=heard.device) < share
    return torch.where(chosen, said, heard)


def looking(found: Predicted, batch: Batch, heads: int, sigma: float, reduction: int) -> Tensor:
    """How unlikely it is to look near the letter that sounds: mean of minus the log of the attention in a
    window of ``sigma`` letters, over the first ``heads`` of each layer, the steps, the rows with times."""
    maps = torch.cat([looks[:, :heads] for looks in found.attentions], 1).float()
    maps = maps[:, :, : batch.places.shape[1]]
    apart = torch.arange(maps.shape[3], device=maps.device) - batch.places[..., None]
    window = torch.exp(-apart.square() / (2 * sigma**2))
    near = (maps * window[:, None]).sum(-1).add(_LEAST).log().neg().mean(1)
    steps = torch.arange(maps.shape[2], device=maps.device)
    real = (steps < (batch.frames // reduction)[:, None]) & (batch.places[:, :1] >= 0)
    return (near * real).sum() / real.sum().clamp_min(1)


def spelling(model: Any, states: Tensor, batch: Batch) -> Tensor:
    """Loss of the phones that the encoder's states say, of each phone."""
    made = getattr(model, HEAD)(states)
    rows, letters = made.shape[:2]
    scores = made.float().view(rows, letters * SLOTS, -1).log_softmax(-1)
    return F.ctc_loss(
        scores.transpose(0, 1),
        batch.phones,
        batch.letters * SLOTS,
        batch.phone_counts,
        zero_infinity=True,
    )
