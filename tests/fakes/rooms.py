"""A reading room for tests: images of a tiny cohort, and models with random weights.

Nothing is trained.
"""

from dataclasses import replace

import pandas as pd
import torch

from cxrkit.config import profiles, sections
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.reading_room.state import Room
from cxrkit.simulation import cohort
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_json
from cxrkit.tasks.diagnosis import PROBABILITIES, DiagnosisTask
from cxrkit.tasks.findings import FindingsTask
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.severity import SeverityTask
from cxrkit.training import checkpoint

SIZE = 64
PROFILE = replace(
    profiles.demo(),
    image_size=SIZE,
    cohort=sections.CohortSettings(findings=1, diagnosis=18, severity=27, size=SIZE),
    backbone=sections.DenseNet(
        growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
    ),
    transformer=sections.ViT(embed_dim=32, depth=2, num_heads=2),
    segmenter=replace(profiles.demo().segmenter, size=SIZE, widths=(4, 8)),
)
# a few films for an example
SMALL = replace(PROFILE, cohort=replace(PROFILE.cohort, diagnosis=6, severity=9))
TASKS = {
    "backbone": FindingsTask,
    "diagnosis_pa": DiagnosisTask,
    "diagnosis_ap": DiagnosisTask,
    "segmenter": SegmentationTask,
    "severity": SeverityTask,
}


def fill(root, profile=PROFILE):
    """Put what `Room` loads into a store.

    The weights are random, and the predictions give a third to every diagnosis.

    Args:
        root: folder of the store.
        profile: PROFILE, or one with another cohort.

    Returns:
        The store.
    """
    store = Store(root)
    # one worker, in this process: others would import torch anew
    store.load_or_make(
        "cohort",
        stages.settings(profile, "cohort"),
        lambda part: cohort.draw_cohort(part, profile.cohort, profile.seed, workers=1),
    )
    table = Run(profile, root).images("diagnosis")
    table["part"] = table["split"].mask(table["external"].astype(bool), "external")
    for number, (stage, task) in enumerate(TASKS.items()):
        folder = stages.folder_of(profile, stage, store)
        folder.mkdir()
        torch.manual_seed(number)
        state = task(profile, store).network().state_dict()
        checkpoint.save_tensors(folder / "weights.safetensors", state)
        view = stage[-2:].upper()
        third = pd.DataFrame(1 / 3, table.index, PROBABILITIES)
        predictions = pd.concat([table, third], axis=1)[table["view"] == view]
        store.write_table(folder / "predictions.csv", predictions)
        write_json(folder / "metrics.json", {"followup": {"limit": 1.5}, "temperature": 2.0})
    return store


def room(root):
    """The room over a store that `fill` has filled."""
    return Room(Run(PROFILE, root))
