"""The consent of whoever speaks: no voice is adapted to without it, and the adapter carries it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.config.load import Loaded
from tunesmith.errors import UserError

RECIPE = "voice"
"""Recipe whose trainings are of a voice, whatever the data say."""


def consent_of(loaded: Loaded, described: Mapping[str, Any]) -> str:
    """What the owner of the voice agreed to; empty where no voice is adapted to.

    ``voice.consent`` of the configuration, else what the data set was prepared with.

    Args:
        loaded: the configuration.
        described: ``dataset.json``; empty for a folder from elsewhere.

    Raises:
        UserError: it is a voice, by its recipe or its data, and nobody said that its owner agreed.
    """
    of_data = described.get("voice")
    told = str(of_data.get("consent") or "") if isinstance(of_data, Mapping) else ""
    consent = (loaded.config.voice.consent or told).strip()
    is_voice = isinstance(of_data, Mapping) or loaded.config.recipe == RECIPE
    if is_voice and not consent:
        raise UserError(
            "a voice is adapted to, and nobody says that its owner agreed",
            "set voice.consent: who speaks, and agreed to what; or prepare the data with --consent",
        )
    return consent
