"""Processes for tests that kill them: forked from one clean server with torch in memory, which
takes a new interpreter four seconds.
"""

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")
# `distributed` is Dask's, for the tests of its workers
CONTEXT.set_forkserver_preload(
    ["torch", "distributed", "cxrkit.data.datasets", "cxrkit.pipeline.stages"]
)


def serve():
    """Start the server; whoever asks multiprocessing for a `forkserver` in this process gets this
    one.
    """
    forkserver.ensure_running()


def start(errors, function, *args):
    """Run function(*args) in a process of its own, one thread, standard error into the file
    `errors` -> the process.
    """
    process = CONTEXT.Process(target=_run, args=(errors, function, args))
    process.start()
    return process


def _run(errors, function, args):
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    function(*args)


def end(process, errors, timeout=60):
    """Wait for the end -> (exit code, minus the signal that killed it, and what it wrote to
    standard error).
    """
    process.join(timeout)
    return process.exitcode, Path(errors).read_text()
