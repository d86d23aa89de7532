"""What does a relevance map cost at the paper's size? python benchmarks/saliency.py [--batch B]
[--rounds N] [--threads N]

Prints seconds in units of one forward pass (257 tokens, D 768, 12 blocks, 12 heads; random weights)
for one class and for three, and the peak memory above the weights. Bars: 6.5 and 13 forward passes.
Each round times forward and maps in turns; the median counts. The authors' public implementation
takes 12 for one class of one image.
"""

import argparse
import resource
import statistics
import time

import torch

from cxrkit.explain import deep_taylor
from cxrkit.models.corpus_vit import CorpusViT

BARS = {"one class": 6.5, "three classes": 13.0}


def seconds(way):
    """Wall-clock time of one call."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def peak():
    """Most memory this process has held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, corpus = CorpusViT().eval(), torch.rand(options.batch, 1024, 16, 16)

    @torch.no_grad()
    def forward():
        model(corpus)

    ways = {
        "forward": forward,
        "one class": lambda: deep_taylor.relevance(model, corpus, 2),
        "three classes": lambda: deep_taylor.relevance(model, corpus, [0, 1, 2]),
    }
    memory = {}
    # warms up, and a later way needs more memory than an earlier one
    for name, way in ways.items():
        before = peak()
        way()
        memory[name] = peak() - before + (memory["one class"] if name == "three classes" else 0)
    times = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    print(f"batch {options.batch}, {options.threads} threads, torch {torch.__version__}, float32")
    print(f"{'':16}{'seconds':>9}{'forwards':>10}{'bar':>6}{'peak MB':>9}")
    for name in ways:
        ratio = statistics.median(a / b for a, b in zip(times[name], times["forward"], strict=True))
        print(
            f"{name:16}{statistics.median(times[name]):9.2f}{ratio:10.2f}{BARS.get(name, ''):>6}{memory[name]:9.0f}"
        )


if __name__ == "__main__":
    main()
