"""The pages of the reading room and of the quiz: controls around `draw_panel` and `grade_answer`.

They work in JupyterLab and, without code, in Voila, and consist of ipywidgets alone: the cells to
click are buttons over the image, so that the keyboard reaches them as well.
"""

from __future__ import annotations

import contextlib
import gc
import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from cxrkit import NOTICE
from cxrkit.config.vocabulary import FINDINGS
from cxrkit.data.lung_zones import ZONE_NAMES
from cxrkit.reading_room import figures, layout, quiz
from cxrkit.reading_room.edits import EDITS, asks_for_cell
from cxrkit.viz import style

if TYPE_CHECKING:
    from cxrkit.reading_room.state import Room

WIDE = {"description_width": "initial"}  # shows a long description whole
WRAPPED = {"flex_flow": "row wrap", "align_items": "center"}
NATURAL = {"max_width": "100%", "align_self": "flex-start"}  # an image at its own size
PICKER_SIZE = 384  # px of the image whose cells are clicked
QUIZ_IMAGE_SIZE = 512  # px
SAVED_DPI = 160  # twice that of the page
NOTHING = "nothing"  # no second sample to compare with, no edit
MIME = {"png": "image/png", "svg": "image/svg+xml"}
CSS = f"""<style>
.cxr-room, .cxr-room label, .cxr-room span, .cxr-room select, .cxr-room button {{font-size: 16px}}
.cxr-room button:focus-visible, .cxr-room select:focus-visible,
.cxr-room input:focus-visible {{outline: 3px solid {style.RED}}}
.cxr-cells button {{
  background: transparent; border: 1px solid rgba(255, 255, 255, .25); padding: 0; min-width: 0
}}
.cxr-cells button:hover, .cxr-cells button:focus-visible {{background: rgba(240, 228, 66, .35)}}
.cxr-cells button.mod-warning {{
  background: transparent !important; border: 3px solid {style.YELLOW}
}}
</style>"""
# controls that only some panels have, in the order in which the page shows them
PANEL_CONTROLS = {
    "findings": ("finding",),
    "tokens": ("row", "column"),
    "attention": ("row", "column", "layer"),
    "relevance": ("layer",),
    "severity": ("threshold",),
    "zone lines": ("lines",),
    "prediction": ("disease",),
    "follow-up": ("threshold", "visit"),
}
OWN_CONTROLS = tuple(dict.fromkeys(name for names in PANEL_CONTROLS.values() for name in names))
DIAGNOSIS_OPTIONS = [(text, name) for name, text in figures.DIAGNOSIS_NAMES.items()]


def _error_text(error: Exception) -> str:
    text = html.escape(str(error) or type(error).__name__)
    return f"<b style='color:{style.RED}'>{text}</b>"


def _dropdown(label: str, options: Sequence, value: Any) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=options, value=value, description=label, style=WIDE)


def _slider(
    label: str, value: float, low: float, high: float, step: float = 1
) -> ipywidgets.IntSlider | ipywidgets.FloatSlider:
    kind = ipywidgets.IntSlider if step == 1 else ipywidgets.FloatSlider
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=label,
        continuous_update=False,
        style=WIDE,
    )


def _set_visible(widget: ipywidgets.DOMWidget, visible: bool) -> None:
    widget.layout.display = None if visible else "none"


def cell_buttons(grid: tuple[int, int], choose: Callable[[int, int], None]) -> ipywidgets.GridBox:
    """A button for each cell, to lie over an image of PICKER_SIZE px.

    Args:
        grid: rows and columns (h, w).
        choose: called with (row, column) by a click or the Enter key.
    """
    h, w = grid
    fill = {"width": "auto", "height": "auto", "margin": "0"}

    def button(row: int, column: int) -> ipywidgets.Button:
        tooltip = f"cell in row {row + 1}, column {column + 1}"
        cell = ipywidgets.Button(tooltip=tooltip, layout=fill)
        cell.on_click(lambda _: choose(row, column))
        return cell

    buttons = [button(row, column) for row in range(h) for column in range(w)]
    box = ipywidgets.GridBox(
        buttons,
        layout={
            "width": f"{PICKER_SIZE}px",
            "height": f"{PICKER_SIZE}px",
            "margin": f"-{PICKER_SIZE}px 0 0 0",
            "grid_gap": "0",
            "overflow": "hidden",
            "grid_template_columns": f"repeat({w}, 1fr)",
            "grid_template_rows": f"repeat({h}, 1fr)",
        },
    )
    return box.add_class("cxr-cells")


