"""A rule-based composer: seed in, ten seconds of notes with captions and labels out."""

from pretrain.compose.arrange import Composition, Note, compose
from pretrain.compose.styles import HELD_OUT_LEAD, HELD_OUT_STYLE, LEADS, STYLES

__all__ = ["HELD_OUT_LEAD", "HELD_OUT_STYLE", "LEADS", "STYLES", "Composition", "Note", "compose"]
