"""Doctor: what this machine can do for the kit, what stands in the way, and the next step for each
problem.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from cxrkit import __version__
from cxrkit.config import paths
from cxrkit.storage import artifacts

GB = 2**30
INSTALL = 'pip install -c constraints.txt -e ".[dev]" in the checkout, or pip install cxrkit'


@dataclass(frozen=True)
class Check:
    """One finding. `status` is "ok", "note" (works, worth knowing) or "blocks"; `todo` is the next
    step.
    """

    name: str
    status: str
    value: str
    todo: str = ""


def check_python(root):
    """The interpreter, and where it lies (pip has refused one that is too old)."""
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def requirements(extra=""):
    """The kit's own requirements (of one extra), from its installed metadata: versions live in
    pyproject.toml alone.
    """
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in importlib.metadata.requires("cxrkit") or []]
    if extra:
        return [
            r
            for r in found
            if r.marker
            and r.marker.evaluate({"extra": extra})
            and not r.marker.evaluate({"extra": ""})
        ]
    return [r for r in found if not r.marker or r.marker.evaluate({"extra": ""})]


def unmet(needs):
    """Those of the requirements that are missing or too old, each as text."""
    missing = []
    for need in needs:
        try:
            version = importlib.metadata.version(need.name)
            if not need.specifier.contains(version, prereleases=True):
                missing.append(f"{need.name} {version} (needs {need.specifier})")
        except importlib.metadata.PackageNotFoundError:
            missing.append(need.name)
    return missing


def check_packages(root):
    """Every required package in a version that the kit accepts, and one cv2 only."""
    try:
        missing = unmet(requirements())
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "blocks", "cxrkit itself is not installed", INSTALL)
    if missing:
        return Check("packages", "blocks", "missing or too old: " + ", ".join(missing), INSTALL)
    value = ", ".join(f"{name} {version}" for name, version in versions().items())
    if {"opencv-python", "opencv-python-headless"} <= installed() and "conda" not in sys.version:
        return Check(
            "packages",
            "note",
            f"{value}; two copies of cv2 overwrite each other",
            "pip uninstall -y opencv-python-headless opencv-python && pip install opencv-python",
        )
    return Check("packages", "ok", value)


def installed():
    """Names of all installed distributions."""
    return {d.metadata["Name"] for d in importlib.metadata.distributions()}


def check_extras(root):
    """The optional parts; a missing one is no problem until a lesson or a command asks for it."""
    try:
        names = importlib.metadata.metadata("cxrkit").get_all("Provides-Extra") or []
        missing = {name: unmet(requirements(name)) for name in names}
    except importlib.metadata.PackageNotFoundError:
        return Check("extras", "note", "unknown: cxrkit is not installed", INSTALL)
    value = ", ".join(f"{name} {'missing' if lacks else 'ok'}" for name, lacks in missing.items())
    absent = [name for name, lacks in missing.items() if lacks]
    return Check(
        "extras",
        "ok",
        value,
        f'when you need them: pip install "cxrkit[{",".join(absent)}]"' if absent else "",
    )


def check_device(root):
    """The device that torch offers: CUDA (with a kernel for this GPU), Apple's MPS, or the CPU."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("device", "blocks", f"torch does not load: {error}", INSTALL)
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        gpu = torch.cuda.get_device_properties(0)
        value = f"{torch.cuda.device_count()} x {gpu.name}, {gpu.total_memory / GB:.0f} GB, CUDA {torch.version.cuda}"
        if f"sm_{major}{minor}" not in torch.cuda.get_arch_list() and major < 8:
            return Check(
                "device",
                "note",
                f"{value}: this torch has no kernels for compute capability {major}.{minor}",
                "install a torch built for CUDA 12, or hide the GPU: CUDA_VISIBLE_DEVICES= cxrkit "
                "...",
            )
        return Check("device", "ok", value)
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


def check_threads(root):
    """Threads: two processes with the default of all cores each are ten times slower than two with
    one thread.
    """
    cores, asked = psutil.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "")
    value = f"{cores} cores, OMP_NUM_THREADS={asked or 'unset'}, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'unset')}"
    if asked and not asked.isdigit():
        return Check("threads", "note", value, "set OMP_NUM_THREADS to a number, or unset it")
    if asked and int(asked) > cores:
        return Check(
            "threads",
            "note",
            value,
            f"export OMP_NUM_THREADS={cores}: more threads than cores wait for each other",
        )
    return Check(
        "threads",
        "ok",
        value,
        "when two programs compute at once: export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE",
    )


def check_memory(root):
    """Free memory; the lessons on `demo` stay below 2 GB."""
    free = psutil.virtual_memory().available / GB
    value = f"{free:.1f} GB free of {psutil.virtual_memory().total / GB:.1f} GB"
    if free < 2:
        return Check("memory", "note", value, "close other kernels: a lesson takes up to 2 GB")
    return Check("memory", "ok", value)


