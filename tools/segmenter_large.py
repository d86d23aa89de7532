"""Train the demo's segmenter ten times longer, and once without its adversarial part.

    python tools/segmenter_large.py          # make segmenter; about 40 minutes on one core

At the demo's budget the adversarial part has no time to learn what disease looks like. Here it has,
and the ablation `translate=False` (the teacher sees abnormal images as they are) shares its steps.
It resumes. Written to cxrkit/storage/recorded_results/segmenter_large.json.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.evaluation import overlap
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import segmentation
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.task import Inputs

PAIRS = (
    ("student", "unet_normal"),
    ("student", "ablation"),
    ("teacher", "direct"),
    ("unet_both", "unet_normal"),
)
SETTINGS = (
    "size",
    "widths",
    "discriminator_widths",
    "unet_widths",
    "residual",
    "diversity",
    "r1_every",
    "augmentation",
    "abnormal",
)
TRAININGS = ("segmenter_training", "student_training", "unet_training")
MEASURES = ("dice", "missed")


def large() -> Profile:
    """The demo profile with ten times its budget."""
    demo = profiles.demo()
    teacher = replace(
        demo.segmenter_training, lr=1e-3, batch=8, steps=1200, ema=0.995, checkpoint_every=100
    )
    return replace(
        demo,
        segmenter=replace(demo.segmenter, max_eval_images=1500),
        segmenter_training=teacher,
        student_training=replace(demo.student_training, batch=8, steps=300, checkpoint_every=100),
        unet_training=replace(demo.unet_training, steps=800, checkpoint_every=100),
    )


def make(folder: Path, run: Run) -> None:
    """The stage as ever, then the ablation; predictions.csv holds all networks."""
    images, store = run.images("lungs"), run.store
    SegmentationTask(run.profile, store, run.device).make(folder, Inputs(images))
    without = replace(
        run.profile,
        segmenter=replace(run.profile.segmenter, translate=False),
        # it starts as its teacher: nothing is left to learn
        student_training=replace(run.profile.student_training, steps=1),
    )
    task = SegmentationTask(without, store, run.device)
    table = segmentation.assign_roles(run.profile, images)
    _, student = task.fit_adain(folder / "ablation", table)
    test = table[table["role"] == "test"].reset_index(drop=True)
    compared = task.compare(student, segmentation.lung_logits, test).assign(network="ablation")
    predictions = store.read_table(folder / "predictions.csv")
    store.write_table(folder / "predictions.csv", pd.concat([predictions, compared]))


def rows_of(compared: pd.DataFrame) -> list[dict[str, Any]]:
    """The measures of each network, then the difference of each of PAIRS, by group.

    Args:
        compared: predictions.csv of external sites.
    """
    rows = []
    for name, groups in overlap.by_network(compared).items():
        for group, measures in groups.items():
            for measure in MEASURES:
                if measure in measures:
                    labels = {"network": name, "group": group, "measure": measure}
                    rows.append({**labels, **measures[measure]})
    for network, baseline in PAIRS:
        for measure in MEASURES:
            for group, found in overlap.gain(compared, network, baseline, measure).items():
                labels = {"network": network, "minus": baseline, "group": group}
                rows.append({**labels, "measure": measure, **found})
    return rows


def main() -> None:
    """Train, compare, record."""
    run = Run(large())
    profile = run.profile
    # of the code that runs, not of what has become of it an hour later
    made = environment.provenance()
    settings = stages.settings(profile, "segmenter")
    folder = run.store.load_or_make("segmenter_large", settings, lambda part: make(part, run))
    compared = run.store.read_table(folder / "predictions.csv")
    last = read_json(folder / "history.json")["teacher"][-1]
    used = {name: getattr(profile.segmenter, name) for name in SETTINGS}
    used |= {name: asdict(getattr(profile, name)) for name in TRAININGS}
    recorded.write_result(
        "segmenter_large",
        rows_of(compared[compared["external"].astype(bool)]),
        {
            "command": "make segmenter",
            "profile": "demo",
            "hospitals": stages.stage_of("cohort").version,
            "settings": used,
            "discriminator": {name: last[name] for name in ("real", "fake")},
            **made,
        },
    )


if __name__ == "__main__":
    main()