class ReadingRoom:
    """The page over a `Room`.

    Args:
        room: the models and the samples.
        start: where the controls stand at first.

    Attributes:
        page: the whole widget.
        controls: name -> control.
        picture: the figure.
        beside: the figure of a second sample.
        message: errors.
        summary: the prediction in one line.
    """

    def __init__(self, room: Room, start: figures.PanelState | None = None) -> None:
        self.room = room
        self.silent = False  # whether changes of controls are ignored
        self.controls = self._make_controls(start or figures.PanelState())
        self.picture = ipywidgets.Image(format="jpeg", layout=NATURAL)
        self.beside = ipywidgets.Image(format="jpeg", layout=NATURAL)
        self.message = ipywidgets.HTML()
        self.summary = ipywidgets.HTML()
        self.saved = ipywidgets.HTML()
        self.cells = cell_buttons(room.grid, self.frame_cell)
        self.picker_image, self.picker = self._make_picker()
        self.page = self._make_page()
        for name, control in self.controls.items():
            control.observe(lambda _, name=name: self._on_change(name), names="value")
        self.draw()
        gc.collect()
        # models and libraries stay: searching them for garbage took half a second, now and then,
        # under a moving slider
        gc.freeze()

    def _make_controls(self, start: figures.PanelState) -> dict[str, ipywidgets.DOMWidget]:
        """Every control by name, with the value that the state says."""
        names = list(self.room.samples)
        blocks = len(self.room.models["PA"].transformer.blocks)
        h, w = self.room.grid
        row, column = start.cell
        panel = ipywidgets.ToggleButtons(
            options=list(figures.PANELS), value=start.panel, style={"button_width": "auto"}
        )
        truth = ipywidgets.Checkbox(value=start.truth, description="show the truth", indent=False)
        findings = list(zip(style.finding_names(), FINDINGS, strict=True))
        lines = ipywidgets.FloatRangeSlider(
            value=start.lines,
            min=0.1,
            max=0.95,
            step=0.01,
            description="lines at",
            style=WIDE,
            continuous_update=False,
            readout_format=".2f",
        )
        return {
            "panel": panel,
            "sample": _dropdown("film", names, start.sample or names[0]),
            "beside": _dropdown("compare with", [NOTHING, *names], NOTHING),
            "edit": _dropdown("edit", list(EDITS), start.edit),
            "truth": truth,
            "finding": _dropdown("finding", findings, start.finding),
            "disease": _dropdown("diagnosis", DIAGNOSIS_OPTIONS, start.disease),
            "row": _slider("row", row + 1, 1, h),
            "column": _slider("column", column + 1, 1, w),
            "layer": _slider("block", start.layer + 1, 1, blocks),
            "visit": _slider("visit", 1, 1, figures.MAX_VISITS),
            "threshold": _slider("threshold", start.threshold, 0.05, 0.95, 0.05),
            "lines": lines,
        }

    def _make_picker(self) -> tuple[ipywidgets.Image, ipywidgets.VBox]:
        """The image whose cells are clicked, and the box that holds it."""
        side = f"{PICKER_SIZE}px"
        image = ipywidgets.Image(
            format="jpeg",
            width=PICKER_SIZE,
            height=PICKER_SIZE,
            layout={"width": side, "height": side},
        )
        text = ipywidgets.HTML("Click a cell, or use the sliders:")
        wide = {"min_width": f"{PICKER_SIZE + 20}px", "overflow": "hidden"}
        return image, ipywidgets.VBox([text, image, self.cells], layout=wide)

    def _make_list_row(self) -> ipywidgets.HBox:
        """The list of samples between two buttons, and what is done with the chosen one."""
        buttons = []
        for sign, word, steps in (("<", "previous", -1), (">", "next", 1)):
            button = ipywidgets.Button(
                description=sign, tooltip=f"{word} film", layout={"width": "44px"}
            )
            button.on_click(lambda _, steps=steps: self.turn(steps))
            buttons.append(button)
        before, after = buttons
        controls = self.controls
        row = [before, controls["sample"], after]
        row += [controls[name] for name in ("beside", "edit", "truth")]
        return ipywidgets.HBox(row, layout=WRAPPED)

    def _make_file_row(self) -> ipywidgets.HBox:
        """Controls that read an image from a file and save a figure to one."""
        self.upload = ipywidgets.FileUpload(
            accept=".png,.jpg,.jpeg,.tif,.tiff,.dcm",
            multiple=False,
            description="your film",
            tooltip="PNG, JPEG, TIFF or DICOM; it stays on this computer's kernel",
        )
        self.upload.observe(self._on_upload, names="value")
        self.view = ipywidgets.Dropdown(
            options=["PA", "AP"], description="its view", style=WIDE, layout={"width": "130px"}
        )
        self.kind = ipywidgets.Dropdown(
            options=list(MIME), description="save as", style=WIDE, layout={"width": "150px"}
        )
        self.save_button = ipywidgets.Button(
            description="save the picture", icon="download", layout={"width": "auto"}
        )
        self.save_button.on_click(lambda _: self.save())
        row = [self.upload, self.view, self.kind, self.save_button, self.saved]
        return ipywidgets.HBox(row, layout=WRAPPED)

    def _make_page(self) -> ipywidgets.VBox:
        own_controls = [self.controls[name] for name in OWN_CONTROLS]
        page = ipywidgets.VBox(
            [
                ipywidgets.HTML(CSS),
                self._make_list_row(),
                self.controls["panel"],
                ipywidgets.HBox(own_controls, layout=WRAPPED),
                self.summary,
                self.message,
                ipywidgets.HBox([self.picture, self.picker], layout={"flex_flow": "row wrap"}),
                self.beside,
                self._make_file_row(),
                ipywidgets.HTML(f"<i>{NOTICE}</i>"),
            ]
        )
        return page.add_class("cxr-room")

    @property
    def state(self) -> figures.PanelState:
        """What the controls say."""
        value = {name: control.value for name, control in self.controls.items()}
        return figures.PanelState(
            panel=value["panel"],
            sample=value["sample"],
            edit=value["edit"],
            truth=value["truth"],
            cell=(value["row"] - 1, value["column"] - 1),
            finding=value["finding"],
            disease=value["disease"],
            layer=value["layer"] - 1,
            threshold=value["threshold"],
            lines=value["lines"],
        )

    @contextlib.contextmanager
    def _silently(self) -> Iterator[None]:
        """Inside, controls change without a new figure for each."""
        self.silent = True
        try:
            yield
        finally:
            self.silent = False

    def turn(self, steps: int) -> None:
        """Go forward or back in the list of samples, from its end to its start.

        JupyterLab keeps the arrow keys of a list for itself; it leaves a button alone.
        """
        names = list(self.room.samples)
        at = names.index(self.controls["sample"].value)
        self.controls["sample"].value = names[(at + steps) % len(names)]

    def frame_cell(self, row: int, column: int) -> None:
        """Frame a cell, as a click on it does."""
        with self._silently():
            self.controls["row"].value = row + 1
            self.controls["column"].value = column + 1
        self.draw()

    def _on_change(self, name: str) -> None:
        if self.silent:
            return
        if name == "visit":
            self._sample_of_visit()
        elif name == "sample":
            self._visit_of_sample()
        self.draw()

    def _visits(self) -> list[str]:
        """Names of all samples of the chosen patient."""
        sample = self.room.samples[self.controls["sample"].value]
        return [visit.name for visit in self.room.visits(sample)]

    def _sample_of_visit(self) -> None:
        """The list follows the slider of visits."""
        visits = self._visits()
        number = min(self.controls["visit"].value, len(visits))
        with self._silently():
            self.controls["sample"].value = visits[number - 1]

    def _visit_of_sample(self) -> None:
        """The slider of visits follows the list."""
        visits = self._visits()
        with self._silently():
            self.controls["visit"].max = max(len(visits), 1)
            self.controls["visit"].value = 1 + visits.index(self.controls["sample"].value)

    def draw(self) -> None:
        """Show what the controls say; an exception appears above the figure, which stays."""
        try:
            state = self.state
            self.picture.value = layout.to_bytes(figures.draw_panel(self.room, state))
            self._draw_beside(state)
            summary = figures.summarise(self.room, state)
            self.summary.value = f"<span style='font-size:20px'>{summary}</span>"
            self.message.value = ""
            self._show_controls(state)
        except Exception as error:
            # shown to the reader: a widget that fails in silence looks frozen
            self.message.value = _error_text(error)

    def _draw_beside(self, state: figures.PanelState) -> None:
        """Show the same panel of the second sample, if one is chosen."""
        other = self.controls["beside"].value
        content = b""
        if other != NOTHING:
            figure = figures.draw_panel(self.room, replace(state, sample=other))
            content = layout.to_bytes(figure)
        self.beside.value = content
        _set_visible(self.beside, other != NOTHING)

    def _show_controls(self, state: figures.PanelState) -> None:
        """Show the controls that the panel has, and the cells where one can be chosen."""
        shown = PANEL_CONTROLS.get(state.panel, ())
        for name in OWN_CONTROLS:
            _set_visible(self.controls[name], name in shown)
        has_cells = "row" in shown or asks_for_cell(state.edit)
        _set_visible(self.picker, has_cells)
        if not has_cells:
            return
        sample = self.room.samples[state.sample]
        image = self.room.predict(sample, state.edit, state.cell).image
        self.picker_image.value = layout.thumbnail(image, PICKER_SIZE)
        row, column = state.cell
        framed = row * self.room.grid[1] + column
        for i, button in enumerate(self.cells.children):
            button.button_style = "warning" if i == framed else ""

    def _on_upload(self, change: dict[str, Any]) -> None:
        if change["new"]:
            self._add_file(change["new"][0])

    def _add_file(self, file: dict[str, Any]) -> None:
        """Put an uploaded file on the list and show it.

        Args:
            file: `name` and `content`, as FileUpload gives them.
        """
        try:
            content = bytes(file["content"])
            sample = self.room.upload(file["name"], content, self.view.value)
            with self._silently():
                self._extend_lists()
                self.controls["truth"].value = False
            self.controls["sample"].value = sample.name
        except ValueError as error:
            self.message.value = _error_text(error)
        finally:
            with self._silently():
                self.upload.value = ()

    def _extend_lists(self) -> None:
        """Both lists of samples offer all of them; what is chosen stays."""
        names = list(self.room.samples)
        for control, before in (("sample", []), ("beside", [NOTHING])):
            chosen = self.controls[control].value
            self.controls[control].options = [*before, *names]
            self.controls[control].value = chosen

    def save(self) -> None:
        """Offer the figure, with its scale and caption, as a file of twice the resolution."""
        kind, state = self.kind.value, self.state
        content = layout.to_bytes(figures.draw_panel(self.room, state), kind, SAVED_DPI)
        stem = re.sub(r"[^a-z0-9]+", "-", f"{state.panel} {state.sample}".lower()).strip("-")
        name = f"{stem}.{kind}"
        self.saved.value = layout.download_link(content, name, MIME[kind], name)


