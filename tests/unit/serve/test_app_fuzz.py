"""Requests made of the OpenAPI document itself: nothing among them breaks the server."""

from __future__ import annotations

import pytest

from tunesmith.serve.app import Access, application


@pytest.mark.slow
def test_no_request_breaks_it(serving):
    from serve_fuzz import fuzz

    here = serving()
    here.engine.gate.set()
    app = application(here.jobs, here.shelf, Access("", None))
    found, faults = fuzz(app, examples=5)
    assert faults == []
    assert {"200", "404", "422"} <= set(found)
