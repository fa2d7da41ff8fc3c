"""Files to :mod:`tunesmith.metrics.memorisation`: does a run copy what it was trained on?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from tunesmith.atomic import write_bytes
from tunesmith.data.encode import cache_folder, read_audio
from tunesmith.embeddings import Embedder, open_embedder
from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Finding, Match, Memorisation
from tunesmith.evaluation.hearing import _one_thread, read
from tunesmith.metrics import memorisation
from tunesmith.metrics._intervals import binomial
from tunesmith.metrics.memorisation import Found, Nearness
from tunesmith.types import Audio, Clip

SHOWN = 10
"""Pairs that are told."""

MOST_UNHEARD = 256
"""Unheard clips beyond which more would only cost time; then evenly spaced ones."""

_FORMAT = 1
_PHASES = tuple(i / 8 for i in range(8))  # of a window: a copy need not begin where one does
_SAYS = (
    "Share of takes that are nearer to one training clip than unheard recordings and the base's own "
    "takes come. More of them than chance gives means that it copies what it was trained on."
)


class Codec(Protocol):
    """What is used of a :class:`~tunesmith.families._bundle.Bundle`."""

    sample_rate_hz: int
    channels: int
    max_s: float
    frame_rate_hz: float

    @property
    def codec_hash(self) -> str: ...
    def encode_audio(self, audio: Audio) -> Tensor: ...
    def decode_audio(self, codes: Tensor) -> Audio: ...


@dataclass(frozen=True, slots=True)
class _Sound:
    """One sound as it is compared: rows ``[W, D]`` from each start, and codes ``[K, T]`` or nothing."""

    rows: tuple[np.ndarray, ...]
    codes: np.ndarray | None


def memorised(
    takes: Sequence[str | Path],
    prompts: Sequence[str],
    seeds: Sequence[int] | None,
    train_clips: Sequence[str | Path],
    null_clips: Sequence[str | Path],
    base_takes: Sequence[str | Path] = (),
    embedder: Embedder | None = None,
    codec: Codec | None = None,
) -> Memorisation:
    """Compare takes with the clips that their model was trained on.

    Args:
        takes: sound files that the model made.
        prompts: of the takes.
        seeds: of the takes, if known.
        train_clips: sound files that it was trained on.
        null_clips: recordings of the same kind that it was not trained on; those that are training
            clips nevertheless do not count.
        base_takes: what the untrained base made of the same prompts.
        embedder: what hears them; the embedded one by default.
        codec: the base. Takes have been through its codec, so clips are heard through it as well, and
            codes can be compared. Without it copies are found much less surely.

    Returns:
        The verdict, with the :data:`SHOWN` most suspicious takes.

    Raises:
        UserError: no takes or clips, too few unheard clips, or a file that cannot be read.
    """
    return _looked(
        Search(embedder or open_embedder("pocket"), codec),
        takes, prompts, seeds, train_clips, null_clips, base_takes,
    )[0]  # fmt: skip


def memorised_run(
    subject: str,
    takes: Sequence[str | Path],
    base_takes: Sequence[str | Path],
    train_clips: Sequence[Clip],
    null_clips: Sequence[Clip],
    prompts: Sequence[str],
    seeds: Sequence[int],
    embedder: Embedder,
    codec: Codec | Callable[[], Codec] | None = None,
) -> tuple[Memorisation | None, Finding]:
    """:func:`memorised` of a run, and the number of it; with the reason where it cannot be told.

    Args:
        subject: key of the run.
        takes, base_takes: of the run and its base, of the same prompts and seeds.
        train_clips: what the run was trained on.
        null_clips: held-out clips.
        prompts, seeds: of the takes.
        embedder: what hears them.
        codec: the base, or what opens it.
    """
    common = {"subject": subject, "embedding": embedder.label, "n": len(takes)}
    silent = Finding("memorisation", value=None, better="lower", explanation=_SAYS, **common)
    if not train_clips:
        return None, replace(silent, missing="the clips that it was trained on are not there")
    known = {clip.sha256 for clip in train_clips}
    unheard = [clip for clip in null_clips if clip.sha256 not in known]
    try:
        opened = codec() if callable(codec) else codec
        found, details = _looked(
            Search(embedder, opened),
            takes,
            prompts,
            seeds,
            [clip.path for clip in train_clips],
            [clip.path for clip in unheard],
            base_takes,
        )
    except UserError as error:
        return None, replace(silent, missing=error.message.removeprefix("memorisation: "))
    return found, replace(
        silent,
        value=found.copies / found.takes,
        interval=binomial(found.copies, found.takes),
        n_reference=details.unheard,
        p_value=found.p_value,
        warnings=_warnings(details, opened),
        details=_details(found, details, unheard),
    )


def _warnings(details: Found, codec: Codec | None) -> tuple[str, ...]:
    said = []
    if details.unheard < 50:
        said.append(
            f"with {details.unheard} unheard clips only many copies can be told from chance"
        )
    if details.leaked.any():
        said.append(f"{int(details.leaked.sum())} held-out clips are copies of training clips")
    if codec is None:
        said.append("without the base's codec copies are found much less surely")
    elif details.shared is None:
        said.append("this base has latents, no codes: compared by embedding alone")
    return tuple(said)


def _details(found: Memorisation, details: Found, unheard: Sequence[Clip]) -> Mapping[str, object]:
    names = _spaced([clip.path.name for clip in unheard])
    leaked = [name for name, bad in zip(names, details.leaked, strict=True) if bad]
    shared = details.shared
    return {
        "copies": found.copies,
        "expected": found.expected,
        "flagged": found.flagged,
        "most_shared_codes": None if shared is None else float(shared.max()),
        "leaked": leaked,
    }


class Search:
    """Hears sounds, and says how near they come to each other.

    Args:
        ear: the embedding.
        codec: the base's; None compares by embedding alone.
    """

    def __init__(self, ear: Embedder, codec: Codec | None) -> None:
        self.ear, self.codec = ear, codec

    def take(self, file: str | Path) -> _Sound:
        """A sound file that has been through the codec."""
        codes = None if self.codec is None else self._encoded(file)
        return _Sound(self._rows(file, lambda: read(file), "take", _PHASES), codes)

    def clip(self, file: str | Path, phases: Sequence[float] = (0.0,)) -> _Sound:
        """A recording, heard through the codec."""
        if self.codec is None:
            return _Sound(self._rows(file, lambda: read(file), "take", phases), None)
        codec, codes = self.codec, self._encoded(file)

        def rendered() -> Audio:
            return codec.decode_audio(torch.from_numpy(codes))

        return _Sound(self._rows(file, rendered, codec.codec_hash, phases), codes)

    def unheard(self, file: str | Path) -> _Sound:
        """A recording, heard as a take would be: through the codec, from each start.

        Its codes are those of its rendering: like a take's, they have lost what a second pass loses.
        """
        sound = self.clip(file, _PHASES)
        if self.codec is None or sound.codes is None:
            return sound
        codec, codes = self.codec, sound.codes

        def made() -> dict[str, np.ndarray]:
            rendered = codec.decode_audio(torch.from_numpy(codes))
            return {"codes": codec.encode_audio(rendered).cpu().numpy()}

        return replace(
            sound, codes=_kept(made, "twice", file, codec.codec_hash, codec.channels)["codes"]
        )

    def near(
        self,
        sounds: Sequence[_Sound],
        train: Sequence[_Sound],
        unheard: Sequence[_Sound],
        *,
        same: bool = False,
    ) -> list[Nearness]:
        """By embedding and, if these are codes, by codes.

        Args:
            sounds: which are asked about.
            train, unheard: clips.
            same: the sounds are the unheard clips.
        """
        found = [Nearness(*(self._apart(sounds, clips) for clips in (train, unheard)))]
        if self.codec is not None and not any(
            one.codes is None or not np.issubdtype(one.codes.dtype, np.integer) for one in train
        ):
            found.append(Nearness(*(self._unlike(sounds, clips) for clips in (train, unheard))))
        if same:
            for one in found:
                np.fill_diagonal(one.others, np.nan)
        return found

    def _apart(self, sounds: Sequence[_Sound], clips: Sequence[_Sound]) -> np.ndarray:
        """Embeddings ``[N, M]``: the best start of each sound, whichever clip."""
        rows = [clip.rows[0] for clip in clips]
        starts = [(i, one) for i, sound in enumerate(sounds) for one in sound.rows]
        every = memorisation.distances([one for _, one in starts], rows)
        owner = np.array([i for i, _ in starts])
        return np.stack([every[owner == i].min(axis=0) for i in range(len(sounds))])

    def _unlike(self, sounds: Sequence[_Sound], clips: Sequence[_Sound]) -> np.ndarray:
        assert self.codec is not None
        codes = [[one.codes for one in some if one.codes is not None] for some in (sounds, clips)]
        return 1 - memorisation.shared_codes(
            codes[0], codes[1], frames_per_s=self.codec.frame_rate_hz
        )

    def _encoded(self, file: str | Path) -> np.ndarray:
        codec = self.codec
        assert codec is not None

        def made() -> dict[str, np.ndarray]:
            audio = read_audio(Path(file), codec.sample_rate_hz, codec.channels, codec.max_s)
            most = int(codec.max_s * codec.frame_rate_hz)
            return {"codes": codec.encode_audio(audio).cpu().numpy()[..., :most]}

        return _kept(made, "codes", file, codec.codec_hash, codec.channels)["codes"]

    def _rows(
        self, file: str | Path, sound: Callable[[], Audio], through: str, phases: Sequence[float]
    ) -> tuple[np.ndarray, ...]:
        """Rows from each start, as far as three quarters of the sound are left."""

        def made() -> dict[str, np.ndarray]:
            audio, rows = sound(), {}
            for phase in phases:
                start = round(phase * self.ear.window_s * audio.sample_rate_hz)
                if start <= audio.samples.shape[1] / 4:
                    samples = np.ascontiguousarray(audio.samples[:, start:])
                    rows[str(phase)] = self.ear.embed(Audio(samples, audio.sample_rate_hz))
            return rows

        kept = _kept(made, "rows", file, through, self.ear.key, *phases)
        return tuple(kept[str(phase)] for phase in phases if str(phase) in kept)


def _kept(
    make: Callable[[], dict[str, np.ndarray]], kind: str, file: str | Path, *depends: object
) -> dict[str, np.ndarray]:
    """What the cache holds for a file's content and what else it depends on; else made and kept."""
    try:
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error})", "replace or remove it") from None
    key = "\x1f".join(map(str, (_FORMAT, kind, content, *depends)))
    name = hashlib.sha256(key.encode()).hexdigest()
    entry = cache_folder() / "memorisation" / name[:2] / f"{name}.safetensors"
    try:
        return load(entry.read_bytes())
    except (OSError, SafetensorError, ValueError):  # not there, or torn
        pass
    found = {key: np.ascontiguousarray(value) for key, value in make().items()}
    entry.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(entry, save(found))
    return found


