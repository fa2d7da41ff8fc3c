"""What a chat model wrote, made into a caption: one line, no chat, no markup, no words of a song."""

from __future__ import annotations

import re

_LONGEST = 400  # characters; text encoders of music models read a few dozen words
_READ = 2000  # characters of an answer that are looked at

_CONTROL = re.compile(r"<think>.*?(?:</think>|\Z)|<\|[^<>|]*\|>|</?s>", re.DOTALL)
_MARKUP = re.compile(r"\*\*|__|`+|^\s*#+\s*|^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
_LABELS = re.compile(
    r"^\s*(?:genres?|styles?|instruments?|instrumentation|moods?)\s*:\s*",
    re.IGNORECASE | re.MULTILINE,
)
# From here on a model writes down what is sung, and often what is not.
_LYRICS = re.compile(
    r"\blyrics?\s*(?:are|is|include|read|go|say)?\s*:|^\s*lyrics?\s*$"
    r"|\[\s*(?:verse|chorus|intro|outro|bridge|hook|pre-chorus|refrain)\b",
    re.IGNORECASE | re.MULTILINE,
)
_OPENERS = re.compile(
    r"^(?:"
    r"(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great)[,.!]+"
    r"|here(?:'s| is| are)\b[^:.!?]*[:.!]"
    r"|(?:the |a |one-sentence |short )*(?:caption|description|answer|assistant|output|response)"
    r"(?:\s+(?:is|would be|could be))?\s*:"
    r")\s*",
    re.IGNORECASE,
)
_CLOSERS = re.compile(
    r"^(?:let me know|i hope|if you|feel free|would you like|do you want|is there anything|please)\b",
    re.IGNORECASE,
)
_REFUSALS = re.compile(
    r"\b(?:as an ai|i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|can not|do not have)"
    r"|i don't (?:have|hear)|no audio (?:was|is|file|clip|input|provided))\b",
    re.IGNORECASE,
)
# What leads to a quotation and makes no sense without it, and the quotation: closed, or open to
# the end. A single quote opens only before a letter and closes only after one, so that apostrophes
# ('50s, don't, the guitarists' solo) open nothing; left open it counts only after such a lead.
_LEAD = (
    r"(?:[\s,;:]*\b(?:(?:and|with|the|that|which|its|words?|lines?|lyrics?|phrases?|titled?|called"
    r"|say(?:s|ing)?|repeat(?:s|ing)?|includ(?:es?|ing))\b))"
)
_SINGLE = r"(?<!\w)'(?=[^\W\d_])(?:[^']|(?<=\w)'(?=\w))*"
_QUOTED = rf"“[^”]*(?:”|$)|«[^»]*(?:»|$)|\"[^\"]*(?:\"|$)|{_SINGLE}'(?!\w)|(?<=sings )\s*{_SINGLE}$"
_QUOTATION = re.compile(
    rf"(?P<lead>{_LEAD}{{0,6}})[\s,:]*(?P<quote>{_QUOTED})|{_LEAD}{{1,6}}[\s,:]*{_SINGLE}$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_DANGLING = re.compile(
    r"(?:[\s,;:]+|^)(?:with|and|the|its|a|an|of|by|featuring|has|in|to|plus)(?=[.\s,;:]*$)", re.I
)


def clean(text: str, *, finished: bool = True) -> str:
    """A caption from a chat model's answer.

    Args:
        text: as decoded.
        finished: whether the model ended it; else what follows the last whole sentence goes.

    Returns:
        One line of at most 400 characters; empty where nothing usable is left, or the model
        declined. Quotations and what follows ``lyrics:`` are left out, never completed; a single
        word in quotes only loses the quotes.
    """
    text = _CONTROL.sub(" ", text)[:_READ].replace("’", "'").replace("‘", "'")
    text, *lyrics = _LYRICS.split(_unwrap(text), maxsplit=1)
    text = _LABELS.sub("", _MARKUP.sub("", text))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = " ".join(line if line[-1] in ".!?:,;" else f"{line}," for line in lines).rstrip(",")
    text = " ".join(text.split())
    while (shorter := _unwrap(_OPENERS.sub("", text))) != text:
        text = shorter
    if _REFUSALS.search(text):
        return ""
    text = _tidy(_QUOTATION.sub(_without_quotation, text))
    sentences = [part for part in _SENTENCE_END.split(text) if not _CLOSERS.match(part)]
    # What is left of a sentence that was mostly a quotation.
    sentences[1:] = [part for part in sentences[1:] if part[0].isupper() or part.count(" ") > 2]
    cut_off = not finished and not lyrics
    if cut_off and len(sentences) > 1 and not sentences[-1].endswith((".", "!", "?")):
        sentences.pop()
    while len(sentences) > 1 and len(" ".join(sentences)) > _LONGEST:
        sentences.pop()
    text = " ".join(sentences)
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rpartition(" ")[0]
    while (shorter := _tidy(_DANGLING.sub("", text))) != text:
        text = shorter
    return text if re.search(r"[^\W\d_]{2}", text) else ""


def _without_quotation(match: re.Match[str]) -> str:
    words = (match["quote"] or "").strip("\"'“”«» ").split()
    closed = (match["quote"] or " ")[-1] in "\"'”»"
    return f" {words[0]}" if len(words) == 1 and closed and not match["lead"] else " "


def _tidy(text: str) -> str:
    """No stray spaces, no two marks in a row, no quotes at the ends."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,;:!?])", r"\1", text)
    text = re.sub(r"([.!?])(?:[,;:]+|(?<!\.\.)\.(?!\.))", r"\1", text)
    text = re.sub(r"[,;:]+(?=[.,;:!?])", "", text)
    return text.strip(' ,;:-"“”«»').lstrip(".!?' ")


def _unwrap(text: str) -> str:
    """What stands in quotes, where that is all of it or it begins with a whole sentence in quotes."""
    text = text.strip()
    for opening, closing in ('""', "“”", "«»"):
        if text.startswith(opening) and closing in text[1:]:
            inner, _, rest = text[1:].partition(closing)
            if not rest.strip(" .") or (inner.count(" ") > 3 and _CLOSERS.match(rest.strip(" .*"))):
                return inner.strip()
    inner = text[1:-1]
    if text[:1] == text[-1:] == "'" and not re.search(r"(?<!\w)'(?=\w)", inner):
        return inner.strip()
    return text
