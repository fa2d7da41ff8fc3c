"""Files to embeddings to distances."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tunesmith.atomic import write_bytes
from tunesmith.data.encode import cache_folder
from tunesmith.embeddings import Embedder, open_embedder
from tunesmith.errors import UserError
from tunesmith.formats.sound import read
from tunesmith.metrics import gap
from tunesmith.types import Audio

Embed = Callable[[Audio], np.ndarray]
"""Sound to ``[W, D]``, a row a window."""

_FORMAT = 1  # in every key: a change of what is stored makes old entries invisible, not wrong


def embed(files: Sequence[str | Path], ear: Embedder | Embed | None = None) -> list[np.ndarray]:
    """Embeddings ``[W, D]`` of each file.

    What an :class:`~tunesmith.embeddings.Embedder` heard is kept under the cache folder, by the hash
    of the file's bytes and the embedder's ``key``: so it is never stale, and the same sound under
    another name is not heard again. An entry that is torn is made anew.

    Args:
        files: sound files.
        ear: what hears them: by default the embedded tagger. What a plain function hears is not
            kept, since nothing says what it depends on.

    Raises:
        UserError: a file cannot be read or heard; the message names it.
    """
    if ear is None:
        ear = open_embedder("pocket")
    if not hasattr(ear, "embed"):
        assert callable(ear)
        with _one_thread():
            return [_heard(ear, file) for file in files]
    with _one_thread(when=ear.small):  # pyright: ignore[reportAttributeAccessIssue]
        return [_kept(ear, file) for file in files]  # pyright: ignore[reportArgumentType]


def _heard(ear: Embed, file: str | Path) -> np.ndarray:
    try:
        return ear(read(file))
    except UserError as error:
        if str(file) in error.message:
            raise
        raise UserError(f"{file}: {error.message}", error.mend) from error


def _kept(ear: Embedder, file: str | Path) -> np.ndarray:
    entry = cache_entry(file, ear)
    if (rows := _read_entry(entry, ear.dimension)) is None:
        rows = np.ascontiguousarray(_heard(ear.embed, file))
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(entry, save({"rows": rows}))
    return rows


def cache_entry(file: str | Path, ear: Embedder) -> Path:
    """Where the rows of a file are kept.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error})", "replace or remove it") from None
    key = hashlib.sha256(f"{_FORMAT}\x1f{content}\x1f{ear.key}".encode()).hexdigest()
    return cache_folder() / "embeddings" / key[:2] / f"{key}.safetensors"


def _read_entry(path: Path, dimension: int) -> np.ndarray | None:
    """Rows ``[W, D]``, or None where there are none that can be used."""
    try:
        rows = load(path.read_bytes())["rows"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    whole = rows.ndim == 2 and len(rows) > 0 and rows.shape[1] == dimension
    return rows if whole and np.isfinite(rows).all() else None


@contextmanager
def _one_thread(when: bool = True) -> Iterator[None]:
    """One thread for seconds of sound through a small network.

    More would only wait for each other, ten times as long as the work takes where the cores are busy.
    """
    threads = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gap_closed(
    reference: Sequence[str | Path],
    ceiling: Sequence[str | Path],
    base: Sequence[str | Path],
    adapted: Sequence[Sequence[str | Path]],
    *,
    ear: Embedder | Embed | None = None,
    seed: int = 0,
) -> gap.Gap:
    """:func:`tunesmith.metrics.gap.compute` of sound files.

    Args:
        reference: held-out recordings.
        ceiling: the same through the base's codec (:func:`tunesmith.evaluation.takes.through_codec`).
        base: takes of the base (:func:`tunesmith.evaluation.takes.make_takes`).
        adapted: takes of each training, of the same prompts and seeds.
        ear: what hears them; the embedded tagger by default.
        seed: of the permutation test.
    """
    return gap.compute(
        embed(reference, ear),
        embed(ceiling, ear),
        embed(base, ear),
        [embed(files, ear) for files in adapted],
        seed=seed,
    )
