"""Distances between rows of embeddings, and the kernel that is made of them.

They come from products, ‖x‖² + ‖y‖² − 2xy, which cancel badly far from the origin: centre both sets
first.
"""

from __future__ import annotations

import numpy as np

CHUNK = 1024
"""Rows of one block of distances: 1024 × 20,000 float64 is 160 MB."""


def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances ``[M, N]`` between the rows of ``[M, D]`` and ``[N, D]``."""
    out = -2.0 * (a @ b.T)
    out += np.einsum("ij,ij->i", a, a)[:, None]
    out += np.einsum("ij,ij->i", b, b)[None, :]
    return np.maximum(out, 0.0, out=out)


def gaussian(a: np.ndarray, b: np.ndarray, sigma: float) -> np.ndarray:
    """exp(−‖x−y‖²/2σ²) ``[M, N]`` between the rows of ``[M, D]`` and ``[N, D]``."""
    out = squared(a, b)
    out *= -0.5 / (sigma * sigma)
    return np.exp(out, out=out)


def median_distance(x: np.ndarray, *, most: int = 4000) -> float:
    """Median of the pairwise distances of ``[M, D]``, without the zeros of a row to itself.

    Above ``most`` rows an evenly spaced subset stands for all; 4000 rows are eight million pairs.
    """
    if len(x) > most:
        x = x[np.linspace(0, len(x) - 1, most).astype(int)]
    parts = []
    for start in range(0, len(x), CHUNK):
        block = squared(x[start : start + CHUNK], x[start:])
        parts.append(block[np.triu_indices(len(block), k=1, m=block.shape[1])])
    return float(np.sqrt(np.median(np.concatenate(parts))))
