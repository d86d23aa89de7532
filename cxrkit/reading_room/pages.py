"""Pages: the reading room and the quiz, controls around `panels.draw` and `quiz.mark`, for
JupyterLab and, without code, for Voila.

Nothing but ipywidgets: the cells to click are buttons laid over the film, so that the keyboard
reaches them as well.
"""

import gc
import html
import re
from dataclasses import replace

import ipywidgets

from cxrkit import NOTICE
from cxrkit.config.vocabulary import FINDINGS
from cxrkit.data.lung_zones import ZONE_NAMES
from cxrkit.reading_room import figures, layout, quiz
from cxrkit.reading_room.edits import EDITS
from cxrkit.viz import style

WIDE = {"description_width": "initial"}
PAGE = """<style>
.cxr-room, .cxr-room label, .cxr-room span, .cxr-room select, .cxr-room button {font-size: 16px}
.cxr-room button:focus-visible, .cxr-room select:focus-visible, .cxr-room input:focus-visible {outline: 3px solid #D55E00}
.cxr-cells button {background: transparent; border: 1px solid rgba(255, 255, 255, .25); padding: 0; min-width: 0}
.cxr-cells button:hover, .cxr-cells button:focus-visible {background: rgba(240, 228, 66, .35)}
.cxr-cells button.mod-warning {background: transparent !important; border: 3px solid #F0E442}
</style>"""
KNOBS = {
    "findings": ("finding",),
    "tokens": ("row", "column"),
    "attention": ("row", "column", "layer"),
    "relevance": ("layer",),
    "severity": ("threshold",),
    "zone lines": ("lines",),
    "prediction": ("disease",),
    "follow-up": ("threshold", "visit"),
}
SAID = [(words, name) for name, words in figures.NAMES.items()]
NATURAL = {"max_width": "100%", "align_self": "flex-start"}  # an image at its own size
PATCH = 384  # px of the film whose cells are clicked


def _failure(error):
    return f"<b style='color:{style.RED}'>{html.escape(str(error) or type(error).__name__)}</b>"


def _choose(what, options, value):
    return ipywidgets.Dropdown(options=options, value=value, description=what, style=WIDE)


def _slide(what, value, low, high, step=1):
    kind = ipywidgets.IntSlider if step == 1 else ipywidgets.FloatSlider
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=what,
        continuous_update=False,
        style=WIDE,
    )


