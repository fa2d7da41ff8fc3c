"""No voice is adapted to without consent, and what was agreed to stands on the card."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.errors import UserError
from tunesmith.formats.card import model_card
from tunesmith.training.consent import consent_of


def loaded(recipe: str | None = None, consent: str | None = None) -> Any:
    voice = SimpleNamespace(consent=consent)
    return SimpleNamespace(config=SimpleNamespace(recipe=recipe, voice=voice))


def test_music_needs_none():
    assert consent_of(loaded(), {}) == ""
    assert consent_of(loaded("style"), {"rights": "mine"}) == ""


@pytest.mark.parametrize("described", [{}, {"voice": {"consent": ""}}, {"voice": {}}])
def test_a_voice_needs_one(described: dict):
    with pytest.raises(UserError, match="its owner agreed") as caught:
        consent_of(loaded("voice"), described)
    assert "voice.consent" in caught.value.mend
    if described:
        with pytest.raises(UserError, match="its owner agreed"):
            consent_of(loaded(), described)


def test_the_configuration_says_more_than_the_data():
    described = {"voice": {"consent": "of the data"}}
    assert consent_of(loaded("voice"), described) == "of the data"
    assert consent_of(loaded(None, "of the run"), described) == "of the run"
    assert consent_of(loaded("voice", "of the run"), {}) == "of the run"


def test_the_card_carries_it(tmp_path: Path):
    card = {
        "format": 1,
        "base": {"name": "pocket-voice", "family": "speecht5", "hash": "0" * 64, "licence": "MIT"},
        "method": {"name": "lora"},
        "components": {},
        "rights": "mine",
    }
    (tmp_path / "adapter.json").write_text(json.dumps({**card, "consent": "Ada agreed on 3 May"}))
    assert "Consent of the voice's owner: Ada agreed on 3 May\n" in model_card(tmp_path)
    (tmp_path / "adapter.json").write_text(json.dumps(card))
    assert "Consent" not in model_card(tmp_path)
