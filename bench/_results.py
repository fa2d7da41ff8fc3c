"""Rows of ``bench/RESULTS.md``: every script rewrites its own section and no other.

A section stands between two comments that carry its key. A row that a machine could not measure
(no GPU, no recordings) keeps the figure that was measured last, with the date and machine of then.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
NO_GPU = "not measured: no GPU"
_HEAD = "| what | bar | figure | command | date | machine |\n|---|---|---|---|---|---|\n"
_INTRO = """# What was measured

Written by the scripts in this folder: `python -m bench.NAME` rewrites its own section, `make bench`
all of them. Figures are medians; the range in brackets runs from the lowest to the highest repeat.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One claim.

    Attributes:
        what: the claim; with its section, the row's stable key.
        bar: what it has to reach; empty if it is only recorded.
        figure: what was measured; None if this machine could not.
        passed: whether the bar is reached; None if there is none.
        missing: what to say if nothing was ever measured.
    """

    what: str
    bar: str
    figure: str | None
    passed: bool | None = None
    missing: str = NO_GPU


def machine() -> str:
    """Processor, cores, memory and GPU in a few words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        name = found[1].strip() if found else name
    words = [f"{name}, {len(os.sched_getaffinity(0))} cores"]
    if Path("/proc/meminfo").is_file():
        total = int(Path("/proc/meminfo").read_text().split(None, 2)[1])
        words.append(f"{total / 2**20:.0f} GiB")
    try:
        import torch

        if torch.cuda.is_available():
            words.append(torch.cuda.get_device_name())
    except ImportError:
        pass
    return ", ".join(words)


def versions(*packages: str) -> str:
    """``python 3.11.9, torch 2.13.0 ...``."""
    found = [f"python {platform.python_version()}"]
    for package in packages or ("torch", "transformers", "peft"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """``1.23 s [1.20..1.31]``: median and range."""
    middle = f"{statistics.median(values):.{digits}f}{unit}"
    if len(values) < 2:
        return middle
    return f"{middle} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options that every script has."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--quick", action="store_true", help="a smoke run: small, and RESULTS.md stays as it is"
    )
    return made


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _old_rows(text: str) -> dict[str, list[str]]:
    rows = [_cells(line) for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in rows if len(cells) == 6 and cells[0] != "what"}


def tell(row: Row, packages: Sequence[str], lines: Path | None) -> None:
    """Print a row as one line of JSON, with when, where and by what it was measured, and add it to a file."""
    line = json.dumps(
        {
            **{name: getattr(row, name) for name in ("what", "bar", "figure", "passed")},
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": versions(*packages),
        }
    )
    print(line, flush=True)
    if lines is not None:
        with lines.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def told(
    lines: Path, titles: Iterable[tuple[str, str]]
) -> tuple[list[Row], tuple[str, str, str] | None]:
    """Rows of these claims and bars from what :func:`tell` wrote, and ``measured`` of :func:`record`.

    A claim that the file says nothing of keeps the figure that it had.
    """
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    by_what = {line["what"]: line for line in found}
    rows = []
    for what, bar in titles:
        line = by_what.get(what, {})
        rows.append(Row(what, bar, line.get("figure"), line.get("passed")))
    last = found[-1] if found else None
    return rows, (last["date"], last["machine"], last["versions"]) if last else None


def record(
    key: str,
    title: str,
    rows: Sequence[Row],
    *,
    notes: str = "",
    packages: Sequence[str] = (),
    command: str = "",
    measured: tuple[str, str, str] | None = None,
) -> None:
    """Print the rows and rewrite section ``key`` of ``RESULTS.md``.

    Args:
        key: stable key of the section: the script's name.
        title: its heading.
        rows: all rows of the section.
        notes: conditions that the figures stand under.
        packages: whose versions matter; torch, transformers and peft by default.
        command: what makes the rows again, after ``python -m bench.``; by default the key.
        measured: date, machine and versions, if it was not here and now.
    """
    begin, end = f"<!-- begin {key} -->", f"<!-- end {key} -->"
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else _INTRO
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
    old = _old_rows(found[0]) if found else {}
    today = datetime.date.today().isoformat()
    today, here, used = measured or (today, machine(), versions(*packages))
    lines = []
    for row in rows:
        if row.figure is None:
            cells = old.get(row.what) or [row.what, row.bar, row.missing, "", "", ""]
        else:
            mark = {True: " ✓", False: " ✗ missed", None: ""}[row.passed]
            again = f"`python -m bench.{command or key}`"
            cells = [row.what, row.bar, row.figure + mark, again, today, here]
        print(f"{cells[0]}: {cells[2]}" + (f"  (bar: {cells[1]})" if cells[1] else ""))
        lines.append("| " + " | ".join(cells) + " |\n")
    conditions = f"{notes.strip()} Versions: {used}.".strip()
    section = f"{begin}\n## {title}\n\n{_HEAD}{''.join(lines)}\n{conditions}\n{end}"
    text = (
        text[: found.start()] + section + text[found.end() :]
        if found
        else f"{text.rstrip()}\n\n{section}\n"
    )
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(RESULTS)
    print(f"{here}; {used}")
