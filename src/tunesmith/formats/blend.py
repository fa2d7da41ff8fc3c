"""Blends: several adapters as one, ΔW = Σ wᵢ sᵢ BᵢAᵢ, exactly or at a given rank."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import UserError
from tunesmith.formats.adapter import (
    card_hash,
    method_of,
    new_folder,
    read_card,
    read_state,
    write_adapter,
)
from tunesmith.formats.card import model_card
from tunesmith.methods._adapter import State
from tunesmith.methods._low_rank import Factors, Loss, summed, truncated
from tunesmith.registry import plugins

HOLDER = "lora"
"""The method that holds low-rank changes of linears, whichever way they came about."""

TOKENS = "tokens"
"""The component that trained tokens lie in, ``{token: [V, d]}``, and the key of their settings."""


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter of a blend.

    Attributes:
        name: what the user called it.
        folder: where it lies.
        weight: its weight, any real number.
    """

    name: str
    folder: Path
    weight: float

    @property
    def place(self) -> Path:
        return self.folder / "adapter.json"


@dataclass(frozen=True, slots=True)
class Blended:
    """A blend, in memory.

    Attributes:
        card: what ``adapter.json`` will say, ``components`` excepted.
        state: the tensors.
        peft: PEFT's configuration of each component.
        rank: of the result.
        loss: what a lower rank left out; None if nothing was.
    """

    card: dict[str, Any]
    state: State
    peft: Mapping[str, Mapping[str, Any]]
    rank: int
    loss: Loss | None


def low_rank(
    part: Part, state: State | None = None, *, flat: bool = False
) -> tuple[dict[str, Any], Factors, State]:
    """An adapter's card, its changes as factors, and its tensors.

    Args:
        part: the adapter.
        state: its tensors, where they were read already.
        flat: take convolutions too, channels and kernel as one axis.

    Raises:
        UserError: it has no factors, with the reason and what to do instead.
    """
    card = read_card(part.folder)
    method, config = method_of(card, part.place)
    name = card["method"]["name"]
    if not hasattr(method, "factors"):
        spec = plugins("methods")[name].spec
        if spec.get("linear"):
            raise UserError(
                f"{part.name} ({name}) changes whole matrices, which have no ranks to join",
                f"make a LoRA of it first: `tunesmith extract {part.folder} --rank 64 -o OUT`",
            )
        raise UserError(
            f"{part.name} ({name}) cannot be blended: {spec.get('not_linear', 'it is not linear')}",
            "use it alone; its strength can be set",
        )
    state = read_state(part.folder) if state is None else state
    try:
        return card, method.factors(state, config, flat=flat), state
    except UserError as error:
        mend = error.mend.replace("ADAPTER", str(part.folder))
        raise UserError(f"{part.name}: {error.message}", mend) from None
    except KeyError as error:
        raise UserError(
            f"{part.name} lacks the tensor {error.args[0]}", "download or copy the adapter again"
        ) from None


def blended(parts: Sequence[Part], rank: int | None = None) -> Blended:
    """The blend of any number of adapters of one base, of any ranks and targets.

    Args:
        parts: the adapters and their weights; one may stand there twice.
        rank: approximate each linear at this rank; None is exact, with ranks concatenated.

    Raises:
        UserError: different bases, adapters that are not low-rank, tokens that differ, bad weights.
    """
    if not parts:
        raise UserError("no adapter to blend", "give e.g. jazz=0.3 classical=0.7")
    if rank is not None and rank < 1:
        raise UserError(f"--rank {rank} is below 1", "usual: 4, 16, 64, 128")
    for part in parts:
        if not math.isfinite(part.weight):
            raise UserError(f"the weight of {part.name} is {part.weight}", "give a plain number")
    read = [low_rank(part) for part in parts]
    cards = [card for card, _, _ in read]
    first = cards[0]["base"]
    for part, card in zip(parts, cards, strict=True):
        base = card["base"]
        if base["hash"] != first["hash"]:
            raise UserError(
                f"{parts[0].name} was made for base '{first['name']}' ({str(first['hash'])[:12]}), "
                f"{part.name} for '{base['name']}' ({str(base['hash'])[:12]})",
                "blend adapters of one base",
            )
    factors = summed([(each, part.weight) for part, (_, each, _) in zip(parts, read, strict=True)])
    if not factors:
        raise UserError("these adapters change no linear", "give at least one that does")
    loss = None
    if rank is not None and rank < max(down.shape[0] for down, _ in factors.values()):
        factors, loss = truncated(factors, rank)
    holder = plugins("methods")[HOLDER].load()
    config, state = holder.from_factors(factors)
    peft = holder.peft_files(config, state)
    card: dict[str, Any] = {
        "base": _base(cards),
        "method": {"name": HOLDER, **dataclasses.asdict(config)},
        "linear": True,
        **_sources(parts, cards),
        "metrics": {},
    }
    tokens, settings = _tokens(parts, cards, [one for _, _, one in read])
    if tokens:
        state = {**state, TOKENS: tokens}
        card |= {TOKENS: settings, "linear": False}
    if loss is not None:
        card["relative_error"] = loss.error
    return Blended(card, state, peft, config.rank, loss)


