"""Errors that a user can mend. Each is one line: what is wrong, where, and the mend.

Everything below derives from :class:`UserError`, which the command line prints without a traceback
(exit code 2). Anything else that escapes is a bug of ours, and its traceback is wanted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class UserError(Exception):
    """A mistake or a limit that the user can do something about.

    Args:
        message: one line: what is wrong and where.
        mend: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, mend: str = "") -> None:
        self.message = message
        self.mend = mend
        super().__init__(f"{message} - {mend}" if mend else message)


class ResourceError(UserError):
    """Out of memory or disk: not a mistake, but the user must change something."""

    exit_code = 3


class Diverged(UserError):
    """Training stopped because losses or gradients stayed NaN or infinite."""

    exit_code = 4


class Stopped(Exception):
    """Ctrl-C or SIGTERM arrived and everything has been saved.

    Args:
        signal_number: the signal, so that the exit code can be the customary 128 + n.
        message: what was saved and how to go on.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        self.signal_number = signal_number
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a configuration.

    Attributes:
        key: dotted path of the setting (``train.lr``).
        message: what is wrong.
        mend: what to write instead.
        where: ``file:line``, ``command line`` or empty.
    """

    key: str
    message: str
    mend: str = ""
    where: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.key}: {self.message}" + (f" - {self.mend}" if self.mend else "")


class ConfigError(UserError):
    """Every fault of a configuration, reported at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` when a known word is close, else the known words themselves."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
