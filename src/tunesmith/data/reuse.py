"""What an earlier run has cut is not cut again: another caption, split or recording needs no hour.

A data set keeps the records of its recordings under ``.prepare/``. When it is made again, a
recording with the same content and the same settings of cutting is put back together from the clips
that stand in the data set, as far as every one of them is there with the bytes that were written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from tunesmith.atomic import link_or_copy, write_bytes
from tunesmith.data.audiofolder import RECORDS, SPLITS
from tunesmith.data.cut import RECORD, CutRecord
from tunesmith.data.sources import file_sha256
from tunesmith.data.tables import read_table
from tunesmith.data.tell import HEARD


def keep(built: Path, staging: Path, keys: Iterable[str]) -> None:
    """Copies the records of the recordings with these keys into the data set at ``built``.

    Errors: :class:`~tunesmith.errors.UserError` when they cannot be written.
    """
    folder = built / RECORDS
    folder.mkdir(exist_ok=True)
    for key in keys:
        for name in (RECORD, HEARD):
            source = staging / key / name
            if source.is_file():
                write_bytes(folder / f"{key}.{name}", source.read_bytes())


def restore(dest: Path, staging: Path, keys: Iterable[str]) -> None:
    """Puts the finished work of an earlier run back into ``staging``, where all of it is there.

    What cannot be used is passed over in silence: it is cut again.
    """
    wanted = [key for key in keys if not (staging / key / RECORD).exists()]
    wanted = [key for key in wanted if (dest / RECORDS / f"{key}.{RECORD}").is_file()]
    if not wanted:
        return
    standing: dict[str, Path] = {}
    for side in SPLITS:
        table = dest / side / "metadata.jsonl"
        if table.is_file():
            for row in read_table(table):
                if not isinstance(row, str):
                    standing[str(row.columns.get("sha256"))] = row.file
    for key in wanted:
        _restore(dest / RECORDS, staging / key, key, standing)


def _restore(records: Path, folder: Path, key: str, standing: dict[str, Path]) -> None:
    data = (records / f"{key}.{RECORD}").read_bytes()
    try:
        record = CutRecord.from_json(json.loads(data))
        files = [(clip, standing[clip.sha256]) for clip in record.clips]
        if any(file_sha256(path) != clip.sha256 for clip, path in files):
            return
    except (OSError, ValueError, KeyError, TypeError):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for clip, path in files:
        link_or_copy(path, folder / clip.file)
    heard = records / f"{key}.{HEARD}"
    if heard.is_file():
        write_bytes(folder / HEARD, heard.read_bytes())
    # Last, as in cutting: where it stands, the recording is finished.
    write_bytes(folder / RECORD, data)
