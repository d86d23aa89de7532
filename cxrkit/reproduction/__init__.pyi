from .claims import claim_legend as claim_legend
from .claims import claim_notes as claim_notes
from .claims import claims_frame as claims_frame
from .claims import claims_table as claims_table
from .claims import compute_split as compute_split
from .comparisons import conclusion as conclusion
from .comparisons import over_seeds as over_seeds
from .environment import Check as Check
from .environment import examine as examine
from .environment import provenance as provenance
from .execution import LessonFailed as LessonFailed
from .execution import execute_notebook as execute_notebook
from .grid import DIAGNOSIS as DIAGNOSIS
from .grid import PROPOSED as PROPOSED
from .grid import SEVERITY as SEVERITY
from .grid import Cell as Cell
from .grid import ablations as ablations
from .grid import baselines as baselines
from .grid import default_workers as default_workers
from .grid import extra_trainings as extra_trainings
from .grid import fair_comparisons as fair_comparisons
from .grid import grid_cells as grid_cells
from .grid import open_choice_cells as open_choice_cells
from .grid import rehearsal_cells as rehearsal_cells
from .grid import run_cells as run_cells
from .grid import vary as vary
from .grid_leaves import note_on_rows as note_on_rows
from .grid_leaves import recorded_rows as recorded_rows
from .grid_rows import METRICS as METRICS
from .grid_rows import cell_costs as cell_costs
from .grid_rows import cell_metric as cell_metric
from .grid_rows import compare_cells as compare_cells
from .grid_rows import measure_cell as measure_cell
from .ledger import ledger_table as ledger_table
from .ledger import measurements as measurements
from .ledger import paper_rows as paper_rows
from .plan import MissingData as MissingData
from .plan import describe_in_subprocess as describe_in_subprocess
from .plan import describe_plan as describe_plan
from .report import write_report as write_report
from .runner import CannotRun as CannotRun
from .runner import lesson_sources as lesson_sources
from .runner import read_lesson as read_lesson
from .runner import reproduce as reproduce
from .runner import run_lesson as run_lesson

__all__ = [
    "DIAGNOSIS",
    "METRICS",
    "PROPOSED",
    "SEVERITY",
    "CannotRun",
    "Cell",
    "Check",
    "LessonFailed",
    "MissingData",
    "ablations",
    "baselines",
    "cell_costs",
    "default_workers",
    "cell_metric",
    "claim_legend",
    "claim_notes",
    "claims_frame",
    "claims_table",
    "compare_cells",
    "compute_split",
    "conclusion",
    "describe_in_subprocess",
    "describe_plan",
    "examine",
    "execute_notebook",
    "extra_trainings",
    "fair_comparisons",
    "grid_cells",
    "ledger_table",
    "lesson_sources",
    "measure_cell",
    "measurements",
    "open_choice_cells",
    "note_on_rows",
    "over_seeds",
    "paper_rows",
    "provenance",
    "recorded_rows",
    "read_lesson",
    "rehearsal_cells",
    "reproduce",
    "run_cells",
    "run_lesson",
    "vary",
    "write_report",
]
