"""The page at ``/docs``: the OpenAPI document to read, one file without any outside part and without scripts."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from typing import Any

from tunesmith.listen.page import house_style

_STYLE = house_style() + (
    "pre{overflow-x:auto;padding:.6rem 0}section{margin:2rem 0}code{overflow-wrap:anywhere}"
)
_DIGEST = b64encode(sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content security policy of every answer: the page's own style, and nothing else."""


def render(document: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document: every route with its parameters, bodies, examples and answers."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<main><h1>{escape(info['title'])}</h1><p>{_prose(info['description'])}</p>",
        "<p>For programs: <a href=/openapi.json>/openapi.json</a></p>",
    ]
    for path, methods in document["paths"].items():
        parts += [_route(method, path, one, document) for method, one in methods.items()]
    return "\n".join([*parts, "</main></html>"])


def _route(method: str, path: str, one: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    rows = [
        (found["name"], found["in"], _type(found["schema"]), found.get("description", ""))
        for found in one.get("parameters", [])
    ]
    examples = []
    for kind, body in one.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(body["schema"], document)
        for name, field in schema.get("properties", {}).items():
            must = "body" if name in schema.get("required", []) else "body, optional"
            rows.append((name, f"{must} ({kind})", _type(field), field.get("description", "")))
        examples += schema.get("examples", [])
        examples += [each["value"] for each in body.get("examples", {}).values()]
    answers = ", ".join(
        f"<b>{escape(status)}</b> {escape(said['description'])}"
        for status, said in one["responses"].items()
    )
    table = "".join(
        "<tr>" + "".join(f"<td>{_prose(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    shown = "".join(
        f"<pre><code>{escape(_curl(method, path, each))}</code></pre>" for each in examples
    )
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(one.get('summary', ''))}. {_prose(one.get('description', ''))}</p>"
        + (f"<table><tr><th>name<th>where<th>what<th></tr>{table}</table>" if rows else "")
        + f"{shown}<p>{answers}</p></section>"
    )


def _curl(method: str, path: str, example: Any) -> str:
    body = json.dumps(example, ensure_ascii=False)
    return f"curl -X {method.upper()} $URL{path} --json '{body}' -o answer"


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(str(one) for one in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"])
    return str(schema.get("type") or schema.get("$ref", "").rpartition("/")[2] or "any")


def _prose(text: str) -> str:
    parts = escape(" ".join(text.split())).split("`")
    return "".join(
        f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts)
    )


__all__ = ["POLICY", "render"]
