import cxrkit.training.losses as _losses

from . import diagnosis as diagnosis
from . import findings as findings
from . import reader_study as reader_study
from . import segmentation as segmentation
from . import severity as severity
from .contrastive import ContrastiveTask as ContrastiveTask
from .diagnosis import DiagnosisTask as DiagnosisTask
from .findings import FindingsTask as FindingsTask
from .segmentation import SegmentationTask as SegmentationTask
from .severity import SeverityTask as SeverityTask
from .task import Inputs as Inputs
from .task import Task as Task

nonsaturating = _losses.nonsaturating

__all__ = [
    "nonsaturating",
    "ContrastiveTask",
    "DiagnosisTask",
    "FindingsTask",
    "Inputs",
    "SegmentationTask",
    "SeverityTask",
    "Task",
    "diagnosis",
    "findings",
    "reader_study",
    "segmentation",
    "severity",
]
