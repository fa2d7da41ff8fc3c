"""The page that listeners see: one file without any outside part, the same for everybody."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path

import tunesmith.report

_HERE = Path(__file__).parent
_HOUSE = Path(tunesmith.report.__file__).parent


def house_style() -> str:
    """Colours and type of all of the house's pages."""
    return (_HOUSE / "page.css").read_text(encoding="utf-8")


@cache
def _parts() -> tuple[str, str]:
    style = house_style() + (_HERE / "listen.css").read_text(encoding="utf-8")
    return style, (_HERE / "listen.js").read_text(encoding="utf-8")


@cache
def render() -> str:
    """HTML. What the test asks comes later, with a token."""
    style, script = _parts()
    page = (_HERE / "listen.html").read_text(encoding="utf-8")
    return page.replace("{{style}}", style).replace("{{script}}", script)


def policy() -> str:
    """Content security policy: this script, this style, this server, and nothing else."""
    style, script = (
        f"'sha256-{b64encode(sha256(part.encode()).digest()).decode()}'" for part in _parts()
    )
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
