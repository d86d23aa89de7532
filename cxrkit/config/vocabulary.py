"""Vocabulary: words that data, models and metrics share, and the columns of a table of images."""

from collections.abc import Collection
from typing import Any, Literal

FINDINGS = (
    "no_finding",
    "cardiomegaly",
    "opacity",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural_effusion",
    "support_device",
)  # the order of the backbone's outputs (section 4)
# 0/1: patient's right upper, middle, lower, then left (the 3x2 array)
ZONES = ("rul", "rml", "rll", "lul", "lml", "lll")
# 0-3: A B C = right upper, middle, lower; D E F = left
BRIXIA = tuple(f"brixia_{zone}" for zone in "ABCDEF")
SECOND = tuple(f"brixia2_{zone}" for zone in "ABCDEF")  # a second radiologist of the same image
DIAGNOSES = ("normal", "other_infection", "covid19")
# what an infection is caused by; other_infection joins bacteria, tuberculosis, fungi and the other
# viruses; Fig. 5 shows the first two apart
CAUSES = ("bacterial", "tuberculosis", "viral", "fungal")
# L lateral, LL and RL the two sides of it; other: CT slices and the like
FRAMINGS = ("whole", "crop", "lungs")  # what the diagnosis sees of an image (`Sources.framing`)
VIEWS = ("PA", "AP", "L", "LL", "RL", "other")
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}
COLUMNS = (
    "path",
    "dataset",
    "site",
    "patient_id",
    "group_id",
    "view",
    "supine",
    "split",
    "diagnosis",
    *FINDINGS,
    *ZONES,
    *BRIXIA,
    *SECOND,
    "lung_mask",
    "lesion_mask",
    "visit",  # number of the visit, or days since onset: orders the images of a patient
    "cause",
)
# Of the patient. No model reads them, so no artifact depends on them: results are broken down by
# them (`read_patients`).
PATIENT = ("sex", "age")  # F or M; years
SEXES = ("F", "M")
# lower limits of the age bands of a breakdown, years
AGE_BANDS = (0, 18, 40, 60, 75)
OLDEST = 120  # years
# what one may ask of a dataset, and the columns of which any answers it
Question = Literal["findings", "diagnosis", "view", "severity", "readers", "lungs", "lesion"]
HAS: dict[Question, tuple[str, ...]] = {
    "findings": FINDINGS,
    "diagnosis": ("diagnosis",),
    "view": ("view",),
    "severity": ZONES + BRIXIA,
    "readers": SECOND,
    "lungs": ("lung_mask",),
    "lesion": ("lesion_mask",),
}


def known(name: Any, names: Collection[Any], kind: str) -> Any:
    """A name that must be one of several.

    Args:
        name: what was asked for.
        names: what there is.
        kind: what it is, for the message, such as "view".

    Raises:
        ValueError: the name is not among them; the message lists them.
    """
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}; known: {sorted(names)}")
    return name


# patients with a finding, below which its AUC is not worth a number
FEWEST = 20
