"""What does a map cost at the paper's size? python benchmarks/saliency.py [--batch B]

Prints seconds in units of one forward pass (257 tokens, D 768, 12 blocks, 12 heads; random weights)
for one class and for three, and the peak memory of the process above the weights. Bars: 6.5 and 13
forward passes for relevance, 3.3 for AttnLRP of one class. Each round times forward and maps in
turns; the median counts. The public implementation of relevance takes 12 for one class.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import time
from collections.abc import Callable

import torch

from cxrkit.explain import attnlrp, relevance
from cxrkit.explain.chunks import CHUNK
from cxrkit.models import CorpusViT

BARS = {"attnlrp, one": 3.3, "relevance, one": 6.5, "relevance, three": 13.0}
METHODS = {"attnlrp": attnlrp, "relevance": relevance}
TARGETS = {"one": 2, "three": [0, 1, 2]}


def seconds(way: Callable[[], None], device: torch.device) -> float:
    """Wall-clock time of one call, until the device is done."""
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak() -> float:
    """Most memory this process has held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=CHUNK, help="images explained at once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    return parser.parse_args()


def ways_of(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """What is timed: name -> function."""
    torch.manual_seed(0)
    model = CorpusViT().eval().to(options.device)
    corpus = torch.rand(options.batch, 1024, 16, 16)

    @torch.no_grad()
    def forward() -> None:
        for part in corpus.split(options.chunk):
            model(part.to(options.device))

    def explain(method: str, target: str) -> None:
        METHODS[method](model, corpus, TARGETS[target], device=options.device, chunk=options.chunk)

    ways = {"forward": forward}
    for target in TARGETS:
        for method in METHODS:
            ways[f"{method}, {target}"] = functools.partial(explain, method, target)
    return ways


def main() -> None:
    """Print the table."""
    options = parse()
    torch.set_num_threads(options.threads)
    ways = ways_of(options)
    memory = {}
    start = peak()
    # warms up; the peak of a way includes that of the ways before it, which need less
    for name, way in ways.items():
        way()
        memory[name] = peak() - start
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(seconds(way, options.device))
    print(
        f"batch {options.batch}, chunk {options.chunk}, {options.device}, {options.threads} "
        f"threads, torch {torch.__version__}, float32"
    )
    print(f"{'':16}{'seconds':>9}{'forwards':>10}{'bar':>6}{'peak MB':>9}")
    for name in ways:
        pairs = zip(times[name], times["forward"], strict=True)
        ratio = statistics.median(way / forward for way, forward in pairs)
        median = statistics.median(times[name])
        bar = BARS.get(name, "")
        print(f"{name:16}{median:9.2f}{ratio:10.2f}{bar:>6}{memory[name]:9.0f}")


if __name__ == "__main__":
    main()
