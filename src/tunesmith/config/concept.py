"""DreamBooth's rare token: what the tokenizer makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.errors import Fault, UserError

MOST_PIECES = 3
RARE_TOKENS = (
    "sks",
    "ohwx",
    "zwx",
    "qzj",
    "vvk",
    "xjq",
    "kzq",
    "wqx",
    "jvz",
    "phx",
    "qk",
    "zq",
    "xk",
)
"""Strings that no language uses much, shortest pieces first where a tokenizer has them."""


def good_tokens(bundle: Any) -> list[str]:
    """Rare tokens that the base's tokenizer keeps in few pieces, the fewest first."""
    counted = [(len(bundle.text_pieces(token)), token) for token in RARE_TOKENS]
    known = [(pieces, token) for pieces, token in counted if 0 < pieces <= MOST_PIECES]
    return [token for _, token in sorted(known, key=lambda pair: pair[0])]


def check_concept(bundle: Any, concept: Mapping[str, Any], *, wanted: bool) -> list[Fault]:
    """Faults of the section ``concept``.

    Args:
        bundle: the base, with or without weights.
        concept: the section as given.
        wanted: the method stands on a token.
    """
    token, template = concept.get("token"), concept.get("template", "{token}")
    if token is None:
        mend = "add concept.token=sks and concept.class_name=guitar"
        return [Fault("concept.token", "missing: dreambooth teaches one", mend)] if wanted else []
    if not isinstance(token, str) or not token.strip() or token != token.strip():
        return [Fault("concept.token", f"{token!r} is no token", "give a short, rare string: sks")]
    faults = []
    if isinstance(template, str) and "{token}" not in template:
        mend = "write e.g. '{token} {class_name}, {caption}'"
        faults.append(Fault("concept.template", "does not hold {token}", mend))
    try:
        pieces = bundle.text_pieces(token)
    except UserError as error:
        return [*faults, Fault("concept.token", error.message, error.mend)]
    if len(pieces) == 1 and len(token) > 3 and concept.get("check", True):
        better = ", ".join(good_tokens(bundle)[:3])
        faults.append(
            Fault(
                "concept.token",
                f"'{token}' is a word of the base's own vocabulary",
                f"give one that means nothing yet: {better}",
            )
        )
    if len(pieces) > MOST_PIECES:
        shown = " ".join(pieces)
        better = ", ".join(good_tokens(bundle)[:3])
        faults.append(
            Fault(
                "concept.token",
                f"'{token}' falls into {len(pieces)} pieces ({shown}), and what more than {MOST_PIECES} "
                "share is hard to bind to one sound",
                f"give one that stays whole: {better}",
            )
        )
    return faults
