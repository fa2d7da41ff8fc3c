"""Ids of what an ACE-Step is told, and rows of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tunesmith.errors import UserError
from tunesmith.families._tokens import Vocabulary
from tunesmith.families.ace_step.text import REPAINT, Said, written

_MOST_WORDS, _MOST_LYRICS = 256, 2048  # ids; the pipeline's


class Words:
    """A tokenizer that reads captions and lyrics, each to its own length.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        rows: rows of the embedding table.
    """

    def __init__(self, tokenizer: Any, rows: int) -> None:
        self._plain = tokenizer
        self._captions = Vocabulary(tokenizer, rows=rows, limit=_MOST_WORDS)
        self._lyrics = Vocabulary(tokenizer, rows=rows, limit=_MOST_LYRICS)

    def ids(self, caption: str, said: Said) -> dict[str, Tensor]:
        """``ids`` ``[S]`` of what is said of a sound, ``repaint_ids`` where parts of it are given, ``lyric_ids``.

        A caption that is too long is cut, as the pipeline cuts it.

        Raises:
            UserError: that would take what is said after it, or lyrics are too long.
        """
        whole, lyrics = written(caption, said)
        repainted, _ = written(caption, said, REPAINT)
        if said.metas:
            for one in (whole, repainted):
                self._fits(one, caption, said)
        if (length := len(self._plain(lyrics, verbose=False).input_ids)) > _MOST_LYRICS:
            raise UserError(
                f"lyrics of {length} tokens, of which ACE-Step reads {_MOST_LYRICS} "
                f"('{said.lyrics[:40]} ...')",
                "shorten them, or cut the recording",
            )
        return {
            "ids": torch.tensor(self._captions.ids(whole)),
            "repaint_ids": torch.tensor(self._captions.ids(repainted)),
            "lyric_ids": torch.tensor(self._lyrics.ids(lyrics)),
        }

    def _fits(self, text: str, caption: str, said: Said) -> None:
        if (length := len(self._plain(text, verbose=False).input_ids)) > _MOST_WORDS:
            raise UserError(
                f"a caption of {length} tokens, of which ACE-Step reads {_MOST_WORDS}, leaves no room "
                f"for its {', '.join(said.metas)} ('{caption[:40]} ...')",
                "shorten the caption",
            )

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text, without special ones."""
        return self._captions.pieces(text)

    def known_ids(self, text: str) -> list[int]:
        """Rows of the base's own table that a text's pieces stand for."""
        return self._captions.known_ids(text)

    def use(self, tokens: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
        """Take new tokens in; see ``Bundle.use_tokens``."""
        self._lyrics.use(tokens)
        return self._captions.use(tokens)

    def fingerprint(self, text_hash: str, embedding: nn.Module) -> str:
        """Hash of what text states depend on."""
        return self._captions.fingerprint(text_hash, embedding)


def stacked(rows: Sequence[Mapping[str, Tensor]], without: Sequence[bool]) -> dict[str, Tensor]:
    """Rows of text side by side, filled up at their ends.

    Args:
        rows: ids and states of each.
        without: which of them have lost what was said.

    Returns:
        ``ids``, ``repaint_ids``, ``lyric_ids`` ``[B, S]``; ``present``, ``repaint_present``,
        ``lyric_present``, 1 where one is a row's own; ``states`` ``[B, S, E]``; ``kept`` ``[B, 1]``.
    """
    found = {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}
    for ids, there in (
        ("ids", "present"),
        ("repaint_ids", "repaint_present"),
        ("lyric_ids", "lyric_present"),
    ):
        lengths = torch.tensor([len(row[ids]) for row in rows])
        found[there] = (torch.arange(found[ids].shape[1]) < lengths[:, None]).long()
    found["kept"] = torch.tensor([[0 if lost else 1] for lost in without])
    return found
