"""New tokens for a text side that has a Hugging Face tokenizer and a table of embeddings.

A token stands for a run of ids beyond the table, one a vector. :class:`Vocabulary` writes those ids
into a text, :class:`TokenRows` answers for them; neither the tokenizer nor the table is rebuilt, so a
text without a new token is read exactly as before.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.errors import UserError


class Vocabulary:
    """A tokenizer, and the tokens that were added to it.

    Args:
        tokenizer: a fast Hugging Face tokenizer; it is never changed.
        rows: rows of the embedding table, which may be more than the tokenizer has tokens.
        limit: ids that a text is cut to.

    Attributes:
        tokens: ``{token: number of vectors}`` of the added ones.
    """

    def __init__(self, tokenizer: Any, rows: int, limit: int = 512) -> None:
        self._plain, self._rows, self._limit = tokenizer, rows, limit
        self.use({})

    def use(self, tokens: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Take these tokens in, instead of those of an earlier call; see ``Bundle.use_tokens``.

        Raises:
            UserError: a token that is none, or that the tokenizer already has.
        """
        for token in tokens:
            self._check(token)
        self._tokenizer = self._plain
        self._runs: dict[int, tuple[int, ...]] = {}
        self.tokens = dict(tokens)
        if not tokens:
            return {}
        self._tokenizer = copy.deepcopy(self._plain)
        self._tokenizer.add_tokens([_added(token) for token in tokens])
        found, begin = {}, self._rows
        for token, vectors in tokens.items():
            found[token] = tuple(range(begin, begin + vectors))
            self._runs[self._tokenizer.convert_tokens_to_ids(token)] = found[token]
            begin += vectors
        return found

    def _check(self, token: str) -> None:
        if not token or not token.isprintable() or any(letter.isspace() for letter in token):
            raise UserError(
                f"'{token}' is no token: it is empty or has spaces in it", "write it as [my_guitar]"
            )
        pieces = self._plain.tokenize(token)
        one = len(pieces) == 1 and self._plain.convert_tokens_to_ids(pieces) != [self._unknown]
        if one or token in self._plain.get_vocab():
            raise UserError(
                f"the base already has the token '{token}'", f"put it in brackets: [my_{token}]"
            )

    @property
    def _unknown(self) -> int | None:
        return self._plain.unk_token_id

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text, without special ones; an added token is one of them."""
        return self._tokenizer.tokenize(text)

    def known_ids(self, text: str) -> list[int]:
        """Rows of the base's own table that a text's pieces stand for, without unknown ones."""
        ids = self._plain(text, add_special_tokens=False, verbose=False).input_ids
        return [one for one in ids if one != self._unknown]

    def ids(self, text: str) -> list[int]:
        """The ids of a text, special ones included, cut to the limit.

        Raises:
            UserError: an added token would be cut off or apart.
        """
        whole = self._tokenizer(text, verbose=False).input_ids
        wanted = sum(one in self._runs for one in whole)
        if not wanted:
            return self._plain(text, truncation=True, max_length=self._limit).input_ids
        most = self._limit
        while True:
            cut = self._tokenizer(text, truncation=True, max_length=most).input_ids
            ids = [each for one in cut for each in self._runs.get(one, (one,))]
            if sum(one in self._runs for one in cut) < wanted:
                raise UserError(
                    f"the text is longer than {self._limit} tokens, and a trained one stands beyond "
                    f"('{text[:40]} ...')",
                    "shorten the text, or put the token at its beginning",
                )
            if len(ids) <= self._limit:
                return ids
            most -= 1

    def fingerprint(self, text_hash: str, embedding: nn.Module) -> str:
        """Hash of what text states depend on: the base's own, the added tokens and their vectors.

        Args:
            text_hash: of the base's text side.
            embedding: the module that the text side looks ids up in.
        """
        if not self.tokens:
            return text_hash
        digest = hashlib.sha256(json.dumps([text_hash, list(self.tokens.items())]).encode())
        if isinstance(embedding, TokenRows):
            digest.update(embedding.vectors().detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()


def _added(token: str) -> AddedToken:
    # A token that is a bare word must not be found inside of longer words.
    word = any(end.isalnum() or end == "_" for end in (token[0], token[-1]))
    return AddedToken(
        token, single_word=word, lstrip=False, rstrip=False, normalized=False, special=False
    )


class TokenRows(nn.Module):
    """An embedding that answers for ids beyond its table with rows that train.

    Args:
        table: the base's embedding; it stays as it is.
        start: float32 rows ``[V, d]`` of each token, which its training starts from.

    Attributes:
        tokens: ``{token: number of vectors}``.
        strength: 0 answers with the start, 1 with the trained rows, and a line through both between.
    """

    def __init__(self, table: nn.Module, start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.table: Any = table
        self.tokens = {token: len(rows) for token, rows in start.items()}
        self.rows = nn.ParameterList([rows.clone() for rows in start.values()])
        self._start: Tensor
        self.register_buffer("_start", torch.cat(list(start.values())), persistent=False)
        self.strength = 1.0

    def vectors(self) -> Tensor:
        """What the ids beyond the table stand for, ``[V of all tokens, d]``."""
        rows = torch.cat(list(self.rows))
        return rows if self.strength == 1 else self._start + self.strength * (rows - self._start)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings ``[..., d]`` of ids ``[...]``, in the table's precision."""
        beyond = ids - self.table.weight.shape[0]
        added = beyond >= 0
        plain = self.table(ids.masked_fill(added, 0))
        trained = functional.embedding(beyond.clamp(min=0), self.vectors()).to(plain.dtype)
        return torch.where(added[..., None], trained, plain)


__all__ = ["TokenRows", "Vocabulary"]
