"""Adaptation methods: which parameters train. One file each."""

from __future__ import annotations
