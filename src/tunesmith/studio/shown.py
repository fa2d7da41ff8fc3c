"""What the page shows, as HTML: every text that is not ours is escaped here, and no path is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tunesmith.formats.sound import read_made_of
from tunesmith.registry import loss_unit
from tunesmith.report._facts import heard, losses
from tunesmith.report.figures import Curve, Mark, svg
from tunesmith.studio.shelf import Shelf
from tunesmith.studio.work import Piece

_TONES = {"too little": "bad", "enough to try": "even", "good": "good", "best": "good"}
_WORDS = {"better": "good", "worse": "bad", "no change": "even", "not measured": "even"}
_HEARD = 12
"""Players of one kind; the check page has the rest."""

_STRETCH_S = 10.0
_HERE = (
    ("`tunesmith prepare --rights` keeps it", "'Rights in the recordings' above keeps it"),
    ("`tunesmith prepare --rights`", "prepare it with 'Rights in the recordings'"),
    (
        "--consent 'who agreed to what, and when'",
        "say under 'Consent' who agreed to what, and when",
    ),
    ("use --to peft", "choose the form 'PEFT adapter'"),
    ("; run the same command again to go on", ""),
    ("; run the same command again", ""),
)
"""What messages say of the command line, and where it stands on this page."""


def text(words: Any) -> str:
    """Escaped."""
    return escape(str(words), quote=True)


def prose(words: Any) -> str:
    """Escaped; what messages say of the command line in the words of this page, commands as code."""
    plain = str(words)
    for command, here in _HERE:
        plain = plain.replace(command, here)
    parts = text(plain).split("`")
    if len(parts) % 2 == 0:  # one alone is no pair
        return text(plain)
    return "".join(f"<code>{one}</code>" if n % 2 else one for n, one in enumerate(parts))


def note(words: str, tone: str = "even") -> str:
    """A line that stands for itself."""
    return f'<p class="note {tone}">{prose(words)}</p>' if words else ""


def clock(seconds: float) -> str:
    """``2 min 5 s``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def status(piece: Piece | None, idle: str = "") -> str:
    """How a piece of work stands: what it is at, how far, what it said, and what went wrong."""
    if piece is None:
        return note(idle)
    out = []
    if piece.runs:
        stage = "stopping at the next safe place" if piece.stopping else piece.stage or "starting"
        counted = ""
        if piece.total and piece.total <= 100_000:
            counted = f" {piece.done:,.0f} of {piece.total:,.0f}"
        share = min(1.0, piece.done / piece.total) if piece.total else None
        value = f' value="{share:.3f}"' if share is not None else ""
        loss = piece.told.get("train", {}).get("loss") if piece.stage == "training" else None
        measured = f" · loss {loss:.3f}" if isinstance(loss, float) else ""
        out.append(
            f'<p class="at"><strong>{text(piece.title)}</strong> {text(stage)}{counted}{measured}'
            f' <span class="quiet">{clock(piece.seconds)}</span></p>'
            f"<progress{value} aria-label='{text(piece.title)}'></progress>"
        )
    elif piece.state == "done":
        out.append(note(f"{piece.title}: done in {clock(piece.seconds)}.", "good"))
    elif piece.state == "stopped":
        out.append(note(f"{piece.title}: {piece.error}"))
    else:
        out += [note(line, "bad") for line in piece.error.splitlines()]
    if piece.said:
        lines = "".join(f"<li>{text(line)}</li>" for line in list(piece.said)[-8:])
        out.append(f'<ul class="said">{lines}</ul>')
    return f'<div class="status">{"".join(out)}</div>'


def player(address: str, label: str) -> str:
    """One sound; words where it is gone."""
    if not address:
        return '<span class="quiet">not there</span>'
    return (
        f'<audio controls preload="none" src="{text(address)}" aria-label="{text(label)}"></audio>'
    )


def link(address: str, words: str) -> str:
    """A report in a window of its own."""
    if not address:
        return ""
    return f'<a href="{text(address)}" target="_blank" rel="noopener">{text(words)}</a>'


