"""Losses that two families share, each with its equation and source."""