def _base(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    base = dict(cards[0]["base"])
    # Adapters trained on four-bit and on full weights fit both; the blend belongs to neither alone.
    if len({card["base"].get("quantize", "") for card in cards}) > 1:
        base.pop("quantize", None)
    return base


def _sources(parts: Sequence[Part], cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said = [str(card.get("rights") or "") for card in cards]
    triggers = [token for card in cards for token in card.get("trigger_tokens", [])]
    consents = list(dict.fromkeys(card["consent"] for card in cards if card.get("consent")))
    return {
        "blend_of": [
            {
                "name": part.folder.resolve().name,  # a path on this machine is nobody's business
                "hash": card_hash(part.folder),
                "weight": part.weight,
                "rights": rights,
            }
            for part, rights in zip(parts, said, strict=True)
        ],
        "trigger_tokens": list(dict.fromkeys(triggers)),
        # One that says nothing leaves the whole unsaid.
        "rights": "; ".join(dict.fromkeys(said)) if all(said) else "",
        **({"consent": "; ".join(consents)} if consents else {}),
    }


def _tokens(
    parts: Sequence[Part], cards: Sequence[Mapping[str, Any]], states: Sequence[State]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The trained tokens of all, and their settings as one.

    Raises:
        UserError: a token that means two things, or tokens that no one setting describes.
    """
    vectors: dict[str, torch.Tensor] = {}
    words: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for part, card, state in zip(parts, cards, states, strict=True):
        said = card.get(TOKENS)
        if not said:
            continue
        names = [said["token"]] if isinstance(said["token"], str) else list(said["token"])
        inits = [said["init"]] * len(names) if isinstance(said["init"], str) else said["init"]
        for token, init in zip(names, inits, strict=True):
            found = state[TOKENS][token]
            if token in vectors and not torch.equal(vectors[token], found):
                raise UserError(
                    f"the token {token} means something else in {part.name} than in another",
                    "train one of them again with a token of its own",
                )
            vectors[token], words[token] = found, init
        if settings and settings["vectors"] != said["vectors"]:
            raise UserError(
                f"{part.name} has tokens of {said['vectors']} vectors, another of {settings['vectors']}",
                "tokens that come together need the same number; train one of them again",
            )
        templates = dict.fromkeys([*settings.get("templates", []), *said.get("templates", [])])
        settings = {**said, **({"templates": list(templates)} if templates else {})}
    if vectors:
        settings |= {"token": list(vectors), "init": [words[token] for token in vectors]}
    return vectors, settings


def blend(parts: Sequence[Part], out: Path, rank: int | None = None) -> Blended:
    """Write a blend as an adapter of its own; see :func:`blended`.

    Raises:
        UserError: as :func:`blended`, and if something is in ``out`` already.
    """
    new_folder(out)
    made = blended(parts, rank)
    write_adapter(out, made.state, made.peft, made.card)
    (out / "README.md").write_text(model_card(out), encoding="utf-8")
    return made


__all__ = ["HOLDER", "TOKENS", "Blended", "Part", "blend", "blended", "low_rank"]
