"""Finding a model that hears, and what captioners, embeddings and transcribers need around it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from tunesmith.errors import UserError, did_you_mean
from tunesmith.types import Audio

if TYPE_CHECKING:
    import torch

# No .bin, no .pt, no .py: neither pickled weights nor a stranger's code is ever downloaded.
_SMALL = ["*.json", "*.model", "*.txt", "*.jinja"]
_WEIGHTS = ["*.safetensors"]
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_SAMPLE_EVERY = 1 << 20
_SAMPLE_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Found:
    """A model that is on this machine.

    Attributes:
        label: its hub id or the folder's own name, without the way to it.
        path: folder that holds it.
        model_type: of its ``config.json``.
        version: the hub's commit, or a hash of the folder's files.
        hub_id: where the weights have yet to be fetched from; empty for a folder.
        what: what errors call it.
    """

    label: str
    path: Path
    model_type: str
    version: str
    hub_id: str = ""
    what: str = "captioner"


def find(name: str, what: str = "captioner", known: Sequence[str] = ("clap",)) -> Found:
    """The model called ``name``: a folder, or ``owner/model`` with or without ``@revision``.

    From the hub only the small files are fetched, so that a model that will not do is refused
    before gigabytes of it arrive.

    Args:
        name: what the user called it.
        what: what errors call it.
        known: short names that the user may have meant.

    Errors: :class:`UserError` where there is none.
    """
    folder = Path(name).expanduser()
    commit = ""
    if folder.is_dir():
        label = folder.resolve().name
    else:
        label, _, revision = name.partition("@")
        folder = _from_hub(name, label, revision or None, _SMALL, what, known)
        commit = folder.name
    config_file = folder / "config.json"
    try:
        model_type = str(json.loads(config_file.read_text(encoding="utf-8"))["model_type"])
    except FileNotFoundError:
        raise UserError(
            f"{what} '{name}' has no config.json", "give a folder in the hub's layout"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{what} '{name}': config.json names no model_type ({type(error).__name__})",
            "download it again",
        ) from None
    if commit:
        return Found(label, folder, model_type, commit, label, what)
    _check_weights(folder, name, what)
    return Found(label, folder, model_type, _hash(folder), what=what)


def _check_weights(folder: Path, name: str, what: str) -> None:
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"{what} '{name}' has no .safetensors weights, and pickled ones are never opened",
            "give a revision that has them (owner/model@refs/pr/1), or convert them first",
        )


def _from_hub(
    name: str,
    model: str,
    revision: str | None,
    wanted: list[str],
    what: str,
    known: Sequence[str] = (),
) -> Path:
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UserError(
            f"no {what} '{name}': neither a folder nor a hub id",
            f"{did_you_mean(name, known)}; or give a folder in the hub's layout, or owner/model",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            model, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]
        )
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise UserError(
            f"{what} '{name}' is neither a folder nor in the cache, and the hub cannot be reached",
            "check the spelling and the connection, or download it once where there is one",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{what} '{name}' could not be fetched from the hub ({first})",
            "check the name, accept the model's licence on its page, log in with `hf auth login`",
        ) from error
    return Path(folder)


def _hash(folder: Path) -> str:
    """What tells one folder's model from another's, without reading gigabytes.

    Small files count whole; of weights, the first KiB of every MiB: training and merging touch all
    of a tensor.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in {Path(pattern).suffix for pattern in _SMALL + _WEIGHTS}:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if path.suffix != ".safetensors" or size <= 64 * _SAMPLE_EVERY:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for start in range(0, size, _SAMPLE_EVERY):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def fingerprint(found: Found, *settings: object) -> str:
    """One string for a model and everything else that its captions depend on."""
    rest = hashlib.sha256(json.dumps([str(value) for value in settings]).encode()).hexdigest()
    return f"{found.label}@{found.version[:16]}+{rest[:16]}"


def load_weights(model_class: Any, found: Found, name: str, dtype: torch.dtype) -> Any:
    """A model of a transformers class with every weight from its files, ready to infer.

    Errors: :class:`UserError` where there are no safetensors weights or they do not fit the class.
        The library itself would fill what is missing with random numbers and a warning.
    """
    if found.hub_id:
        _from_hub(name, found.hub_id, found.version, _WEIGHTS, found.what)
        _check_weights(found.path, name, found.what)
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            found.path,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise broken(name, error, found.what) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    lacking = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if lacking:
        first = f"{len(lacking)} weights missing or misshapen, first {lacking[0]}"
        raise broken(name, first, found.what)
    return model.eval()


def broken(name: str, error: Exception | str, what: str = "captioner") -> UserError:
    """The error for a model whose files cannot be made into one."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UserError(f"{what} '{name}' cannot be opened ({first})", "download it again")


def place(device: str, dtype: str, *, small: bool) -> tuple[torch.device, torch.dtype]:
    """The device and precision that a user's wishes come to.

    Args:
        device, dtype: as in :func:`tunesmith.captioners.open_captioner`.
        small: the model is too small to need half precision.

    Errors: :class:`UserError` for a device that is not there or a dtype that is unknown.
    """
    import torch

    if dtype not in _DTYPES:
        raise UserError(f"no dtype '{dtype}'", did_you_mean(dtype, _DTYPES))
    try:
        where = torch.device(device if device != "auto" else _best_device())
        torch.empty(1, device=where)
    # A build without CUDA asserts, a backend that is not there is not implemented, bad names are runtime errors.
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"no device '{device}' here", "auto, cpu or cuda") from None
    if dtype != "auto":
        return where, getattr(torch, dtype)
    if small or where.type != "cuda":
        return where, torch.float32
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return where, torch.bfloat16 if has_bfloat16 else torch.float16


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def mono_at(clip: Audio, sample_rate_hz: int, longest_s: float | None = None) -> np.ndarray:
    """The mean of the channels at another rate: float32 ``[T]``, the first ``longest_s`` of it."""
    import soxr

    samples = clip.samples
    if longest_s is not None:
        samples = samples[:, : max(1, int(longest_s * clip.sample_rate_hz))]
    mono = samples.mean(axis=0, dtype=np.float32)
    if clip.sample_rate_hz != sample_rate_hz:
        mono = soxr.resample(mono, clip.sample_rate_hz, sample_rate_hz)
    if longest_s is not None:
        mono = mono[: int(longest_s * sample_rate_hz)]
    return np.ascontiguousarray(mono, dtype=np.float32)


def is_silent(clip: Audio) -> bool:
    """Digital silence, dithered or not: there is nothing to say of it."""
    return not clip.samples.size or float(np.abs(clip.samples).max()) <= 1.5 / 32768
