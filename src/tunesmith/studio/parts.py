"""What the tabs share: the studio itself, errors as one line, and what has changed since last time."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from tunesmith.errors import Stopped, UserError
from tunesmith.registry import COMPOSED, plugins
from tunesmith.studio.band import Band
from tunesmith.studio.places import Places
from tunesmith.studio.shelf import Shelf
from tunesmith.studio.shown import prose
from tunesmith.studio.work import Work

TICK_S = 1.0
"""How often a page asks how work stands, while there is some."""


@dataclass(frozen=True, slots=True)
class Studio:
    """What the tabs work with; one of each, whatever the number of pages.

    Attributes:
        places: where things lie.
        work: what runs in the background.
        shelf: lends sounds and reports to the page.
        band: the base that is kept loaded.
        host: the address that the studio itself listens on.
    """

    places: Places
    work: Work = field(default_factory=Work)
    shelf: Shelf = field(default_factory=Shelf)
    band: Band = field(default_factory=Band)
    host: str = "127.0.0.1"


def one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """An event's function whose errors reach the page as one line, never as a traceback."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except gr.Error:
            raise
        except (UserError, Stopped) as error:
            raise _error(str(error)) from None
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise _error(
                f"a fault of the program: {last} (the terminal has the traceback)"
            ) from None

    return wrapper


def _error(message: str) -> gr.Error:
    # Gradio would take the message for HTML, and file names may be in it.
    lines = "<br>".join(prose(line) for line in message.splitlines())
    return gr.Error(lines, duration=15, title="That did not work", print_exception=False)


def on(
    event: Callable[..., Any],
    function: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    *,
    busy: bool = False,
) -> Any:
    """Listen to an event: no programming interface; a spinner over the outputs only if it is ``busy``."""
    return event(
        one_line(function),
        inputs,
        outputs,
        api_visibility="private",
        show_progress="full" if busy else "hidden",
    )


def button(words: str, elem_id: str = "", *, main: bool = False) -> gr.Button:
    """A button as wide as its words, so that a row shows which one matters."""
    return gr.Button(
        words,
        variant="primary" if main else "secondary",
        elem_id=elem_id or None,
        elem_classes="fits",
        scale=0,
    )


def news(seen: dict[str, Any], key: str, value: Any) -> Any:
    """A value, or nothing where the page shows it already: a player that plays is left alone."""
    if key in seen and seen[key] == value:
        return gr.skip()
    seen[key] = value
    return value


def clock(work: Work, key: str) -> gr.Timer:
    """A timer that runs as long as the work does."""
    piece = work.of(key)
    return gr.Timer(TICK_S, active=piece is not None and piece.runs)


def chosen(names: list[str], value: str | None = None) -> gr.Dropdown:
    """A list of names anew, with one of them chosen: ``value`` if it is there, else the first."""
    return gr.Dropdown(
        choices=names, value=value if value in names else names[0] if names else None
    )


def optional(label: str, info: str = "", elem_id: str | None = None) -> gr.Textbox:
    """A number that may be left out; Gradio's own field for numbers would show a 0."""
    return gr.Textbox(
        label=label, info=info or None, placeholder="as usual", min_width=120, elem_id=elem_id
    )


def number(text: str | None, label: str) -> float | None:
    """What :func:`optional` holds, an integer where it is a whole number; None where nothing was said.

    Raises:
        UserError: something else than a number was.
    """
    if not (text or "").strip():
        return None
    try:
        value = float(str(text).strip())
    except ValueError:
        raise UserError(f"{label}: {text!r} is no number", "give one, or nothing") from None
    return int(value) if value.is_integer() else value


def methods() -> list[str]:
    """Every name that a method may be given by."""
    return [*plugins("methods"), *COMPOSED]


def stop_button(studio: Studio, button: gr.Button, watched: gr.State) -> None:
    """A button that stops the work that a tab watches."""

    def stop(key: str) -> None:
        if not studio.work.stop(key):
            raise UserError("nothing is running here")

    on(button.click, stop, [watched], [])


__all__ = [
    "TICK_S",
    "Studio",
    "button",
    "chosen",
    "clock",
    "methods",
    "news",
    "number",
    "on",
    "one_line",
    "optional",
    "stop_button",
]
