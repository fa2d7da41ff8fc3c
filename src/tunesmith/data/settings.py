"""What a data set is made with, checked before the first recording is opened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.data.cut import CutSettings
from tunesmith.data.screen import check_keep
from tunesmith.data.segment import check_lengths
from tunesmith.data.split import split
from tunesmith.data.voice_segment import MAX_S, MIN_S
from tunesmith.errors import UserError

VARIANTS = 2
"""How many varied versions of a clip are made where only the operations are named."""

MUSIC_MIN_S, MUSIC_MAX_S = 10.0, 30.0
"""Bounds of a clip of music, unless others are asked for."""

_MOST_VARIANTS = 50


@dataclass(frozen=True, slots=True)
class VoiceSettings:
    """What only recordings of a voice are made with.

    Attributes:
        consent: what the voice's owner agreed to, and how that is known.
        asr: model that writes down what is said; empty for none.
        language: of the speech; empty where it was not told.
        encoder: what tells voices apart; empty for the first that is installed.
    """

    consent: str
    asr: str = ""
    language: str = ""
    encoder: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a data set was made with; the arguments of :func:`tunesmith.data.prepare`."""

    cut: CutSettings
    trigger: str
    caption: str
    captioner: str
    valid_share: float
    seed: int
    rights: str
    voice: VoiceSettings | None = None

    def plain(self) -> dict[str, Any]:
        """Plain values; ``voice`` only where there is one, so that music's data sets stay as they are."""
        value = {**asdict(self), "cut": self.cut.to_json()}
        return value if self.voice else {name: v for name, v in value.items() if name != "voice"}


def check_settings(
    *,
    sample_rate_hz: int | None,
    channels: int | None,
    min_s: float | None,
    max_s: float | None,
    base_max_s: float | None,
    on_beats: bool,
    normalise_lufs: float | None,
    keep: Sequence[str],
    augment: Sequence[str],
    variants: int | None,
    voice: bool,
    trigger: str | None,
    caption: str | None,
    captioner: str | None,
    valid_share: float,
    seed: int,
    rights: str,
    consent: str | None = None,
    asr: str | None = None,
    language: str | None = None,
    encoder: str | None = None,
) -> tuple[Settings, list[str]]:
    """The settings, and what there is to say about them.

    Errors: :class:`UserError` for the first that makes no sense.
    """
    of_voice = _voice(voice, caption, captioner, consent, asr, language, encoder)
    least_s, most_s = (MIN_S, MAX_S) if voice else (MUSIC_MIN_S, MUSIC_MAX_S)
    min_s, max_s = least_s if min_s is None else min_s, most_s if max_s is None else max_s
    if sample_rate_hz is not None and not 1000 <= sample_rate_hz <= 384_000:
        raise UserError(f"a sample rate of {sample_rate_hz} Hz makes no sense", "give Hz: 44100")
    if channels not in (None, 1, 2):
        raise UserError(f"{channels} channels cannot be made", "give 1 or 2, or leave it out")
    if normalise_lufs is not None and not -60 <= normalise_lufs <= -5:
        raise UserError(
            f"clips cannot be brought to {normalise_lufs:g} LUFS", "give -60 to -5, such as -16"
        )
    check_lengths(min_s, max_s)
    split({}, valid_share, seed)  # refuses a bad share now rather than after an hour
    notes: list[str] = []
    if base_max_s is not None and (max_s > base_max_s or min_s > base_max_s / 2):
        if not base_max_s > 0 or math.isnan(base_max_s):
            raise UserError(f"a base cannot take at most {base_max_s} s", "give its length")
        max_s, min_s = min(max_s, base_max_s), min(min_s, base_max_s / 2)
        check_lengths(min_s, max_s)
        notes.append(
            f"the base takes at most {base_max_s:g} s: clips are {min_s:g} to {max_s:g} s long"
        )
    operations, variants = _augmentation(augment, variants, voice)
    cut = CutSettings(
        sample_rate_hz,
        channels,
        float(min_s),
        float(max_s),
        on_beats=on_beats and not voice,
        normalise_lufs=None if normalise_lufs is None else float(normalise_lufs),
        keep=check_keep(keep, voice=voice),
        variants=variants,
        operations=operations,
        # The clips themselves do not depend on it: another split need not cut anew.
        seed=int(seed) if variants else 0,
        voice=voice,
    )
    return Settings(
        cut=cut,
        trigger=trigger or "",
        caption=caption or "",
        captioner=captioner or "",
        valid_share=float(valid_share),
        seed=int(seed),
        rights=rights,
        voice=of_voice,
    ), notes


def _voice(
    voice: bool,
    caption: str | None,
    captioner: str | None,
    consent: str | None,
    asr: str | None,
    language: str | None,
    encoder: str | None,
) -> VoiceSettings | None:
    if not voice:
        for name, value in (
            ("--consent", consent),
            ("--asr", asr),
            ("--language", language),
            ("--encoder", encoder),
        ):
            if value:
                raise UserError(
                    f"{name} is for recordings of a voice", "add --voice, or leave it out"
                )
        return None
    if not (consent or "").strip():
        raise UserError(
            "recordings of a voice need the consent of whoever speaks",
            "--consent 'who agreed to what, and when'; it is kept with the data and on the adapter",
        )
    for name, value in (("--caption", caption), ("--captioner", captioner)):
        if value:
            raise UserError(
                f"{name} does not tell what is said in a clip",
                "put the words beside x.wav as x.txt, or name a recogniser with --asr",
            )
    return VoiceSettings((consent or "").strip(), asr or "", language or "", encoder or "")


def _augmentation(
    augment: Sequence[str], variants: int | None, voice: bool
) -> tuple[tuple[str, ...], int]:
    if not augment and not variants:
        return (), 0
    from tunesmith.data.augment import OPERATIONS, check_operations

    if variants is None:
        variants = VARIANTS
    if not 1 <= variants <= _MOST_VARIANTS:
        raise UserError(
            f"{variants} variants of each clip make no sense", f"give 1 to {_MOST_VARIANTS}"
        )
    # A voice at another pitch is another voice.
    names = augment or [name for name in OPERATIONS if not (voice and name == "pitch")]
    return check_operations(names, voice=voice), variants
