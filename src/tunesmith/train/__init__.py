"""Training: one loop that names no family and no method."""

from __future__ import annotations
