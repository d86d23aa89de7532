"""Widgets: controls around a function that returns a figure.

A lesson also calls the plain function once, so that a page without a kernel shows the same figure.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import ipywidgets

from cxrkit.viz import style as style_module

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = {"description_width": "initial"}  # shows a long description whole


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
            # shown to the reader: a widget that fails in silence looks frozen
            text = f"{type(error).__name__}: {html.escape(str(error))}"
            message.value = f"<b style='color:{style_module.RED}'>{text}</b>"

    for widget in widgets.values():
        widget.observe(refresh, names="value")
    refresh()
    row = ipywidgets.HBox(list(widgets.values()), layout={"flex_flow": "row wrap"})
    box = ipywidgets.VBox([row, message, picture])
    box.controls = widgets
    box.picture = picture
    box.message = message
    return box
