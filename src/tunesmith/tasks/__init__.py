"""What is asked of a model: one file each."""

from __future__ import annotations
