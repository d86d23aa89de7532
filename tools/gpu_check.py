"""Ten minutes on one card: does the kit run there as it says? `make gpu-check`.

Every line is a check of its own: one that fails is written down, and the others go on. The table
goes to `runs/gpu_check.md` of the store, with date, card and commit.

    python tools/gpu_check.py                        on the card
    python tools/gpu_check.py --device cpu --small   its logic on a CPU: no check of a card
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from cxrkit.config import profiles
from cxrkit.config.sections import Profile, Training, Variant
from cxrkit.explain import deep_taylor
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, grid, plan
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.training import loop

GB = 2**30
UPDATES = 3  # of each training: the first warms up


@dataclass(frozen=True)
class Line:
    """One line of the table: what was checked, how it ended, and what was measured."""

    check: str
    result: str
    seconds: float
    measured: str = ""


def attempt(check: str, call: Callable[[], str]) -> Line:
    """Run one check; whatever it raises becomes its result."""
    began = time.perf_counter()
    try:
        measured, result = call(), "ok"
    except Exception as error:  # one check must not stop the others
        measured, result = f"{type(error).__name__}: {error}".splitlines()[0], "FAILED"
    return Line(check, result, time.perf_counter() - began, measured)


def settings_of(small: bool) -> Profile:
    """The profile `paper`; small: the sizes of `demo`."""
    if not small:
        return profiles.paper()
    return replace(profiles.demo(), name="gpu_check_small", image_size=64)


def own_trainings(profile: Profile) -> list[plan.PlannedTraining]:
    """One of each update of the profile's own models: backbone, diagnosis, severity, lungs."""
    planned = []
    for stage in ("backbone", grid.DIAGNOSIS, grid.SEVERITY):
        kind, _ = plan.GRID_TASKS[stage]
        task = kind(replace(profile, variant=Variant()))
        training, size = grid.training_of(profile, stage), profile.image_size
        planned.append(plan.PlannedTraining({stage: 1}, training, task.initialise, task.loss, size))
    return [*planned, *plan.segmenter_updates(profile, 1, {"lungs: unet": 1})]


def grid_trainings(profile: Profile) -> list[plan.PlannedTraining]:
    """One of each update of the grid."""
    table = pd.DataFrame({"external": [False], "split": ["train"]})
    tables = dict.fromkeys(("findings", "diagnosis", "severity"), table)
    planned, _ = plan.grid_trainings(replace(profile, grid=replace(profile.grid, steps=0)), tables)
    return planned


def one_update(planned: plan.PlannedTraining, amp: str, device: torch.device, small: bool) -> str:
    """Updates of a training at true size, their speed, and memory beside the plan's count."""
    training = replace(planned.training, amp=amp, steps=UPDATES, accumulate=1)
    if small:
        training = replace(training, batch=2)
    counted = planned_memory(planned, training, device)
    batch = plan.noise_batch(training.batch, planned.size)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    run = loop.TrainingRun(planned.make(), planned.loss, training, device)
    loop.train_mode(run.model)
    source = iter([(list(range(training.batch)), batch)] * UPDATES)
    run.update(source)
    synchronise(device)
    began = time.perf_counter()
    for _ in range(UPDATES - 1):
        run.update(source)
    synchronise(device)
    speed = (UPDATES - 1) * training.batch / (time.perf_counter() - began)
    said = f"loss {run.losses[-1]['loss']:.4f}, {speed:.1f} images/s"
    if device.type == "cuda":
        said += f", {torch.cuda.max_memory_allocated(device) / GB:.1f} GB at most"
    return f"{said}, {counted / GB:.1f} GB by the plan"


def planned_memory(
    planned: plan.PlannedTraining, training: Training, device: torch.device
) -> float:
    """Bytes that the plan says of a training on a card, from an update of few images in float32."""
    plain = replace(training, amp="off")
    batch = plan.noise_batch(plan.FEWEST_MEASURED, planned.size)
    measured = plan.measure_update(plain, planned.make(), planned.loss, batch, device)
    seconds, kept, weights, flops = measured
    cost = plan.Cost("", 1, training, seconds, kept, weights, len(batch["image"]), True, flops)
    return cost.card_memory


