"""Parametrises every test that asks for a ``variant``, ``cell`` or ``any_cell``."""

from __future__ import annotations

import pytest
from cells import cells, variants


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, values in (
        ("variant", lambda: list(variants())),
        ("cell", lambda: list(cells())),
        ("any_cell", lambda: list(cells(options=True))),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values(), ids=str)
