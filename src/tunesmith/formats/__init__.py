"""What enters and leaves: adapters on disk, sound files, model cards."""

from __future__ import annotations
