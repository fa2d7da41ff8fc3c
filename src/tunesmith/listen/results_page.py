"""The results as one HTML page without any outside part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.atomic import write_bytes
from tunesmith.errors import UserError
from tunesmith.listen import words
from tunesmith.listen.analysis import Comparison, Group, Results
from tunesmith.listen.design import SCALE
from tunesmith.listen.page import house_style
from tunesmith.listen.plots import Spot, Stack, forest, stacks

_HERE = Path(__file__).parent
_WIDTHS = {"wide": 880, "narrow": 340}
_KINDS = {"ab": "A/B preference", "abx": "ABX", "mos": "Mean opinion score"}
_CLASSES = {"ab": ("other", "tie", "base"), "abx": ("other", "base")}
_POINTS = ("p1", "p2", "p3", "p4", "p5")


def write_results(results: Results, path: str | Path) -> Path:
    """Write the page, all or nothing.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written", "give --out a file in a folder that exists")
    write_bytes(path, render(results).encode("utf-8", errors="replace"))
    return path


def render(results: Results) -> str:
    """The page as a string."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = house_style() + (_HERE / "results.css").read_text(encoding="utf-8")
    tone = words.tone(results)
    return environment.get_template("results.html.j2").render(
        style=Markup(style),
        results=results,
        test=results.test,
        kind=_KINDS[results.test.kind],
        tone={"no change": "same"}.get(tone, tone),
        badge=_badge(results),
        headline=words.headline(results),
        sentences=words.sentences(results),
        assumptions=words.assumptions(results),
        remarks=words.remarks(results),
        main=_main(results),
        parts=_parts(results),
        percent=words.percent,
        p_words=words.p_words,
        interval_words=words.interval_words,
        items=sum(not item.training for item in results.test.items),
    )


def _badge(results: Results) -> str:
    tone = words.tone(results)
    if tone == "unknown":
        return "Too early to say" if not results.counted else "Rated"
    if results.test.kind == "abx":
        return "A difference is heard" if tone == "better" else "No difference shown"
    return {"better": "Better", "worse": "Worse", "no change": "No clear difference"}[tone]


def _drawn(draw: Any, ident: str, **settings: Any) -> dict[str, Markup]:
    """Twice: text in an SVG shrinks with it, so phones get a narrow drawing of their own."""
    return {
        name: Markup(draw(ident=f"{ident}{name[0]}", width=width, **settings))
        for name, width in _WIDTHS.items()
    }


def _main(results: Results) -> dict[str, Markup] | None:
    if not results.counted:
        return None
    if results.test.kind == "mos":
        spots = []
        for one in results.ratings:
            if one.mean is not None:
                name = one.side + (f" ({one.role})" if one.role != "system" else "")
                low, high = one.interval or (one.mean, one.mean)
                reach = f" ({low:.2f} to {high:.2f})" if one.interval else ""
                spots.append(Spot(name, one.mean, (low, high), f"{one.mean:.2f}{reach}"))
        settings = {"ends": (1.0, 5.0), "ticks": (1.0, 2.0, 3.0, 4.0, 5.0), "middle": None}
        return _drawn(
            forest, "m", spots=spots, title="Mean opinion scores", shown="{:.0f}".format, **settings
        )
    spots = [spot for one in results.comparisons for spot in _spots(results, one)]
    if not spots:
        return None
    return _drawn(
        forest,
        "m",
        spots=spots,
        title="Shares with their intervals",
        ends=(0.0, 1.0),
        ticks=(0.0, 0.25, 0.5, 0.75, 1.0),
        middle=0.5,
        shown=words.percent,
    )


def _spots(results: Results, one: Comparison) -> list[Spot]:
    about = f"{one.other}: " if len(results.comparisons) > 1 else ""
    out = []
    for name, found in (
        ("answers", one.answers),
        ("one vote a listener", one.listeners),
    ):
        if found.value is not None and found.interval is not None:
            text = f"{words.percent(found.value)} of {found.n}"
            out.append(Spot(f"{about}{name}", found.value, found.interval, text))
    if one.resampled is not None and one.answers.value is not None:
        text = words.interval_words(one.resampled)
        out.append(
            Spot(f"{about}other listeners, other items", one.answers.value, one.resampled, text)
        )
    return out


def _parts(results: Results) -> list[dict[str, Any]]:
    """Further drawings: counts by item and by listener, or of ratings."""
    if not results.counted:
        return []
    if results.test.kind == "mos":
        bars = [Stack(one.side, one.counts) for one in results.ratings if one.n]
        legend = [f"{point} {word}" for point, word in enumerate(SCALE, 1)]
        title = "How often each rating was given"
        return [
            {
                "title": title,
                "legend": list(zip(legend, _POINTS, strict=True)),
                "drawn": _drawn(
                    stacks, "r", bars=bars, title=title, legend=legend, classes=_POINTS
                ),
            }
        ]
    out = []
    for index, one in enumerate(results.comparisons):
        for kind, groups in (("item", one.per_item), ("listener", one.per_listener)):
            if not groups:
                continue
            names, classes = _legend(results, one), _CLASSES[results.test.kind]
            about = f": {one.other} and {one.base}" if len(results.comparisons) > 1 else ""
            title = f"By {kind}{about}"
            bars = [Stack(group.name, _counts(results, group)) for group in groups]
            out.append(
                {
                    "title": title,
                    "legend": list(zip(names, classes, strict=True)),
                    "drawn": _drawn(
                        stacks,
                        f"{kind[0]}{index}",
                        bars=bars,
                        title=title,
                        legend=names,
                        classes=classes,
                    ),
                }
            )
    return out


def _legend(results: Results, one: Comparison) -> tuple[str, ...]:
    if results.test.kind == "abx":
        return "right", "wrong"
    return f"prefer {one.other}", "no preference", f"prefer {one.base}"


def _counts(results: Results, group: Group) -> tuple[int, ...]:
    if results.test.kind == "abx":
        return group.won, group.lost
    return group.won, group.ties, group.lost
