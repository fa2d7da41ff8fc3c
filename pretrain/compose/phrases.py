"""Melody rhythms by feel and density, and words for moods, as data."""

from __future__ import annotations

# Melody rhythms: `x` onset, `-` held, `.` rest.
RHYTHMS: dict[str, dict[str, tuple[str, ...]]] = {
    "straight": {
        "sparse": ("x-------x-------", "x-----------x---", "....x-----------", "x-------------.."),
        "medium": ("x---x---x---x-x-", "x---x-x-x-------", "x-x-x---x---x---", "x-----x-x---x---"),
        "busy": ("x-x-x-x-x-x-x-x-", "x-xxx-x-x-xxx-x-", "xxx-x-x-xxx-x-x-", "x-x-x-xxx-x-x---"),
    },
    "syncopated": {
        "sparse": ("x-----x---------", "..x-------..x---", "......x---------"),
        "medium": ("x--x--x---x-x---", "..x-x--x--x---x-", "x-..x-x-..x-x---", "x--x--x-----x-x-"),
        "busy": ("x-xx-xx-x-xx-xx-", "x-x-xx-x-xx-x-x-", "xx-x-xx-xx-x-x--"),
    },
    "swing": {
        "sparse": ("..x-x-----------", "x---x-----......", "......x-x-------"),
        "medium": ("x-x-x---..x-x---", "..x-x-x-x-------", "x---x-x-..x-x-x-", "x-x-x-x-x---...."),
        "busy": ("x-x-x-x-x-x-x-x-", "..x-x-x-x-x-x-x-", "x-x-xxx-x-x-x-x-"),
    },
    "running": {
        "sparse": ("x---x---x---x---", "x-----x-x---x---"),
        "medium": ("x-x-x-x-x---x-x-", "x---x-x-x-x-x-x-", "x-xxx-x-x-x-x---"),
        "busy": ("xxxxxxxxxxxxx---", "x-xxx-xxx-xxx-xx", "xxxxx-x-xxxxx-x-"),
    },
    "waltz": {
        "sparse": ("x-----------", "x-------x---"),
        "medium": ("x---x---x---", "x-------x-x-", "x-----x-x---"),
        "busy": ("x-x-x-x-x-x-", "x---x-x-x-x-", "x-x-x-x-x---"),
    },
    "long": {
        "sparse": ("x---------------", "........x-------", "................"),
        "medium": ("x-------x-------", "x-----------x---"),
        "busy": ("x---x---x---x---", "x-----x---x-----"),
    },
    "tango": {
        "sparse": ("x-------x-------", "....x---x-------"),
        "medium": ("x-----xxx---x---", "x--x--x-x-------", "..xxx---x---x---"),
        "busy": ("xxx-x-x-x--x--x-", "..xxxxxxx---x-x-", "x-xxx-xxx-x-x---"),
    },
    "calypso": {
        "sparse": ("x--x--x---------", "..x---x---x-----"),
        "medium": ("x--x--x-x--x--x-", "x-x--x-x--x-x---", "..x-xx-x..x-xx-x", "x--x-x--x---x-x-"),
        "busy": ("x-xx-xx-x-xx-x-x", "xx-xx-x-xx-xx-x-", "x-xxx-xx-x-xx-x-"),
    },
}

MOOD_WORDS: dict[str, tuple[str, ...]] = {
    "mellow": ("mellow", "soft", "laid-back"),
    "sad": ("sad", "melancholic", "wistful"),
    "dark": ("dark", "brooding"),
    "calm": ("calm", "gentle", "peaceful"),
    "energetic": ("energetic", "driving", "lively"),
    "bright": ("bright", "sunny"),
    "happy": ("happy", "cheerful", "upbeat"),
    "playful": ("playful", "bouncy"),
    "dreamy": ("dreamy", "floating"),
    "tense": ("tense", "dramatic"),
}