def verdict(word: str, tone: str, sentences: Iterable[str], mend: Iterable[str] = ()) -> str:
    """An answer with its reasons, and what to do."""
    said = "".join(f"<p>{prose(one)}</p>" for one in sentences)
    todo = "".join(f"<li>{prose(one)}</li>" for one in mend)
    todo = f"<p class='quiet'>To make it better:</p><ul>{todo}</ul>" if todo else ""
    return f'<div class="verdict {tone}"><h3>{text(word)}</h3>{said}{todo}</div>'


def data_report(result: Mapping[str, Any], root: Path, source: Path | None, shelf: Shelf) -> str:
    """Minutes kept, the verdict, what was left out and what is flagged, to hear with its reason.

    Args:
        result: what :func:`tunesmith.studio.jobs.look` returned, or ``prepare``.
        root: the data set.
        source: where its recordings are; None if that is not known.
        shelf: lends the sounds.
    """
    found = result["check"]
    counts, judged = found["counts"], found["verdicts"][0]
    name = str(judged["method"]).replace("_", " ")
    facts = [
        ("kept", f"{counts['seconds'] / 60:.1f} min"),
        ("clips", f"{counts['clips']:,}"),
        ("to train", f"{counts['train']:,}"),
        ("to validate", f"{counts['valid']:,}"),
        ("recordings", f"{counts['recordings']:,}"),
    ]
    boxes = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)
    out = [
        f'<dl class="facts">{boxes}</dl>',
        verdict(
            f"{str(judged['word']).capitalize()} for {name}",
            _TONES[judged["word"]],
            judged["sentences"],
            judged["mend"],
        ),
    ]
    findings = "".join(
        f"<li>{prose(one['what'])} {prose(one['mend'])}</li>" for one in found["findings"]
    )
    if findings:
        out.append(f"<h4>What to look at</h4><ul>{findings}</ul>")
    out += [note(one) for one in result.get("warnings", ())[:5]]
    out.append(_flagged(found["screening"]["clips"], root, shelf))
    out.append(_left_out(root, source, shelf))
    page = link(shelf.page(root / "check.html"), "The whole report, with every figure")
    return f'<div class="report">{"".join(out)}<p>{page}</p></div>'


def _flagged(clips: Sequence[Mapping[str, Any]], root: Path, shelf: Shelf) -> str:
    rows = [
        (one["file"], shelf.sound(root / one["file"]), [f["reason"] for f in one["faults"]])
        for one in clips[:_HEARD]
    ]
    return _cards("Flagged, and in the set", rows, len(clips))


def _left_out(root: Path, source: Path | None, shelf: Shelf) -> str:
    from tunesmith.data._clip_measures import refusals

    found = refusals(root)
    rows = []
    for one in found[:_HEARD]:
        address = ""
        if source is not None:
            file = source if source.is_file() else source / one.file
            # The name is the data set's own word; it must not lead out of the recordings.
            if file.resolve().is_relative_to(source.resolve()):
                address = shelf.sound(file, one.start_s, _STRETCH_S)
        at = f" at {clock(one.start_s)}" if one.start_s else ""
        rows.append((f"{one.file}{at}", address, [one.reason]))
    return _cards("Left out", rows, len(found))


def _cards(title: str, rows: Sequence[tuple[str, str, Sequence[str]]], count: int) -> str:
    if not rows:
        return ""
    cards = "".join(
        f'<div class="card"><strong>{text(name)}</strong>'
        f"<p>{text('; '.join(reasons))}</p>{player(address, name)}</div>"
        for name, address, reasons in rows
    )
    more = note(f"and {count - len(rows)} more in the whole report") if count > len(rows) else ""
    return f'<h4>{text(title)} ({count:,})</h4><div class="cards">{cards}</div>{more}'


