"""Which sounds of a language the texts of a data set never say.

With espeak-ng (a program, asked if it is on the path) texts become phonemes, and a list of words that holds
each phoneme of the language is what they are held against. Without it, or for a language without such a
list, letters are counted instead.
"""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

PROGRAM = "espeak-ng"

# Each phoneme of the language stands in at least one of the words.
_WORDS = {
    "en": "pit bit tin din kit gate cheap jeep fat vat thin then sap zap she measure hat map nap sing "
    "lap rap yap wet bead bid bed bad bard pot board good mood bud bird sofa bay boy buy now go",
    "de": "Pass Bass Tal Dorf Kern gern Pfau Zahl Tschechien fein Wein Sohn reißen schön Garage Hut ich "
    "ach Mann nein lang Lob Rad ja Miete Mitte Beet Bett Rat Ratte Boot Gott Mut Mutter Höhle Hölle "
    "Hüte Hütte bitte besser Eis Auto neu",
    "es": "pan ban tan dan can gan chico fino zapato sol jota mano nada niño lado para perro yo lobo "
    "nido lago casa mesa piso poco luna aire peine hoy causa deuda tierra bueno",
    "fr": "pas bas tas dans cas gare fou vous sous zoo chou joue mot nous agneau loup rue yeux oui huit "
    "si thé père patte porte beau tout tu peu peur le vin bon temps",
    "it": "pane bene tana dono cane gatto ciao giallo zio zero fino vino sole rosa scena mano nave gnomo "
    "lana figlio rana ieri uomo mela bella pino porto rotto luna",
}
_COMMON_ENGLISH = frozenset(
    [
        "the",
        "a",
        "an",
        "and",
        "of",
        "to",
        "in",
        "is",
        "it",
        "that",
        "was",
        "he",
        "she",
        "for",
        "on",
        "with",
        "his",
        "her",
        "at",
    ]
)
_ENGLISH_SHARE = 0.1
_TIMEOUT_S = 60.0
_AT_ONCE = 20_000  # characters


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a language is said.

    Attributes:
        unit: ``phonemes`` or ``letters``.
        of: how many there are.
        missing: those that are never said, in the order of the list.
        language: by which phonemes were counted; empty for letters.
    """

    unit: str
    of: int
    missing: tuple[str, ...]
    language: str = ""


def coverage(texts: Sequence[str], language: str | None = None) -> Coverage | None:
    """What texts never say.

    Args:
        texts: what is said in each clip.
        language: its code (``en``, ``de-AT``); None to look whether it is English.

    Returns:
        None where there is nothing to count: no texts, or another script than Latin without phonemes.
    """
    whole = " ".join(texts)
    code = (language or _guess(whole)).lower().replace("_", "-")
    words = _WORDS.get(code.partition("-")[0])
    if whole.strip() and words and shutil.which(PROGRAM):
        wanted, said = phonemes(words, code), phonemes(whole, code)
        if wanted and said:
            missing = tuple(one for one in wanted if one not in said)
            return Coverage("phonemes", len(wanted), missing, code)
    letters = {sign for sign in whole.casefold() if sign.isalpha()}
    if not letters & set(string.ascii_lowercase):
        return None
    missing = tuple(one for one in string.ascii_lowercase if one not in letters)
    return Coverage("letters", len(string.ascii_lowercase), missing)


def phonemes(text: str, language: str) -> dict[str, int]:
    """How often each phoneme is said in a text, by espeak-ng; empty where that cannot tell.

    Stress and the length of consonants are left out.
    """
    found: dict[str, int] = {}
    for start in range(0, len(text), _AT_ONCE):
        part = text[start : start + _AT_ONCE]
        command = [PROGRAM, "-q", "--ipa", "--sep=_", "-v", language, "--stdin"]
        try:
            done = subprocess.run(
                command, input=part.encode(), capture_output=True, timeout=_TIMEOUT_S, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return {}
        ipa = re.sub(
            r"\([^)]*\)", " ", done.stdout.decode("utf-8", "replace")
        )  # a word in another language
        for one in ipa.replace("_", " ").split():
            phone = one.translate(_STRESS).strip("-")
            if phone[:1] and phone[0] not in _VOWELS:
                phone = phone.rstrip("ː")
            if phone:
                found[phone] = found.get(phone, 0) + 1
    return found


_STRESS = str.maketrans("", "", "ˈˌ")
_VOWELS = "aeiouyæœøɐɑɒɔəɛɜɪʉʊʌ"


def _guess(text: str) -> str:
    words = re.findall(r"[a-z']+", text.lower())
    common = sum(word in _COMMON_ENGLISH for word in words)
    return "en" if words and common >= _ENGLISH_SHARE * len(words) else ""
