"""A reading room for tests: films of a tiny cohort, and models of the right shape with random
weights; nothing is trained.
"""

from dataclasses import replace

import pandas as pd
import torch

from cxrkit.config import profiles
from cxrkit.models import factory
from cxrkit.pipeline import dependencies, task_data
from cxrkit.reading_room.state import Room
from cxrkit.simulation import cohort
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import diagnosis, segmentation, severity
from cxrkit.training import checkpoint

SIZE = 64
PROFILE = replace(
    profiles.demo(),
    image_size=SIZE,
    cohort=profiles.Cohort(findings=1, diagnosis=18, severity=27, size=SIZE),
    backbone=profiles.DenseNet(
        growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
    ),
    transformer=profiles.ViT(embed_dim=32, depth=2, num_heads=2),
    segmenter=replace(profiles.demo().segmenter, size=SIZE, widths=(4, 8)),
)
NETWORKS = {
    "backbone": factory.backbone_network,
    "diagnosis_pa": factory.network,
    "diagnosis_ap": factory.network,
    "segmenter": segmentation.network,
    "severity": severity.network,
}


def fill(root):
    """Put what `Room` loads into a store: random weights, and predictions that say a third to
    everything.
    """
    store = Store(root)
    # in this process: others would import torch anew
    store.load_or_make(
        "cohort",
        dependencies.settings(PROFILE, "cohort"),
        lambda part: cohort.draw(part, PROFILE.cohort, PROFILE.seed, workers=1),
    )
    table = task_data.for_task(PROFILE, "diagnosis", store)
    for number, (stage, network) in enumerate(NETWORKS.items()):
        folder = store.folder(stage, dependencies.settings(PROFILE, stage))
        folder.mkdir()
        torch.manual_seed(number)
        checkpoint.save_tensors(folder / "weights.safetensors", network(PROFILE).state_dict())
        view = stage[-2:].upper()
        third = pd.DataFrame(1 / 3, table.index, diagnosis.PROBABILITIES)
        pd.concat([table, third], axis=1)[table["view"] == view].to_csv(
            folder / "predictions.csv", index=False
        )
        write_json(folder / "metrics.json", {"followup": {"limit": 1.5}})
    return store


def room(root):
    """The room over a store that `fill` has filled."""
    return Room(PROFILE, Store(root))
