"""Listeners and answers in SQLite: what was acknowledged is on the disk.

One transaction an answer, in write-ahead mode with ``synchronous=FULL``: the commit returns after the
disk has it, and only then is anybody told. The primary key (listener, trial) makes a double
impossible, whoever asks twice.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.atomic import sync_folder
from tunesmith.errors import UserError

FILE = "answers.sqlite"
_FORMAT = 1
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE listeners (
  number INTEGER PRIMARY KEY,           -- from 0: decides the order of sides and trials
  ident TEXT NOT NULL UNIQUE,           -- the public half of the link
  secret TEXT NOT NULL,
  nonce TEXT UNIQUE,                    -- of the browser that joined by invitation
  made_at REAL NOT NULL
) STRICT;
CREATE TABLE opened (
  listener INTEGER NOT NULL REFERENCES listeners (number),
  trial INTEGER NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (listener, trial)
) STRICT, WITHOUT ROWID;
CREATE TABLE answers (
  listener INTEGER NOT NULL REFERENCES listeners (number),
  trial INTEGER NOT NULL,
  answer_id TEXT NOT NULL,
  choice TEXT NOT NULL,
  heard TEXT NOT NULL,                  -- JSON, letter to seconds
  elapsed_s REAL NOT NULL,              -- from handing out to answering, by the server's clock
  at REAL NOT NULL,
  PRIMARY KEY (listener, trial)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Listener:
    """Someone who has a link.

    Attributes:
        number: from 0; the order of what is heard follows from it.
        ident: the public half of the token, also the name in the results.
        secret: the other half.
    """

    number: int
    ident: str
    secret: str

    @property
    def token(self) -> str:
        return f"{self.ident}.{self.secret}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a listener said.

    Attributes:
        listener, trial: whose, and its place in the listener's plan.
        answer_id: made by the browser; the same when it asks again.
        choice: ``a``, ``b``, ``tie``, or ``1`` to ``5``.
        heard: letter to seconds that were played.
        elapsed_s: from handing the question out to the answer.
        at: seconds since 1970.
    """

    listener: int
    trial: int
    answer_id: str
    choice: str
    heard: Mapping[str, float]
    elapsed_s: float = 0.0
    at: float = 0.0


Outcome = Literal["saved", "again", "other", "unopened"]