def cell_buttons(grid, chosen):
    """A button for each cell, to be laid over a film of PATCH px; `chosen(row, column)` is called
    by a click or the Enter key.
    """
    h, w = grid
    fill = {"width": "auto", "height": "auto", "margin": "0"}
    buttons = [
        ipywidgets.Button(tooltip=f"cell in row {i // w + 1}, column {i % w + 1}", layout=fill)
        for i in range(h * w)
    ]
    for i, button in enumerate(buttons):
        button.on_click(lambda _, i=i: chosen(i // w, i % w))
    return ipywidgets.GridBox(
        buttons,
        layout={
            "width": f"{PATCH}px",
            "height": f"{PATCH}px",
            "margin": f"-{PATCH}px 0 0 0",
            "grid_gap": "0",
            "overflow": "hidden",
            "grid_template_columns": f"repeat({w}, 1fr)",
            "grid_template_rows": f"repeat({h}, 1fr)",
        },
    ).add_class("cxr-cells")


class ReadingRoom:
    """The page over `room.Room`: `page` is the widget; `knobs` {name: control}, `picture`,
    `beside`, `message` and `summary` its parts.
    """

    def __init__(self, room, start=None):
        self.room, self.quiet = room, False
        self.knobs = self._knobs(start or figures.State())
        self.picture, self.beside = (
            ipywidgets.Image(format="jpeg", layout=NATURAL) for _ in range(2)
        )
        self.message, self.summary, self.saved = (
            ipywidgets.HTML(),
            ipywidgets.HTML(),
            ipywidgets.HTML(),
        )
        self.film = ipywidgets.Image(
            format="jpeg",
            width=PATCH,
            height=PATCH,
            layout={"width": f"{PATCH}px", "height": f"{PATCH}px"},
        )
        self.cells = cell_buttons(room.grid, self.frame)
        self.page = self._page()
        for name, knob in self.knobs.items():
            knob.observe(lambda change, name=name: self._changed(name), names="value")
        self.draw()
        gc.collect()
        # models and libraries stay: searching them for garbage took half a second, now and then,
        # under a moving slider
        gc.freeze()

    def _knobs(self, start):
        """Every control by name, standing where the state says."""
        names, blocks, (h, w) = (
            list(self.room.cases),
            len(self.room.models["PA"].transformer.blocks),
            self.room.grid,
        )
        return {
            "panel": ipywidgets.ToggleButtons(
                options=list(figures.PANELS), value=start.panel, style={"button_width": "auto"}
            ),
            "film": _choose("film", names, start.film or names[0]),
            "beside": _choose("compare with", ["nothing", *names], "nothing"),
            "edit": _choose("edit", list(EDITS), start.edit),
            "truth": ipywidgets.Checkbox(
                value=start.truth, description="show the truth", indent=False
            ),
            "finding": _choose(
                "finding", list(zip(style.finding_names(), FINDINGS, strict=True)), start.finding
            ),
            "disease": _choose("diagnosis", SAID, start.disease),
            "row": _slide("row", start.cell[0] + 1, 1, h),
            "column": _slide("column", start.cell[1] + 1, 1, w),
            "layer": _slide("block", start.layer + 1, 1, blocks),
            "visit": _slide("visit", 1, 1, 4),
            "threshold": _slide("threshold", start.threshold, 0.05, 0.95, 0.05),
            "lines": ipywidgets.FloatRangeSlider(
                value=start.lines,
                min=0.1,
                max=0.95,
                step=0.01,
                description="lines at",
                style=WIDE,
                continuous_update=False,
                readout_format=".2f",
            ),
        }

    def _page(self):
        knobs = self.knobs
        self.upload = ipywidgets.FileUpload(
            accept=".png,.jpg,.jpeg,.tif,.tiff,.dcm",
            multiple=False,
            description="your film",
            tooltip="PNG, JPEG, TIFF or DICOM; it stays on this computer's kernel",
        )
        self.view = ipywidgets.Dropdown(
            options=["PA", "AP"], description="its view", style=WIDE, layout={"width": "130px"}
        )
        self.kind = ipywidgets.Dropdown(
            options=["png", "svg"], description="save as", style=WIDE, layout={"width": "150px"}
        )
        self.save_button = ipywidgets.Button(
            description="save the picture", icon="download", layout={"width": "auto"}
        )
        self.upload.observe(
            lambda change: change["new"] and self._uploaded(change["new"][0]), names="value"
        )
        self.save_button.on_click(lambda _: self.save())
        before, after = (
            ipywidgets.Button(description=sign, tooltip=f"{which} film", layout={"width": "44px"})
            for sign, which in (("<", "previous"), (">", "next"))
        )
        before.on_click(lambda _: self.turn(-1))
        after.on_click(lambda _: self.turn(1))
        wrap = {"flex_flow": "row wrap", "align_items": "center"}
        self.asked = ipywidgets.HBox(
            [knobs[n] for n in dict.fromkeys(sum(KNOBS.values(), ()))], layout=wrap
        )
        self.patch = ipywidgets.VBox(
            [ipywidgets.HTML("Click a cell, or use the sliders:"), self.film, self.cells],
            layout={"min_width": f"{PATCH + 20}px", "overflow": "hidden"},
        )
        page = ipywidgets.VBox(
            [
                ipywidgets.HTML(PAGE),
                ipywidgets.HBox(
                    [
                        before,
                        knobs["film"],
                        after,
                        *(knobs[name] for name in ("beside", "edit", "truth")),
                    ],
                    layout=wrap,
                ),
                knobs["panel"],
                self.asked,
                self.summary,
                self.message,
                ipywidgets.HBox([self.picture, self.patch], layout={"flex_flow": "row wrap"}),
                self.beside,
                ipywidgets.HBox(
                    [self.upload, self.view, self.kind, self.save_button, self.saved], layout=wrap
                ),
                ipywidgets.HTML(f"<i>{NOTICE}</i>"),
            ]
        )
        return page.add_class("cxr-room")

    @property
    def state(self):
        """Where the controls stand, as `panels.State`."""
        value = {name: knob.value for name, knob in self.knobs.items()}
        return figures.State(
            value["panel"],
            value["film"],
            value["edit"],
            value["truth"],
            (value["row"] - 1, value["column"] - 1),
            value["finding"],
            value["disease"],
            value["layer"] - 1,
            value["threshold"],
            value["lines"],
        )

    def turn(self, steps):
        """Go on in the list of films, round and round: JupyterLab keeps the arrow keys of a list
        for itself, a button it leaves alone.
        """
        names = list(self.room.cases)
        self.knobs["film"].value = names[
            (names.index(self.knobs["film"].value) + steps) % len(names)
        ]

    def frame(self, row, column):
        """Frame a cell, as a click on it does."""
        self.quiet = True
        self.knobs["row"].value, self.knobs["column"].value = row + 1, column + 1
        self.quiet = False
        self.draw()

    def _changed(self, name):
        if self.quiet:
            return
        if name in ("film", "visit"):
            self._follow(name)
        self.draw()

    def _follow(self, name):
        """The slider of visits and the list of films say the same."""
        visits = self.room.visits(self.room.cases[self.knobs["film"].value])
        self.quiet = True
        if name == "visit":
            self.knobs["film"].value = visits[min(self.knobs["visit"].value, len(visits)) - 1].name
        else:
            self.knobs["visit"].max = max(len(visits), 1)
            self.knobs["visit"].value = 1 + [visit.name for visit in visits].index(
                self.knobs["film"].value
            )
        self.quiet = False

    def draw(self):
        """Show what the controls say; an exception appears above the picture, which stays."""
        try:
            state, other = self.state, self.knobs["beside"].value
            self.picture.value = layout.picture(figures.draw(self.room, state))
            self.beside.value = (
                layout.picture(figures.draw(self.room, replace(state, film=other)))
                if other != "nothing"
                else b""
            )
            self.beside.layout.display = None if other != "nothing" else "none"
            self.summary.value = (
                f"<span style='font-size:20px'>{figures.summary(self.room, state)}</span>"
            )
            self.message.value = ""
            self._place(state)
        except Exception as error:
            # shown to the reader: a widget that fails in silence looks frozen
            self.message.value = _failure(error)

    def _place(self, state):
        """Controls that the panel does not ask for go; the cells show the film and which one is
        framed.
        """
        asked = KNOBS.get(state.panel, ())
        for name in dict.fromkeys(sum(KNOBS.values(), ())):
            self.knobs[name].layout.display = None if name in asked else "none"
        clicks = "row" in asked or "cell" in state.edit
        self.patch.layout.display = None if clicks else "none"
        if clicks:
            self.film.value = layout.thumbnail(
                self.room.read(self.room.cases[state.film], state.edit, state.cell).shown, PATCH
            )
            at = state.cell[0] * self.room.grid[1] + state.cell[1]
            for i, button in enumerate(self.cells.children):
                button.button_style = "warning" if i == at else ""

    def _uploaded(self, file):
        try:
            case = self.room.upload(file["name"], bytes(file["content"]), self.view.value)
            self.quiet, names = True, list(self.room.cases)
            for knob, before in ((self.knobs["film"], []), (self.knobs["beside"], ["nothing"])):
                kept, knob.options = knob.value, [*before, *names]
                knob.value = kept
            self.knobs["truth"].value = False
            self.quiet = False
            self.knobs["film"].value = case.name
        except ValueError as error:
            self.message.value = _failure(error)
        finally:
            self.quiet, self.upload.value = False, ()

    def save(self):
        """Offer the picture, with its scale and caption, as a file; it is drawn anew at twice the
        size.
        """
        kind = self.kind.value
        content = layout.picture(figures.draw(self.room, self.state), kind, 160)
        name = re.sub(r"[^a-z0-9]+", "-", f"{self.state.panel} {self.state.film}".lower()).strip(
            "-"
        )
        self.saved.value = layout.link(
            content,
            f"{name}.{kind}",
            {"png": "image/png", "svg": "image/svg+xml"}[kind],
            f"{name}.{kind}",
        )


class QuizPage:
    """A film at a time: guess the diagnosis and the zones, then see truth, model and readers.
    `page` is the widget.
    """

    def __init__(self, room, folder):
        self.room, self.folder, self.names = room, folder, quiz.films(room)
        self.player = ipywidgets.Text(
            description="who answers?", placeholder="your name or team", style=WIDE
        )
        self.number = ipywidgets.IntSlider(
            value=1,
            min=1,
            max=len(self.names),
            description="film",
            continuous_update=False,
            style=WIDE,
        )
        self.guess = ipywidgets.ToggleButtons(options=SAID, style={"button_width": "auto"})
        self.zones = {
            name: ipywidgets.ToggleButton(
                description=name.upper(), tooltip=f"involved: {name}", layout={"width": "110px"}
            )
            for pair in ZONE_NAMES
            for name in pair
        }
        self.answer = ipywidgets.Button(description="answer", button_style="primary")
        self.picture = ipywidgets.Image(format="jpeg", layout=NATURAL)
        self.message, self.table, self.saved = (
            ipywidgets.HTML(),
            ipywidgets.HTML(),
            ipywidgets.HTML(),
        )
        self.answer.on_click(lambda _: self.mark())
        self.number.observe(lambda _: self.ask(), names="value")
        boxes = ipywidgets.GridBox(
            list(self.zones.values()), layout={"grid_template_columns": "repeat(2, 120px)"}
        )
        self.page = ipywidgets.VBox(
            [
                ipywidgets.HTML(PAGE),
                ipywidgets.HBox([self.player, self.number]),
                self.picture,
                self.guess,
                ipywidgets.HTML("Which zones are ill? The patient's right lung is on the left."),
                boxes,
                self.answer,
                self.message,
                self.table,
                self.saved,
            ]
        ).add_class("cxr-room")
        self.ask()

    def ask(self):
        """The next film, with nothing but the film."""
        self.picture.value = layout.thumbnail(
            self.room.read(self.room.cases[self.names[self.number.value - 1]]).shown, 512
        )
        self.message.value = ""
        for button in self.zones.values():
            button.value = False

    def mark(self):
        """Keep the answer, show how it compares, and where the class stands."""
        try:
            name = self.names[self.number.value - 1]
            row = quiz.mark(
                self.room,
                name,
                self.player.value,
                self.guess.value,
                {z for z, button in self.zones.items() if button.value},
            )
            quiz.keep(self.folder, row)
            self.picture.value = layout.picture(
                figures.draw(self.room, figures.State("severity", name, truth=True))
            )
            self.message.value = told(row)
            rows = quiz.answers(self.folder)
            self.table.value = quiz.standings(rows).to_html(na_rep="-", escape=True)
            self.saved.value = layout.link(
                quiz.as_csv(rows).encode(), "quiz.csv", "text/csv", "save all answers (CSV)"
            )
        except ValueError as error:
            self.message.value = _failure(error)


def told(row):
    """What a player hears of an answer (`quiz.mark`), as HTML."""
    right = "Right" if row["diagnosis"] == row["true"] else "Not so"
    reader = (
        f", the second reader {row['reader_severity']:.0f}"
        if row["reader_severity"] == row["reader_severity"]
        else ""
    )
    return (
        f"<b>{right}: it is {figures.NAMES[row['true']]}</b>; the model says "
        f"{figures.NAMES[row['model']]}. "
        f"Severity: you {row['severity']:.0f}, the model {row['model_severity']:.1f}{reader}, true "
        f"{row['true_severity']:.0f}."
    )
