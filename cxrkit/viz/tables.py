"""Tables that lessons show: they are made where the numbers are, and shown beside the figures."""

from cxrkit.evaluation.overlap import group_label, summary_table
from cxrkit.shortcuts.within_source import comparison_table, source_class_table

__all__ = ["comparison_table", "group_label", "source_class_table", "summary_table"]
