"""Made-up lessons for the tests of the notebook machinery."""

PARAMETERS = 'profile = "demo"\nout = None'


def code(source, *tags):
    """One code cell in percent form."""
    return f"# %%{' tags=' + str(list(tags)).replace(chr(39), chr(34)) if tags else ''}\n{source}\n"


def markdown(text):
    """One markdown cell in percent form."""
    return "# %% [markdown]\n" + "\n".join(f"# {line}" for line in text.splitlines()) + "\n"


def lesson(*cells, parameters=PARAMETERS, fill=0):
    """Percent source: title, parameters, the given cells, and `fill` more cells."""
    head = [markdown("# A made-up lesson"), code(parameters, "parameters")]
    return "\n".join([*head, *cells, *(code(f"print({i})") for i in range(fill))])


CHECKED = code("# NBVAL_CHECK_OUTPUT\nprint(6 * 7)")
FIGURE = code(
    "import base64\nfrom IPython.display import Image, display\n"
    "display(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')))",
    "report",
)
SOLUTION = code("# Exercise 1: the answer to everything.\nanswer = 42\nprint(answer)", "solution")
