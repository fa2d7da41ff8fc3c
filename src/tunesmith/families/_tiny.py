"""What the tiny models of several families are made with."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


def byte_tokenizer(**options: object) -> PreTrainedTokenizerFast:
    """Every character is a token of its own: no training, and no word is unknown twice alike.

    Args:
        options: further arguments of the tokenizer, such as ``model_max_length``.
    """
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {
        chr(code): code + 3 for code in range(32, 257)
    }
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **options,
    )
