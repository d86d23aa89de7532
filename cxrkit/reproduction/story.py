"""The story of a lesson: a short view of about twelve cells, and the slides made from it.

A lesson marks the code cells that carry its story with the tag `story`. All else of the view
follows: the text that introduces such a cell or says what was to be seen, the title, the take-away,
and, folded, the cells that define a name which a kept cell uses. So the view runs from top to
bottom, and nothing is written twice.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Sequence
from copy import deepcopy

import nbformat
from nbformat import NotebookNode

STORY, FOLDED = "story", "folded"
SEEN = "**What you should have seen.**"
TAKE_AWAY = "> **Take away.**"
KNOWN = {*dir(builtins), "display", "get_ipython", "__name__"}  # that a notebook defines itself
NOTICE = "Research and teaching only: nothing here is a diagnostic device."
LONG = 15  # lines of a shown cell; a longer one is folded, and its figure stays


# names


class _Names(ast.NodeVisitor):
    """Names whose object a cell changes in place: `x[i] = ...`, `x.a = ...`, `x += ...`."""

    def __init__(self) -> None:
        self.changed: set[str] = set()

    def _root(self, node: ast.AST) -> None:
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.Call)):
            node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name):
            self.changed.add(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
            for part in parts:
                if isinstance(part, (ast.Attribute, ast.Subscript)):
                    self._root(part)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._root(node.target)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """What a function does happens when it is called."""


def names_of(source: str) -> tuple[set[str], set[str], set[str]]:
    """Names that a cell uses, defines, and changes in place.

    Args:
        source: Python code of one cell.

    Returns:
        Global names that it uses, also inside its functions and comprehensions, and does not only
        define; those that it binds; those whose object it changes.
    """
    top = symtable.symtable(source, "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    tables = list(top.get_children())
    while tables:
        table = tables.pop()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        tables += table.get_children()
    finder = _Names()
    finder.visit(ast.parse(source))
    return used - KNOWN, bound, finder.changed


def first_used(source: str) -> set[str]:
    """Global names that a cell needs from earlier cells.

    The order of its statements counts. What a function uses may be defined anywhere in the cell.
    """
    needs, bound, later = set(), set(), set()
    for kind, text in _steps(ast.parse(source).body):
        if kind == "target":
            bound |= names_of(text)[1]
            continue
        used, binds, changed = names_of(text)
        if kind == "function":
            later |= used - binds
        else:
            needs |= (used | changed) - bound
        bound |= binds
    return needs | (later - bound)


def _steps(body: Iterable[ast.stmt]) -> Iterable[tuple[str, str]]:
    """Statements in the order in which they run: what it is, and its code."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield "function", ast.unparse(statement)
        elif isinstance(statement, ast.For):
            yield "use", ast.unparse(statement.iter)
            yield "target", f"{ast.unparse(statement.target)} = 0"
            yield from _steps([*statement.body, *statement.orelse])
        elif isinstance(statement, (ast.If, ast.While)):
            yield "use", ast.unparse(statement.test)
            yield from _steps([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.With):
            for item in statement.items:
                yield "use", ast.unparse(item.context_expr)
                if item.optional_vars:
                    yield "target", f"{ast.unparse(item.optional_vars)} = 0"
            yield from _steps(statement.body)
        else:
            yield "use", ast.unparse(statement)


def undefined_names(cells: Iterable[NotebookNode]) -> list[str]:
    """Names that code cells use, run in this order, before any of them has defined them."""
    defined: set[str] = set()
    missing = []
    for cell in cells:
        if cell.cell_type != "code":
            continue
        missing += sorted(first_used(cell.source) - defined)
        defined |= names_of(cell.source)[1]
    return missing


def needed_cells(sources: Sequence[str], wanted: Iterable[int]) -> set[int]:
    """Cells that the wanted ones need, with themselves.

    Of a name that several cells bind, the last one before its use counts, and with it all cells
    between that change its object in place.

    Args:
        sources: code of all code cells, in order.
        wanted: numbers among them.
    """
    facts = [names_of(source) for source in sources]
    kept: set[int] = set()
    waiting = list(wanted)
    while waiting:
        number = waiting.pop()
        if number in kept:
            continue
        kept.add(number)
        for name in first_used(sources[number]) | facts[number][2]:
            for earlier in range(number - 1, -1, -1):
                _, bound, changed = facts[earlier]
                if name in bound or name in changed:
                    waiting.append(earlier)
                if name in bound and name not in first_used(sources[earlier]):
                    break
    return kept


# text


def blocks_of(text: str) -> list[str]:
    """Pieces of a Markdown cell: each heading opens one, and what was to be seen is one."""
    pieces: list[list[str]] = [[]]
    seen = False  # inside the paragraph on what was to be seen
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        opens = line.startswith("#") and not fenced
        if opens or line.startswith((SEEN, TAKE_AWAY)) or (seen and not line.strip()):
            pieces.append([])
        seen = line.startswith(SEEN) or (seen and bool(line.strip()))
        pieces[-1].append(line)
    joined = ["\n".join(piece).strip() for piece in pieces]
    return [piece for piece in joined if piece]


def _code_beside(cells: Sequence[NotebookNode], number: int, step: int) -> list[int]:
    """The code cells right before (step -1) or after (step 1) a cell, up to the next text."""
    found = []
    number += step
    while 0 <= number < len(cells) and cells[number].cell_type == "code":
        found.append(number)
        number += step
    return found


def _kept_blocks(cells: Sequence[NotebookNode], number: int, shown: set[int]) -> list[str]:
    """Pieces of a Markdown cell that belong to a shown cell before or after it."""
    before = not shown.isdisjoint(_code_beside(cells, number, -1))
    after = not shown.isdisjoint(_code_beside(cells, number, 1))
    blocks = blocks_of(cells[number].source)
    intro = _intro_from(blocks)
    kept = []
    for position, block in enumerate(blocks):
        comment = block.startswith(SEEN) or position < intro and not block.startswith("#")
        keep = before if comment else after and position >= intro
        if keep or number == 0 or block.startswith(TAKE_AWAY):
            kept.append(block)
    return kept


def _intro_from(blocks: Sequence[str]) -> int:
    """The first of the pieces that introduce what follows: from the last heading on."""
    headings = [i for i, block in enumerate(blocks) if block.startswith("#")]
    return headings[-1] if headings else 0


# the view


def story_of(lesson: NotebookNode) -> NotebookNode:
    """The story of a lesson.

    Args:
        lesson: with cells tagged `story`; outputs stay where they are there.

    Returns:
        Another notebook. Folded cells have the tag `folded`, and their code and outputs are hidden
        in JupyterLab (`metadata.jupyter`); of a shown cell the code is hidden where it is longer
        than LONG lines, or drawn for the report.

    Raises:
        ValueError: no cell is tagged, or the story needs an exercise, which is blank.
    """
    tags = [cell.metadata.get("tags", []) for cell in lesson.cells]
    code = [i for i, cell in enumerate(lesson.cells) if cell.cell_type == "code"]
    shown = {i for i in code if STORY in tags[i]}
    if not shown:
        raise ValueError(f"no cell is tagged {STORY!r}")
    sources = [lesson.cells[i].source for i in code]
    wanted = [code.index(i) for i in code if i in shown or "parameters" in tags[i]]
    kept = {code[number] for number in needed_cells(sources, wanted)}
    blank = [i for i in kept if "exercise" in tags[i]]
    if blank:
        raise ValueError(f"the story needs an exercise: {tags[blank[0]]}")
    cells = []
    for number, cell in enumerate(lesson.cells):
        if cell.cell_type == "code":
            if number in kept:
                cells.append(_as_shown(cell) if number in shown else _as_folded(cell))
            continue
        text = "\n\n".join(_kept_blocks(lesson.cells, number, shown))
        if text and cells and cells[-1].cell_type == "markdown":
            cells[-1].source += f"\n\n{text}"
        elif text:
            cells.append(nbformat.v4.new_markdown_cell(text, metadata={"tags": [STORY]}))
    for number, cell in enumerate(cells):
        cell.id = str(number)
    metadata = nbformat.from_dict(lesson.metadata)
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def _as_folded(cell: NotebookNode) -> NotebookNode:
    """A cell that the story needs and does not show."""
    copy = deepcopy(cell)
    copy.metadata["tags"] = [*cell.metadata.get("tags", []), FOLDED]
    copy.metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": True}
    return copy


def _as_shown(cell: NotebookNode) -> NotebookNode:
    """A cell of the story; long code and that of a figure is hidden."""
    copy = deepcopy(cell)
    long = len(cell.source.splitlines()) > LONG or "report" in cell.metadata.get("tags", [])
    if long or "import " in cell.source.split("\n")[0]:
        copy.metadata["jupyter"] = {"source_hidden": True}
    return copy


def visible(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells of a story that a reader sees."""
    return [cell for cell in notebook.cells if FOLDED not in cell.metadata.get("tags", [])]


# slides


def _slide(source: str, kind: str) -> NotebookNode:
    """A Markdown cell of a deck; kind: "slide", "fragment" or "notes"."""
    return nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


def _title(text: str) -> str:
    """Heading and aim of a lesson, from its first cell."""
    paragraphs = text.split("\n\n")
    aim = next((part for part in paragraphs if part.startswith("**Aim.**")), "")
    return "\n\n".join([paragraphs[0], aim, NOTICE])


def deck_of(lesson: NotebookNode) -> NotebookNode:
    """The slides of a lesson, as a notebook with slideshow metadata.

    The title with the aim, a slide for each code cell of the story with its outputs, and the
    take-away. What introduces a cell becomes speaker notes; what was to be seen stands below it.
    Code is shown where the story shows it.

    Args:
        lesson: with cells tagged `story` and with outputs.

    Returns:
        A notebook for nbconvert's `SlidesExporter`; the code to hide has the tag `hide_input`.

    Raises:
        ValueError: the lesson has no outputs, or as `story_of`.
    """
    story = story_of(lesson)
    shown = [cell for cell in visible(story) if cell.cell_type == "code"]
    if not any(cell.outputs for cell in shown):
        raise ValueError("no outputs: slides are made from the executed notebooks of a checkout")
    cells = []
    heading = ""
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                heading = line.lstrip("# ") if line.startswith("## ") else heading
        elif STORY in cell.metadata.get("tags", []):
            copy = _as_shown(cell)
            hidden = "jupyter" in copy.metadata
            slide = _slide(f"## {heading}", "slide")
            copy.metadata = nbformat.from_dict({"tags": ["hide_input"] if hidden else []})
            cells.append((cell.source, [slide, copy]))
    slides = [_slide(_title(lesson.cells[0].source), "slide")]
    return _with_text(story, dict(cells), slides)


def _with_text(
    story: NotebookNode, slides_of: dict[str, list[NotebookNode]], cells: list[NotebookNode]
) -> NotebookNode:
    """The cells of a deck in order, with the text of the story as notes and fragments."""
    notes: list[str] = []
    for cell in visible(story)[1:]:
        if cell.cell_type == "code":
            cells += slides_of[cell.source]
            if notes:
                cells.append(_slide("\n\n".join(notes), "notes"))
            notes = []
            continue
        for block in blocks_of(cell.source):
            if block.startswith(TAKE_AWAY):
                cells += [_slide("## Take away", "slide"), _slide(block, "-")]
            elif block.startswith(SEEN):
                cells.append(_slide(block, "fragment"))
            else:
                notes.append(block)
    for number, cell in enumerate(cells):
        cell.id = str(number)
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.from_dict(story.metadata))


# a figure is seen whole, with its sentence below
WHOLE_FIGURES = "<style>.reveal .slides img { max-height: 58vh; width: auto; }</style>\n"


def slides_html(lesson: NotebookNode) -> str:
    """The slides of a lesson as one page of reveal.js.

    Args:
        lesson: as `deck_of`.

    Returns:
        HTML. Pictures are inside; reveal.js and MathJax come from the net when it is opened.
    """
    from nbconvert import SlidesExporter  # slow to import, and only needed here
    from traitlets.config import Config

    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide_input"}
    exporter = SlidesExporter(config=config)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.reveal_scroll = True
    page = exporter.from_notebook_node(deck_of(lesson))[0]
    return page.replace("</head>", f"{WHOLE_FIGURES}</head>", 1)
