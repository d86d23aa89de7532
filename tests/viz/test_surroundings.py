"""What the figures leave alone: the caller's matplotlib settings, backend and notebook."""

import io
import pkgutil
import subprocess
import sys

import matplotlib
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure

from cxrkit import viz
from cxrkit.viz import style

CALLER = {
    "font.size": 25,
    "axes.titlesize": 31,
    "axes.spines.top": True,
    "axes.spines.right": True,
    "figure.dpi": 33,
    "savefig.dpi": 200,
    "image.cmap": "viridis",
}
MODULES = [module.name for module in pkgutil.iter_modules(viz.__path__, "cxrkit.viz.")]
# run in a process of its own: here matplotlib is long since set up
UNTOUCHED = """
import importlib, sys
import matplotlib
from IPython.core.interactiveshell import InteractiveShell

def state():
    settings = dict.copy(matplotlib.rcParams)  # the bare dict: asking for the backend chooses one
    formatters = shell.display_formatter.formatters
    printers = {name: dict(formatter.type_printers) for name, formatter in formatters.items()}
    deferred = {name: dict(formatter.deferred_printers) for name, formatter in formatters.items()}
    callbacks = {name: list(functions) for name, functions in shell.events.callbacks.items()}
    return settings, printers, deferred, callbacks

shell = InteractiveShell.instance()
before = state()
for module in sys.argv[1:]:
    importlib.import_module(module)
assert state() == before, "changed by importing"
from cxrkit import viz
figure = viz.plot_bars(["a"], [1.0], "title", "unit")
shell.display_formatter.format(figure)
assert state() == before, "changed by plotting"
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.fixture
def shell():
    """A shell of IPython without any setting for figures."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def bars():
    return viz.plot_bars(["a", "b"], [1.0, 2.0], "title", "unit")


def image_with_colour_bar():
    """As lessons build a figure: parts made by hand on the axes of `grid`."""
    figure, axes = viz.grid(1, 1, title="title")
    shown = viz.show_image(axes[0, 0], [[0.0, 1.0]], "image")
    figure.colorbar(shown, ax=axes[0, 0], label="unit")
    return viz.stamp(figure)


@pytest.mark.integration
def test_importing_and_plotting_change_no_setting_and_no_hook():
    assert len(MODULES) == 5
    subprocess.run([sys.executable, "-c", UNTOUCHED, *MODULES], check=True, timeout=120)


@pytest.mark.parametrize("make", [bars, image_with_colour_bar])
def test_a_figure_looks_the_same_whatever_the_caller_has_set(make):
    expected = viz.to_png(make())
    with matplotlib.rc_context(CALLER):
        assert viz.to_png(make()) == expected
        settings = matplotlib.rcParams.copy()
        figure = make()
        figure.savefig(io.BytesIO())
        assert matplotlib.rcParams == settings


def test_the_settings_of_the_caller_are_back_after_an_error():
    with matplotlib.rc_context(CALLER):
        settings = matplotlib.rcParams.copy()
        with pytest.raises(ValueError):
            viz.plot_bars(["a", "b"], [1.0, 2.0, 3.0], "title", "unit")
        assert matplotlib.rcParams == settings


def test_the_style_holds_inside_the_with_alone():
    before = matplotlib.rcParams["font.size"]
    with viz.figure_style():
        assert {name: matplotlib.rcParams[name] for name in style.STYLE} == style.STYLE
    assert matplotlib.rcParams["font.size"] == before


def test_a_notebook_shows_a_figure_that_ends_a_cell(shell):
    figure = bars()
    data, _ = shell.display_formatter.format(figure)
    assert data["image/png"] == viz.to_png(figure)
    assert "text/html" not in data


def test_a_notebook_that_shows_figures_itself_shows_the_same(shell):
    """`%matplotlib inline` registers a printer for every Figure, which then comes first."""
    figure = bars()
    png = shell.display_formatter.formatters["image/png"]
    png.for_type(Figure, print_figure)
    data, _ = shell.display_formatter.format(figure)
    assert data["image/png"] == viz.to_png(figure)


@pytest.mark.parametrize("name", viz.__all__)
def test_every_public_name_is_there(name):
    assert getattr(viz, name) is not None
