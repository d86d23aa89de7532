from . import anatomy as anatomy
from . import arrangement as arrangement
from . import patterns as patterns
from .anatomy import Body as Body
from .anatomy import Chest as Chest
from .anatomy import make_body as make_body
from .anatomy import project as project
from .atlases import SOURCES as SOURCES
from .atlases import load_atlas as load_atlas
from .cohort import Cohort as Cohort
from .cohort import draw_cohort as draw_cohort
from .disease import Lesion as Lesion
from .disease import add_lesions as add_lesions
from .hospital import SITES as SITES
from .hospital import VIEWS as VIEWS
from .hospital import WARDS as WARDS
from .hospital import Hospital as Hospital
from .hospital import Patient as Patient
from .hospital import finding_mask_from_url as finding_mask_from_url
from .hospital import from_url as from_url
from .radiograph import MARKERS as MARKERS
from .radiograph import Detector as Detector
from .radiograph import detect as detect
from .radiograph import erase_marker as erase_marker
from .radiograph import expose as expose
from .radiograph import write_marker as write_marker

__all__ = [
    "patterns",
    "anatomy",
    "arrangement",
    "MARKERS",
    "SITES",
    "SOURCES",
    "VIEWS",
    "WARDS",
    "Body",
    "Chest",
    "Cohort",
    "Detector",
    "Hospital",
    "Lesion",
    "Patient",
    "add_lesions",
    "detect",
    "draw_cohort",
    "erase_marker",
    "expose",
    "finding_mask_from_url",
    "from_url",
    "load_atlas",
    "make_body",
    "project",
    "write_marker",
]
