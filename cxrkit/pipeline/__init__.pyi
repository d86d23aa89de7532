from .run import Result as Result
from .run import Run as Run
from .stages import STAGES as STAGES
from .stages import Stage as Stage
from .stages import resolve as resolve
from .stages import settings as settings

__all__ = ["STAGES", "Result", "Run", "Stage", "resolve", "settings"]