class Store:
    """The database of one test; safe to use from several threads, and from several processes.

    Args:
        folder: of the test.
        create: make it if it is not there.

    Raises:
        UserError: there is none, it cannot be opened, or it is a newer version's.
    """

    def __init__(self, folder: str | Path, *, create: bool = False) -> None:
        self.path = Path(folder) / FILE
        if not create and not self.path.is_file():
            raise UserError(
                f"{folder}: nobody has listened yet", "run `tunesmith listen serve` first"
            )
        self._lock = threading.Lock()
        try:
            if create and not self.path.exists():
                self._make()
            self._db = sqlite3.connect(
                self.path, timeout=10.0, isolation_level=None, check_same_thread=False
            )
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            found = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: not readable ({error})",
                "keep the test on a local disk; if the file is damaged, make the test again",
            ) from None
        if int(found["format"]) > _FORMAT:
            raise UserError(f"{self.path} was written by a newer version", "update tunesmith")
        self.key = bytes.fromhex(found["key"])
        self.invitation = found["invitation"]

    def _make(self) -> None:
        """Built beside and renamed: a kill in between leaves no half a database."""
        temporary = self.path.with_name(f".{FILE}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        db = sqlite3.connect(temporary)
        try:
            db.executescript(_SCHEMA)
            values = {
                "format": str(_FORMAT),
                "key": secrets.token_hex(32),
                "invitation": secrets.token_hex(16),
            }
            db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
            db.commit()
        finally:
            db.close()
        with suppress(FileExistsError):
            os.link(temporary, self.path)  # unlike a rename it never replaces what another one made
        temporary.unlink()
        sync_folder(self.path.parent)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            try:
                self._db.execute("COMMIT")
            except BaseException:  # the disk is full: nothing may be half done
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def listeners(self) -> list[Listener]:
        """All of them, in the order of their numbers."""
        rows = self._rows("SELECT number, ident, secret FROM listeners ORDER BY number")
        return [Listener(*row) for row in rows]

    def add_listeners(self, count: int) -> list[Listener]:
        """The first ``count`` listeners; those who are not there yet are made."""
        with self._transaction() as db:
            have = db.execute("SELECT COUNT(*) FROM listeners").fetchone()[0]
            for _ in range(have, count):
                _insert(db, None)
        return self.listeners()[:count]

    def join(self, nonce: str, most: int) -> Listener | None:
        """A new listener for a browser, or the one it got before; None if there are ``most``.

        Args:
            nonce: made by the browser, so that asking twice makes one listener.
            most: how many there may be.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT number, ident, secret FROM listeners WHERE nonce = ?", (nonce,)
            ).fetchone()
            if row is None:
                if db.execute("SELECT COUNT(*) FROM listeners").fetchone()[0] >= most:
                    return None
                return _insert(db, nonce)
            return Listener(*row)

    def invited(self, token: str) -> bool:
        """Whether a token is the invitation, compared in constant time."""
        return hmac.compare_digest(token.encode(), f"join.{self.invitation}".encode())

    def by_token(self, token: str) -> Listener | None:
        """Whose token it is; the secret half is compared in constant time."""
        ident, _, secret = token.partition(".")
        rows = self._rows("SELECT number, ident, secret FROM listeners WHERE ident = ?", ident)
        listener = Listener(*rows[0]) if rows else None
        # Compared in either case: how long it takes must not tell which idents exist.
        right = listener.secret if listener else "0" * 32
        same = hmac.compare_digest(secret.encode(), right.encode())
        return listener if listener and same else None

    def done(self, listener: int) -> int:
        """How many trials a listener has answered: the place of the next."""
        return self._rows("SELECT COUNT(*) FROM answers WHERE listener = ?", listener)[0][0]

    def open_trial(self, listener: int, trial: int) -> None:
        """Note when a trial was first handed out."""
        query = "SELECT 1 FROM opened WHERE listener = ? AND trial = ?"
        if not self._rows(query, listener, trial):
            with self._transaction() as db:
                db.execute(
                    "INSERT OR IGNORE INTO opened VALUES (?, ?, ?)", (listener, trial, time.time())
                )

    def answer(self, given: Answer) -> Outcome:
        """Keep an answer; when this returns ``saved`` or ``again``, it is on the disk.

        Returns:
            ``saved`` the first time; ``again`` if this very answer had been saved; ``other`` if the
            trial was answered differently before, which stays; ``unopened`` if it is not its turn.
        """
        key = (given.listener, given.trial)
        with self._transaction() as db:
            row = db.execute(
                "SELECT answer_id FROM answers WHERE listener = ? AND trial = ?", key
            ).fetchone()
            if row is not None:
                return "again" if row[0] == given.answer_id else "other"
            done = db.execute(
                "SELECT COUNT(*) FROM answers WHERE listener = ?", (given.listener,)
            ).fetchone()[0]
            opened = db.execute(
                "SELECT at FROM opened WHERE listener = ? AND trial = ?", key
            ).fetchone()
            if opened is None or done != given.trial:
                return "unopened"
            now = time.time()
            db.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *key,
                    given.answer_id,
                    given.choice,
                    json.dumps(dict(given.heard)),
                    now - opened[0],
                    now,
                ),
            )
        return "saved"

    def answers(self) -> list[Answer]:
        """All answers, by listener and place."""
        rows = self._rows("SELECT * FROM answers ORDER BY listener, trial")
        return [_answer(dict(row)) for row in rows]


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(**row | {"heard": json.loads(row["heard"])})


def _insert(db: sqlite3.Connection, nonce: str | None) -> Listener:
    number = db.execute("SELECT COALESCE(MAX(number) + 1, 0) FROM listeners").fetchone()[0]
    listener = Listener(number, secrets.token_hex(4), secrets.token_hex(16))
    db.execute(
        "INSERT INTO listeners VALUES (?, ?, ?, ?, ?)",
        (number, listener.ident, listener.secret, nonce, time.time()),
    )
    return listener