def curves(lines: Sequence[dict[str, Any]], family: str) -> str:
    """Loss, validation and what a voice was heard to be, as far as the run has come."""
    valid = [line for line in lines if line["kind"] == "valid" and "loss" in line]
    best = min(valid, key=lambda line: line["loss"])["step"] if valid else 0
    drawn = [one for one in (losses(lines, best, loss_unit(family)), heard(lines, best)) if one]
    out = []
    for place, curve in enumerate(drawn):
        # "kept" is said of a run that has ended; here it is the best so far.
        marks = [Mark(best, "best so far")] if valid else []
        shown = Curve(curve.title, curve.x_label, curve.y_label, curve.series, marks)
        names = "".join(
            f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><line class="line s{i}" x1="0" '
            f'x2="24" y1="4" y2="4"/></svg>{text(name)}</li>'
            for i, name in enumerate(curve.series)
        )
        out.append(
            f"<figure><figcaption><strong>{text(curve.title)}</strong> "
            f'<span class="quiet">{text(curve.y_label)}</span><ul class="key">{names}</ul>'
            f"</figcaption>{svg(shown, f'studio-{place}', 640, 260)}</figure>"
        )
    return f'<div class="curves">{"".join(out)}</div>' if out else ""


def pitfalls(lines: Sequence[Mapping[str, Any]]) -> str:
    """What was found to go wrong while training, with its mend."""
    found = [line for line in lines if line["kind"] == "pitfall"]
    if not found:
        return ""
    rows = "".join(
        f"<li><strong>Step {line['step']}.</strong> {text(line['message'])} "
        f"{text(line.get('mend', ''))}"
        + (f" <em>Done: {text(line['action'])}</em>" if line.get("action") else "")
        + "</li>"
        for line in found[-12:]
    )
    return f"<h4>Pitfalls</h4><ul class='pitfalls'>{rows}</ul>"


def previews(run: Path, shelf: Shelf) -> str:
    """The previews of a run: a row a prompt, from the base (step 0) to the latest step."""
    steps = sorted((run / "previews").glob("step-*"))
    names = sorted({file.name for step in steps for file in step.glob("*.flac")})
    rows = []
    for name in names:
        files = [step / name for step in steps if (step / name).is_file()]
        try:
            told = read_made_of(files[0])
        except (OSError, RuntimeError):
            continue
        # The first and the latest say most; what lies between says how it got there.
        shown = [*files[:1], *files[1:][-3:]]
        columns = [(_step_name(file), shelf.sound(file)) for file in shown]
        rows.append((str(told.get("prompt") or "no text"), f"seed {told.get('seed')}", columns))
    return f"<h4>Previews</h4>{takes(rows)}" if rows else ""


def _step_name(file: Path) -> str:
    step = int(file.parent.name.removeprefix("step-"))
    return f"step {step}" if step else "base"


def takes(rows: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]) -> str:
    """Sounds side by side: ``(prompt, what else, [(who, address)])`` a row."""
    out = []
    for prompt, what, columns in rows:
        cells = "".join(
            f'<div><span class="who">{text(who)}</span>{player(address, f"{who}: {prompt}")}</div>'
            for who, address in columns
        )
        out.append(
            f'<div class="take"><p>{text(prompt)} <span class="quiet">{text(what)}</span></p>'
            f'<div class="sides">{cells}</div></div>'
        )
    return f'<div class="takes">{"".join(out)}</div>' if out else ""


def evaluated(verdicts: Mapping[str, Mapping[str, Any]], page: str) -> str:
    """What an evaluation came to."""
    out = [
        verdict(
            f"{name}: {str(one['word']).upper()}. {one['headline']}",
            _WORDS.get(str(one["word"]), "even"),
            one["sentences"],
        )
        for name, one in verdicts.items()
    ]
    return f"{''.join(out)}<p>{link(page, 'The whole report')}</p>"


def caption_note(changed: int) -> str:
    """What saving captions came to."""
    if not changed:
        return note("Nothing differs from what the data set has.")
    return note(
        f"{changed} caption{'s' if changed > 1 else ''} written; training reads them.", "good"
    )


__all__ = [
    "caption_note",
    "clock",
    "curves",
    "data_report",
    "evaluated",
    "link",
    "note",
    "pitfalls",
    "player",
    "previews",
    "prose",
    "status",
    "takes",
    "text",
    "verdict",
]
