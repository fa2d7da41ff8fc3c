"""Jobs in SQLite, their sounds beside it: what was accepted is on the disk, whatever ends the process.

One transaction a change, in write-ahead mode with ``synchronous=FULL``: a call returns after the disk
has it. A job ends once: the first end that is written stands, every later one is told so.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from tunesmith.atomic import disk_error, sync_folder
from tunesmith.errors import ResourceError, UserError
from tunesmith.formats.sound import write_sound
from tunesmith.serve.job import ENDED, Fault, Job, State, as_json, from_json
from tunesmith.serve.limits import Limits
from tunesmith.serve.refusals import Closing
from tunesmith.serve.request import Request
from tunesmith.types import Audio

FILE = "jobs.sqlite"
RESULTS = "results"
SUFFIX = ".flac"
_FORMAT = 1
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of acceptance
  id TEXT NOT NULL UNIQUE,
  key TEXT UNIQUE,                        -- of the asker, so that asking twice makes one job
  state TEXT NOT NULL CHECK (state IN {get_args(State)!r}),
  request TEXT NOT NULL,                  -- JSON
  progress REAL NOT NULL DEFAULT 0,
  starts INTEGER NOT NULL DEFAULT 0,
  fault TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '',
  file TEXT NOT NULL DEFAULT '',
  bytes INTEGER NOT NULL DEFAULT 0,
  audio_s REAL NOT NULL DEFAULT 0,
  made_at REAL NOT NULL,
  began_at REAL,
  ended_at REAL
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, seq);
CREATE INDEX jobs_by_file ON jobs (ended_at) WHERE file != '';
"""
_COLUMNS = (
    "id, key, state, request, progress, starts, fault, error, file, bytes, audio_s, "
    "made_at, began_at, ended_at"
)


