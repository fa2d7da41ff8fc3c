"""Who may see the studio; what it shows of this machine is tested where it runs (tests/e2e)."""

from __future__ import annotations

import asyncio
import base64

import pytest

from tunesmith.errors import UserError
from tunesmith.studio.server import Guard, serve


async def _nothing(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def _asked(app, method="GET", **headers) -> tuple[int, dict[str, str]]:
    """Status and headers of one request, without a server."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1:7860"} | headers
    scope = {
        "type": "http",
        "method": method,
        "path": "/",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(app(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told


def _basic(password: str, user: str = "any") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "[::1]:7860"])
def test_this_machines_own_names_pass(host):
    status, headers = _asked(Guard(_nothing), host=host)
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_a_name_that_leads_here_from_elsewhere_does_not(host):
    assert _asked(Guard(_nothing), host=host)[0] == 421
    assert _asked(Guard(_nothing, "secret", local=False), host=host)[0] == 401


def test_another_page_gets_nothing():
    guard = Guard(_nothing)
    assert _asked(guard, method="POST", origin="http://127.0.0.1:7860")[0] == 200
    for origin in ("http://evil.example", "http://127.0.0.1:8000", "null"):
        assert _asked(guard, method="POST", origin=origin)[0] == 403


def test_a_password_is_asked_of_everybody():
    guard = Guard(_nothing, "geheim:ü", local=False)
    status, headers = _asked(guard)
    assert status == 401 and headers["www-authenticate"].startswith("Basic")
    for wrong in ("", "Basic", "Basic !", _basic(""), _basic("geheim"), _basic("geheim:ü ")):
        assert _asked(guard, authorization=wrong)[0] == 401
    assert _asked(guard, authorization=_basic("geheim:ü").replace("Basic", "Bearer"))[0] == 401
    assert _asked(guard, authorization=_basic("geheim:ü"))[0] == 200
    assert _asked(guard, authorization=_basic("geheim:ü", user=""))[0] == 200


def test_an_open_address_needs_a_password(tmp_path):
    with pytest.raises(UserError, match="no password"):
        serve(tmp_path, host="0.0.0.0", port=0)
