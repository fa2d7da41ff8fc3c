"""Requests that follow an application's OpenAPI document, and requests that break it (schemathesis)."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import hypothesis

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own use of what its libraries are about to drop
    import schemathesis
    from schemathesis import GenerationMode


def fuzz(app: Any, examples: int, seed: int = 1) -> tuple[Counter[str], list[str]]:
    """Ask every route.

    Args:
        app: the ASGI application; goes by any host's name, and asks for no token.
        examples: requests a route and mode.
        seed: of the requests.

    Returns:
        Answers by their status, and faults: 5xx, and answers of a shape that the document does not tell.
    """
    found: Counter[str] = Counter()
    faults: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        for result in schema.get_all_operations():
            operation = result.ok()
            ask = _asking(operation, found, faults)
            for mode in GenerationMode:
                settings = hypothesis.settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                    phases=[hypothesis.Phase.generate],
                )
                given = hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                try:
                    settings(hypothesis.seed(seed)(given(ask)))()
                except hypothesis.errors.Unsatisfiable:
                    continue  # nothing about this route can be broken
    return found, [f"{what}: {text}" for what, text in faults.items()]


def _asking(operation: Any, found: Counter[str], faults: dict[str, str]) -> Any:
    label, responses = operation.label, operation.definition.raw["responses"]

    def ask(case: Any) -> None:
        answer = case.call()
        status = str(answer.status_code)
        found[status] += 1
        if answer.status_code >= 500:
            faults[f"{label}: {status}"] = answer.text[:300]
        elif status not in responses and status not in ("404", "405"):
            faults[f"{label}: {status} is not in the document"] = answer.text[:300]
        elif answer.status_code >= 400 and set(answer.json()) != {"error"}:
            faults[f"{label}: {status} of another shape"] = answer.text[:300]

    return ask
