"""Clips to codes and captions to text states, once: cached by content, fetched when needed.

A cache entry's name is the hash of everything that it depends on (the clip's bytes, the codec's
weights; the caption, the text encoder's weights), so it is never stale and never shared by mistake. Two
families keep different things of the same text encoder, so their names are in it too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from tunesmith.analysis.bands import drawn, split
from tunesmith.analysis.repeats import BANDS, spectra
from tunesmith.atomic import write_bytes
from tunesmith.data.recording import BadRecording, Limits, Recording
from tunesmith.errors import Stopped, UserError
from tunesmith.types import Audio, Clip, Details, Example

if TYPE_CHECKING:
    from tunesmith.families._bundle import Bundle

_FORMAT = 1  # in every key: a change of what is stored makes old entries invisible, not wrong
_HOT_BYTES, _HOT_SHARE = 256 * 2**20, 1 / 32
"""What is kept of clips in memory: so much, or this share of the machine's if that is more. What does not fit is read
from the cache's files again each time that it is drawn."""


def cache_folder() -> Path:
    """``$TUNESMITH_CACHE``, else ``tunesmith`` under the user's cache folder."""
    if path := os.environ.get("TUNESMITH_CACHE"):
        return Path(path).expanduser()
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "tunesmith"
    )


def read_audio(path: Path, sample_rate_hz: int | None, channels: int | None, max_s: float) -> Audio:
    """A whole sound file at a given rate (None: its own); anything beyond ``max_s`` is an error.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    try:
        limits = Limits(max_s=max(max_s * 2, 60.0))
        with Recording(
            path, sample_rate_hz=sample_rate_hz, channels=channels, limits=limits
        ) as recording:
            samples = np.concatenate(list(recording.blocks())).T
            rate_hz = recording.sample_rate_hz
    except BadRecording as error:
        raise UserError(f"{path}: {error}", "replace or remove it") from None
    return Audio(np.ascontiguousarray(samples, dtype=np.float32), rate_hz)


def _entry(kind: str, *parts: object) -> Path:
    key = hashlib.sha256("\x1f".join(map(str, (_FORMAT, kind, *parts))).encode()).hexdigest()
    return cache_folder() / kind / key[:2] / f"{key}.safetensors"


def _usable(path: Path) -> bool:
    """Whether a cache entry is there and whole, as far as its header and size tell."""
    try:
        with safe_open(path, "pt") as file:
            return bool(file.keys())
    except (OSError, SafetensorError):
        return False


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


class _Entry(NamedTuple):
    """Where a clip's parts lie."""

    clip_id: str
    codes: Path
    texts: list[Path]
    bands: list[Path]
    spectra: Path | None


class EncodedClips(Sequence[Example]):
    """Encoded clips on the disk; an example is read when it is asked for.

    Attributes:
        lengths: frames of each clip.
    """

    def __init__(self, entries: Sequence[_Entry], lengths: Sequence[int], most: int) -> None:
        self._entries, self.lengths, self._most = list(entries), list(lengths), most
        self._hot: OrderedDict[int, Example] = OrderedDict()
        self._hot_bytes, self._room = 0, _room()

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index in self._hot:
            self._hot.move_to_end(index)
            return self._hot[index]
        clip_id, codes, texts, bands, heard = self._entries[index]
        text, *further = map(load_file, texts)
        whole, *banded = (load_file(one)["codes"][..., : self._most] for one in (codes, *bands))
        energies = None if heard is None else load_file(heard)["spectra"][:, : self._most]
        example = Example(clip_id, whole, text, further, banded, energies)
        self._hot[index] = example
        self._hot_bytes += _size(example)
        while self._hot_bytes > self._room and len(self._hot) > 1:
            _, old = self._hot.popitem(last=False)
            self._hot_bytes -= _size(old)
        return example

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


