"""Decoding through the ``ffmpeg`` program: what libsndfile does not read.

The files are strangers', and ffmpeg opens far more than sound: playlists that name other files,
addresses on the network, pictures by pattern. So it is told which containers it may take, that a
``file:`` name is one file and nothing else, and how much memory one block may have. It is started
from a list of arguments, never through a shell, and ended when it makes no progress.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = frozenset(
    {".3gp", ".aac", ".ac3", ".alac", ".amr", ".ape", ".asf", ".avi", ".caf", ".dff", ".dsf"}
    | {".eac3", ".flv", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp4", ".mpeg"}
    | {".mpg", ".ogv", ".spx", ".tak", ".tta", ".weba", ".webm", ".wma", ".wmv", ".wv"}
)
"""Names of files that are decoded here, videos (their sound track) among them."""

# Containers only. The demuxers for playlists (hls, dash, concat), patterns of files and devices
# would open what a hostile file names: "/etc/passwd", or an address.
_CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,avi,caf,dsf,dts,eac3,flac,flv,iff,matroska,mov,mp3,mpeg,ogg,"
    "tak,tta,w64,wav,wv"
)
# Their length is an estimate from the bit rate.
_UNMEASURED = frozenset({"aac", "ac3", "amr", "dts", "eac3", "flv", "mp3", "mpeg"})
_LOSSLESS = frozenset(
    {"alac", "ape", "flac", "mlp", "mp4als", "shorten", "tak", "truehd", "tta", "wavpack"}
    | {"wmalossless", "dst"}
)
_DSD_RATE_HZ = 88_200  # what is above 44 kHz in a DSD stream is the noise of its one-bit samples
_BLOCK = 1 << 16  # frames a block
_AHEAD = 4  # blocks
_PROBE_S = 30.0
_REPORT_BYTES = 1 << 20
_SAID_BYTES = 4096
_LARGEST_ALLOCATION = 256 << 20


class DecodeError(Exception):
    """A file that cannot be decoded, or not on from here; the message is one line."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What ``ffprobe`` tells of a file's first sound track.

    Attributes:
        codec: ffmpeg's name of it.
        sample_rate_hz, channels: as stored.
        bits: 16 or 24: the depth that keeps what the track has.
        lossy: whether the codec loses something.
        duration_s: as the container has it; ``None`` where that is unknown or a guess.
        raw: format of the samples to ask ffmpeg for.
    """

    codec: str
    sample_rate_hz: int
    channels: int
    bits: int
    lossy: bool
    duration_s: float | None
    raw: str


def is_there() -> bool:
    """Whether ``ffmpeg`` and ``ffprobe`` are on the path."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def missing(suffix: str) -> str:
    """What to say of a file that would need ffmpeg."""
    return f"{suffix} needs ffmpeg, which is not on the path: install it, or convert to flac"


