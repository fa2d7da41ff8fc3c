"""A self-contained page from a template, its style sheets and the script that all pages share."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent


def fill(
    template: str, styles: Sequence[str], filters: Mapping[str, Callable[..., Any]], **values: Any
) -> str:
    """HTML of a template in this folder; values are escaped, and a name that is missing is an error.

    The template is also given ``style``, ``script`` and ``script_hash``, which its content security
    policy names: no other script can run in the page.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    style = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in styles)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        **values,
    )


def code(text: str) -> Markup:
    """Escaped text, with what stands between backticks as ``<code>``."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text)))
