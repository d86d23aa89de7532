from .edits import EDITS as EDITS
from .figures import PANELS as PANELS
from .figures import PanelState as PanelState
from .figures import draw_panel as draw_panel
from .pages import QuizPage as QuizPage
from .pages import ReadingRoom as ReadingRoom
from .quiz import grade_answer as grade_answer
from .quiz import quiz_samples as quiz_samples
from .state import Prediction as Prediction
from .state import Room as Room
from .state import Sample as Sample
from .state import Truth as Truth
from .state import rezone as rezone
from .state import token_similarity as token_similarity

__all__ = [
    "EDITS",
    "PANELS",
    "PanelState",
    "Prediction",
    "QuizPage",
    "ReadingRoom",
    "Room",
    "Sample",
    "Truth",
    "draw_panel",
    "grade_answer",
    "quiz_samples",
    "rezone",
    "token_similarity",
]
