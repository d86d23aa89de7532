"""Widgets: controls around the figure functions of `plots`. Each is a thin shell over a plain
function that lessons also call once, so that a page without a kernel shows the same picture.
"""

import html
from functools import lru_cache

import ipywidgets

from cxrkit.viz import style as style_module


def _control(name, values):
    """A control for the values of one argument: a list = choices, (low, high, step) = a slider, a
    bool = a box.
    """
    style = {"description_width": "initial"}
    if isinstance(values, bool):
        return ipywidgets.Checkbox(value=values, description=name, indent=False)
    if isinstance(values, tuple) and all(isinstance(v, int) for v in values):
        low, high, step = values
        return ipywidgets.IntSlider(
            low, low, high, step, description=name, continuous_update=False, style=style
        )
    if isinstance(values, tuple):
        low, high, step = values
        return ipywidgets.FloatSlider(
            low,
            min=low,
            max=high,
            step=step,
            description=name,
            continuous_update=False,
            style=style,
        )
    return ipywidgets.Dropdown(options=list(values), description=name, style=style)


def explore(figure_of, start=None, remember=64, **controls):
    """Controls over `figure_of(**arguments) -> Figure`; the figure follows them.

    controls: argument name = list of choices, (low, high, step) or bool; start: {argument: first
    value}. The last `remember` figures are kept, so that going back answers at once. An exception
    is shown under the controls, not swallowed. Returns an ipywidgets.VBox with `.controls` {name:
    widget}, `.picture` (Image) and `.message` (HTML).
    """
    knobs = {name: _control(name, values) for name, values in controls.items()}
    for name, value in (start or {}).items():
        knobs[name].value = value
    picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    message = ipywidgets.HTML()
    draw = lru_cache(maxsize=remember)(lambda **arguments: style_module.png(figure_of(**arguments)))

    def refresh(_=None):
        try:
            picture.value, message.value = (
                draw(**{name: knob.value for name, knob in knobs.items()}),
                "",
            )
        except Exception as error:
            # shown to the reader: a widget that fails in silence looks frozen
            message.value = f"<b style='color:{style_module.RED}'>{type(error).__name__}: {html.escape(str(error))}</b>"

    for knob in knobs.values():
        knob.observe(refresh, names="value")
    refresh()
    box = ipywidgets.VBox(
        [ipywidgets.HBox(list(knobs.values()), layout={"flex_flow": "row wrap"}), message, picture]
    )
    box.controls, box.picture, box.message = knobs, picture, message
    return box