class QuizPage:
    """One image at a time: choose a diagnosis and zones, then see truth, model and radiologist.

    Args:
        room: the models and the samples.
        folder: holds the answers of a class, a file for each player.

    Attributes:
        page: the whole widget.
        player: who answers.
        number: which image.
        guess: the diagnosis.
        zones: name -> button.
        message: feedback and errors.
        table: the scoreboard.
        saved: a link to all answers.
    """

    def __init__(self, room: Room, folder: str | Path) -> None:
        self.room = room
        self.folder = folder
        self.names = quiz.quiz_samples(room)
        self.player = ipywidgets.Text(
            description="who answers?", placeholder="your name or team", style=WIDE
        )
        self.number = _slider("film", 1, 1, len(self.names))
        self.guess = ipywidgets.ToggleButtons(
            options=DIAGNOSIS_OPTIONS, style={"button_width": "auto"}
        )
        self.zones = {name: self._zone_button(name) for pair in ZONE_NAMES for name in pair}
        self.answer = ipywidgets.Button(description="answer", button_style="primary")
        self.picture = ipywidgets.Image(format="jpeg", layout=NATURAL)
        self.message = ipywidgets.HTML()
        self.table = ipywidgets.HTML()
        self.saved = ipywidgets.HTML()
        self.answer.on_click(lambda _: self.grade())
        self.number.observe(lambda _: self.ask(), names="value")
        self.page = self._make_page()
        self.ask()

    def _zone_button(self, name: str) -> ipywidgets.ToggleButton:
        return ipywidgets.ToggleButton(
            description=name.upper(), tooltip=f"involved: {name}", layout={"width": "110px"}
        )

    def _make_page(self) -> ipywidgets.VBox:
        zones = ipywidgets.GridBox(
            list(self.zones.values()), layout={"grid_template_columns": "repeat(2, 120px)"}
        )
        page = ipywidgets.VBox(
            [
                ipywidgets.HTML(CSS),
                ipywidgets.HBox([self.player, self.number]),
                self.picture,
                self.guess,
                ipywidgets.HTML("Which zones are ill? The patient's right lung is on the left."),
                zones,
                self.answer,
                self.message,
                self.table,
                self.saved,
            ]
        )
        return page.add_class("cxr-room")

    @property
    def name(self) -> str:
        """The sample that is asked for."""
        return self.names[self.number.value - 1]

    def ask(self) -> None:
        """Show the chosen image and nothing else."""
        image = self.room.predict(self.room.samples[self.name]).image
        self.picture.value = layout.thumbnail(image, QUIZ_IMAGE_SIZE)
        self.message.value = ""
        for button in self.zones.values():
            button.value = False

    def grade(self) -> None:
        """Keep the answer, and show how it compares and what the class has reached."""
        try:
            zones = {name for name, button in self.zones.items() if button.value}
            row = quiz.grade_answer(
                self.room, self.name, self.player.value, self.guess.value, zones
            )
            quiz.save_answer(self.folder, row)
            state = figures.PanelState("severity", self.name, truth=True)
            self.picture.value = layout.to_bytes(figures.draw_panel(self.room, state))
            self.message.value = feedback(row)
            answers = quiz.read_answers(self.folder)
            self.table.value = quiz.scoreboard(answers).to_html(na_rep="-", escape=True)
            content = quiz.as_csv(answers).encode()
            self.saved.value = layout.download_link(
                content, "quiz.csv", "text/csv", "save all answers (CSV)"
            )
        except ValueError as error:
            self.message.value = _error_text(error)


def feedback(row: dict[str, Any]) -> str:
    """What a player sees of an answer (`quiz.grade_answer`), as HTML."""
    right = "Right" if row["diagnosis"] == row["true"] else "Not so"
    second = row["reader_severity"]
    known = second == second  # NaN where there is no second radiologist
    second = f", the second reader {second:.0f}" if known else ""
    names = figures.DIAGNOSIS_NAMES
    return (
        f"<b>{right}: it is {names[row['true']]}</b>; the model says {names[row['model']]}. "
        f"Severity: you {row['severity']:.0f}, the model {row['model_severity']:.1f}{second}, true "
        f"{row['true_severity']:.0f}."
    )
