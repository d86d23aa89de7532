"""Environment: what this machine can do for the kit, and the next step for each problem.

`cxrkit doctor` shows it; `provenance` stands beside every number that the kit records.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from cxrkit import __version__
from cxrkit.config.extras import requirements, unmet_requirements
from cxrkit.storage import locations
from cxrkit.storage.provenance import GB, facts, installed_packages, versions

INSTALL = 'pip install -c constraints.txt -e ".[dev]" in the checkout, or pip install cxrkit'


@dataclass(frozen=True)
class Check:
    """One finding about this machine.

    Attributes:
        name: what was checked.
        status: "ok", "note" (works, worth knowing) or "blocks".
        value: what was found.
        todo: the next step, "" where there is none.
    """

    name: str
    status: str
    value: str
    todo: str = ""


# packages


def check_python(root: Path | None) -> Check:
    """The interpreter, and where it lies (pip has refused one that is too old)."""
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def check_packages(root: Path | None) -> Check:
    """Every required package in a version that the kit accepts, and one cv2 only."""
    try:
        missing = unmet_requirements(requirements())
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "blocks", "cxrkit itself is not installed", INSTALL)
    if missing:
        return Check("packages", "blocks", "missing or too old: " + ", ".join(missing), INSTALL)
    value = ", ".join(f"{name} {version}" for name, version in versions().items())
    two_copies = {"opencv-python", "opencv-python-headless"} <= installed_packages()
    if two_copies and "conda" not in sys.version:
        return Check(
            "packages",
            "note",
            f"{value}; two copies of cv2 overwrite each other",
            "pip uninstall -y opencv-python-headless opencv-python && pip install opencv-python",
        )
    return Check("packages", "ok", value)


def check_extras(root: Path | None) -> Check:
    """The optional parts; a missing one is no problem until a lesson or a command asks for it."""
    try:
        names = importlib.metadata.metadata("cxrkit").get_all("Provides-Extra") or []
        missing = {name: unmet_requirements(requirements(name)) for name in names}
    except importlib.metadata.PackageNotFoundError:
        return Check("extras", "note", "unknown: cxrkit is not installed", INSTALL)
    value = ", ".join(f"{name} {'missing' if lacks else 'ok'}" for name, lacks in missing.items())
    absent = ",".join(name for name, lacks in missing.items() if lacks)
    todo = f'when you need them: pip install "cxrkit[{absent}]"' if absent else ""
    return Check("extras", "ok", value, todo)


# the machine


def check_device(root: Path | None) -> Check:
    """The device that torch offers: CUDA (with a kernel for this GPU), Apple's MPS, or the CPU."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("device", "blocks", f"torch does not load: {error}", INSTALL)
    if torch.cuda.is_available():
        return _check_cuda()
    if torch.backends.mps.is_available():
        return Check("device", "ok", "Apple GPU (MPS)")
    if torch.version.cuda and shutil.which("nvidia-smi"):
        return Check(
            "device",
            "note",
            f"CPU, although nvidia-smi is here: torch {torch.__version__} sees no GPU",
            "compare the driver's CUDA version (nvidia-smi) with torch's; update the driver or "
            "take another wheel",
        )
    return Check("device", "ok", "CPU (enough for profile demo)")


