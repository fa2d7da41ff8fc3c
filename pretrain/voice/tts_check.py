"""What the text-to-speech model says on its own: does it end, how long, how far from the recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.voice.recogniser import distance
from pretrain.voice.tts_data import Data
from pretrain.voice.tts_model import diagonality
from tunesmith.analysis import speech_nets as nets

MOST_FRAMES = 12.0  # a letter; speech has four or five
_AT_ONCE = 24


def warped_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean |difference| of mels ``[T, M]`` and ``[U, M]`` along the path of dynamic time warping."""
    cost = np.abs(one[:, None] - other[None]).mean(axis=2)
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    steps = np.zeros((rows + 1, columns + 1))
    total[0, 0] = 0.0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            a, b, c = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            if a <= b and a <= c:
                total[i, j], steps[i, j] = cost[i - 1, j - 1] + a, steps[i - 1, j - 1] + 1
            elif b <= c:
                total[i, j], steps[i, j] = cost[i - 1, j - 1] + b, steps[i - 1, j] + 1
            else:
                total[i, j], steps[i, j] = cost[i - 1, j - 1] + c, steps[i, j - 1] + 1
    return float(total[-1, -1] / steps[-1, -1])


@torch.no_grad()
def spoken(
    model: Any, ids: Tensor, letters: Tensor, speaker: Tensor
) -> tuple[list[Tensor], list[float]]:
    """Mels ``[T, M]`` of each row as the library's ``generate_speech`` makes them, and how diagonal the
    best head's attention is."""
    size = int(letters.max())
    mask = (torch.arange(size, device=ids.device) < letters[:, None]).long()
    made, lengths, looks = model.generate_speech(
        ids[:, :size],
        speaker,
        attention_mask=mask,
        maxlenratio=MOST_FRAMES,
        return_output_lengths=True,
        output_cross_attentions=True,
    )
    # The library views these as [B, layers, ...] of what is [layers, B, ...].
    layers, rows = looks.shape[1], len(ids)
    looks = looks.reshape(layers, rows, *looks.shape[2:])
    reduction = model.config.reduction_factor
    mels, straight = [], []
    for row in range(rows):
        end, text = lengths[row], int(letters[row])
        mels.append(made[row, :end])
        maps = looks[:, row, :, : end // reduction, :text].flatten(0, 1)
        straight.append(max(diagonality(one) for one in maps))
    return mels, straight


def _wrong(listener: Path, mels: Sequence[Tensor], said: Sequence[Sequence[str]]) -> float:
    """Share of the phones that a recogniser's weights do not hear, or hear beside them, in mels ``[T, M]``."""
    network, config = nets.load(listener)
    wrong = 0
    for one, phones in zip(mels, said, strict=True):
        scores, sizes = network(one[None].float().cpu(), torch.tensor([len(one)]))
        found = [config["phones"][n - 1] for n in nets.best_path(scores, sizes)[0]]
        wrong += distance(found, phones)
    return wrong / max(1, sum(map(len, said)))


@torch.no_grad()
def speaks(
    model: Any, data: Data, rows: Sequence[int], most: int, listener: Path | None = None
) -> dict[str, float]:
    """Figures of speaking the texts of rows, spread evenly, with their speakers' vectors.

    Args:
        model: in evaluation mode.
        data: clips.
        rows: of the data, to choose from.
        most: how many are chosen.
        listener: weights of a phone recogniser.

    Returns:
        ``stopped`` (share that ended by itself), ``length_ratio`` to the recording (median) and its 10th
        and 90th percentile, ``warped`` mean |log10 mel| difference, ``diagonal`` share of attention,
        all over the clips; with a listener ``phone_error``, and ``phone_error_of_clips`` in the recordings.
    """
    chosen = [rows[i * len(rows) // most] for i in range(min(most, len(rows)))]
    ended, ratios, apart, straight, all_made, all_wanted = [], [], [], [], [], []
    torch.manual_seed(0)  # the prenet's dropout
    for at in range(0, len(chosen), _AT_ONCE):
        part = torch.tensor(chosen[at : at + _AT_ONCE], device=data.device)
        letters = data.letters[part]
        speaker = data.speakers(part, vary=False)
        mels, looks = spoken(model, data.ids[part], letters, speaker)
        straight += looks
        limit = int(int(letters.max()) * MOST_FRAMES / 2) * 2
        for row, made in zip(part.tolist(), mels, strict=True):
            begin, frames = int(data.offsets[row]), int(data.frames[row])
            wanted = data.mels[begin : begin + frames].float().cpu().numpy()
            all_made.append(made)
            all_wanted.append(torch.from_numpy(wanted))
            ended.append(len(made) < limit)
            ratios.append(len(made) / frames)
            cut = made[: 2 * frames].float().cpu().numpy()
            apart.append(warped_distance(cut, wanted))
    heard = {}
    if listener:
        said = [data.rows[row]["phones"] for row in chosen]
        heard = {
            "phone_error": round(_wrong(listener, all_made, said), 3),
            "phone_error_of_clips": round(_wrong(listener, all_wanted, said), 3),
        }
    return heard | {
        "stopped": round(float(np.mean(ended)), 3),
        "length_ratio": round(float(np.median(ratios)), 3),
        "length_ratio_10": round(float(np.quantile(ratios, 0.1)), 3),
        "length_ratio_90": round(float(np.quantile(ratios, 0.9)), 3),
        "warped": round(float(np.mean(apart)), 4),
        "diagonal": round(float(np.mean(straight)), 3),
    }