def check_paper(root):
    """What one training step of profile `paper` needs on its device, counted (`memory`), against
    the GPU that is here.
    """
    try:
        import torch

        from cxrkit.config import profiles
        from cxrkit.models import factory
        from cxrkit.training import memory
    except (ImportError, OSError) as error:
        return Check("paper", "note", f"memory of its training not counted: {error}", INSTALL)
    paper = profiles.paper()
    shape, training = (1, paper.image_size, paper.image_size), paper.backbone_training
    need = {
        name: memory.training_bytes(lambda: factory.backbone_network(paper), shape, training, name)
        / GB
        for name in memory.PRECISIONS
    }
    value = (
        f"a step of the backbone ({training.batch} films of {paper.image_size} px) needs "
        + ", ".join(f"{size:.1f} GB in {name}" for name, size in need.items())
        + ", and up to 1 GB of work space"
    )
    if (
        torch.cuda.is_available()
        and torch.cuda.get_device_properties(0).total_memory / GB < need["bf16"] + 1
    ):
        return Check(
            "paper",
            "note",
            value,
            "halve `batch` and double `accumulate` of backbone_training in cxrkit/profiles.py",
        )
    return Check("paper", "ok", value)


def check_store(root):
    """Where results go, whether they may, and how much room is left."""
    change = "choose another folder: export CXRKIT_STORE=/path/with/room (or --out)"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as f:
            f.write(b"writable")
    except OSError as error:
        return Check("store", "blocks", f"{root} cannot be written: {error.strerror}", change)
    free = shutil.disk_usage(root).free / GB
    value = f"{root}, {free:.1f} GB free"
    if free < 0.5:
        return Check("store", "blocks", value, change)
    return (
        Check("store", "ok", value)
        if free >= 5
        else Check("store", "note", value, f"demo needs about 2 GB; {change}")
    )


def check_mirror(root):
    """A folder with prepared public films, which stands in for downloads."""
    folder = os.environ.get("CXRKIT_MIRROR")
    if not folder:
        return Check(
            "mirror",
            "ok",
            "none (CXRKIT_MIRROR unset)",
            "only for prepared films: export CXRKIT_MIRROR=/path",
        )
    if not Path(folder).is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return Check(
            "mirror",
            "note",
            f"CXRKIT_MIRROR={folder} is no readable folder",
            "correct the path, or unset it",
        )
    return Check(
        "mirror", "ok", f"{folder} ({sum(p.is_dir() for p in Path(folder).iterdir())} folders)"
    )


def check_kernel(root):
    """The Jupyter kernel `python3` must be this interpreter, or a lesson runs without the kit."""
    again = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

        spec = KernelSpecManager().get_kernel_spec("python3")
    except (ImportError, NoSuchKernel):
        return Check("kernel", "blocks", "no Jupyter kernel named python3", again)
    # jupyter_client replaces a bare "python" by the running interpreter; a full path is another
    # environment's
    program = spec.argv[0]
    if (
        Path(program).name != program
        and Path(program).absolute() != Path(sys.executable).absolute()
    ):
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
    check_store,
    check_mirror,
    check_kernel,
    check_extras,
)


def examine(root=None, checks=CHECKS):
    """All findings about this machine for results under `root`."""
    root = Path(root) if root else artifacts.default_root()
    return [check(root) for check in checks]


def blocking(found):
    """Those findings that stop every run."""
    return [check for check in found if check.status == "blocks"]


def as_text(found):
    """The findings for a terminal, each problem with its next step."""
    lines = [f"cxrkit {__version__}, {platform.platform()}"]
    for check in found:
        lines.append(f"{check.status:>6}  {check.name:<9} {check.value}")
        if check.todo:
            lines.append(
                f"{'':>18}-> {check.todo}" if check.status != "ok" else f"{'':>18}({check.todo})"
            )
    stops = blocking(found)
    return "\n".join([*lines, f"{len(stops)} problem(s) to solve first." if stops else "Ready."])


def as_json(found):
    """The findings as JSON text."""
    return json.dumps(
        {
            "version": __version__,
            "ready": not blocking(found),
            "checks": [asdict(c) for c in found],
        },
        indent=1,
    )


def versions():
    """Versions of the packages that can move a result."""
    names = ("torch", "torchvision", "numpy", "opencv-python", "scikit-learn")
    return {name: importlib.metadata.version(name) for name in names if name in installed()}


def commit():
    """Commit of the checkout, "+" if files have changed since; the package version where there is
    no checkout.
    """
    folder = paths.PACKAGE.parent
    try:
        head, changed = [
            subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"
    return head + ("+" if changed else "")


def provenance():
    """What a reader of a number must know about where it came from; no host or user name."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "cxrkit": __version__,
        "python": platform.python_version(),
        **versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / GB:.0f} GB",
        "device": check_device(None).value,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }
