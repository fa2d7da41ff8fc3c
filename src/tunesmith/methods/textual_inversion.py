"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): new words for the text encoder.

A token stands for one or more vectors beside the embedding table, and they alone train. The model
stays as it is, so a prompt without the token gives what the base gives, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import Fault, UserError
from tunesmith.families._bundle import Bundle
from tunesmith.families._tokens import TokenRows
from tunesmith.methods._adapter import Adapter, State, match_keys, not_mergeable
from tunesmith.types import Site

SPEC = {
    "summary": "textual inversion: new words, whose vectors are all that trains",
    "roles": ["text_embedding"],
    "linear": False,
    "not_linear": "the vectors of its tokens lie beside the weights, and a plain tokenizer cannot "
    "turn one token into several",
    "adds_tokens": True,
    "needs": "5-50 recordings of one sound; hardly any memory",
    # Captions hold the token. Whatever does not is read by the base itself, then and always.
    "identity_at_start": False,
    # What it must reach on one clip and a tiny model: the contract suite holds it to this.
    "overfits": {"lr": 3e-2, "steps": 150, "share": 0.04, "regenerates": False},
    "presets": {
        "vectors": {
            1: "a word among words",
            4: "an instrument or a style",
            16: "as much as a prompt can say",
        }
    },
}

_COMPONENT = "tokens"
_MOST = 64
_SPREAD = 0.1  # of the table's scale: vectors that begin alike would also learn alike


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``method: textual_inversion``.

    Attributes:
        token: the new word or words. In brackets ("[my_sound]") none is a word that exists.
        init: the word that a token begins as; one for all, or one for each.
        vectors: vectors a token. More say more, and take more of a prompt.
        rate: factor of the learning rate: 1 where tokens are all that trains; beside a LoRA, whose
            rate is far lower, 100.
        templates: what a caption without the token is made into; one is drawn for each caption.
            ``{token}`` and ``{caption}`` stand for what they say.
    """

    token: str | tuple[str, ...] = "[my_sound]"
    init: str | tuple[str, ...] = "music"
    vectors: int = 4
    rate: float = 1.0
    templates: tuple[str, ...] = ("{token}, {caption}",)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens, also where there is but one."""
        return (self.token,) if isinstance(self.token, str) else tuple(self.token)

    @property
    def words(self) -> tuple[str, ...]:
        """The word that each token begins as."""
        if isinstance(self.init, str):
            return (self.init,) * len(self.tokens)
        return tuple(self.init)


def _site(bundle: Bundle) -> Site:
    return bundle.sites_of(["text_embedding"])[0]


def _table(bundle: Bundle) -> nn.Module:
    """The module that the text encoder looks ids up in."""
    site = _site(bundle)
    return bundle.components[site.component].get_submodule(site.inputs["table"])


def _word_ids(bundle: Bundle, word: str) -> list[int]:
    if ids := bundle.text_ids(word):
        return ids
    raise UserError(
        f"the base knows nothing of the word '{word}'", "begin with a plain one, such as music"
    )


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    faults = []
    if not config.tokens:
        faults.append(Fault("method.token", "there is none", "give one, such as [my_sound]"))
    elif len(set(config.tokens)) < len(config.tokens):
        faults.append(Fault("method.token", "a token is given twice", "give each once"))
    if not config.rate > 0:
        faults.append(
            Fault("method.rate", f"{config.rate} is not above 0", "usual: 1; beside a LoRA 100")
        )
    if not 1 <= config.vectors <= _MOST:
        faults.append(
            Fault("method.vectors", f"{config.vectors} is not in 1..{_MOST}", "usual: 1 to 16")
        )
    if len(config.words) != len(config.tokens):
        faults.append(
            Fault(
                "method.init",
                f"{len(config.words)} words for {len(config.tokens)} tokens",
                "give one word for all, or one for each",
            )
        )
    if not config.templates or any("{token}" not in one for one in config.templates):
        faults.append(
            Fault("method.templates", "a template has no {token}", "usual: '{token}, {caption}'")
        )
    for word in dict.fromkeys(config.words):
        try:
            _word_ids(bundle, word)
        except UserError as error:
            faults.append(Fault("method.init", error.message, error.mend))
    table = _table(bundle)
    try:
        bundle.use_tokens(dict.fromkeys(config.tokens, max(1, config.vectors)))
    except UserError as error:
        faults.append(Fault("method.token", error.message, error.mend))
    finally:
        bundle.use_tokens(table.tokens if isinstance(table, TokenRows) else {})
    return faults


def parameter_count(bundle: Bundle, config: Config) -> int:
    """Tokens times vectors times the embedding's width."""
    return len(config.tokens) * config.vectors * _site(bundle).width


def attach(bundle: Bundle, config: Config, seed: int | None = 0) -> TextualInversionAdapter:
    """Teach the base the tokens; each begins as its word.

    ``seed`` is unused: the start depends on base and settings alone, so that a saved adapter's is
    known, and with it what stands between strength 0 and 1.
    """
    return TextualInversionAdapter(bundle, config)


def _start(table: Any, ids: list[int], token: str, vectors: int) -> Tensor:
    """Rows ``[vectors, d]``: the mean of a word's rows, each moved a little."""
    rows = table.weight.detach()[ids].float()
    digest = hashlib.sha256(token.encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
    noise = torch.randn(vectors, rows.shape[-1], generator=draw).to(rows.device)
    return rows.mean(dim=0) + _SPREAD * rows.square().mean().sqrt() * noise


def starts(bundle: Bundle, config: Config, table: nn.Module) -> dict[str, Tensor]:
    """What each token begins as, ``{token: [vectors, d]}``, and is at strength 0.

    Args:
        bundle: the base.
        config: settings.
        table: the base's own embedding.
    """
    return {
        token: _start(table, _word_ids(bundle, word), token, config.vectors)
        for token, word in zip(config.tokens, config.words, strict=True)
    }


class TextualInversionAdapter(Adapter):
    """The tokens' vectors, in a module around the embedding that answers for their ids."""

    method = "textual_inversion"
    linear = False
    starts_as_base = False

    def __init__(self, bundle: Bundle, config: Config) -> None:
        self.config = config
        self._bundle = bundle
        self._plain = _table(bundle)
        if isinstance(self._plain, TokenRows):
            raise UserError(
                f"the base already reads trained tokens ({', '.join(self._plain.tokens)})",
                "detach that adapter first, or train all tokens in one",
            )
        self._rows: TokenRows | None = TokenRows(self._plain, starts(bundle, config, self._plain))
        self._in_use = False
        self._use(True)

    def _use(self, wanted: bool) -> None:
        """Stand in the embedding's place, or leave it; the vocabulary goes along."""
        if self._rows is None or wanted == self._in_use:
            return
        if _table(self._bundle) is not (self._plain if wanted else self._rows):
            raise UserError(
                "the base reads the trained tokens of another adapter", "set its strength to 0"
            )
        self._bundle.use_tokens(self._rows.tokens if wanted else {})
        site = _site(self._bundle)
        component = self._bundle.components[site.component]
        component.set_submodule(site.inputs["table"], self._rows if wanted else self._plain)
        self._in_use = wanted

    def caption(self, text: str) -> str:
        """A caption with the token in it; at strength 0, as the base's, it has none.

        Raises:
            UserError: none of several tokens is in it, and which one it is about is not known.
        """
        if not self._in_use or set(self.config.tokens) & set(self._bundle.text_pieces(text)):
            return text
        if len(self.config.tokens) > 1:
            raise UserError(
                f"the caption '{text}' has none of the tokens {', '.join(self.config.tokens)}",
                "write the right one into each caption, or train one token",
            )
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        template = self.config.templates[number % len(self.config.templates)]
        # Not str.format: a caption may hold braces.
        parts = template.split("{caption}")
        return text.join(part.replace("{token}", self.config.tokens[0]) for part in parts).strip(
            " ,"
        )

    def prompt(self, text: str) -> str:
        """The prompt as it is: who wants the token writes it."""
        return text

    def rates(self) -> Mapping[str, float]:
        """Rates in units of the table's scale, which differs by orders of magnitude among encoders."""
        weight: Any = self._plain.weight
        scale = float(weight.detach().float().square().mean().sqrt())
        factor = float(scale * self.config.rate)
        return dict.fromkeys(self.parameters(), factor)

    def parameters(self) -> dict[str, nn.Parameter]:
        if self._rows is None:
            return {}
        named = zip(self.config.tokens, self._rows.rows, strict=True)
        return {f"{_COMPONENT}/{token}": rows for token, rows in named}

    def state(self) -> State:
        return {
            _COMPONENT: {
                name.removeprefix(f"{_COMPONENT}/"): rows.detach().cpu().clone().contiguous()
                for name, rows in self.parameters().items()
            }
        }

    def load_state(self, state: State) -> None:
        if foreign := sorted(state.keys() - {_COMPONENT}):
            match_keys(foreign[0], {}, state[foreign[0]])
        given = state.get(_COMPONENT, {})
        match_keys(_COMPONENT, self.state()[_COMPONENT], given)
        with torch.no_grad():
            for name, rows in self.parameters().items():
                rows.copy_(given[name.removeprefix(f"{_COMPONENT}/")])

    def set_strength(self, strength: float) -> None:
        """0 takes the tokens out of the vocabulary; between, a token is part word, part trained."""
        self._use(strength != 0)
        if self._rows is not None and strength != 0:
            self._rows.strength = strength

    def merge(self) -> None:
        raise not_mergeable("trained tokens", SPEC)

    def detach(self) -> None:
        self._use(False)
        self._rows = None


__all__ = [
    "SPEC",
    "Config",
    "TextualInversionAdapter",
    "attach",
    "check",
    "parameter_count",
    "starts",
]