def synchronise(device: torch.device) -> None:
    """Wait for the card."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relevance(profile: Profile, device: torch.device) -> str:
    """Relevance of one image: finite, and never negative for a class."""
    model = DiagnosisTask(profile).initialise().to(device).eval()
    image = plan.noise_batch(1, profile.image_size)["image"].to(device)
    features = model.features(image).detach()
    maps = deep_taylor.relevance(model.transformer, features, 0, device=device)
    if not bool(torch.isfinite(maps).all()) or bool((maps < 0).any()):
        raise ValueError("relevance of a class is negative or not finite")
    return f"map {tuple(maps.shape)}, finite, none negative"


def compiled(profile: Profile, device: torch.device) -> str:
    """torch.compile of the backbone's forward and backward pass, beside the plain one."""
    kind, _ = plan.GRID_TASKS["backbone"]
    task = kind(profile)
    batch = plan.noise_batch(2, profile.image_size)
    image = batch["image"].to(device)
    model = task.initialise().to(device).train()
    seconds = []
    for network in (model, torch.compile(model)):
        for _ in range(2):
            began = time.perf_counter()
            network(image)["logits"].sum().backward()
            synchronise(device)
        seconds.append(time.perf_counter() - began)
    return f"plain {seconds[0]:.3f} s, compiled {seconds[1]:.3f} s for forward and backward"


def _shared_update(rank: int, port: int, backend: str, kind: str) -> None:
    """One of two processes: the mean of a gradient over both."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group(backend, rank=rank, world_size=2)
    device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
    model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1, bias=False).to(device))
    model(torch.full((1, 1), float(rank + 1), device=device)).sum().backward()
    gradient = float(next(model.parameters()).grad)
    dist.destroy_process_group()
    if abs(gradient - 1.5) > 1e-6:
        raise ValueError(f"the mean gradient of 1 and 2 is {gradient}")


def two_processes(device: torch.device) -> str:
    """Two processes on one card over NCCL (a CPU: gloo); some versions of NCCL refuse that."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_shared_update, (port, backend, device.type), nprocs=2)
    return f"{backend}: the gradients of two processes are averaged"


def saliency(store: Store) -> str:
    """The saliency benchmark of the profile `demo`, its models made before where missing."""
    folder = stages.resolve(profiles.dry(profiles.demo()), "saliency_benchmark", store)
    return f"{folder.name}"


def checks(device: torch.device, small: bool, store: Store, minutes: float) -> Iterator[Line]:
    """All checks, the most telling first; those that no time is left for are said so."""
    profile, end = settings_of(small), time.monotonic() + 60 * minutes
    todo: list[tuple[str, Callable[[], str]]] = []
    precisions = ("bf16", "fp16") if device.type == "cuda" else ("off",)
    of_profile = own_trainings(profile)
    for number, planned in enumerate([*of_profile, *grid_trainings(profile)]):
        name = next(iter(planned.images))
        for amp in precisions if number < len(of_profile) else precisions[:1]:
            call = partial(one_update, planned, amp, device, small)
            todo.append((f"update of {name}, {amp}", call))
    own = [
        ("relevance", partial(relevance, profile, device)),
        ("two processes, one card", partial(two_processes, device)),
        ("torch.compile", partial(compiled, profile, device)),
        ("saliency benchmark", partial(saliency, store)),
    ]
    # after the profile's own models, before those of the grid
    first = len(of_profile) * len(precisions)
    for check, call in [*todo[:first], *own, *todo[first:]]:
        if time.monotonic() > end:
            yield Line(check, "no time left", 0.0)
            continue
        yield attempt(check, call)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def as_markdown(lines: list[Line], device: torch.device) -> str:
    """The table with what it was made on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: not a card"
    made = environment.provenance()
    head = f"{made['date']}, commit {made['commit']}, torch {made['torch']}, {name}"
    rows = [f"| {x.check} | {x.result} | {x.seconds:.1f} | {x.measured} |" for x in lines]
    return "\n".join(
        [head, "", "| check | result | seconds | measured |", "|---|---|---|---|", *rows, ""]
    )


def main() -> int:
    """Run the checks; the exit status is 1 where one failed."""
    parser = argparse.ArgumentParser(description="The kit on one card.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small models, two images")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=None, help="the store")
    arguments = parser.parse_args()
    device, store = torch.device(arguments.device), Store(arguments.out)
    lines = []
    for line in checks(device, arguments.small, store, arguments.minutes):
        print(f"{line.result:12} {line.seconds:6.1f} s  {line.check}: {line.measured}", flush=True)
        lines.append(line)
    path = store.root / "runs" / "gpu_check.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(lines, device), "utf-8")
    print(path)
    return int(any(line.result == "FAILED" for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
