from .classroom import classroom_images as classroom_images
from .exercises import Exercise as Exercise
from .exercises import Outcome as Outcome
from .exercises import check as check
from .exercises import hint as hint
from .exercises import list_exercises as list_exercises
from .glossary import GLOSSARY as GLOSSARY
from .glossary import glossary as glossary
from .live_training import LiveTraining as LiveTraining
from .live_training import train_yourself as train_yourself
from .observations import Observation as Observation
from .observations import what_to_see as what_to_see
from .schematics import SCHEMATICS as SCHEMATICS
from .schematics import schematic as schematic
from .two_marks import ANSWERS as ANSWERS
from .two_marks import draw_marks as draw_marks
from .two_marks import share_on_pair as share_on_pair

__all__ = [
    "ANSWERS",
    "GLOSSARY",
    "SCHEMATICS",
    "Exercise",
    "LiveTraining",
    "Observation",
    "Outcome",
    "check",
    "classroom_images",
    "glossary",
    "draw_marks",
    "list_exercises",
    "hint",
    "schematic",
    "share_on_pair",
    "train_yourself",
    "what_to_see",
]