def _looked(
    search: Search,
    takes: Sequence[str | Path],
    prompts: Sequence[str],
    seeds: Sequence[int] | None,
    train_clips: Sequence[str | Path],
    null_clips: Sequence[str | Path],
    base_takes: Sequence[str | Path],
) -> tuple[Memorisation, Found]:
    if len(prompts) != len(takes) or (seeds is not None and len(seeds) != len(takes)):
        raise UserError("memorisation: a prompt (and seed) of each take is needed", "give all")
    null_clips = _spaced(null_clips)
    if len(null_clips) < memorisation.FEWEST_UNHEARD:  # before anything is heard
        raise UserError(
            f"memorisation: {len(null_clips)} unheard clips are too few, "
            f"{memorisation.FEWEST_UNHEARD} are the least",
            "set more recordings aside for validation",
        )
    with _one_thread(when=search.ear.small):
        train = [search.clip(file) for file in train_clips]
        unheard = [search.unheard(file) for file in null_clips]
        own = [search.take(file) for file in takes]
        base = [search.take(file) for file in base_takes]
    found = memorisation.compare(
        search.near(own, train, unheard),
        search.near(unheard, train, unheard, same=True),
        search.near(base, train, unheard) if base else (),
    )
    worst = np.lexsort((np.arange(len(takes)), -found.suspicion))[:SHOWN]
    told = Memorisation(
        flagged=found.p_value < memorisation.LEVEL,
        copies=found.copies,
        takes=len(takes),
        expected=found.expected,
        p_value=found.p_value,
        embedding=search.ear.label,
        matches=tuple(
            Match(
                take=str(takes[i]),
                clip=str(train_clips[int(found.clip[i])]),
                prompt=prompts[i],
                seed=seeds[i] if seeds is not None else None,
                distance=float(found.distance[i]),
                usual=float(found.usual[i]),
                shared=None if found.shared is None else float(found.shared[i]),
                usual_shared=None if found.usual_shared is None else float(found.usual_shared[i]),
                flagged=bool(found.flagged[i]),
            )
            for i in map(int, worst)
        ),
    )
    return told, found


_Thing = TypeVar("_Thing")


def _spaced(things: Sequence[_Thing]) -> list[_Thing]:
    if len(things) <= MOST_UNHEARD:
        return list(things)
    return [things[i] for i in np.linspace(0, len(things) - 1, MOST_UNHEARD).astype(int).tolist()]