def _room() -> float:
    """Bytes of clips that are kept in memory."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        whole = 0
    return max(_HOT_BYTES, _HOT_SHARE * whole)


def _size(example: Example) -> int:
    texts = (example.text, *example.further)
    codes = example.codes.nbytes * (1 + len(example.banded))
    codes += 0 if example.spectra is None else example.spectra.nbytes
    return codes + sum(tensor.nbytes for text in texts for tensor in text.values())


def details_of(clip: Clip, bundle: Bundle) -> Details:
    """What a clip's row says in the columns that the base is conditioned on, and its length.

    Raises:
        UserError: a column that holds no plain value.
    """
    said: dict[str, Any] = {"duration_s": round(min(clip.duration_s, bundle.max_s), 3)}
    for column in bundle.columns:
        value = clip.extra.get(column, "")
        if not isinstance(value, str | int | float):
            raise UserError(
                f"{clip.path.name}: its {column} is a {type(value).__name__}",
                "write text or a number",
            )
        said[column] = value
    return said


def open_frozen(name: str) -> Bundle:
    """A base by name, on the best device here, for its codec and text encoder alone.

    Raises:
        UserError: there is no such base.
    """
    from tunesmith.families import find_base, load

    return load(find_base(name), device="cuda" if torch.cuda.is_available() else "cpu")


def encode(
    clips: Sequence[Clip],
    bundle: Bundle,
    *,
    should_stop: Callable[[], int] = lambda: 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    bands: int = 0,
) -> EncodedClips:
    """Encode clips and captions that the cache does not hold yet.

    With a base that is told of what repeats (``bundle.module.repeats``), their spectra as well.

    Args:
        clips: of one data set; those longer than the base's ``max_s`` are used up to it.
        bundle: the base.
        should_stop: polled between clips.
        on_progress: told ``(done, total)``.
        bands: how many versions of each clip to encode with a band of its frequencies taken out.

    Raises:
        UserError: a clip cannot be read.
        Stopped: what was encoded so far stays in the cache.
    """
    entries, lengths = [], []
    most = int(bundle.max_s * bundle.frame_rate_hz)
    for done, clip in enumerate(clips):
        if number := should_stop():
            raise Stopped(
                number, f"stopped while encoding; {done} of {len(clips)} clips are in the cache"
            )
        codes = _entry("codes", bundle.family, clip.sha256, bundle.codec_hash, bundle.channels)
        without = [
            _entry(
                "codes",
                bundle.family,
                clip.sha256,
                bundle.codec_hash,
                bundle.channels,
                "band",
                number,
            )
            for number in range(bands)
        ]
        heard_at, unheard = None, False
        if bundle.module.repeats:
            rates = bundle.sample_rate_hz, bundle.frame_rate_hz
            heard_at = _entry("spectra", clip.sha256, bundle.codec_hash, *rates, BANDS)
            unheard = not _usable(heard_at)
        wanted = [place for place in (codes, *without) if not _usable(place)]
        if wanted or unheard:
            audio = read_audio(clip.path, bundle.sample_rate_hz, bundle.channels, bundle.max_s)
        for place in wanted:
            heard = audio
            if place != codes:
                seed = int(clip.sha256[:12], 16) + without.index(place)
                band = drawn(seed, audio.sample_rate_hz)
                heard = Audio(
                    split(audio.samples, audio.sample_rate_hz, *band)[1], audio.sample_rate_hz
                )
            _write(place, {"codes": bundle.encode_audio(heard)})
        texts = []
        details = details_of(clip, bundle)
        for caption in (clip.caption, *clip.captions):
            said = [json.dumps(details, sort_keys=True)] if bundle.columns else []
            texts.append(_entry("text", bundle.family, caption, bundle.text_hash, *said))
            if not _usable(texts[-1]):
                more = [[details]] if bundle.columns else []
                _write(texts[-1], bundle.encode_text([caption], *more)[0])
        with safe_open(codes, "pt") as file:
            frames = file.get_slice("codes").get_shape()[-1]
        if heard_at is not None and unheard:
            found = torch.from_numpy(spectra(audio, bundle.frame_rate_hz, int(frames)))
            _write(heard_at, {"spectra": found.half()})
        entries.append(_Entry(clip.sha256, codes, texts, without, heard_at))
        lengths.append(min(int(frames), most))
        on_progress(done + 1, len(clips))
    return EncodedClips(entries, lengths, most)


__all__ = ["EncodedClips", "cache_folder", "details_of", "encode", "open_frozen", "read_audio"]
