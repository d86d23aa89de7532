from .marker_study import FIXES as FIXES
from .marker_study import MARKERS as MARKERS
from .marker_study import PROBES as PROBES
from .marker_study import RHOS as RHOS
from .marker_study import MarkedImages as MarkedImages
from .marker_study import balanced_weights as balanced_weights
from .marker_study import compare_fixes as compare_fixes
from .marker_study import confounder_sweep as confounder_sweep
from .marker_study import draw_markers as draw_markers
from .marker_study import erase_marker as erase_marker
from .marker_study import exchange_markers as exchange_markers
from .marker_study import flip_rate as flip_rate
from .marker_study import mark_images as mark_images
from .marker_study import relevance_on_marker as relevance_on_marker
from .marker_study import write_marker as write_marker
from .trivial_models import trivial_predictions as trivial_predictions
from .trivial_models import trivial_probes as trivial_probes
from .within_source import comparison_table as comparison_table
from .within_source import source_class_table as source_class_table
from .within_source import source_probes as source_probes
from .within_source import within_external_source as within_external_source
from .within_source import within_internal_source as within_internal_source

__all__ = [
    "MARKERS",
    "FIXES",
    "PROBES",
    "RHOS",
    "MarkedImages",
    "balanced_weights",
    "compare_fixes",
    "comparison_table",
    "confounder_sweep",
    "draw_markers",
    "erase_marker",
    "exchange_markers",
    "flip_rate",
    "mark_images",
    "relevance_on_marker",
    "source_class_table",
    "source_probes",
    "trivial_predictions",
    "trivial_probes",
    "within_external_source",
    "within_internal_source",
    "write_marker",
]
