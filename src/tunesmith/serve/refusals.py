"""Why a server says no: one line for the asker, and what an HTTP status can be told from."""

from __future__ import annotations

from tunesmith.errors import UserError


class Busy(UserError):
    """As many wait, or listen, as may. Nothing was taken (HTTP 429).

    Attributes:
        retry_after_s: when it is worth asking again, estimated from how fast places come free; at least 1.
    """

    def __init__(self, what: str, retry_after_s: float) -> None:
        self.retry_after_s = max(1.0, retry_after_s)
        super().__init__(what, f"ask again in {self.retry_after_s:.0f} s")


class Closing(UserError):
    """The server is going down and takes nothing more (HTTP 503)."""

    def __init__(self) -> None:
        super().__init__("the server is closing", "ask again when it is back")


class Unknown(UserError):
    """No such job: it never was, or it is so old that it was forgotten (HTTP 404)."""

    def __init__(self, id: str) -> None:
        super().__init__(f"no job '{id[:64]}'", "old jobs are forgotten; ask for the sound again")


class UnknownSound(UserError):
    """No such sound was sent, or it was deleted, or nobody asked for it in time (HTTP 404)."""

    def __init__(self, id: str) -> None:
        super().__init__(f"no sound '{id[:64]}'", "send it again: POST /v1/uploads")


class TooLarge(UserError):
    """More than is taken (HTTP 413)."""


class Unfinished(UserError):
    """There is no sound, for the job is not done: it waits, runs, failed or was called off (HTTP 409)."""

    def __init__(self, id: str, state: str) -> None:
        super().__init__(
            f"job '{id}' has no sound, it is {state}", "listen to the job, or ask anew"
        )


class Gone(UserError):
    """The job was done, but its sound is no longer kept (HTTP 410)."""

    def __init__(self, id: str) -> None:
        super().__init__(
            f"the sound of job '{id}' is no longer kept",
            "ask for it again: the same seed makes the same sound",
        )


class KeyTaken(UserError):
    """The asker's key stands for another request already (HTTP 409)."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the key '{key[:64]}' was used for another request", "a new request needs a new key"
        )


__all__ = [
    "Busy",
    "Closing",
    "Gone",
    "KeyTaken",
    "TooLarge",
    "Unfinished",
    "Unknown",
    "UnknownSound",
]
