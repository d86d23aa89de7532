"""Train the demo's segmenter ten times longer, and once more without its adversarial part: `make
segmenter`. Resumes.

At the demo's budget the adversarial part has no time to learn what disease looks like. Here it has
(about 40 minutes on one core), and the ablation `translate=False` (the teacher sees abnormal films
as they are) shares its steps. Written to cxrkit/results.
"""

from dataclasses import asdict, replace
from functools import partial

import pandas as pd

from cxrkit.config import profiles
from cxrkit.evaluation import overlap
from cxrkit.pipeline import dependencies, task_data
from cxrkit.reproduction import environment, results
from cxrkit.storage import artifacts, atomic
from cxrkit.tasks import segmentation

PAIRS = (
    ("student", "unet_normal"),
    ("student", "ablation"),
    ("teacher", "direct"),
    ("unet_both", "unet_normal"),
)
RECIPE = (
    "size",
    "widths",
    "judge_widths",
    "unet_widths",
    "residual",
    "diversity",
    "r1_every",
    "augmentation",
    "abnormal",
)


def large():
    """The demo profile with ten times its budget."""
    demo = profiles.demo()
    teacher = replace(
        demo.segmenter_training, lr=1e-3, batch=8, steps=1200, ema=0.995, checkpoint_every=100
    )
    return replace(
        demo,
        segmenter=replace(demo.segmenter, judged=1500),
        segmenter_training=teacher,
        student_training=replace(demo.student_training, batch=8, steps=300, checkpoint_every=100),
        unet_training=replace(demo.unet_training, steps=800, checkpoint_every=100),
    )


def make(folder, profile, store):
    """The stage as ever, then the ablation -> predictions.csv of all networks."""
    films = task_data.for_task(profile, "lungs", store)
    segmentation.make(folder, profile, films, store)
    alone = replace(
        profile,
        segmenter=replace(profile.segmenter, translate=False),
        # it starts as its teacher: nothing is left to learn
        student_training=replace(profile.student_training, steps=1),
    )
    table = segmentation.roles(profile, films)
    _, student = segmentation.fit_adain(folder / "ablation", alone, table, store)
    test = table[table["role"] == "test"].reset_index(drop=True)
    judged = segmentation.judge(student, segmentation.draw, test, profile, store).assign(
        network="ablation"
    )
    pd.concat([pd.read_csv(folder / "predictions.csv"), judged]).to_csv(
        folder / "predictions.csv", index=False
    )


def main():
    profile, store = large(), artifacts.Store()
    made = (
        environment.provenance()
    )  # of the code that runs, not of what has become of it an hour later
    folder = store.load_or_make(
        "segmenter_large",
        dependencies.settings(profile, "segmenter"),
        partial(make, profile=profile, store=store),
    )
    judged = pd.read_csv(folder / "predictions.csv")
    away = judged[judged["external"].astype(bool)]
    rows = [
        {"network": name, "group": group, "measure": measure, **found}
        for name, groups in overlap.by_network(away).items()
        for group, measures in groups.items()
        for measure, found in measures.items()
        if measure in ("dice", "missed")
    ]
    rows += [
        {"network": ours, "minus": theirs, "group": group, "measure": measure, **found}
        for ours, theirs in PAIRS
        for measure in ("dice", "missed")
        for group, found in overlap.gain(away, ours, theirs, measure).items()
    ]
    game = atomic.read_json(folder / "history.json")["teacher"][-1]
    recipe = {name: getattr(profile.segmenter, name) for name in RECIPE}
    trainings = {
        name: asdict(getattr(profile, name))
        for name in ("segmenter_training", "student_training", "unet_training")
    }
    results.write(
        "segmenter_large",
        rows,
        {
            "command": "make segmenter",
            "profile": "demo",
            "recipe": {**recipe, **trainings},
            "discriminator": {name: game[name] for name in ("real", "fake")},
            **made,
        },
    )


if __name__ == "__main__":
    main()
