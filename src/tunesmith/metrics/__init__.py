"""Measures of generated audio: one file each, with a literal ``SPEC`` and a ``compute``."""
