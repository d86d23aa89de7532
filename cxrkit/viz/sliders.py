"""Widgets: controls around a function that returns a figure.

A lesson also calls the plain function once, so that a page without a kernel shows the same figure.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import ipywidgets

from cxrkit.viz import style as style_module

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = {"description_width": "initial"}  # shows a long description whole


class Box(ipywidgets.VBox):
    """Widgets in a column; those that a caller needs are its attributes."""


def _control(name: str, values: Any) -> ipywidgets.ValueWidget:
    """A control for one argument: a list = choices, (low, high, step) = a slider, bool = a box."""
    if isinstance(values, bool):
        return ipywidgets.Checkbox(value=values, description=name, indent=False)
    if not isinstance(values, tuple):
        return ipywidgets.Dropdown(options=list(values), description=name, style=WIDE)
    low, high, step = values
    whole = all(isinstance(value, int) for value in values)
    slider = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return slider(
        value=low,
        min=low,
        max=high,
        step=step,
        description=name,
        continuous_update=False,
        style=WIDE,
    )


def _said(error: Exception) -> str:
    """An error for the reader: a widget that fails in silence looks frozen."""
    text = f"{type(error).__name__}: {html.escape(str(error))}"
    return f"<b style='color:{style_module.RED}'>{text}</b>"


def explore(
    figure_of: Callable[..., Figure],
    start: Mapping[str, Any] | None = None,
    remember: int = 64,
    **controls: Any,
) -> ipywidgets.VBox:
    """Controls over `figure_of(**arguments)`; the figure follows them.

    An exception is shown below the controls, and the figure before it stays.

    Args:
        figure_of: argument values -> figure.
        start: argument name -> first value, where it is not the first one of its control.
        remember: so many figures are kept and shown again without drawing.
        **controls: argument name = list of choices, (low, high, step) or bool.

    Returns:
        A widget with `.controls` {name: widget}, `.picture` (Image) and `.message` (HTML).
    """
    widgets = {name: _control(name, values) for name, values in controls.items()}
    for name, value in (start or {}).items():
        widgets[name].value = value
    picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    message = ipywidgets.HTML()

    @lru_cache(maxsize=remember)
    def draw(**arguments: Any) -> bytes:
        return style_module.to_png(figure_of(**arguments))

    def refresh(_: Any = None) -> None:
        arguments = {name: widget.value for name, widget in widgets.items()}
        try:
            picture.value = draw(**arguments)
            message.value = ""
        except Exception as error:
            message.value = _said(error)

    for widget in widgets.values():
        widget.observe(refresh, names="value")
    refresh()
    row = ipywidgets.HBox(list(widgets.values()), layout={"flex_flow": "row wrap"})
    box = ipywidgets.VBox([row, message, picture])
    box.controls = widgets
    box.picture = picture
    box.message = message
    return box


def run_on_click(
    name: str, work: Callable[[Callable[[str, str], None], Callable[[], bool]], None]
) -> Box:
    """A button that starts work which takes a while, and one that stops it.

    The work runs in a thread of its own, so the other cells of a notebook can be run meanwhile and
    the stop is heard. Nothing runs before the click. An exception is shown below the buttons.

    Args:
        name: on the button.
        work: called with show(picture, message), the picture an SVG and the message HTML, and with
            stopped() -> whether the reader has asked for an end.

    Returns:
        A widget with `.start` and `.stop` (Button), `.picture` and `.message` (HTML), and
        `.thread`, None before the first click.
    """
    start = ipywidgets.Button(description=name, button_style="primary", layout={"width": "auto"})
    stop = ipywidgets.Button(description="Stop", disabled=True)
    message, picture = ipywidgets.HTML(), ipywidgets.HTML()
    box = Box([ipywidgets.HBox([start, stop]), message, picture])
    asked = threading.Event()

    def show(svg: str, text: str) -> None:
        picture.value, message.value = svg, text

    def run() -> None:
        try:
            work(show, asked.is_set)
        except Exception as error:
            message.value = _said(error)
        finally:
            start.disabled, stop.disabled = False, True

    def begin(_: ipywidgets.Button) -> None:
        asked.clear()
        start.disabled, stop.disabled = True, False
        box.thread = threading.Thread(target=run, daemon=True)
        box.thread.start()

    start.on_click(begin)
    stop.on_click(lambda _: asked.set())
    box.start, box.stop, box.picture, box.message, box.thread = start, stop, picture, message, None
    return box
