"""SpeechT5's letters: a fast tokenizer with the ids of the checkpoint's SentencePiece model.

The checkpoint holds a model of single characters (``spm_char.model``), which the library reads with a
package of its own, slowly and without the seams that new tokens need. What that model does is little:
normalise, mark spaces, look characters up. So it is read here and done by ``tokenizers``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tunesmith.errors import UserError

SPM = "spm_char.model"
_CHARACTERS = 4  # TrainerSpec.ModelType.CHAR
_SPACE = "▁"
_NORMAL, _UNKNOWN = 1, 2  # SentencePiece.Type


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a base: its ``tokenizer.json``, or its ``spm_char.model`` as a fast one.

    Raises:
        UserError: there is neither, or it is not what it should be.
    """
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    path = folder / SPM
    if not path.is_file():
        raise UserError(f"{folder}: neither {SPM} nor tokenizer.json", "download it again")
    try:
        return from_sentencepiece(path.read_bytes(), _added(folder))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no SentencePiece model of characters ({error})") from None


def from_sentencepiece(model: bytes, added: dict[str, int] | None = None) -> Any:
    """A fast tokenizer that gives what SentencePiece gives, ``</s>`` after it.

    Args:
        model: a serialised ``ModelProto`` of type CHAR.
        added: further tokens behind the model's, with their ids.

    Raises:
        ValueError: it is none, or of another type.
    """
    pieces: list[tuple[str, int]] = []
    kind, charsmap, prefix, squeeze = 0, b"", True, True
    for field, value in _fields(model):
        if field == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode(), int(piece.get(3, _NORMAL))))
        elif field == 2:
            kind = int(dict(_fields(value)).get(3, 1))
        elif field == 3:
            spec = dict(_fields(value))
            charsmap = spec.get(2, b"")
            prefix, squeeze = bool(spec.get(3, 1)), bool(spec.get(4, 1))
    if kind != _CHARACTERS or not pieces:
        raise ValueError("its pieces are not single characters")
    vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
    unknown = next(piece for piece, sort in pieces if sort == _UNKNOWN)
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=unknown))
    steps: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    if squeeze:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
    known = "".join(
        f"\\x{{{ord(piece):X}}}" for piece, sort in pieces if sort == _NORMAL and len(piece) == 1
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Metaspace(_SPACE, "always" if prefix else "never", split=False),
            # A run of unknown characters is one unknown piece.
            pre_tokenizers.Split(Regex(f"[{known}]|[^{known}]+"), "isolated"),
        ]
    )
    end = "</s>"
    tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single=f"$A {end}", special_tokens=[(end, vocabulary[end])]
    )
    for token, _ in sorted((added or {}).items(), key=lambda pair: pair[1]):
        tokenizer.add_special_tokens([AddedToken(token, normalized=False)])
    names = {"bos": "<s>", "eos": end, "unk": unknown, "pad": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{short}_token": name for short, name in names.items()}
    )


def _added(folder: Path) -> dict[str, int]:
    path = folder / "added_tokens.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """``(field, value)`` of a protocol buffer's message: whole numbers, or bytes.

    Raises:
        ValueError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _number(message, at)
            yield field, value
            continue
        if wire == 2:
            size, at = _number(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("not a protocol buffer")
        if at + size > len(message):
            raise ValueError("it is torn")
        yield field, message[at : at + size]
        at += size


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A varint at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