def _check_cuda() -> Check:
    """The GPU, and whether this torch has kernels for it."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    gpu = torch.cuda.get_device_properties(0)
    value = (
        f"{torch.cuda.device_count()} x {gpu.name}, {gpu.total_memory / GB:.0f} GB, CUDA "
        f"{torch.version.cuda}"
    )
    if major < 8 and f"sm_{major}{minor}" not in torch.cuda.get_arch_list():
        return Check(
            "device",
            "note",
            f"{value}: this torch has no kernels for compute capability {major}.{minor}",
            "install a torch built for CUDA 12, or hide the GPU: CUDA_VISIBLE_DEVICES= cxrkit ...",
        )
    return Check("device", "ok", value)


def check_threads(root: Path | None) -> Check:
    """Threads of the environment.

    Two processes with the default of all cores each are ten times slower than two with one thread.
    """
    cores, asked = psutil.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "")
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    value = f"{cores} cores, OMP_NUM_THREADS={asked or 'unset'}, OMP_WAIT_POLICY={policy}"
    if asked and not asked.isdigit():
        return Check("threads", "note", value, "set OMP_NUM_THREADS to a number, or unset it")
    if asked and int(asked) > cores:
        todo = f"export OMP_NUM_THREADS={cores}: more threads than cores wait for each other"
        return Check("threads", "note", value, todo)
    todo = "when two programs compute at once: export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE"
    return Check("threads", "ok", value, todo)


def check_memory(root: Path | None) -> Check:
    """Free memory; the lessons on `demo` stay below 2 GB."""
    machine = psutil.virtual_memory()
    free = machine.available / GB
    value = f"{free:.1f} GB free of {machine.total / GB:.1f} GB"
    if free < 2:
        return Check("memory", "note", value, "close other kernels: a lesson takes up to 2 GB")
    return Check("memory", "ok", value)


def check_paper(root: Path | None) -> Check:
    """What one training step of profile `paper` needs, counted, against the GPU that is here."""
    try:
        import torch

        from cxrkit.config import profiles
        from cxrkit.models import factory
        from cxrkit.training import memory
    except (ImportError, OSError) as error:
        return Check("paper", "note", f"memory of its training not counted: {error}", INSTALL)
    paper = profiles.paper()
    shape, training = (1, paper.image_size, paper.image_size), paper.backbone_training

    def build() -> torch.nn.Module:
        return factory.build_backbone(paper)

    need = {
        name: memory.training_bytes(build, shape, training, name) / GB for name in memory.DTYPES
    }
    sizes = ", ".join(f"{size:.1f} GB in {name}" for name, size in need.items())
    value = (
        f"a step of the backbone ({training.batch} films of {paper.image_size} px) needs {sizes}, "
        "and up to 1 GB of work space"
    )
    if torch.cuda.is_available():
        there = torch.cuda.get_device_properties(0).total_memory / GB
        if there < need["bf16"] + 1:
            todo = (
                "halve `batch` and double `accumulate` of backbone_training in the settings of the "
                "profile"
            )
            return Check("paper", "note", value, todo)
    return Check("paper", "ok", value)


# An image of the virtual hospitals as it was drawn where the kit was tested.
KNOWN_IMAGE = {"site": "dogwood", "seed": 0, "ward": "severity", "n": 8, "size": 128}
KNOWN_ROW = 3  # of that hospital
KNOWN_PIXELS = {"right lung": 2023, "left lung": 2066, "lesion": 1718}
KNOWN_ZONES = [[0, 1], [1, 1], [1, 1]]
KNOWN_GREY = (  # mean of each of 4 x 4 parts of the film
    (112.06, 164.61, 152.48, 93.55),
    (171.45, 153.16, 155.26, 155.66),
    (162.11, 184.38, 197.56, 115.97),
    (155.40, 225.59, 223.11, 142.53),
)
GREY_TOLERANCE = 1.0  # grey levels of 255; rounding differs by less between processors


def check_drawing(root: Path | None) -> Check:
    """A film is drawn and compared with known numbers: truth exactly, grey within a tolerance."""
    todo = "pip install --force-reinstall numpy opencv-python scipy cxrkit, then run this again"
    try:
        import numpy as np

        from cxrkit.simulation.hospital import Hospital

        patient = Hospital(**KNOWN_IMAGE)[KNOWN_ROW]
    except (ImportError, OSError, ValueError) as error:
        return Check("drawing", "blocks", f"no film can be drawn: {error}", todo)
    right, left = patient.lungs
    found = {"right lung": right, "left lung": left, "lesion": patient.lesion}
    pixels = {name: int(np.count_nonzero(mask)) for name, mask in found.items()}
    grey = patient.image.reshape(4, 32, 4, 32).mean(axis=(1, 3))  # (4, 4)
    apart = float(np.abs(grey - np.array(KNOWN_GREY)).max())
    same = pixels == KNOWN_PIXELS and patient.array.astype(int).tolist() == KNOWN_ZONES
    if not same or apart > GREY_TOLERANCE:
        value = (
            f"a known film comes out differently: {pixels} instead of {KNOWN_PIXELS}, grey off by "
            f"{apart:.2f} (tolerance {GREY_TOLERANCE:g})"
        )
        return Check("drawing", "note", value, todo)
    value = f"a known film comes out as it must, grey within {apart:.2f} of {GREY_TOLERANCE:g}"
    return Check("drawing", "ok", value)


# the folders and the kernel


def check_store(root: Path) -> Check:
    """Where results go, whether they may, and how much room is left."""
    change = "choose another folder: export CXRKIT_STORE=/path/with/room (or --out)"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"writable")
    except OSError as error:
        return Check("store", "blocks", f"{root} cannot be written: {error.strerror}", change)
    free = shutil.disk_usage(root).free / GB
    value = f"{root}, {free:.1f} GB free"
    if free < 0.5:
        return Check("store", "blocks", value, change)
    if free < 5:
        return Check("store", "note", value, f"demo needs about 2 GB; {change}")
    return Check("store", "ok", value)


def check_mirror(root: Path | None) -> Check:
    """A folder with prepared public images, which stands in for downloads."""
    folder = os.environ.get("CXRKIT_MIRROR")
    if not folder:
        todo = "only for prepared films: export CXRKIT_MIRROR=/path"
        return Check("mirror", "ok", "none (CXRKIT_MIRROR unset)", todo)
    if not Path(folder).is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        value = f"CXRKIT_MIRROR={folder} is no readable folder"
        return Check("mirror", "note", value, "correct the path, or unset it")
    count = sum(path.is_dir() for path in Path(folder).iterdir())
    return Check("mirror", "ok", f"{folder} ({count} folders)")


def check_kernel(root: Path | None) -> Check:
    """The Jupyter kernel `python3` must be this interpreter, or a lesson runs without the kit."""
    again = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

        spec = KernelSpecManager().get_kernel_spec("python3")
    except ImportError:
        install = 'pip install "cxrkit[lessons]"'
        return Check("kernel", "note", "no Jupyter here: lessons cannot run", install)
    except NoSuchKernel:
        return Check("kernel", "blocks", "no Jupyter kernel named python3", again)
    # jupyter_client replaces a bare "python" by the running interpreter; a full path is another
    # environment's
    program = Path(spec.argv[0])
    is_path = program.name != spec.argv[0]
    if is_path and program.absolute() != Path(sys.executable).absolute():
        return Check("kernel", "blocks", f"kernel python3 is another interpreter: {program}", again)
    return Check("kernel", "ok", f"python3 ({spec.resource_dir})")


# these import no torch: they cost a moment
BEFORE_A_RUN = (check_python, check_packages, check_store, check_kernel)
CHECKS = (
    check_python,
    check_packages,
    check_device,
    check_threads,
    check_memory,
    check_paper,
    check_drawing,
    check_store,
    check_mirror,
    check_kernel,
    check_extras,
)


def examine(
    root: Path | None = None, checks: Iterable[Callable[[Path], Check]] = CHECKS
) -> list[Check]:
    """All findings about this machine.

    Args:
        root: of the store; default `locations.default_root()`.
        checks: functions of the root.
    """
    root = Path(root) if root else locations.default_root()
    return [check(root) for check in checks]


def blocking(found: Iterable[Check]) -> list[Check]:
    """Those findings that stop every run."""
    return [check for check in found if check.status == "blocks"]


def as_text(found: Iterable[Check]) -> str:
    """The findings for a terminal, each problem with its next step."""
    found = list(found)
    lines = [f"cxrkit {__version__}, {platform.platform()}"]
    for check in found:
        lines.append(f"{check.status:>6}  {check.name:<9} {check.value}")
        if check.todo and check.status == "ok":
            lines.append(f"{'':>18}({check.todo})")
        elif check.todo:
            lines.append(f"{'':>18}-> {check.todo}")
    stops = len(blocking(found))
    lines.append(f"{stops} problem(s) to solve first." if stops else "Ready.")
    return "\n".join(lines)


def as_json(found: Iterable[Check]) -> str:
    """The findings as JSON text."""
    found = list(found)
    values = {
        "version": __version__,
        "ready": not blocking(found),
        "checks": [asdict(check) for check in found],
    }
    return json.dumps(values, indent=1)


# provenance


def provenance() -> dict[str, Any]:
    """What a reader of a number must know about where it came from; no host or user name."""
    return facts(check_device(None).value)
