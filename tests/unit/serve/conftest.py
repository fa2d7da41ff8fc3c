"""A server without a model, for the tests of what stands before it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def serving(tmp_path):
    """Starts servers (:class:`serving.Serving`), and closes them."""
    from serving import Serving

    opened = []

    def start(**settings: Any) -> Serving:
        opened.append(Serving(tmp_path, **settings))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
