"""Reproduction of the paper: its tables as a grid, the lessons run headless, and the report.

It holds the grid and its comparisons, the cost plan, the runner of lessons, the ledger of the
paper's numbers beside ours, the report, and the check of the machine. It imports the pipeline, the
tasks and all below them; only the reading room and the command line import it. The names below are
loaded on first use, so that a check of the machine loads no torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