class Store:
    """The jobs of one server, which holds the folder alone; safe to use from several threads.

    Args:
        folder: is made if it is not there.

    Raises:
        UserError: another server has it, it cannot be written, or it is a newer version's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.results = self.folder / RESULTS
        self._lock, self._open = threading.Lock(), True
        try:
            self.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.results) from None
        path = self.folder / FILE
        try:
            # Whoever restarts a server may be quicker than the old one is gone.
            self._db = sqlite3.connect(
                path, timeout=5.0, isolation_level=None, check_same_thread=False
            )
            with suppress(OSError):
                os.chmod(path, 0o600)  # prompts are nobody else's business
            # A second server would run every job again. The system lets go of the lock however we end.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.row_factory = sqlite3.Row
            self._prepare()
        except sqlite3.Error as error:
            busy = "locked" in str(error) or "busy" in str(error)
            raise UserError(
                f"{path}: {'another server uses it' if busy else f'not readable ({error})'}",
                "give each server a folder of its own, on a local disk",
            ) from None

    def _prepare(self) -> None:
        with self._transaction() as db:
            made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
            if not made:
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('format', ?)", (str(_FORMAT),))
        (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        if int(found) > _FORMAT:
            raise UserError(
                f"{self.folder / FILE} was written by a newer version", "update tunesmith"
            )

    def close(self) -> None:
        """Let go of the folder."""
        with self._lock:
            self._open = False
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._check_open()
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                    raise ResourceError(
                        f"the disk is full (writing {self.folder / FILE})", "free some space"
                    ) from error
                raise

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            self._check_open()
            return self._db.execute(query, values).fetchall()

    def _check_open(self) -> None:
        if not self._open:
            raise Closing

    # --- what comes in ---

    def add(self, request: Request, key: str = "") -> tuple[Job, bool]:
        """Accept a request; when this returns, it is on the disk.

        Args:
            request: with an id of its own.
            key: of the asker; if it is known, the job that it stands for is returned and none is made.

        Returns:
            The job, and whether it is new.

        Raises:
            ValueError: the id is taken.
            ResourceError: the disk is full.
        """
        job = Job(request.id, request, key=key, made_at=time.time())
        text = as_json(request)
        try:
            with self._transaction() as db:
                if key and (row := _one(db, "key", key)):
                    return _job(row), False
                db.execute(
                    "INSERT INTO jobs (id, key, state, request, made_at) VALUES (?, ?, ?, ?, ?)",
                    (job.id, key or None, job.state, text, job.made_at),
                )
        except sqlite3.IntegrityError:
            raise ValueError(f"the id {request.id} is taken") from None
        return job, True

    def restore(self, starts: int) -> list[Job]:
        """What an earlier process left undone, queued again, the first accepted first.

        A job that has been begun ``starts`` times without coming to an end is failed, as is one whose
        request this version cannot read. Files that no job speaks of are removed.

        Args:
            starts: how often a job may be begun.
        """
        found = []
        now = time.time()
        with self._transaction() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state IN ('queued', 'running') ORDER BY seq"
            ).fetchall()
            for row in rows:
                fault, error = "", ""
                if row["starts"] >= starts:
                    fault = "restarts"
                    error = f"the server ended {row['starts']} times while this job ran"
                else:
                    try:
                        from_json(row["request"])
                        found.append(
                            replace(_job(row), state="queued", progress=0.0, began_at=None)
                        )
                    except (TypeError, ValueError) as reason:
                        fault, error = "server", f"written by another version ({reason})"
                if fault:
                    db.execute(
                        "UPDATE jobs SET state = 'failed', fault = ?, error = ?, ended_at = ? "
                        "WHERE id = ?",
                        (fault, error, now, row["id"]),
                    )
            db.execute(
                "UPDATE jobs SET state = 'queued', progress = 0, began_at = NULL "
                "WHERE state = 'running'"
            )
        self._remove_strays()
        return found

    def _remove_strays(self) -> None:
        known = {row["file"] for row in self._rows("SELECT file FROM jobs WHERE file != ''")}
        for path in self.results.iterdir():
            if path.name not in known and path.name.endswith((SUFFIX, f"{SUFFIX}.tmp")):
                path.unlink(missing_ok=True)

    # --- what becomes of it ---

    def begin(self, id: str) -> Job | None:
        """A queued job runs, once more; None if it does not wait any more."""
        return self._change(
            id, ("queued",), "state = 'running', starts = starts + 1, began_at = ?", time.time()
        )

    def put_back(self, id: str) -> Job | None:
        """A running job waits again and was never begun: the server closes before it could end."""
        return self._change(
            id,
            ("running",),
            "state = 'queued', starts = starts - 1, began_at = NULL, progress = 0",
        )

    def finish(self, id: str, audio: Audio, made_of: Mapping[str, Any] | None = None) -> Job | None:
        """Write the sound, then say that the job is done; None if it had ended otherwise meanwhile.

        Args:
            id: of a running job.
            audio: its sound; kept as 16-bit FLAC.
            made_of: the recipe, for the file's comment.

        Raises:
            UserError: the file cannot be written; the job is as it was.
        """
        path = self.results / f"{id}{SUFFIX}"
        write_sound(path, audio, made_of)
        try:
            with path.open("rb") as file:  # before the row says that it is there
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise disk_error(error, path) from error
        sync_folder(self.results)
        job = self._change(
            id,
            ("queued", "running"),
            "state = 'done', progress = 1, file = ?, bytes = ?, audio_s = ?, ended_at = ?",
            path.name,
            size,
            audio.duration_s,
            time.time(),
        )
        if job is None:
            path.unlink(missing_ok=True)
        return job

    def fail(self, id: str, fault: Fault, error: str, progress: float = 0.0) -> Job | None:
        """A job cannot be done; None if it had ended already. ``fault``: see :class:`Job`."""
        return self._change(
            id,
            ("queued", "running"),
            "state = 'failed', fault = ?, error = ?, progress = ?, ended_at = ?",
            fault,
            error,
            progress,
            time.time(),
        )

    def cancel(self, id: str, progress: float = 0.0) -> Job | None:
        """A job is called off; None if it had ended already."""
        return self._change(
            id,
            ("queued", "running"),
            "state = 'cancelled', progress = ?, ended_at = ?",
            progress,
            time.time(),
        )

    def _change(self, id: str, states: Sequence[State], change: str, *values: object) -> Job | None:
        marks = ", ".join("?" * len(states))
        with self._transaction() as db:
            row = db.execute(
                f"UPDATE jobs SET {change} WHERE id = ? AND state IN ({marks}) RETURNING {_COLUMNS}",
                (*values, id, *states),
            ).fetchone()
        return None if row is None else _job(row)

    # --- what is asked ---

    def get(self, id: str) -> Job | None:
        """A job, if it is known."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", id)
        return _job(rows[0]) if rows else None

    def by_key(self, key: str) -> Job | None:
        """The job that an asker's key stands for."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM jobs WHERE key = ?", key)
        return _job(rows[0]) if rows else None

    def list(self, states: Sequence[State] = (), limit: int = 100, before: str = "") -> list[Job]:
        """Jobs, the last accepted first.

        Args:
            states: only those; all if empty.
            limit: how many at most.
            before: id of the job after which the list goes on.
        """
        clauses, values = ["1"], []
        if states:
            clauses.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        if before:
            clauses.append("seq < (SELECT seq FROM jobs WHERE id = ?)")
            values.append(before)
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM jobs WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?",
            *values,
            limit,
        )
        return [_job(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        rows = self._rows("SELECT state, COUNT(*) FROM jobs GROUP BY state")
        found = {row[0]: int(row[1]) for row in rows}
        return {state: found.get(state, 0) for state in get_args(State)}

    # --- what is let go ---

    def sweep(self, limits: Limits) -> int:
        """Delete the oldest sounds and forget the oldest ended jobs beyond what is kept.

        Returns:
            Sounds that were deleted.
        """
        rows = self._rows(
            "SELECT id, file, bytes, ended_at FROM jobs WHERE file != '' ORDER BY ended_at DESC, seq DESC"
        )
        oldest, size, gone = time.time() - limits.result_age_s, 0, []
        for place, row in enumerate(rows):
            size += row["bytes"]
            if place >= limits.results or size > limits.result_bytes or row["ended_at"] < oldest:
                gone.append(row)
        ended = ", ".join(f"'{state}'" for state in ENDED)
        old = self._rows(
            f"SELECT id, file FROM jobs WHERE state IN ({ended}) ORDER BY seq DESC LIMIT -1 OFFSET ?",
            limits.jobs,
        )
        if not gone and not old:
            return 0
        # The rows first: a row may lack its file for a moment, but no file outlives its row for good.
        with self._transaction() as db:
            db.executemany("UPDATE jobs SET file = '' WHERE id = ?", [(row["id"],) for row in gone])
            db.executemany("DELETE FROM jobs WHERE id = ?", [(row["id"],) for row in old])
        files = {row["file"] for row in [*gone, *old] if row["file"]}
        for name in files:
            (self.results / name).unlink(missing_ok=True)
        return len(files)


def _one(db: sqlite3.Connection, column: Literal["id", "key"], value: str) -> sqlite3.Row | None:
    return db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE {column} = ?", (value,)).fetchone()


def _job(row: sqlite3.Row) -> Job:
    plain = dict(row)
    try:
        request = from_json(plain["request"])
    except (TypeError, ValueError):  # of another version; that there was one can still be told
        request = Request(plain["id"], "", 0.0, 0)
    return Job(**plain | {"request": request, "key": plain["key"] or ""})


__all__ = ["FILE", "RESULTS", "SUFFIX", "Store"]
