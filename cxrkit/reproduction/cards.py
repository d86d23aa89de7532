"""Cards: what a training would take on a named GPU, estimated from FLOPs and bytes.

An estimate, not a measurement: no card was at hand. A training is bound by the card's arithmetic or
by its memory, whichever is slower (the roofline of Williams et al. 2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

TERA, GB = 1e12, 2**30
FAST, SLOW = 0.5, 0.1  # share of the peak of its matrix units that a training reaches
# times that each byte kept for the backward pass moves: written and read once, or with all that
# is computed again or not fused
FAST_MOVES, SLOW_MOVES = 4, 10
WORK_SPACE = 1.5 * GB  # of the convolutions, the driver and gradients under way


class FlopCounter(TorchDispatchMode):
    """Counts the FLOPs of matrix products and convolutions inside the `with`, backward passes too.

    torch's own FlopCounterMode also tells modules apart, by hooks that a gradient penalty refuses.
    Attention that a CPU computes as one operation is not counted.

    Attributes:
        total: FLOPs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation, and count it where its FLOPs are known."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet.

    Attributes:
        name: as the maker has it.
        peak: dense matrix FLOPs a second in bf16, of a T4 in fp16, with sums in float32.
        bandwidth: bytes a second of its memory.
        memory: bytes.
    """

    name: str
    peak: float
    bandwidth: float
    memory: float

    def hours(self, images: float, flops: float, kept: float) -> tuple[float, float]:
        """Hours of a training, from a fast to a slow one.

        Args:
            images: that all updates see, repetitions counted.
            flops: of one image, forward and backward.
            kept: bytes that one image keeps for the backward pass, in float32.
        """
        half = kept / 2  # in bf16 or fp16
        fast = max(flops / (FAST * self.peak), FAST_MOVES * half / self.bandwidth)
        slow = max(flops / (SLOW * self.peak), SLOW_MOVES * half / self.bandwidth)
        return images * fast / 3600, images * slow / 3600


CARDS = (
    Card("A100 40 GB", 312 * TERA, 1.555 * TERA, 40 * GB),
    Card("H100 SXM", 989 * TERA, 3.35 * TERA, 80 * GB),
    Card("RTX 3090", 71 * TERA, 0.936 * TERA, 24 * GB),
    Card("T4", 65 * TERA, 0.32 * TERA, 16 * GB),
)


def card_memory(kept: float, batch: int, weights: int, numbers: int) -> float:
    """Bytes of an update in mixed precision.

    Args:
        kept: bytes that one image keeps for the backward pass, in float32.
        batch: images of one forward pass.
        weights: number of trained weights.
        numbers: float32 numbers beside each weight: itself, gradient, moments, average.

    Returns:
        Activations at two bytes, weights with a copy at two bytes, and WORK_SPACE.
    """
    return kept / 2 * batch + (4 * numbers + 2) * weights + WORK_SPACE
