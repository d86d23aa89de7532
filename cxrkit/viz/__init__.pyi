from .curves import plot_agreement as plot_agreement
from .curves import plot_benchmark as plot_benchmark
from .curves import plot_cascade as plot_cascade
from .curves import plot_cost as plot_cost
from .curves import plot_decision_curve as plot_decision_curve
from .curves import plot_followup as plot_followup
from .curves import plot_forest as plot_forest
from .curves import plot_history as plot_history
from .curves import plot_matrix as plot_matrix
from .curves import plot_model_lines as plot_model_lines
from .curves import plot_roc as plot_roc
from .curves import plot_sweep as plot_sweep
from .curves import roc_curve as roc_curve
from .overlays import overlay_map as overlay_map
from .overlays import plot_attention as plot_attention
from .overlays import plot_findings as plot_findings
from .overlays import plot_markers as plot_markers
from .overlays import plot_masks as plot_masks
from .overlays import plot_methods as plot_methods
from .overlays import plot_saliency as plot_saliency
from .overlays import plot_severity as plot_severity
from .overlays import plot_styles as plot_styles
from .overlays import plot_zone_lines as plot_zone_lines
from .sliders import explore as explore
from .sliders import run_on_click as run_on_click
from .style import BLUE as BLUE
from .style import GREEN as GREEN
from .style import ORANGE as ORANGE
from .style import PINK as PINK
from .style import RED as RED
from .style import SKY as SKY
from .style import YELLOW as YELLOW
from .style import figure_style as figure_style
from .style import finding_names as finding_names
from .style import grid as grid
from .style import legend_below as legend_below
from .style import outline_mask as outline_mask
from .style import plot_bars as plot_bars
from .style import plot_image as plot_image
from .style import plot_series as plot_series
from .style import plot_sheet as plot_sheet
from .style import plot_steps as plot_steps
from .style import show_image as show_image
from .style import show_zones as show_zones
from .style import stamp as stamp
from .style import to_png as to_png
from .tables import comparison_table as comparison_table
from .tables import group_label as group_label
from .tables import source_class_table as source_class_table
from .tables import summary_table as summary_table

__all__ = [
    "BLUE",
    "GREEN",
    "ORANGE",
    "PINK",
    "RED",
    "SKY",
    "YELLOW",
    "comparison_table",
    "explore",
    "figure_style",
    "finding_names",
    "grid",
    "group_label",
    "legend_below",
    "outline_mask",
    "overlay_map",
    "plot_agreement",
    "plot_attention",
    "plot_bars",
    "plot_benchmark",
    "plot_cascade",
    "plot_cost",
    "plot_decision_curve",
    "plot_findings",
    "plot_followup",
    "plot_forest",
    "plot_history",
    "plot_image",
    "plot_markers",
    "plot_masks",
    "plot_matrix",
    "plot_methods",
    "plot_model_lines",
    "plot_roc",
    "plot_saliency",
    "plot_series",
    "plot_severity",
    "plot_sheet",
    "plot_steps",
    "plot_styles",
    "plot_sweep",
    "plot_zone_lines",
    "roc_curve",
    "run_on_click",
    "show_image",
    "show_zones",
    "source_class_table",
    "stamp",
    "summary_table",
    "to_png",
]