def probe(path: Path) -> Probe:
    """Asks ``ffprobe`` what a file holds.

    Errors: :class:`DecodeError`, also when there is no sound track, or no ffprobe.
    """
    entries = "codec_name,codec_type,sample_rate,channels,sample_fmt,bits_per_raw_sample,duration"
    words = [
        *("-select_streams", "a:0", "-of", "json"),
        *("-show_entries", f"stream={entries}:format=format_name,duration,nb_streams"),
        *_input(path),
    ]
    process = _start("ffprobe", words, path)
    said = _Said(process)
    timer = threading.Timer(_PROBE_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        text = process.stdout.read(_REPORT_BYTES)
    finally:
        late = not timer.is_alive()
        timer.cancel()
        timer.join()
        line = said.end(kill=len(text) == _REPORT_BYTES)
    if late:
        raise DecodeError(f"ffprobe has not read its header in {_PROBE_S:g} s")
    try:
        told = json.loads(text)
        container: dict[str, Any] = told["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DecodeError(line or "ffprobe does not know its format") from None
    if not told.get("streams"):
        raise DecodeError("there is no sound track in it")
    return _probe(told["streams"][0], container)


def _probe(stream: dict[str, Any], container: dict[str, Any]) -> Probe:
    codec = str(stream.get("codec_name", "unknown"))
    if codec in ("unknown", "none"):
        raise DecodeError("ffmpeg does not know the codec of its sound track")
    rate_hz, channels = _number(stream.get("sample_rate")), _number(stream.get("channels"))
    kind = str(stream.get("sample_fmt", "")).removesuffix("p")
    whole = {"u8": "s16le", "s16": "s16le", "s32": "s32le"}
    lossless = codec in _LOSSLESS or codec.startswith(("pcm_s", "pcm_u", "pcm_f", "dsd_"))
    # As many bits as libsndfile gives the same: 16 for what a codec rounded anyway.
    deep = lossless and kind not in ("u8", "s16")
    duration_s = _number(stream.get("duration"))
    # A film may go on after its sound, so only a sound file's own length counts.
    if duration_s is None and container.get("nb_streams") == 1:
        duration_s = _number(container.get("duration"))
    if _UNMEASURED & set(str(container.get("format_name", "")).split(",")):
        duration_s = None
    dsd = codec.startswith(("dsd_", "dst"))
    return Probe(
        codec=codec,
        sample_rate_hz=_DSD_RATE_HZ if dsd else int(rate_hz or 0),
        channels=int(channels or 0),
        bits=24 if deep else 16,
        lossy=not lossless,
        duration_s=duration_s,
        raw=whole.get(kind, "f32le"),
    )


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class FfmpegDecoder:
    """The first sound track of a file, decoded by a child process.

    Args:
        path: the file.
        probe: what :func:`probe` said of it.
        stall_s: how long ffmpeg may be without giving anything while it is waited for.

    Attributes:
        sample_rate_hz, channels, bits, lossy: of what is decoded.
        frames: as the header has it; ``None`` where it does not tell.

    Errors: :class:`DecodeError`, here and from :meth:`read`.
    """

    def __init__(self, path: Path, probe: Probe, stall_s: float = 60.0) -> None:
        self.sample_rate_hz, self.channels = probe.sample_rate_hz, probe.channels
        self.bits, self.lossy = probe.bits, probe.lossy
        self.frames = (
            None if probe.duration_s is None else round(probe.duration_s * probe.sample_rate_hz)
        )
        self._type = np.dtype({"s16le": "<i2", "s32le": "<i4"}.get(probe.raw, "<f4"))
        self._stall_s = stall_s
        self._blocks: queue.Queue[bytes] = queue.Queue(_AHEAD)
        self._closing = False
        self._ended = False
        words = [
            *("-nostdin", "-xerror", "-max_alloc", str(_LARGEST_ALLOCATION), "-threads", "1"),
            *_input(path, "-i"),
            *("-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1", "-threads", "1"),
            # Held fast: a track that changes within the file must not change what bytes mean.
            *("-ar", str(self.sample_rate_hz), "-ac", str(self.channels)),
            *("-c:a", f"pcm_{probe.raw}", "-f", probe.raw, "pipe:1"),
        ]
        self._process = _start("ffmpeg", words, path)
        self._said = _Said(self._process)
        self._reader = threading.Thread(target=self._pump, daemon=True)
        self._reader.start()

    def _pump(self) -> None:
        # In a thread: a pipe can be waited for with a limit on no other way that every system has.
        assert self._process.stdout is not None
        size = _BLOCK * self.channels * self._type.itemsize
        while not self._closing:
            data = self._process.stdout.read(size)
            self._blocks.put(data)
            if not data:
                return

    def read(self) -> np.ndarray:
        """The next block, float32 ``[T, C]`` at most 65,536 frames long; empty at the end."""
        if self._ended:
            return np.zeros((0, self.channels), np.float32)
        try:
            data = self._blocks.get(timeout=self._stall_s)
        except queue.Empty:
            self.close()
            raise DecodeError(f"ffmpeg has given nothing for {self._stall_s:g} s") from None
        if not data:
            self._ended = True
            line = self._said.end()
            if self._process.returncode:
                raise DecodeError(line or f"ffmpeg ended with code {self._process.returncode}")
        frames = len(data) // (self.channels * self._type.itemsize)
        whole = np.frombuffer(data, self._type, frames * self.channels).reshape(-1, self.channels)
        if self._type.kind == "f":
            return whole.astype(np.float32)
        # A power of two: 16 and 24 bits come through exactly.
        return whole.astype(np.float32) * np.float32(2.0 ** (1 - 8 * self._type.itemsize))

    def close(self) -> None:
        """Ends ffmpeg, if it still runs, and waits for it."""
        self._closing = self._ended = True
        self._process.kill()
        while self._reader.is_alive():  # it may stand before a full queue
            with contextlib.suppress(queue.Empty):
                self._blocks.get(timeout=0.01)
        self._said.end(kill=True)


def _input(path: Path, flag: str = "") -> list[str]:
    # "file:" and an absolute name: no dash, colon or percent sign in it means anything.
    name = "file:" + os.path.abspath(path)
    rules = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]
    return [*rules, *filter(None, [flag]), name]


def _start(program: str, words: list[str], path: Path) -> subprocess.Popen[bytes]:
    found = shutil.which(program)
    if found is None:
        raise DecodeError(missing(path.suffix.lower()))
    try:
        return subprocess.Popen(
            [found, "-v", "error", "-hide_banner", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (OSError, ValueError) as error:
        raise DecodeError(f"{program} cannot be started: {error}") from None


class _Said:
    """What a child says on standard error: all of it is read, the first four kilobytes are kept."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._text = b""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        while data := os.read(self._process.stderr.fileno(), _SAID_BYTES):
            self._text += data[: _SAID_BYTES - len(self._text)]

    def end(self, kill: bool = False) -> str:
        """Waits for the process, closes its pipes; what it said, in one line."""
        if kill:
            self._process.kill()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return one_reason(self._text.decode("utf-8", "replace"))


def one_reason(text: str) -> str:
    """ffmpeg's last complaint without names of files, addresses of memory and its own parts."""
    lines = [re.sub(r"^(\[[^\]]*\]\s*)+", "", line).strip() for line in text.splitlines()]
    lines = [re.sub(r"^file:.*?: (?=[^:]*$)", "", line) for line in lines]
    lines = [line for line in lines if line and "file:" not in line]
    if any("not on whitelist" in line for line in lines):
        return "it is a playlist, a stream's address or some other format that is not taken"
    specific = [
        line for line in lines if not line.startswith(("Invalid data found", "Error while"))
    ]
    said = (specific or lines or [""])[0]
    return " ".join("".join(c if c.isprintable() else " " for c in said).split())[:200].rstrip(".")
